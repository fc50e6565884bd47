"""The runs of the benchmark, in the order of the table."""

from __future__ import annotations

from collections.abc import Mapping

from bench.pipeline.acknowledging import measure_ack
from bench.pipeline.arrivals import Down, measure_latency
from bench.pipeline.frame import (
    Run,
)
from bench.pipeline.goals import (
    CELERIES,
    CIS_CONNECTIONS,
    CIS_LATENCIES_MS,
    DBOS,
    FLOOR,
    PRODUCT,
    TUTORIAL,
)
from bench.pipeline.load import (
    account_names,
    third_to_the_first,
    train_types,
)
from bench.pipeline.maxima import Maximum, Others
from bench.pipeline.starting import measure_start


def all_runs() -> Mapping[str, Run]:
    """Every run of `make bench` by its name, in the order of the table."""
    product = (PRODUCT,)
    both = (PRODUCT, FLOOR)
    runs = [
        Run(
            name="max",
            what="maximum end to end, one CIS call per payment",
            yardsticks=(PRODUCT, FLOOR, DBOS, *CELERIES, TUTORIAL),
            measure=Maximum(cis_calls="one"),
        ),
        Run(
            name="max-many",
            what="maximum end to end, many postings in a CIS call",
            yardsticks=both,
            measure=Maximum(),
        ),
        Run(
            name="ack",
            what="webhook acknowledgement alone, durable",
            yardsticks=both,
            measure=measure_ack,
        ),
        Run(
            name="train",
            what="a card payment's train of four Stripe events",
            yardsticks=both,
            measure=Maximum(event_types=train_types()),
        ),
        Run(
            name="latency",
            what="accepted → confirmed at a quarter of the maximum",
            yardsticks=both,
            measure=measure_latency,
            needs=("max-many",),
        ),
        *(
            Run(
                name=f"cis-{latency_ms}ms",
                what=f"CIS latency {latency_ms} ms, {CIS_CONNECTIONS} connections",
                yardsticks=product,
                measure=Maximum(cis_calls="one", cis_latency_ms=latency_ms),
                rounds_max=1,
            )
            for latency_ms in CIS_LATENCIES_MS
        ),
        Run(
            name="refused",
            what="10 % of accounts refused",
            yardsticks=product,
            measure=Others(refused=True),
            rounds_max=2,
        ),
        Run(
            name="timing-out",
            what="one account that always times out",
            yardsticks=product,
            measure=Others(refused=False),
            rounds_max=2,
        ),
        Run(
            name="hot",
            what="one account with a third of all payments",
            yardsticks=product,
            measure=Maximum(spread=third_to_the_first(accounts=len(account_names()))),
            beside="max-many",
        ),
        Run(
            name="two",
            what="two processes of each service",
            yardsticks=product,
            measure=Maximum(instances=2),
            beside="max-many",
        ),
        *(
            Run(
                name=f"{what}-down",
                what=f"{what} down for a minute",
                yardsticks=product,
                measure=Down(what=what),
                rounds_max=1,
                needs=("max-many",),
            )
            for what in ("kafka", "cis")
        ),
        Run(
            name="start",
            what="start of the stack, and make demo",
            yardsticks=product,
            measure=measure_start,
            rounds_max=1,
        ),
    ]
    return {run.name: run for run in runs}


QUICK_RUNS = ("max", "max-many", "ack")
