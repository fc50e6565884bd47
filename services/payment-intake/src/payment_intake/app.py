"""The composition root of payment-intake: the only module that sees everything."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from fastapi import FastAPI
from faststream.kafka import KafkaBroker

from payment_intake.adapters.card_numbers import masked
from payment_intake.adapters.doors import PortalDoor, StandardDoor, StripeDoor
from payment_intake.adapters.portal import PortalReader
from payment_intake.adapters.portal_records import PortalRecords
from payment_intake.adapters.repositories import SqlStore
from payment_intake.adapters.signatures import StandardSignature, StripeSignature
from payment_intake.adapters.stripe import MetadataFields, StripeReader
from payment_intake.adapters.tables import outbox as outbox_rows
from payment_intake.api import build_api
from payment_intake.consumers import GROUP_ID, build_router
from payment_intake.domain import Policy
from payment_intake.ingress import Door, Ingress
from payment_intake.ingress_document import webhook_paths
from payment_intake.jobs import Jobs
from payment_intake.metrics import Metrics
from payment_intake.ports import Incoming, Outcome
from payment_intake.settings import Settings
from payment_intake.usecases import AnnounceAgain, FollowMovements, StateDelays, TakeEvents
from shared.backbone import build_backbone
from shared.clock import Clock, utc_now
from shared.ids import uuid7
from shared.runtime.http import HttpServer
from shared.runtime.problems import BearerKeys
from shared.runtime.service import Service, every
from shared.work.batcher import MicroBatcher
from shared.work.patience import patiently


@dataclass(frozen=True, kw_only=True)
class App:
    """What `build_app` has put together; tests reach into it."""

    service: Service
    broker: KafkaBroker
    ingress: Ingress
    api: FastAPI
    jobs: Jobs
    metrics: Metrics


def build_app(settings: Settings, *, clock: Clock = utc_now) -> App:
    """Put payment-intake together; nothing is opened before the service is served."""
    metrics = Metrics()
    backbone = build_backbone(
        settings=settings,
        group_id=GROUP_ID,
        outbox_rows=outbox_rows,
        metrics=metrics,
        clock=clock,
    )
    announcer = backbone.announcer
    store = SqlStore(
        engine=backbone.engine,
        outbox=backbone.outbox,
        announce=announcer,
        announce_again_seconds=settings.announce_again_after_seconds,
    )
    take_events = TakeEvents(
        store=store,
        policy=Policy(
            time_zone=ZoneInfo(settings.city_time_zone),
            cutoff=settings.city_cutoff_time,
            post_pending=settings.post_ach_at == "submission",
        ),
        new_id=uuid7,
        metrics=metrics,
    )

    async def take_batch(events: Sequence[Incoming]) -> Sequence[Outcome]:
        metrics.batch(len(events))
        return await patiently(
            lambda: take_events(events), patience_seconds=settings.take_patience_seconds
        )

    taker: MicroBatcher[Incoming, Outcome] = MicroBatcher(
        flush=take_batch,
        batch_size_max=settings.take_batch_size_max,
        queue_size_max=settings.take_queue_size_max,
    )
    portal_reader = PortalReader(
        trusted_sources=settings.trusted_capture_sources, currencies=settings.currencies
    )
    keys = BearerKeys(sha256s=settings.portal_api_key_sha256s)
    api = build_api(store=store, keys=keys, webhooks=webhook_paths)
    ingress = Ingress(
        doors=_doors(settings, portal_reader=portal_reader, metrics=metrics),
        rest=api,
        take=taker.submit,
        keep_rejected=store.keep_rejected,
        mask=masked,
        new_id=uuid7,
        clock=clock,
        metrics=metrics,
        size_max_bytes=settings.request_size_max_bytes,
        seconds_max=settings.request_seconds_max,
    )
    backbone.broker.include_router(
        build_router(
            group=backbone.group,
            inbox=backbone.inbox,
            read_portal=PortalRecords(reader=portal_reader, clock=clock, metrics=metrics),
            take_batch=take_batch,
            follow=FollowMovements(store=store, metrics=metrics),
            clock=clock,
        )
    )
    jobs = Jobs(
        announce_again=AnnounceAgain(
            store=store,
            announce=announcer,
            metrics=metrics,
            first_seconds=settings.announce_again_after_seconds,
            cap_seconds=settings.announce_again_cap_seconds,
        ),
        state_delays=StateDelays(
            store=store, metrics=metrics, limit_seconds=settings.delayed_after_seconds
        ),
        store=store,
        metrics=metrics,
    )
    loops: dict[str, Any] = {
        "announcer": announcer.run,
        "announce_again": lambda: every(
            1.0, lambda: jobs.announce_again_once(now=clock()), name="announce_again"
        ),
        "state_delays": lambda: every(
            1.0, lambda: jobs.state_delays_once(now=clock()), name="state_delays"
        ),
        "measure_backlog": lambda: every(
            5.0, lambda: jobs.measure_backlog_once(now=clock()), name="measure_backlog"
        ),
    }
    service = Service(
        name=GROUP_ID,
        doors=(
            HttpServer(
                app=ingress,
                host=settings.http_host,
                port=settings.http_port,
                drain_seconds=settings.drain_seconds,
            ),
            backbone.consumers,
        ),
        loops=loops,
        drains=(taker.drain, announcer.drain),
        closes=backbone.closes,
        live={"consumers": backbone.consumers.check_live},
        # Kafka may be away: what is accepted then waits in the outbox, so webhooks stay welcome.
        ready={"database": backbone.database_ready},
        registry=metrics.registry,
    )
    return App(
        service=service,
        broker=backbone.broker,
        ingress=ingress,
        api=api,
        jobs=jobs,
        metrics=metrics,
    )


def _doors(settings: Settings, *, portal_reader: PortalReader, metrics: Metrics) -> dict[str, Door]:
    tolerance = settings.signature_tolerance_seconds
    standard = StandardSignature(
        secrets={
            source: [secret.get_secret_value() for secret in secrets]
            for source, secrets in settings.standard_webhook_secrets.items()
        },
        tolerance_seconds=tolerance,
    )
    stripe = StripeSignature(
        secrets=[secret.get_secret_value() for secret in settings.stripe_webhook_secrets],
        tolerance_seconds=tolerance,
    )
    fields = MetadataFields(
        account=settings.metadata_account_field,
        fee=settings.metadata_fee_field,
        bill=settings.metadata_bill_field,
    )
    return {
        "/webhooks/stripe": StripeDoor(
            signature=stripe,
            reader=StripeReader(fields=fields, currencies=settings.currencies),
            metrics=metrics,
        ),
        "/webhooks/standard/": StandardDoor(
            signature=standard, reader=portal_reader, metrics=metrics
        ),
        "/portal/events": PortalDoor(signature=standard, reader=portal_reader, metrics=metrics),
    }
