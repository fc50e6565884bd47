"""What metrics and traces cost: the same load with all of it off, with metrics, and with traces.

Usage: python -m bench.telemetry [ROUNDS] [PAYMENTS]

One stack; before each round its services are started anew, as the round wants them: `off`
(metrics do nothing, no traces, no scrapes), `metrics` (scraped each 5 s), `traces` (and 1 % of the
payments traced, to a collector beside it). Rounds are interleaved, so that what changes on the
machine meanwhile meets all three. Read is the processor time of the three services on a payment's
way, which other load on the machine disturbs less than the throughput, and the throughput until
every customer is told. Compared is within each round; goals: metrics cost less than 3 % of the
throughput, traces less than 5 %.
"""

import asyncio
import os
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import psutil
from deploy.observability.collector import Collector, collecting

from paypost.simulators.processor.processor import Order
from paypost.stack.local import LocalStack, process_spec
from paypost.stack.supervisor import exit_on_signals
from paypost.traffic.customers import ensure_customers
from paypost.traffic.stripe import StripeSender
from paypost.verify.pending import wait_until_settled

ON_THE_WAY = ("payment-intake", "cis-poster", "notifier")
MODES = ("off", "metrics", "traces")
ACCOUNTS = [f"T-{number:03d}" for number in range(200)]
GOALS = {"metrics": 0.03, "traces": 0.05}
"""How much throughput each may cost."""
SCRAPE_SECONDS = 5.0
OFF = Path(__file__).parent / "telemetry_off"


def environment(mode: str, service: str, collector: Collector) -> dict[str, str]:
    prefix = service.replace("-", "_").upper()
    match mode:
        case "off":
            return {"PYTHONPATH": str(OFF)}
        case "traces":
            return {
                f"{prefix}_TRACES_OTLP_ENDPOINT": collector.url,
                f"{prefix}_TRACES_SAMPLED_RATIO": "0.01",
            }
        case _:
            return {}


def restart(stack: LocalStack, mode: str, collector: Collector) -> None:
    for service in ON_THE_WAY:
        stack.supervisor.stop(name=service)
    for service in ON_THE_WAY:
        spec = process_spec(
            name=service,
            state=stack.state,
            environ=os.environ,
            overrides=environment(mode, service, collector),
        )
        stack.supervisor.start(spec)
    for service in ON_THE_WAY:
        stack.supervisor.wait_ready(name=service, timeout_seconds=60)


@contextmanager
def scraping(stack: LocalStack) -> Iterator[None]:
    ended = threading.Event()

    def scrape() -> None:
        while not ended.wait(SCRAPE_SECONDS):
            for service in ON_THE_WAY:
                request = urllib.request.Request(f"{stack.state.ops_urls[service]}/metrics")
                request.add_header("Accept", "application/openmetrics-text;version=1.0.0")
                urllib.request.urlopen(request, timeout=10).read()

    thread = threading.Thread(target=scrape, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def processor_seconds(stack: LocalStack) -> float:
    total = 0.0
    for service in ON_THE_WAY:
        times = psutil.Process(stack.state.processes[service].pid).cpu_times()
        total += times.user + times.system
    return total


async def load(stack: LocalStack, connection: asyncpg.Connection, payments: int) -> float:
    started = time.monotonic()
    async with StripeSender(state=stack.state) as sender:
        order = Order(scenario="card", accounts=ACCOUNTS, count=payments)
        sent = await sender.send([order], later=False)
    assert sent.not_taken == 0
    pending = await wait_until_settled(connection=connection, timeout_seconds=120)
    assert pending.total == 0, pending
    return time.monotonic() - started


async def measure(stack: LocalStack, rounds: int, payments: int, collector: Collector) -> bool:
    found: dict[str, list[tuple[float, float]]] = {mode: [] for mode in MODES}
    connection = await asyncpg.connect(stack.state.superuser_dsn)
    await ensure_customers(state=stack.state, connection=connection, accounts=ACCOUNTS)
    for number in range(rounds + 1):
        # Each round in another order: what the first of three does to the caches meets all.
        for mode in MODES[number % 3 :] + MODES[: number % 3]:
            await asyncio.to_thread(restart, stack, mode, collector)
            await load(stack, connection, max(50, payments // 10))
            before = processor_seconds(stack)
            if mode == "off":
                seconds = await load(stack, connection, payments)
            else:
                with scraping(stack):
                    seconds = await load(stack, connection, payments)
            spent_us = (processor_seconds(stack) - before) / payments * 1e6
            kept = "warm-up" if number == 0 else f"round {number}"
            print(f"{kept} {mode}: {spent_us:.0f} us, {payments / seconds:.0f}/s", flush=True)
            if number > 0:
                found[mode].append((spent_us, payments / seconds))
    await connection.close()
    return report(found, collector)


def report(found: dict[str, list[tuple[float, float]]], collector: Collector) -> bool:
    """Print what was found; return whether the goals are met."""
    print(f"\nspans taken by the collector: {len(collector.taken)}")
    print("| | processor us a payment | more than off | payments/s | fewer than off | goal |")
    print("|---|---|---|---|---|---|")
    is_met = True
    for mode in MODES:
        us = [each for each, _ in found[mode]]
        rates = [each for _, each in found[mode]]
        more = _median_against(us, [each for each, _ in found["off"]]) - 1
        fewer = 1 - _median_against(rates, [each for _, each in found["off"]])
        goal = GOALS.get(mode)
        is_met = is_met and (goal is None or fewer < goal)
        print(
            f"| {mode} | {statistics.median(us):.0f} ({min(us):.0f}-{max(us):.0f})"
            f" | {more:+.1%} | {statistics.median(rates):.0f} ({min(rates):.0f}-{max(rates):.0f})"
            f" | {fewer:+.1%} | {'' if goal is None else f'< {goal:.0%}'} |"
        )
    return is_met


def _median_against(found: Sequence[float], others: Sequence[float]) -> float:
    """Return the median of the ratios within each round: a machine's changes of speed are out."""
    return statistics.median(mine / other for mine, other in zip(found, others, strict=True))


def main() -> int:
    """Run the bench; exit code 1 where a goal is missed."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    payments = int(sys.argv[2]) if len(sys.argv) > 2 else 2000
    with tempfile.TemporaryDirectory(prefix="telemetry-") as work, exit_on_signals():
        os.environ["PAYPOST_STATE_DIR"] = work
        with collecting() as collector, LocalStack(name="telemetry", fresh=True) as stack:
            is_met = asyncio.run(measure(stack, rounds, payments, collector))
    return 0 if is_met else 1


if __name__ == "__main__":
    raise SystemExit(main())
