"""The composition root of autopay-scheduler: the only module that sees everything."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

from fastapi import FastAPI
from faststream.kafka import KafkaBroker

from autopay_scheduler.adapters.closed_days import closed_days
from autopay_scheduler.adapters.import_files import CsvImportFiles
from autopay_scheduler.adapters.reenrolment_repository import SqlReenrolments
from autopay_scheduler.adapters.store import SqlStore
from autopay_scheduler.adapters.tables import outbox as outbox_rows
from autopay_scheduler.api import build_api
from autopay_scheduler.api.reenrolment import build_reenrolment_router
from autopay_scheduler.consumers import GROUP_ID, build_router
from autopay_scheduler.domain.city import City
from autopay_scheduler.domain.days import BusinessDays, Calendar
from autopay_scheduler.domain.notices import NoticeRule
from autopay_scheduler.domain.reenrolment import Rhythm
from autopay_scheduler.jobs import Jobs
from autopay_scheduler.metrics import Metrics
from autopay_scheduler.settings import Settings
from autopay_scheduler.usecases.announcing import (
    AnnounceCharges,
    KeepNotices,
    RestateAnnouncements,
    WarnOfExpiry,
)
from autopay_scheduler.usecases.enrolling import TakeWords
from autopay_scheduler.usecases.following import FollowCharges, FollowMethods
from autopay_scheduler.usecases.operating import Operate
from autopay_scheduler.usecases.owing import KeepBills, KeepPostings, KnowAccounts
from autopay_scheduler.usecases.planning import PlanCharges
from autopay_scheduler.usecases.reenrolment import (
    DeclineInvitations,
    FollowMove,
    ImportLists,
    InviteAwaiting,
)
from autopay_scheduler.usecases.requesting import CloseHeld, RequestCharges, RestateRequests
from autopay_scheduler.usecases.viewing import ViewAutopay
from shared.backbone import Backbone, build_backbone
from shared.clock import Clock, moved, utc_now
from shared.failpoints import Failpoint
from shared.ids import uuid7
from shared.runtime.http import HttpServer
from shared.runtime.problems import BearerKeys
from shared.runtime.service import Service, every


@dataclass(frozen=True, kw_only=True)
class App:
    """What `build_app` has put together; tests reach into it."""

    service: Service
    broker: KafkaBroker
    api: FastAPI
    jobs: Jobs
    store: SqlStore
    metrics: Metrics


def build_app(
    settings: Settings, *, clock: Clock = utc_now, failpoint: Failpoint | None = None
) -> App:
    """Put autopay-scheduler together; nothing is opened before the service is served."""
    clock = moved(clock, by=timedelta(seconds=settings.clock_offset_seconds))
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
    city = city_of(settings)
    zone = city.calendar.zone
    store = SqlStore(
        engine=backbone.engine,
        outbox=backbone.outbox,
        announce=announcer,
        zone=zone,
        late_grace_days=settings.late_grace_days,
    )
    reenrolments = SqlReenrolments(
        engine=backbone.engine,
        outbox=backbone.outbox,
        announce=announcer,
        zone=zone,
        late_grace_days=settings.late_grace_days,
    )
    declines = DeclineInvitations(reenrolments=reenrolments, clock=clock, metrics=metrics)
    move = FollowMove(
        reenrolments=reenrolments, calendar=city.calendar, clock=clock, metrics=metrics
    )
    invite = InviteAwaiting(
        reenrolments=reenrolments,
        calendar=city.calendar,
        rhythm=Rhythm(
            after_days=tuple(settings.invite_after_days),
            before_due_days=tuple(settings.invite_before_due_days),
            until_days=settings.invite_until_days,
        ),
        link=settings.portal_url,
        metrics=metrics,
    )
    backbone.broker.include_router(
        build_router(
            group=backbone.group,
            inbox=backbone.inbox,
            currency=settings.currency,
            take_words=TakeWords(store=store, city=city, clock=clock, metrics=metrics),
            know_accounts=KnowAccounts(store=store, clock=clock),
            decline_invitations=declines,
            keep_bills=KeepBills(store=store, clock=clock, metrics=metrics),
            keep_postings=KeepPostings(store=store, clock=clock, metrics=metrics),
            follow_charges=FollowCharges(store=store, city=city, clock=clock, metrics=metrics),
            follow_methods=FollowMethods(store=store, clock=clock, metrics=metrics),
            keep_notices=KeepNotices(store=store, clock=clock, metrics=metrics),
        )
    )
    jobs = _jobs(settings, store=store, city=city, backbone=backbone, metrics=metrics)
    view = ViewAutopay(store=store, city=city, clock=clock)
    operator_keys = BearerKeys(sha256s=settings.operator_key_sha256s)
    api = build_api(
        view=view,
        operate=Operate(store=store, clock=clock, metrics=metrics),
        reenrolment=build_reenrolment_router(
            imports=ImportLists(
                files=CsvImportFiles(
                    lines_max=settings.import_lines_max, limit_cents=settings.limit_cents
                ),
                reenrolments=reenrolments,
                calendar=city.calendar,
                new_id=uuid7,
                clock=clock,
                metrics=metrics,
            ),
            declines=declines,
            move=move,
            keys=operator_keys,
            size_max_bytes=settings.import_size_max_bytes,
            seconds_max=settings.import_seconds_max,
        ),
        reader_keys=BearerKeys(
            sha256s=[*settings.portal_api_key_sha256s, *settings.operator_key_sha256s]
        ),
        operator_keys=operator_keys,
    )
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
        loops={
            "announcer": announcer.run,
            **_loops(settings, jobs=jobs, invite=invite, move=move, clock=clock),
        },
        drains=(announcer.drain,),
        closes=backbone.closes,
        live={"consumers": backbone.consumers.check_live},
        ready={"database": backbone.database_ready, "kafka": backbone.consumers.check_ready},
        registry=metrics.registry,
    )
    return App(
        service=service,
        broker=backbone.broker,
        api=api,
        jobs=jobs,
        store=store,
        metrics=metrics,
    )


def city_of(settings: Settings) -> City:
    """Return the city's rules as the settings have them."""
    return City(
        calendar=Calendar(
            zone=ZoneInfo(settings.city_time_zone),
            is_closed=closed_days(
                country=settings.holidays_country,
                subdivision=settings.holidays_subdivision,
                extra=settings.holidays_extra,
            ),
            business_days=BusinessDays(settings.business_days),
            charge_time=settings.charge_time,
        ),
        notice=NoticeRule(days=settings.notice_days, charge_unnotified=settings.charge_unnotified),
        late_grace_days=settings.late_grace_days,
        retry_days=tuple(settings.retry_days),
        least_cents=settings.least_cents,
        limit_cents=settings.limit_cents,
        given_up_max=settings.given_up_max,
        currency=settings.currency,
        token_prefixes={
            processor: tuple(prefixes) for processor, prefixes in settings.token_prefixes.items()
        },
        expiry_warning_days=tuple(settings.expiry_warning_days),
    )


def _jobs(
    settings: Settings, *, store: SqlStore, city: City, backbone: Backbone, metrics: Metrics
) -> Jobs:
    first, cap = settings.restate_after_seconds, settings.restate_cap_seconds
    return Jobs(
        plan=PlanCharges(store=store, city=city, metrics=metrics),
        announce=AnnounceCharges(
            store=store, city=city, metrics=metrics, restate_after_seconds=first
        ),
        request=RequestCharges(
            store=store, city=city, metrics=metrics, restate_after_seconds=first
        ),
        close=CloseHeld(store=store, metrics=metrics),
        restate_requests=RestateRequests(
            store=store,
            announce=backbone.announcer,
            metrics=metrics,
            first_seconds=first,
            cap_seconds=cap,
        ),
        restate_announcements=RestateAnnouncements(
            store=store,
            announce=backbone.announcer,
            metrics=metrics,
            first_seconds=first,
            cap_seconds=cap,
        ),
        warn_of_expiry=WarnOfExpiry(store=store, city=city, metrics=metrics),
        store=store,
        metrics=metrics,
    )


def _loops(
    settings: Settings,
    *,
    jobs: Jobs,
    invite: InviteAwaiting,
    move: FollowMove,
    clock: Clock,
) -> dict[str, Any]:
    interval = settings.job_interval_seconds

    def paced(
        job: Callable[..., Awaitable[int]], per_second: float
    ) -> Callable[[], Awaitable[int]]:
        """Return a job that takes so much at each interval and no more, however much is due."""
        limit = max(1, round(per_second * interval))

        async def run() -> int:
            await job(now=clock(), limit=limit)
            return 0

        return run

    async def measure_move() -> int:
        await move.measure()
        return 0

    request = paced(jobs.request_charges_once, settings.requests_per_second)
    announce = paced(jobs.announce_charges_once, settings.announcements_per_second)
    invite_some = paced(invite, settings.invitations_per_second)
    return {
        "plan_charges": lambda: every(
            interval,
            lambda: jobs.plan_charges_once(now=clock(), limit=settings.plan_batch_size),
            name="plan_charges",
        ),
        "announce_charges": lambda: every(interval, announce, name="announce_charges"),
        "request_charges": lambda: every(interval, request, name="request_charges"),
        "close_held": lambda: every(
            60.0, lambda: jobs.close_held_once(now=clock()), name="close_held"
        ),
        "restate_unheard": lambda: every(
            5.0, lambda: jobs.restate_unheard_once(now=clock()), name="restate_unheard"
        ),
        "warn_of_expiry": lambda: every(
            3600.0, lambda: jobs.warn_of_expiry_once(now=clock()), name="warn_of_expiry"
        ),
        "invite_awaiting": lambda: every(interval, invite_some, name="invite_awaiting"),
        "measure_backlog": lambda: every(
            5.0, lambda: jobs.measure_backlog_once(now=clock()), name="measure_backlog"
        ),
        # It counts every imported row.
        "measure_move": lambda: every(60.0, measure_move, name="measure_move"),
    }
