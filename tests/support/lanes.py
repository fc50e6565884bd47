"""Lanes as the stores see them: what a process has in hand."""

from collections.abc import Callable, Sequence
from typing import Any


class NoLanes:
    """No account has work in hand."""

    def in_hand(self, lane: str) -> Sequence[Any]:
        return ()


class InHand:
    """These attempts are in hand."""

    def __init__(self, *attempts: Any, lane_of: Callable[[Any], str | None]) -> None:
        self._attempts = attempts
        self._lane_of = lane_of

    def in_hand(self, lane: str) -> Sequence[Any]:
        return [each for each in self._attempts if self._lane_of(each) == lane]
