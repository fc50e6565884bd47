"""What is bound to come begins at 0: Prometheus sees no rise in what is born at 1."""

from itertools import chain

from prometheus_client import generate_latest

from autopay_scheduler.domain.declines import NEXT_STEPS
from autopay_scheduler.metrics import Metrics


class TestDeclines:
    def test_are_counted_from_0_by_category_and_each_step_that_can_follow(self):
        begun = generate_latest(Metrics().registry).decode()
        pairs = chain.from_iterable(
            ((category, step) for step in steps) for category, steps in NEXT_STEPS.items()
        )
        for category, step in pairs:
            assert (
                f'autopay_scheduler_declines_total{{category="{category}",next_step="{step}"}} 0.0'
            ) in begun
