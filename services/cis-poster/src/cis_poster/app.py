"""The composition root of cis-poster: the only module that sees everything."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from fastapi import FastAPI
from faststream.kafka import KafkaBroker

from cis_poster.adapters.cis_http import HttpCisGateway
from cis_poster.adapters.repositories import SqlPostings
from cis_poster.adapters.tables import outbox as outbox_rows
from cis_poster.api import build_api
from cis_poster.consumers import GROUP_ID, build_router
from cis_poster.domain import Attempt, Outcome
from cis_poster.jobs import Jobs
from cis_poster.metrics import Metrics
from cis_poster.ports import CisGateway, Settlement
from cis_poster.settings import Settings
from cis_poster.usecases import Attempting, ManageSuspense, PostDue, PostPayments
from shared.backbone import build_backbone
from shared.clock import Clock, utc_now
from shared.failpoints import Failpoint, Seam, crashing
from shared.runtime.http import HttpServer
from shared.runtime.problems import BearerKeys
from shared.runtime.service import Service, every
from shared.work.backoff import Backoff
from shared.work.batcher import MicroBatcher
from shared.work.lanes import Lanes
from shared.work.limit import AdaptiveLimit, Breaker
from shared.work.patience import patiently

SETTLE_PATIENCE_SECONDS = 20.0
"""How long an outcome is kept in memory while the database is away; after it the CIS is asked."""


@dataclass(frozen=True, kw_only=True)
class App:
    """What `build_app` has put together; tests reach into it."""

    service: Service
    broker: KafkaBroker
    api: FastAPI
    jobs: Jobs
    metrics: Metrics


def build_app(
    settings: Settings,
    *,
    clock: Clock = utc_now,
    randomness: random.Random | None = None,
    cis: CisGateway | None = None,
    failpoint: Failpoint | None = None,
) -> App:
    """Put cis-poster together; nothing is opened before the service is served."""
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
    postings = SqlPostings(
        engine=backbone.engine,
        outbox=backbone.outbox,
        owner=uuid4(),
        lease_seconds=settings.lease_seconds,
    )
    gateway = HttpCisGateway(
        base_url=settings.cis_base_url,
        api_key=settings.cis_api_key.get_secret_value(),
        timeout_seconds=settings.cis_timeout_seconds,
        connections_max=settings.cis_connections_max,
        metrics=metrics,
    )
    breaker = Breaker(
        failures_max=settings.breaker_failures_max,
        pause_seconds=settings.breaker_pause_seconds,
        pause_seconds_max=settings.breaker_pause_seconds_max,
    )
    limit = AdaptiveLimit(
        minimum=1,
        initial=min(16, settings.cis_connections_max),
        maximum=settings.cis_connections_max,
    )

    async def settle(waiting: Sequence[Sequence[Settlement]]) -> Sequence[None]:
        batch = [settlement for settlements in waiting for settlement in settlements]
        rows = await patiently(
            lambda: postings.settle(batch), patience_seconds=SETTLE_PATIENCE_SECONDS
        )
        announcer.offer(rows)
        return [None for _ in waiting]

    settler: MicroBatcher[Sequence[Settlement], None] = MicroBatcher(
        flush=settle, batch_size_max=256, queue_size_max=settings.held_max, paced=True
    )
    attempting = Attempting(
        gateway=crashing(
            cis or gateway,
            method="post",
            after=Seam.POSTED,
            counts=lambda answers: any(each.outcome is Outcome.APPLIED for each in answers),
            failpoint=failpoint,
        ),
        settle=settler,
        breaker=breaker,
        limit=limit,
        backoff=Backoff(
            initial_seconds=settings.retry_initial_seconds,
            cap_seconds=settings.retry_cap_seconds,
        ),
        clock=clock,
        randomness=randomness or random.Random(),  # noqa: S311  jitter, not a secret
        metrics=metrics,
        call_seconds_max=settings.cis_timeout_seconds,
    )
    spans = backbone.spans
    lanes: Lanes[Attempt] = Lanes(
        lane_of=lambda attempt: attempt.posting.account_id,
        act=spans.act(
            attempting,
            name="post to the CIS",
            kind="CLIENT",
            traceparent_of=lambda attempt: attempt.posting.traceparent,
        )
        if spans
        else attempting,
        settle=attempting.settled,
        give_up=lambda attempts: postings.release(attempts, now=clock()),
        limit=limit,
        batch_size_max=settings.cis_batch_size,
        items_max=settings.held_max,
        alone=lambda attempt: attempt.ask_first,
    )
    backbone.broker.include_router(
        build_router(
            group=backbone.group,
            inbox=backbone.inbox,
            post_payments=PostPayments(
                postings=postings,
                lanes=lanes,
                breaker=breaker,
                announce=announcer,
                clock=clock,
                metrics=metrics,
            ),
        )
    )
    jobs = Jobs(
        post_due=PostDue(postings=postings, lanes=lanes, breaker=breaker),
        postings=postings,
        metrics=metrics,
    )
    metrics.breaker_open.set_function(lambda: breaker.holds)
    metrics.concurrency_limit.set_function(lambda: limit.now)
    metrics.held.set_function(lambda: lanes.held)
    api = build_api(
        suspense=ManageSuspense(postings=postings, announce=announcer, clock=clock),
        keys=BearerKeys(sha256s=settings.operator_key_sha256s),
    )
    interval = settings.recovery_interval_seconds
    loops: dict[str, Any] = {
        "announcer": announcer.run,
        "post_due": lambda: every(
            interval, lambda: jobs.post_due_once(now=clock()), name="post_due"
        ),
        "wake_waiting": lambda: every(
            5.0, lambda: jobs.wake_waiting_once(now=clock()), name="wake_waiting"
        ),
        "measure_backlog": lambda: every(
            5.0, lambda: jobs.measure_backlog_once(now=clock()), name="measure_backlog"
        ),
    }
    service = Service(
        name=GROUP_ID,
        doors=(
            HttpServer(
                app=api,
                host=settings.http_host,
                port=settings.http_port,
                drain_seconds=settings.drain_seconds,
            ),
            backbone.consumers,
        ),
        loops=loops,
        drains=(lanes.close, settler.drain, announcer.drain),
        closes=(gateway.close, *backbone.closes),
        live={"consumers": backbone.consumers.check_live},
        ready={"database": backbone.database_ready, "kafka": backbone.consumers.check_ready},
        registry=metrics.registry,
    )
    return App(service=service, broker=backbone.broker, api=api, jobs=jobs, metrics=metrics)
