"""How fast charges are asked for through Kafka on the day on which many are due.

Usage: python -m bench.autopay_request [--charges N] [--json]

Starts Kafka, PostgreSQL and autopay-scheduler as a local stack does, with as many announced
charges as asked for whose moment has come, and takes the time until Kafka has acknowledged the
last request. The pace that spares the processor is set out of the way. The yardstick is what the
same records take when a plain producer sends them to the same broker in batches.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from datetime import UTC, datetime, timedelta

import asyncpg

from bench.autopay_plan import load
from paypost.stack.local import LocalStack
from shared.contracts.streams import AUTOPAY
from shared.contracts.wire import OutboundRecord
from shared.messaging.producer import RecordProducer

GOAL_PER_SECOND = 600
"""What the rest of the pipeline takes, end to end, on two such cores: docs/performance.md."""
PACE = 10_000
BATCH = 500

_ANNOUNCED = """
    INSERT INTO autopay_scheduler.charges (id, enrolment_id, account_id, bill_reference, due_date,
        planned_on, chosen_on, charge_on, amount_cents, currency, status, act_at, created_at)
    SELECT gen_random_uuid(), e.id, e.account_id, b.bill_reference, b.due_date, b.due_date - 20,
        b.due_date, b.due_date, b.amount_cents, 'USD', 'announced', now() + interval '1 hour', now()
    FROM autopay_scheduler.enrolments e JOIN autopay_scheduler.bills b USING (account_id)
"""
_NOTICED = """
    INSERT INTO autopay_scheduler.announcements (charge_id, version, fact_id, amount_cents,
        left_cents, charge_on, announced_at, status, noticed_at)
    SELECT id, 1, gen_random_uuid(), amount_cents, 0, charge_on, now() - interval '20 days',
        'sent', now() - interval '20 days'
    FROM autopay_scheduler.charges
"""

_UNFINISHED = """
    SELECT EXISTS (SELECT FROM autopay_scheduler.charges WHERE status <> 'requested')
        OR EXISTS (SELECT FROM autopay_scheduler.outbox)
"""


async def prepare(*, dsn: str, charges: int, now: datetime) -> None:
    """Put announced charges into the tables whose moment comes in an hour."""
    # Not queued: the service runs already, and would plan them before they stand announced here.
    await load(
        dsn=dsn,
        enrolments=charges,
        due_date=now.date(),
        now=now - timedelta(days=25),
        is_queued=False,
    )
    connection = await asyncpg.connect(dsn)
    try:
        for statement in (
            _ANNOUNCED,
            _NOTICED,
            "ANALYZE",
            "CHECKPOINT",
        ):
            await connection.execute(statement)
    finally:
        await connection.close()


async def requested(*, dsn: str) -> float:
    """Let the moment come; return the seconds until Kafka has every request."""
    connection = await asyncpg.connect(dsn)
    try:
        began = time.perf_counter()
        await connection.execute("UPDATE autopay_scheduler.charges SET act_at = now()")
        # An outbox row is gone once Kafka has acknowledged it.
        while await connection.fetchval(_UNFINISHED):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        return time.perf_counter() - began
    finally:
        await connection.close()


async def plain(*, bootstrap: str, charges: int) -> float:
    """Return the seconds that a producer takes for as many records of the same size."""
    producer = RecordProducer(bootstrap_servers=bootstrap, client_id="yardstick")
    records = [
        OutboundRecord(topic=AUTOPAY.name, key=f"A-{n:07d}".encode(), value=b"x" * 600, headers=())
        for n in range(charges)
    ]
    began = time.perf_counter()
    for first in range(0, charges, BATCH):
        await producer.publish(records[first : first + BATCH])
    seconds = time.perf_counter() - began
    await producer.close()
    return seconds


def main() -> int:
    """Run the bench; exit code 1 where the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--charges", type=int, default=20_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    pace = {"AUTOPAY_SCHEDULER_REQUESTS_PER_SECOND": str(PACE)}
    with LocalStack(
        name=f"bench-{os.getpid()}",
        parts={"postgres", "kafka", "autopay-scheduler"},
        fresh=True,
        environments={"autopay-scheduler": pace},
    ) as stack:
        state = stack.state
        now = datetime.now(UTC)
        asyncio.run(prepare(dsn=state.superuser_dsn, charges=options.charges, now=now))
        seconds = asyncio.run(requested(dsn=state.superuser_dsn))
        sent = asyncio.run(plain(bootstrap=state.kafka_bootstrap, charges=options.charges))
        directory = stack.directory
    directory.wipe()
    rate = options.charges / seconds
    found = {
        "charges": options.charges,
        "seconds": round(seconds, 1),
        "requested_per_second": round(rate),
        "goal_per_second": GOAL_PER_SECOND,
        "plain_producer_per_second": round(options.charges / sent),
        "share_of_plain_producer": round(sent / seconds, 3),
    }
    if options.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:28} {value}")
    return 0 if rate >= GOAL_PER_SECOND else 1


if __name__ == "__main__":
    raise SystemExit(main())
