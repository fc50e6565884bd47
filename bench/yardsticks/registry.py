"""Every yardstick by its name; imported only when it is asked for, so that a missing library of one
keeps nobody from running the others."""

from __future__ import annotations

import importlib

from bench.yardsticks.contract import Yardstick, YardstickUnavailableError

YARDSTICKS = {
    "paypost": "bench.yardsticks.paypost:PaypostYardstick",
    "floor": "bench.yardsticks.floor:FloorYardstick",
    "tutorial": "bench.yardsticks.tutorial:TutorialYardstick",
    "dbos": "bench.yardsticks.dbos:DbosYardstick",
    "celery-rabbitmq": "bench.yardsticks.celery:CeleryRabbitmqYardstick",
    "celery-redis": "bench.yardsticks.celery:CeleryRedisYardstick",
}


class UnknownYardstickError(ValueError):
    """There is no yardstick of this name.

    Attributes:
        name: what was asked for.
    """

    def __init__(self, *, name: str) -> None:
        super().__init__(f"no yardstick {name!r}; there are: {', '.join(YARDSTICKS)}")
        self.name = name


def make_yardstick(*, name: str) -> Yardstick:
    """A new yardstick of this name, not started.

    Raises:
        UnknownYardstickError: there is none.
        YardstickUnavailableError: it cannot even be imported here.
    """
    if name not in YARDSTICKS:
        raise UnknownYardstickError(name=name)
    module, _, cls = YARDSTICKS[name].partition(":")
    try:
        made: Yardstick = getattr(importlib.import_module(module), cls)()
    except ImportError as error:
        raise YardstickUnavailableError(yardstick=name, missing=str(error)) from error
    return made
