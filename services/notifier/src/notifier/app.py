"""The composition root of notifier: the only module that sees everything."""

import random
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from faststream.kafka import KafkaBroker

from notifier.adapters.composer import TemplateComposer
from notifier.adapters.repositories import SqlContacts, SqlNotifications
from notifier.adapters.smtp import SmtpMailGateway
from notifier.adapters.smtp_session import SmtpServer
from notifier.adapters.tables import outbox as outbox_rows
from notifier.adapters.words import Sender
from notifier.consumers import GROUP_ID, build_router
from notifier.domain import Attempt, Outcome
from notifier.jobs import Jobs
from notifier.metrics import Metrics
from notifier.ports import MailGateway, Settlement
from notifier.settings import Settings
from notifier.usecases import KeepContacts, Sending, TellCustomers, TellDue
from shared.backbone import build_backbone
from shared.clock import Clock, utc_now
from shared.failpoints import Failpoint, Seam, crashing
from shared.runtime.service import Service, every
from shared.work.backoff import Backoff
from shared.work.batcher import MicroBatcher
from shared.work.lanes import Lanes
from shared.work.limit import Breaker, FixedLimit
from shared.work.patience import patiently

SETTLE_PATIENCE_SECONDS = 60.0
"""How long an outcome is kept in memory while the database is away; after it a mail is repeated."""


@dataclass(frozen=True, kw_only=True)
class App:
    """What `build_app` has put together; tests reach into it."""

    service: Service
    broker: KafkaBroker
    jobs: Jobs
    metrics: Metrics


def build_app(
    settings: Settings,
    *,
    clock: Clock = utc_now,
    randomness: random.Random | None = None,
    mail: MailGateway | None = None,
    failpoint: Failpoint | None = None,
) -> App:
    """Put notifier together; nothing is opened before the service is served."""
    metrics = Metrics()
    backbone = build_backbone(
        settings=settings,
        group_id=GROUP_ID,
        outbox_rows=outbox_rows,
        metrics=metrics,
        clock=clock,
        failpoint=failpoint,
    )
    announcer = backbone.announcer
    notifications = SqlNotifications(
        engine=backbone.engine, outbox=backbone.outbox, lease_seconds=settings.lease_seconds
    )
    gateway = SmtpMailGateway(
        server=_smtp_server(settings), metrics=metrics, call_seconds_max=settings.send_seconds_max
    )
    breaker = Breaker(
        failures_max=settings.breaker_failures_max,
        pause_seconds=settings.breaker_pause_seconds,
        pause_seconds_max=settings.breaker_pause_seconds_max,
    )

    async def settle(waiting: Sequence[Sequence[Settlement]]) -> Sequence[None]:
        batch = [settlement for settlements in waiting for settlement in settlements]
        rows = await patiently(
            lambda: notifications.settle(batch), patience_seconds=SETTLE_PATIENCE_SECONDS
        )
        announcer.offer(rows)
        return [None for _ in waiting]

    settler: MicroBatcher[Sequence[Settlement], None] = MicroBatcher(
        flush=settle, batch_size_max=256, queue_size_max=settings.held_max, paced=True
    )
    sending = Sending(
        gateway=crashing(
            mail or gateway,
            method="send",
            after=Seam.MAILED,
            counts=lambda answers: any(each.outcome is Outcome.SENT for each in answers),
            failpoint=failpoint,
        ),
        composer=TemplateComposer(sender=_sender(settings)),
        settle=settler,
        breaker=breaker,
        backoff=Backoff(
            initial_seconds=settings.retry_initial_seconds,
            cap_seconds=settings.retry_cap_seconds,
        ),
        clock=clock,
        randomness=randomness or random.Random(),  # noqa: S311  jitter, not a secret
        metrics=metrics,
        attempts_max=settings.attempts_max,
        call_seconds_max=settings.send_seconds_max,
    )
    spans = backbone.spans
    lanes: Lanes[Attempt] = Lanes(
        lane_of=lambda attempt: attempt.notification.account_id,
        act=spans.act(
            sending,
            name="mail the customer",
            kind="CLIENT",
            traceparent_of=lambda attempt: attempt.notification.traceparent,
        )
        if spans
        else sending,
        settle=sending.settled,
        give_up=lambda attempts: notifications.release(attempts, now=clock()),
        limit=FixedLimit(calls=settings.smtp_connections_max),
        batch_size_max=settings.send_batch_size,
        items_max=settings.held_max,
        alone=lambda attempt: attempt.repeats > 0,
    )
    backbone.broker.include_router(
        build_router(
            group=backbone.group,
            inbox=backbone.inbox,
            tell_customers=TellCustomers(
                notifications=notifications,
                lanes=lanes,
                breaker=breaker,
                announce=announcer,
                clock=clock,
                metrics=metrics,
            ),
            keep_contacts=KeepContacts(
                contacts=SqlContacts(engine=backbone.engine), metrics=metrics
            ),
        )
    )
    jobs = Jobs(
        tell_due=TellDue(
            notifications=notifications,
            lanes=lanes,
            breaker=breaker,
            announce=announcer,
            metrics=metrics,
            probe_size=settings.send_batch_size,
        ),
        notifications=notifications,
        metrics=metrics,
    )
    metrics.breaker_open.set_function(lambda: breaker.holds)
    metrics.held.set_function(lambda: lanes.held)
    interval = settings.recovery_interval_seconds
    loops: dict[str, Any] = {
        "announcer": announcer.run,
        "resend_due": lambda: every(
            interval, lambda: jobs.resend_due_once(now=clock()), name="resend_due"
        ),
        "measure_backlog": lambda: every(
            5.0, lambda: jobs.measure_backlog_once(now=clock()), name="measure_backlog"
        ),
    }
    service = Service(
        name=GROUP_ID,
        doors=(backbone.consumers,),
        loops=loops,
        drains=(lanes.close, settler.drain, announcer.drain),
        closes=(gateway.close, *backbone.closes),
        live={"consumers": backbone.consumers.check_live},
        # A mail server that is away makes no difference here: the backlog is durable.
        ready={"database": backbone.database_ready, "kafka": backbone.consumers.check_ready},
        registry=metrics.registry,
    )
    return App(service=service, broker=backbone.broker, jobs=jobs, metrics=metrics)


def _smtp_server(settings: Settings) -> SmtpServer:
    password = settings.smtp_password
    is_protected = settings.smtp_security != "plain"
    return SmtpServer(
        host=settings.smtp_host,
        port=settings.smtp_port,
        security=settings.smtp_security,
        sender=settings.sender_address,
        username=settings.smtp_username,
        password=password.get_secret_value() if password else None,
        client_name=settings.smtp_client_name,
        connect_timeout_seconds=settings.smtp_connect_timeout_seconds,
        reply_timeout_seconds=settings.smtp_reply_timeout_seconds,
        tls=ssl.create_default_context() if is_protected else None,
    )


def _sender(settings: Settings) -> Sender:
    return Sender(
        address=settings.sender_address,
        name=settings.sender_name,
        city=settings.city_name,
        territory=settings.city_territory,
        time_zone=ZoneInfo(settings.city_time_zone),
        portal_url=settings.portal_url,
        support_phone=settings.support_phone,
    )
