"""What every service stands on: its database, its outbox, its way into and out of Kafka.

The same wiring for all of them, so that each `app.py` shows only what is its own.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast

from faststream.kafka import KafkaBroker
from sqlalchemy import Table
from sqlalchemy.ext.asyncio.engine import AsyncEngine

from shared.clock import Clock
from shared.db.engine import build_engine
from shared.db.health import database_check
from shared.failpoints import Failpoint, Seam, crashing
from shared.messaging.consumers import Consumers, build_broker, group_of
from shared.messaging.inbox import Group, Inbox
from shared.messaging.metadata import pause_between_attempts
from shared.messaging.producer import RecordProducer
from shared.outbox.announcer import Announcer
from shared.outbox.table import Outbox
from shared.runtime.metrics import Pool, ServiceMetrics
from shared.runtime.ops import Check
from shared.runtime.settings import ServiceSettings
from shared.runtime.spans import Spans, open_spans


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """The parts that a service's own ones are built on; nothing is opened yet."""

    engine: AsyncEngine
    outbox: Outbox
    producer: RecordProducer
    announcer: Announcer
    inbox: Inbox
    group: Group
    broker: KafkaBroker
    consumers: Consumers
    database_ready: Check
    spans: Spans | None
    """Where spans are recorded, if they are."""

    @property
    def closes(self) -> tuple[Callable[[], Awaitable[None]], ...]:
        """What is closed last, after everything that uses it."""
        of_spans = (self.spans.close,) if self.spans is not None else ()
        return (self.producer.close, self.engine.dispose, *of_spans)


def build_backbone(
    *,
    settings: ServiceSettings,
    group_id: str,
    outbox_rows: Table,
    metrics: ServiceMetrics,
    clock: Clock,
    failpoint: Failpoint | None = None,
    lock_wait_seconds: float | None = None,
) -> Backbone:
    """Put together what every service stands on; of the lock's wait `build_engine` tells."""
    pause_between_attempts()
    engine = build_engine(
        url=settings.database_url.get_secret_value(),
        application_name=group_id,
        pool_size=settings.database_pool_size,
        lock_wait_seconds=lock_wait_seconds,
        tls_ca_file=settings.database_tls_ca_file,
    )
    metrics.watch_pool(lambda: cast("Pool", engine.pool))
    outbox = Outbox(table=outbox_rows)
    producer = RecordProducer(
        bootstrap_servers=settings.kafka_bootstrap_servers,
        client_id=group_id,
        security=settings.kafka_security(),
    )
    spans = open_spans(
        settings=settings, service=group_id, version=metrics.version, metrics=metrics
    )
    inbox = crashing(
        Inbox(consumer=group_id, dead_letters=producer, clock=clock, metrics=metrics, spans=spans),
        method="deliver",
        after=Seam.TAKEN,
        failpoint=failpoint,
    )
    publisher = crashing(
        spans.publisher(producer) if spans is not None else producer,
        method="publish",
        before=Seam.COMMITTED,
        after=Seam.PUBLISHED,
        failpoint=failpoint,
    )
    broker = build_broker(settings=settings, client_id=group_id)
    return Backbone(
        engine=engine,
        outbox=outbox,
        producer=producer,
        announcer=Announcer(engine=engine, outbox=outbox, publisher=publisher, metrics=metrics),
        inbox=inbox,
        group=group_of(settings=settings, group_id=group_id),
        broker=broker,
        consumers=Consumers(broker=broker, progress=inbox.progress, clock=clock, metrics=metrics),
        database_ready=database_check(engine),
        spans=spans,
    )
