"""How a running stack is: each process, its health, its backlog, what it costs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import aiohttp
from aiokafka import AIOKafkaClient, AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from prometheus_client.parser import text_string_to_metric_families

from paypost.stack.state import StackState
from paypost.stack.supervisor import accepts
from paypost.traffic.processes import read_usage

BACKLOG_METRICS = {
    "payment_intake_unfinished_movements": "{status}",
    # Beside the movements of the same process, whose statuses have partly the same names.
    "payment_intake_unsettled_charges": "charges {status}",
    "cis_poster_backlog_postings": "{status}",
    "autopay_scheduler_backlog": "{kind}",
    "notifier_backlog_notifications": "{status}",
}
"""What waits in a service, and how its line says so."""
_TIMEOUT = aiohttp.ClientTimeout(total=3)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartStatus:
    """How one process is.

    Attributes:
        well: whether it does what it promises.
        state: in words: `ready`, `down`, or which check fails.
        backlog: what waits in it, by status; only of services.
    """

    name: str
    pid: int | None
    well: bool
    state: str
    address: str
    backlog: dict[str, float]
    resident_mb: float | None
    cpu_seconds: float | None

    def as_json(self) -> dict[str, Any]:
        """Everything, for machines."""
        return asdict(self)


async def read_status(*, state: StackState) -> list[PartStatus]:
    """How every process of a stack is now."""
    usage = await asyncio.to_thread(read_usage, processes=state.processes)
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:

        async def one(name: str) -> PartStatus:
            identity = state.processes.get(name)
            used = usage.get(name)
            alive = identity is not None and identity.alive()
            backlog: dict[str, float] = {}
            if not alive:
                problem: str | None = "down"
            else:
                problem, backlog = await _look_at(session, state, name)
            return PartStatus(
                name=name,
                pid=identity.pid if identity is not None and alive else None,
                well=problem is None,
                state=problem or "ready",
                address=_address(state, name),
                backlog=backlog,
                resident_mb=None if used is None else round(used.resident_mb, 1),
                cpu_seconds=None if used is None else round(used.cpu_seconds, 2),
            )

        names = [name for name in state.log_paths if name in state.processes]
        found = await asyncio.gather(*(one(name) for name in names))
    lag = await read_lag(bootstrap=state.kafka_bootstrap, groups=tuple(state.ops_urls))
    return [
        replace(part, backlog=part.backlog | {"behind on Kafka": float(lag[part.name])})
        if lag.get(part.name)
        else part
        for part in found
    ]


async def read_lag(*, bootstrap: str, groups: Sequence[str]) -> dict[str, int]:
    """How many records each consumer group has not acknowledged; empty while Kafka is away."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=3000)
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, request_timeout_ms=3000)
    try:
        await admin.start()
        await consumer.start()
        taken = {group: await admin.list_consumer_group_offsets(group) for group in groups}
        places = sorted({place for offsets in taken.values() for place in offsets})
        last = await consumer.end_offsets(places) if places else {}
        return {
            group: sum(max(0, last[place] - each.offset) for place, each in offsets.items())
            for group, offsets in taken.items()
        }
    except (KafkaError, OSError):
        return {}
    finally:
        await consumer.stop()
        await admin.close()


async def _look_at(
    session: aiohttp.ClientSession, state: StackState, name: str
) -> tuple[str | None, dict[str, float]]:
    if name in state.ops_urls:
        base = state.ops_urls[name]
        for check in ("readyz", "livez"):
            problem = await _failing(session, f"{base}/{check}")
            if problem is not None:
                return f"{check}: {problem}", {}
        return None, await _backlog(session, f"{base}/metrics")
    if name in state.http_urls:
        problem = await _failing(session, f"{state.http_urls[name]}/readyz")
        return problem, {}
    if name == "kafka":
        return await _kafka_problem(state.kafka_bootstrap), {}
    up = await asyncio.to_thread(accepts, port=state.postgres_port, host=state.postgres_host)
    return None if up else "accepts no connection", {}


async def _failing(session: aiohttp.ClientSession, url: str) -> str | None:
    try:
        async with session.get(url) as response:
            if response.status < 300:
                return None
            body = await response.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        return f"no answer ({type(error).__name__})"
    failing = body.get("failing") if isinstance(body, dict) else None
    if failing:
        return ", ".join(f"{name} {problem}" for name, problem in failing.items())
    return f"answers {response.status}"


async def _backlog(session: aiohttp.ClientSession, url: str) -> dict[str, float]:
    try:
        async with session.get(url, headers={"accept": "text/plain"}) as response:
            text = await response.text()
    except (aiohttp.ClientError, TimeoutError):
        return {}
    return backlog_of(metrics=text)


def backlog_of(*, metrics: str) -> dict[str, float]:
    """Return what waits in a service by what its metrics say, without what is empty.

    Args:
        metrics: of one service, in Prometheus' text format.
    """
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            if sample.name in BACKLOG_METRICS and sample.value:
                found[BACKLOG_METRICS[sample.name].format_map(sample.labels)] = sample.value
            elif sample.name.endswith("_outbox_rows") and sample.value:
                found["in the outbox"] = sample.value
    return found


async def _kafka_problem(bootstrap: str) -> str | None:
    client = AIOKafkaClient(bootstrap_servers=bootstrap, request_timeout_ms=3000)
    try:
        await client.bootstrap()
    except (KafkaError, OSError) as error:
        return f"no answer ({type(error).__name__})"
    finally:
        await client.close()
    return None


def _address(state: StackState, name: str) -> str:
    if name == "kafka":
        return state.kafka_bootstrap
    if name == "postgres":
        return f"{state.postgres_host}:{state.postgres_port}"
    return state.http_urls.get(name) or state.ops_urls.get(name, "")
