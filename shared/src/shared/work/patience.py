"""Waiting out what is down, inside a bound."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    retry_if_not_exception_type,
    stop_after_delay,
    wait_exponential_jitter,
)

from shared.errors import TransientError

Result = TypeVar("Result")


async def patiently(
    act: Callable[[], Awaitable[Result]],
    *,
    patience_seconds: float,
    unless: tuple[type[TransientError], ...] = (),
) -> Result:
    """Return what `act` returns, repeating it while it fails for now.

    Raises:
        TransientError: it still failed when the patience was over. Any other error, and
            cancellation, passes at once: only what is known to pass by itself is waited for. So
            does a kind that is named in `unless`, for which the caller has a better answer.
    """
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type(TransientError) & retry_if_not_exception_type(unless),
        wait=wait_exponential_jitter(multiplier=0.05, max=2.0),
        stop=stop_after_delay(patience_seconds),
        reraise=True,
    ):
        with attempt:
            return await act()
    raise AssertionError("unreachable: tenacity raises or returns")
