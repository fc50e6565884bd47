"""What a counterpart does wrong on request, to whom, and how often.

A fault is switched on for a scope: the next `count` matches, a `share` of them by chance, only
certain subjects (accounts, addresses), only certain operations. Nothing is on by default.
"""

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any


class MalformedSwitchError(Exception):
    """A switch that cannot be read; `field` names where it is wrong."""

    def __init__(self, *, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


@dataclass(frozen=True, slots=True)
class Scope:
    """Which requests a fault meets; the default is all of them."""

    count: int | None = None
    share: float | None = None
    subjects: frozenset[str] | None = None
    operations: frozenset[str] | None = None


class Fault:
    """One fault that is switched on, with what is left of its count."""

    def __init__(self, *, scope: Scope) -> None:
        self.scope = scope
        self._left = scope.count
        self.fired = 0

    @property
    def spent(self) -> bool:
        """Say whether the count is used up, so that the fault never fires again."""
        return self._left == 0

    def meets(self, *, operation: str, subjects: Collection[str], chance: random.Random) -> bool:
        """Decide whether this request is hit, and take one off the count if it is."""
        scope = self.scope
        if self._left == 0:
            return False
        if scope.operations is not None and operation not in scope.operations:
            return False
        if scope.subjects is not None and scope.subjects.isdisjoint(subjects):
            return False
        if scope.share is not None and chance.random() >= scope.share:
            return False
        if self._left is not None:
            self._left -= 1
        self.fired += 1
        return True

    def describe(self, *, subjects_as: str) -> dict[str, Any]:
        """Return the fault as its JSON, with what is left of the count."""
        scope = self.scope
        described: dict[str, Any] = {"fired": self.fired}
        if self._left is not None:
            described["count"] = self._left
        if scope.share is not None:
            described["share"] = scope.share
        if scope.subjects is not None:
            described[subjects_as] = sorted(scope.subjects)
        if scope.operations is not None:
            described["operations"] = sorted(scope.operations)
        return described


def parse_scope(
    value: object,
    *,
    field: str,
    subjects_as: str,
    operations_allowed: frozenset[str],
    operations_default: frozenset[str] | None = None,
) -> Scope | None:
    """Read a switch: `false` or null is off (None), `true` is on for all, an object narrows it.

    Raises MalformedSwitchError. Unknown members are refused: a misspelt `share` would otherwise
    turn a small fault into a total one.
    """
    if value is None or value is False:
        return None
    if value is True:
        return Scope(operations=operations_default)
    if not isinstance(value, Mapping):
        raise MalformedSwitchError(field=field, message="must be true, false or an object")
    unknown = set(value) - {"count", "share", subjects_as, "operations", "fired"}
    if unknown:
        raise MalformedSwitchError(field=field, message=f"unknown member {min(unknown)}")
    operations = _names(value.get("operations"), field=f"{field}.operations")
    if operations is not None and not operations <= operations_allowed:
        raise MalformedSwitchError(
            field=f"{field}.operations", message=f"must be among {sorted(operations_allowed)}"
        )
    return Scope(
        count=_count(value.get("count"), field=f"{field}.count"),
        share=_share(value.get("share"), field=f"{field}.share"),
        subjects=_names(value.get(subjects_as), field=f"{field}.{subjects_as}"),
        operations=operations if operations is not None else operations_default,
    )


def parse_milliseconds(value: object, *, field: str) -> float:
    """Read a duration of 0 to 3,600,000 ms. Raises MalformedSwitchError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 3.6e6:
        raise MalformedSwitchError(field=field, message="must be 0 to 3600000 milliseconds")
    return float(value)


def _count(value: object, *, field: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise MalformedSwitchError(field=field, message="must be a whole number of 0 or more")
    return value


def _share(value: object, *, field: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise MalformedSwitchError(field=field, message="must be between 0 and 1")
    return float(value)


def _names(value: object, *, field: str) -> frozenset[str] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise MalformedSwitchError(field=field, message="must be a list of strings")
    return frozenset(value)
