"""Real outages, and what Prometheus says meanwhile: alerts fire, scrapes go on, all falls silent.

Invariant: while Kafka, PostgreSQL or the CIS is away, each service that runs answers its scrapes
within a second and says so; afterwards the books hold and no alert of the outage is left.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Collection
from typing import Protocol

import aiohttp
from deploy.observability.server import PrometheusServer

from paypost.demo.autopay import CLOCK_AHEAD
from paypost.demo.scenario import ENVIRONMENTS
from paypost.remote import Remote
from paypost.simulators.processor.processor import Order
from paypost.simulators.processor.signatures import sign_stripe
from paypost.stack.local import SERVICES, LocalStack, process_spec
from paypost.traffic.stripe import StripeSender
from paypost.verify.autopay import Terms
from paypost.verify.report import Places, verify

FIRES_SECONDS_MAX = 150.0
"""An age of 60 s, the rule's own wait cut to a second, and what a busy machine adds."""
SCRAPED_SECONDS_MAX = 1.0


class Report(Protocol):
    """Whom it tells what it found."""

    wrong: list[str]

    def say(self, line: str) -> None: ...


async def play_outages(*, stack: LocalStack, prometheus: PrometheusServer, checked: Report) -> None:
    """Take away one part after the other; see the alerts fire, then all of it hold again."""
    silent_before = prometheus.firing()
    checked.say(f"before the outages fire: {', '.join(sorted(silent_before)) or 'none'}")
    play = _Outages(stack=stack, prometheus=prometheus, checked=checked)
    dead = (await verify(places=play.places)).dead
    await play.kafka_and_cis()
    await play.postgres()
    await play.a_service()
    await play.all_is_well(expected=silent_before, dead=dead)


class _Outages:
    def __init__(self, *, stack: LocalStack, prometheus: PrometheusServer, checked: Report) -> None:
        self._stack = stack
        self._prometheus = prometheus
        self._checked = checked
        self._seen: set[str] = set()

    async def kafka_and_cis(self) -> None:
        """Kafka is dead and the CIS refuses; payments go on being accepted."""
        async with Remote(base_url=self._stack.state.http_urls["cis"]) as cis:
            await cis.put("/_switches", {"down": True})
            await self._pay(count=20)
            # The breaker opens by what is under way; then nothing new comes off the streams.
            await self._fire("PaypostCisNotAnswering")
            await asyncio.to_thread(self._stack.kafka.kill)
            await self._pay(count=10)
            await self._fire(
                "PaypostKafkaNotHeard", "PaypostFactsDoNotLeave", "PaypostPostingsLate"
            )
            self._scrapes_went_on("Kafka was dead")
            await asyncio.to_thread(self._stack.kafka.start)
            await cis.post("/_switches/reset")

    async def postgres(self) -> None:
        """The database is away: webhooks are refused, ages grow, scrapes go on."""
        await asyncio.to_thread(self._stack.postgres.stop)
        refusing = asyncio.create_task(self._refused())
        try:
            await self._fire("PaypostMeasurementsStale", "PaypostPaymentsNotAccepted")
        finally:
            refusing.cancel()
            await asyncio.gather(refusing, return_exceptions=True)
        self._scrapes_went_on("PostgreSQL was away")
        await asyncio.to_thread(self._stack.postgres.start)

    async def a_service(self) -> None:
        """One service is gone, and its metrics with it."""
        name = "autopay-scheduler"
        await asyncio.to_thread(self._stack.supervisor.stop, name=name)
        await self._fire("PaypostServiceMissing")
        spec = process_spec(
            name=name,
            state=self._stack.state,
            environ=os.environ,
            overrides=ENVIRONMENTS.get(name, {}),
        )
        await asyncio.to_thread(self._stack.supervisor.start, spec)
        await asyncio.to_thread(self._stack.supervisor.wait_ready, name=name, timeout_seconds=60)

    @property
    def places(self) -> Places:
        """Where the books are."""
        return Places.of(state=self._stack.state, terms=Terms(clock_ahead=CLOCK_AHEAD))

    async def all_is_well(self, *, expected: Collection[str], dead: int) -> None:
        """Everything is back: what fired is silent again, the books hold, no letter is new."""
        report = await verify(places=self.places, wait_seconds=90, expect_dead=dead)
        faults = [f"{each.fault}: {each.detail}" for each in report.differences]
        self._checked.say(f"verify after the outages: {faults or 'holds'}")
        if not report.holds:
            self._checked.wrong.append(f"the books differ after the outages: {faults}")
        # Of what looks back over minutes, the outage is still in sight: it is not waited for.
        lingering = {"PaypostPaymentsNotAccepted", "PaypostServiceRestarts"}
        deadline = time.monotonic() + FIRES_SECONDS_MAX
        while left := (self._prometheus.firing() & self._seen) - lingering - set(expected):
            if time.monotonic() > deadline:
                self._checked.wrong.append(f"still firing: {', '.join(sorted(left))}")
                return
            await asyncio.sleep(1)
        self._checked.say(f"silent again: {', '.join(sorted(self._seen - lingering))}")

    async def _fire(self, *names: str) -> None:
        began = time.monotonic()
        missing = set(names)
        while missing := missing - self._prometheus.firing():
            if time.monotonic() - began > FIRES_SECONDS_MAX:
                self._checked.wrong.append(f"did not fire: {', '.join(sorted(missing))}")
                return
            await asyncio.sleep(1)
        self._seen |= set(names)
        self._checked.say(
            f"fired after {time.monotonic() - began:.0f} s: {', '.join(sorted(names))}"
        )

    async def _pay(self, *, count: int) -> None:
        order = Order(scenario="card", accounts=["D-001", "D-002", "D-003"], count=count)
        async with StripeSender(state=self._stack.state) as sender:
            sent = await sender.send([order], later=False)
        if sent.not_taken:
            self._checked.wrong.append(f"{sent.not_taken} webhooks were never taken")

    async def _refused(self) -> None:
        """Knock at the door all the while; what is answered is seen in the metrics."""
        url = f"{self._stack.state.http_urls['payment-intake']}/webhooks/stripe"
        state = self._stack.state
        number = 0
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as http:
            while True:
                number += 1
                body = b'{"id":"evt_out_%d","object":"event","type":"customer.updated",' % number
                body += b'"created":1,"data":{"object":{"object":"customer"}}}'
                signature = sign_stripe(
                    body=body,
                    secrets=[state.secrets.stripe_webhook_secret],
                    timestamp=int(time.time()),
                )
                headers = {"Content-Type": "application/json", "Stripe-Signature": signature}
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with http.post(url, data=body, headers=headers) as answer:
                        await answer.read()
                await asyncio.sleep(0.5)

    def _scrapes_went_on(self, when: str) -> None:
        for service in SERVICES:
            job = f'{{job="{service}"}}[20s]'
            up = float(self._prometheus.query(f"min_over_time(up{job})")[0]["value"][1])
            longest = float(
                self._prometheus.query(f"max_over_time(scrape_duration_seconds{job})")[0]["value"][
                    1
                ]
            )
            if up != 1 or longest > SCRAPED_SECONDS_MAX:
                self._checked.wrong.append(f"{service} was not scraped well while {when}")
            else:
                self._checked.say(
                    f"{service} answered every scrape while {when}, at most {longest * 1000:.0f} ms"
                )
