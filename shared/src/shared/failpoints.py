"""Failpoints: seams at which a process ends itself, as a crash just there would.

Invariant: where none is armed, nothing is installed: `crashing` returns the part that it was given,
so production code runs without a check. An armed one is refused outside local mode, and by a
service that has no such seam, so that no experiment passes because nothing happened.
"""

import os
import re
import signal
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Literal, TypeVar, cast

import structlog

from shared.errors import PermanentError

_log = structlog.get_logger(__name__)

VARIABLE = "PAYPOST_FAILPOINT"
NTH_MAX = 1_000_000

Part = TypeVar("Part")


class Seam(StrEnum):
    """Where a step is done and the next one, which depends on it, is not."""

    COMMITTED = "committed"
    """Facts are committed, and none of them is published."""
    PUBLISHED = "published"
    """Facts are published, and stand in the outbox still."""
    TAKEN = "taken"
    """A batch of a stream is in the service's database, and its offset is not committed."""
    POSTED = "posted"
    """The CIS has applied a posting, and its outcome is not settled."""
    MAILED = "mailed"
    """The mail server has accepted a message, and its outcome is not settled."""


class BadFailpointError(PermanentError):
    """The failpoint that is asked for cannot be armed here.

    Attributes:
        value: what the variable holds.
        reason: why it cannot.
    """

    def __init__(self, *, value: str, reason: str) -> None:
        super().__init__(f"{VARIABLE}={value}: {reason}")
        self.value = value
        self.reason = reason


def crash() -> None:
    """End this process as SIGKILL does: no handler runs, nothing is drained or closed."""
    os.kill(os.getpid(), signal.SIGKILL)


class Failpoint:
    """One seam at which this process ends: the `nth` time that it is crossed, counted from 1."""

    def __init__(self, *, seam: Seam, nth: int = 1, end: Callable[[], None] = crash) -> None:
        self.seam = seam
        self.nth = nth
        self.installed = False
        """Whether the service has this seam."""
        self._end = end
        self._crossings = 0

    def cross(self) -> None:
        """Count one crossing; does not return from the one that ends the process."""
        self._crossings += 1
        if self._crossings == self.nth:
            _log.critical("failpoint.crossed", seam=self.seam, nth=self.nth)
            self._end()

    def assert_installed(self) -> None:
        """Check, once a service is put together, that it can be crossed at all.

        Raises:
            BadFailpointError: the service has no such seam.
        """
        if not self.installed:
            raise BadFailpointError(
                value=f"{self.seam}:{self.nth}", reason="this service has no such seam"
            )


def load_failpoint(
    environ: Mapping[str, str], *, environment: Literal["local", "production"]
) -> Failpoint | None:
    """Return what `PAYPOST_FAILPOINT=seam` or `seam:nth` arms; None where it is not set.

    Raises:
        BadFailpointError: not in local mode, no such seam, or no such number.
    """
    value = environ.get(VARIABLE, "")
    if not value:
        return None
    if environment != "local":
        raise BadFailpointError(value=value, reason="failpoints are for local mode only")
    name, _, nth = value.partition(":")
    if name not in list(Seam):
        raise BadFailpointError(value=value, reason=f"there are {', '.join(Seam)}")
    if nth and not (re.fullmatch("[0-9]{1,7}", nth) and 1 <= int(nth) <= NTH_MAX):
        raise BadFailpointError(value=value, reason=f"nth is a number from 1 to {NTH_MAX}")
    return Failpoint(seam=Seam(name), nth=int(nth or 1))


def crashing(
    part: Part,
    *,
    method: str,
    failpoint: Failpoint | None,
    before: Seam | None = None,
    after: Seam | None = None,
    counts: Callable[[Any], bool] = lambda _: True,
) -> Part:
    """Return the part as it is, or one whose `method` ends the process at the failpoint.

    Args:
        part: whatever the composition is about to hand on.
        method: the name of a coroutine method of it.
        failpoint: what is armed; None in every process that is not an experiment.
        before: the seam that lies in front of the method's work.
        after: the seam that lies behind it.
        counts: by the method's result, whether the seam behind it was crossed.
    """
    if failpoint is None or failpoint.seam not in (before, after):
        return part
    failpoint.installed = True
    work = getattr(part, method)

    async def cross_and_call(*args: Any, **kwargs: Any) -> Any:
        failpoint.cross()
        return await work(*args, **kwargs)

    async def call_and_cross(*args: Any, **kwargs: Any) -> Any:
        result = await work(*args, **kwargs)
        if counts(result):
            failpoint.cross()
        return result

    call = cross_and_call if failpoint.seam is before else call_and_cross
    return cast("Part", _With(part, {method: call}))


class _With:
    """A part, some of its methods replaced."""

    def __init__(self, part: object, replaced: Mapping[str, Callable[..., Any]]) -> None:
        self._part = part
        self._replaced = replaced

    def __getattr__(self, name: str) -> Any:
        return self._replaced.get(name) or getattr(self._part, name)
