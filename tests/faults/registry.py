"""What a fault of the campaign is, and the list of them all.

A fault is one small class in `tests/faults/catalogue`, declared with `@fault(...)`. An instance
serves one run: what `inject` has to remember for `heal` stands on it. What must hold afterwards is
said by the letters of its oracles; L, D, A, O and N's "one confirmation for each posting" are
checked after every run, whatever is declared.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, TypeVar

from tests.faults.load import Shape
from tests.faults.violations import Violation

if TYPE_CHECKING:
    from tests.faults.run import Run

    from paypost.stack.local import LocalStack

Environments = Mapping[str, Mapping[str, str]]
"""By process, the variables that win over the stack's own."""


async def _nothing() -> Iterable[Violation]:
    return ()


F = TypeVar("F", bound="type[Fault]")


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Which stack a fault runs on; faults of one key share a stack, one after the other.

    Attributes:
        key: what tells this kind of stack from others.
        environments: beside those that every run has (`tests/faults/stacks.py`).
        open: makes and starts the stack of this name with these environments, stopped on leaving;
            by default a plain `LocalStack`.
    """

    key: str = "plain"
    environments: Environments = field(default_factory=dict)
    open: Callable[[str, Environments], AbstractContextManager[LocalStack]] | None = None


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """What is known of a fault without running it.

    Attributes:
        number: in the list of the campaign.
        title: what is broken, in a line.
        how: the means.
        oracles: the letters that it has to keep.
        touches: what it breaks; faults that touch nothing in common may overlap in a mix.
            Words in use: a service's name, `kafka`, `postgres`, `cis`, `mail`, `network`, `clock`,
            `disk`, `load`.
        mixes: whether it may be part of a mix.
        short: whether it is part of the set that runs with the tests.
        repeats_mails: whether a confirmation may come twice, under one Message-ID: a crash or a
            lost answer may fall between the mail server's yes and its settlement.
        recovery_seconds_max: from healing until payments are confirmed within the goal again.
    """

    number: int
    title: str
    how: str
    oracles: str
    touches: frozenset[str]
    mixes: bool
    short: bool
    repeats_mails: bool
    recovery_seconds_max: float


class Fault:
    """One way to break the system. Subclasses implement `inject` and `heal`.

    The order of a run: `prepare`, load begins, `inject`, `hold_seconds` pass, `heal`, load ends,
    nothing is due any more, the oracles, `check`. `heal` is called also where `inject` failed, and
    must leave the stack healthy: the next fault may run on it.
    """

    declaration: ClassVar[Declaration]
    needs: ClassVar[Needs] = Needs()
    shape: ClassVar[Shape] = Shape()
    """How much load; those of one shape and seed are held against the same calm run."""
    hold_seconds: float = 3.0
    """From the end of `inject` to `heal`."""
    breaking_seconds: float = 0.0
    """How long `inject` itself takes, about: the load is spread over that, too."""
    unwell: ClassVar[tuple[str, ...]] = ()
    """For oracle H: services that cannot work meanwhile, and have to say so."""
    unwell_within_seconds: ClassVar[float] = 10.0

    def unavailable(self) -> str | None:
        """Why this machine cannot inject it, None where it can. Asked before anything is started.

        A reason makes the run *not run*, never passed.
        """
        return None

    async def prepare(self, run: Run) -> None:
        """Before the load: whatever has to be there when the fault comes."""

    async def inject(self, run: Run) -> None:
        """Break it. May last as long as the breaking does (rolling restarts, storms)."""
        raise NotImplementedError

    async def heal(self, run: Run) -> None:
        """Undo it; also after an `inject` that failed half-way."""

    def check(self, run: Run) -> Awaitable[Iterable[Violation]] | AsyncIterator[Violation]:
        """What beyond the oracles does not hold; after the quiet. May be `async def`, or yield."""
        return _nothing()


FAULTS: dict[int, type[Fault]] = {}
"""All that are declared, by number; filled by `load_catalogue`."""


def fault(
    number: int,
    *,
    title: str,
    how: str,
    oracles: str,
    touches: Iterable[str] = (),
    mixes: bool = True,
    short: bool = False,
    repeats_mails: bool = False,
    recovery_seconds_max: float = 30.0,
) -> Callable[[F], F]:
    """Declare a fault: see `Declaration`. Raises ValueError for a number that is taken."""

    def declare(kind: F) -> F:
        if number in FAULTS and FAULTS[number].__qualname__ != kind.__qualname__:
            raise ValueError(f"two faults of number {number}: {FAULTS[number]} and {kind}")
        kind.declaration = Declaration(
            number=number,
            title=title,
            how=how,
            oracles=oracles,
            touches=frozenset(touches),
            mixes=mixes,
            short=short,
            repeats_mails=repeats_mails,
            recovery_seconds_max=recovery_seconds_max,
        )
        FAULTS[number] = kind
        return kind

    return declare


def load_catalogue() -> dict[int, type[Fault]]:
    """Import every module of the catalogue; the faults by number, in order."""
    package = importlib.import_module("tests.faults.catalogue")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"tests.faults.catalogue.{module.name}")
    return dict(sorted(FAULTS.items()))
