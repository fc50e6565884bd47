"""The composition root of payment-intake: the only module that sees everything."""

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn
from uuid import uuid4
from zoneinfo import ZoneInfo

import structlog
from fastapi import FastAPI
from faststream.kafka import KafkaBroker

from payment_intake.adapters.card_numbers import masked
from payment_intake.adapters.doors import PortalDoor, StandardDoor, StripeDoor
from payment_intake.adapters.portal import PortalReader
from payment_intake.adapters.portal_records import PortalRecords
from payment_intake.adapters.repositories import SqlStore
from payment_intake.adapters.signatures import StandardSignature, StripeSignature
from payment_intake.adapters.stripe import MetadataFields, StripeReader
from payment_intake.adapters.stripe_gateway import StripeGateway
from payment_intake.adapters.tables import outbox as outbox_rows
from payment_intake.api import build_api
from payment_intake.consumers import GROUP_ID, build_router
from payment_intake.domain import Policy
from payment_intake.domain.charges import Cancellation, Charge, ChargeRequest, Hand
from payment_intake.ingress import Door, Ingress
from payment_intake.ingress_document import webhook_paths
from payment_intake.jobs import Jobs
from payment_intake.metrics import Metrics
from payment_intake.ports import ChargeGateway, Incoming, Outcome
from payment_intake.settings import Settings
from payment_intake.usecases import (
    AnnounceAgain,
    CatchingUp,
    ChargeDue,
    Charging,
    FollowMovements,
    SettleCharges,
    Settlement,
    StateDelays,
    TakeCharges,
    TakeEvents,
    TurnSwitch,
    WithdrawExpired,
)
from shared.backbone import build_backbone
from shared.clock import Clock, utc_now
from shared.errors import ContendedError
from shared.failpoints import Failpoint
from shared.ids import uuid7
from shared.runtime.http import HttpServer
from shared.runtime.problems import BearerKeys
from shared.runtime.service import Service, every
from shared.work.backoff import Backoff
from shared.work.batcher import MicroBatcher
from shared.work.lanes import Lanes
from shared.work.limit import AdaptiveLimit, Breaker, RateLimit
from shared.work.patience import patiently

SETTLE_PATIENCE_SECONDS = 20.0
"""How long an answer is kept in memory while the database is away; after it Stripe is asked."""
HELD_SECONDS = 2.0
"""So many seconds' worth of charges are in memory at most: the rest waits in the database."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class App:
    """What `build_app` has put together; tests reach into it."""

    service: Service
    broker: KafkaBroker
    ingress: Ingress
    api: FastAPI
    jobs: Jobs
    metrics: Metrics


def build_app(
    settings: Settings,
    *,
    clock: Clock = utc_now,
    randomness: random.Random | None = None,
    gateway: ChargeGateway | None = None,
    failpoint: Failpoint | None = None,
) -> App:
    """Put payment-intake together; nothing is opened before the service is served."""
    metrics = Metrics()
    backbone = build_backbone(
        settings=settings,
        group_id=GROUP_ID,
        outbox_rows=outbox_rows,
        metrics=metrics,
        clock=clock,
        failpoint=failpoint,
        lock_wait_seconds=settings.lock_wait_seconds,
    )
    announcer = backbone.announcer
    store = SqlStore(
        engine=backbone.engine,
        outbox=backbone.outbox,
        announce=announcer,
        announce_again_seconds=settings.announce_again_after_seconds,
    )
    policy = Policy(
        time_zone=ZoneInfo(settings.city_time_zone),
        cutoff=settings.city_cutoff_time,
        post_pending=settings.post_ach_at == "submission",
        cancellation_grace=timedelta(seconds=settings.cancellation_grace_seconds),
    )
    take_events = TakeEvents(store=store, policy=policy, new_id=uuid7, metrics=metrics)
    charges = _charges(
        settings,
        store=store,
        policy=policy,
        gateway=gateway,
        metrics=metrics,
        clock=clock,
        randomness=randomness or random.Random(),  # noqa: S311  jitter, not a secret
    )

    async def take_batch(events: Sequence[Incoming]) -> Sequence[Outcome]:
        metrics.batch(len(events))
        return await patiently(
            lambda: take_events(events),
            patience_seconds=settings.take_patience_seconds,
            # Has waited already, and the events beside it are waiting for it.
            unless=(ContendedError,),
        )

    spans = backbone.spans
    taker: MicroBatcher[Incoming, Outcome] = MicroBatcher(
        flush=spans.act(
            take_batch,
            name="keep events",
            kind="INTERNAL",
            traceparent_of=lambda event: event.traceparent,
        )
        if spans
        else take_batch,
        batch_size_max=settings.take_batch_size_max,
        queue_size_max=settings.take_queue_size_max,
    )
    portal_reader = PortalReader(
        trusted_sources=settings.trusted_capture_sources, currencies=settings.currencies
    )
    switch = TurnSwitch(store=store, clock=clock)
    api = build_api(
        store=store,
        keys=BearerKeys(sha256s=settings.portal_api_key_sha256s),
        switch=switch,
        operator_keys=BearerKeys(sha256s=settings.operator_key_sha256s),
        can_charge=charges.due is not None,
        webhooks=webhook_paths,
    )
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
        body_seconds_max=settings.request_seconds_max,
        take_seconds_max=settings.take_seconds_max,
    )
    catching_up = CatchingUp(late_seconds=settings.announce_again_after_seconds)
    backbone.broker.include_router(
        build_router(
            group=backbone.group,
            inbox=backbone.inbox,
            read_portal=PortalRecords(reader=portal_reader, clock=clock, metrics=metrics),
            take_batch=take_batch,
            take_charges=charges.take,
            follow=FollowMovements(store=store, metrics=metrics, catching_up=catching_up),
        )
    )
    jobs = Jobs(
        announce_again=AnnounceAgain(
            store=store,
            announce=announcer,
            metrics=metrics,
            catching_up=catching_up,
            first_seconds=settings.announce_again_after_seconds,
            cap_seconds=settings.announce_again_cap_seconds,
        ),
        state_delays=StateDelays(
            store=store,
            metrics=metrics,
            catching_up=catching_up,
            limit_seconds=settings.delayed_after_seconds,
        ),
        charge_due=charges.due,
        withdraw_expired=WithdrawExpired(store=store, metrics=metrics),
        switch=switch,
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
        "charge_due": lambda: every(
            settings.charge_recovery_interval_seconds,
            lambda: jobs.charge_due_once(now=clock()),
            name="charge_due",
        ),
        "withdraw_expired": lambda: every(
            5.0, lambda: jobs.withdraw_expired_once(now=clock()), name="withdraw_expired"
        ),
        "measure_charges": lambda: every(
            5.0, lambda: jobs.measure_charges_once(now=clock()), name="measure_charges"
        ),
    }
    service = Service(
        name=GROUP_ID,
        doors=(
            HttpServer(
                app=spans.door(ingress) if spans else ingress,
                host=settings.http_host,
                port=settings.http_port,
                drain_seconds=settings.drain_seconds,
            ),
            backbone.consumers,
        ),
        loops=loops,
        drains=(charges.lanes.close, charges.settler.drain, taker.drain, announcer.drain),
        closes=(*charges.closes, *backbone.closes),
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


@dataclass(frozen=True, kw_only=True)
class _Charges:
    """What makes the charges that autopay asks for."""

    take: Callable[[Sequence[ChargeRequest | Cancellation]], Awaitable[None]]
    due: ChargeDue | None
    lanes: Lanes[Hand]
    settler: MicroBatcher[Settlement, Charge]
    closes: Sequence[Callable[[], Awaitable[None]]]


def _charges(
    settings: Settings,
    *,
    store: SqlStore,
    policy: Policy,
    gateway: ChargeGateway | None,
    metrics: Metrics,
    clock: Clock,
    randomness: random.Random,
) -> _Charges:
    stripe = _stripe(settings, metrics)
    owner = uuid4()
    held_max = max(1, int(settings.charges_per_second * HELD_SECONDS))
    breaker = Breaker(
        failures_max=settings.charge_breaker_failures_max,
        pause_seconds=settings.charge_breaker_pause_seconds,
        pause_seconds_max=settings.charge_breaker_pause_seconds_max,
    )
    metrics.charge_breaker_open.set_function(lambda: breaker.holds)
    limit = AdaptiveLimit(
        minimum=1,
        initial=min(4, settings.charge_connections_max),
        maximum=settings.charge_connections_max,
    )
    settle = SettleCharges(store=store, policy=policy, new_id=uuid7, metrics=metrics)

    async def settle_batch(batch: Sequence[Settlement]) -> Sequence[Charge]:
        return await patiently(lambda: settle(batch), patience_seconds=SETTLE_PATIENCE_SECONDS)

    settler: MicroBatcher[Settlement, Charge] = MicroBatcher(
        flush=settle_batch, batch_size_max=64, queue_size_max=held_max + 1
    )
    used = gateway or stripe

    async def release(hands: Sequence[Hand]) -> None:
        async with store.transaction() as unit:
            await unit.charges.release(hands, owner=owner, now=clock())

    async def nothing(in_hand: Sequence[object]) -> NoReturn:
        raise AssertionError(f"{len(in_hand)} charges in hand, and no key for the processor")

    charging = used and Charging(
        gateway=used,
        store=store,
        settle=settler,
        breaker=breaker,
        limit=limit,
        rate=RateLimit(per_second=settings.charges_per_second),
        backoff=Backoff(
            initial_seconds=settings.charge_retry_initial_seconds,
            cap_seconds=settings.charge_retry_cap_seconds,
        ),
        clock=clock,
        randomness=randomness,
        metrics=metrics,
        call_seconds_max=settings.charge_timeout_seconds,
    )
    lanes: Lanes[Hand] = Lanes(
        lane_of=lambda hand: hand.charge.account_id,
        act=charging or nothing,
        settle=charging.settled if charging else nothing,
        give_up=release,
        limit=limit,
        batch_size_max=1,
        items_max=held_max,
    )
    due = ChargeDue(
        store=store,
        lanes=lanes,
        breaker=breaker,
        owner=owner,
        lease=timedelta(seconds=settings.charge_lease_seconds),
    )
    take = TakeCharges(store=store, policy=policy, clock=clock, metrics=metrics)

    async def take_and_charge(wanted: Sequence[ChargeRequest | Cancellation]) -> None:
        await take(wanted)
        if used is None:
            _log.warning("charge.no_key", waiting=len(wanted))
            return
        # At once, not when the job comes round: what fits is in hand before the next batch.
        await due(now=clock(), limit=held_max)

    return _Charges(
        take=take_and_charge,
        due=due if used else None,
        lanes=lanes,
        settler=settler,
        closes=(stripe.close,) if stripe else (),
    )


def _stripe(settings: Settings, metrics: Metrics) -> StripeGateway | None:
    if settings.stripe_api_key is None:
        return None
    return StripeGateway(
        api_key=settings.stripe_api_key.get_secret_value(),
        api_base=settings.stripe_api_base,
        fields=_fields(settings),
        timeout_seconds=settings.charge_timeout_seconds,
        connections_max=settings.charge_connections_max,
        metrics=metrics,
    )


def _fields(settings: Settings) -> MetadataFields:
    return MetadataFields(
        account=settings.metadata_account_field,
        fee=settings.metadata_fee_field,
        bill=settings.metadata_bill_field,
        charge=settings.metadata_charge_field,
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
    return {
        "/webhooks/stripe": StripeDoor(
            signature=stripe,
            reader=StripeReader(fields=_fields(settings), currencies=settings.currencies),
            metrics=metrics,
        ),
        "/webhooks/standard/": StandardDoor(
            signature=standard, reader=portal_reader, metrics=metrics
        ),
        "/portal/events": PortalDoor(signature=standard, reader=portal_reader, metrics=metrics),
    }
