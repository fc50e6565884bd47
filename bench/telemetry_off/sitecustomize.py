"""On PYTHONPATH of a service's process: metrics are still called, and do nothing.

What remains is the call itself, so the difference to a service without any is a little larger.
"""

from prometheus_client import Counter, Gauge, Histogram


def _nothing(*_: object, **__: object) -> None:
    pass


Counter.inc = Gauge.inc = Gauge.dec = Gauge.set = Histogram.observe = _nothing
