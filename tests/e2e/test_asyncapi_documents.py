"""Every record that a busy system leaves on its streams, held against the AsyncAPI documents."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from tests.support.intake_service import records_on
from tests.support.pipeline import Pipeline, eventually_true
from tests.support.recorded import Documents, validator_of
from tests.support.whole_autopay import Autopay
from tests.support.whole_stack import ACCOUNTS

from paypost.remote import Remote
from paypost.traffic.autopay import state_words
from paypost.traffic.bills import publish_bills
from paypost.traffic.portal import Way, say
from shared.contracts.portal import ContactChanged, PaymentCaptured, PaymentSubmitted
from shared.contracts.streams import STREAMS

pytestmark = pytest.mark.stack

NOT_SEEN = {
    "payment.delayed": "only after the city's limit, which is longer than a test",
    "charge.withdrawn": "a cancellation that wins a race: e2e/test_autopay_streams.py",
    "method.updated": "Stripe's updater acts by itself; integration/autopay_scheduler",
    "mandate.withdrawn": "a bank's word; integration/autopay_scheduler/test_methods.py",
    "posting.deferred": "needs an outage of the CIS; e2e/test_survival.py has them",
    "notification.failed": "needs a mailbox that refuses; integration/notifier",
    "enrolment.refused": "needs a method that is refused; integration/autopay_scheduler",
    "notification.skipped": "needs a customer without an address; integration/notifier",
    "enrolment.stopped": "after a hard decline; the demo has one",
    "enrolment.invited": "needs an import of the old portal's list; the demo has one",
    "method.expiring": "a month before a card's end; integration/autopay_scheduler",
    "charge.held": "above a customer's maximum; the demo has one",
    "charge.cancelled": "a cancellation of what intake was asked for: e2e/test_autopay_streams.py",
    "charge.failed": "after a decline; the demo has one",
    "autopay.invitation_declined": "needs an invitation",
    "disconnect.scheduled": "no counterpart states it",
}
"""Facts that this load does not bring forth, and why: their golden files are held to the
documents all the same."""
SCENARIOS = ("card", "ach", "ach_return", "refund", "refund_first", "dispute_won", "decline")


async def busy(pipeline: Pipeline) -> None:
    """Bring forth every fact that can be had without an outage, a calendar month or a race."""
    now = datetime.now(UTC)
    trains = [
        pipeline.card(account=ACCOUNTS[n], amount_cents=2_000 + n, scenario=name)
        for n, name in enumerate(SCENARIOS * 2)
    ]
    await pipeline.send(trains)
    unknown = pipeline.card(account="NOBODY-KNOWS", amount_cents=777)
    await pipeline.send([unknown])
    # It is given back in the end: it is not to be waited for.
    pipeline.trains.remove(unknown)
    about = {"account_id": ACCOUNTS[20], "currency": "USD", "amount_cents": 1_234}
    submitted = PaymentSubmitted(
        **about, processor="stripe", reference=f"pi_{now.timestamp()}", submitted_at=now
    )
    captured = PaymentCaptured(
        **about, processor="kiosk", reference=f"K-{now.timestamp()}", captured_at=now
    )
    contact = ContactChanged(
        account_id=ACCOUNTS[21], name="Ana", email="ana@example.org", locale="es", changed_at=now
    )
    for source, facts in (("portal", [submitted, contact]), ("kiosk", [captured])):
        await say(state=pipeline.state, facts=facts, way=Way.KAFKA, source=source)
    await _subscribe(pipeline)
    await _give_back(pipeline, unknown.reference)


async def _subscribe(pipeline: Pipeline) -> None:
    async with Autopay(pipeline, "DOC", count=4) as autopay:
        await autopay.enrol()
        now = datetime.now(UTC)
        later = autopay.today + timedelta(days=9)
        charged, changing, cancelled, leaving = autopay.bills
        autopay.bills = [
            charged,
            *(replace(each, due_date=later) for each in (changing, cancelled, leaving)),
        ]
        facts = [each.issued(at=now) for each in autopay.bills]
        facts += [
            replace(changing, due_date=later, version=2, amount_cents=1_700).changed(at=now),
            replace(cancelled, due_date=later, version=2).cancelled(at=now),
        ]
        await publish_bills(state=autopay.state, facts=facts)
        words = [say_so(at=now + timedelta(seconds=1)) for say_so in _words(autopay)]
        await state_words(state=autopay.state, words=words)

        async def is_charged() -> bool:
            return (await autopay.statuses())["paid"] == 1

        await eventually_true(is_charged, timeout_seconds=60, what="one customer charged")


def _words(autopay: Autopay) -> list[Any]:
    _, changing, pausing, leaving = autopay.subscribers
    return [changing.changed, pausing.paused, pausing.resumed, leaving.cancelled]


async def _give_back(pipeline: Pipeline, reference: str) -> None:
    state = pipeline.state
    async with Remote(
        base_url=state.http_urls["cis-poster"], bearer_key=state.secrets.operator_key
    ) as poster:

        async def waits() -> bool:
            return bool(await ours())

        async def ours() -> list[dict[str, Any]]:
            found = await poster.get("/suspense", limit=100)
            return [each for each in found if each["reference"] == reference]

        await eventually_true(waits, timeout_seconds=30, what="an unknown account in suspense")
        [suspended] = await ours()
        await poster.post(
            f"/suspense/{suspended['id']}/return", {"operator": "ada", "note": "no such account"}
        )


class TestRecords:
    async def test_are_what_every_document_of_their_stream_says(self, pipeline: Pipeline) -> None:
        await busy(pipeline)
        await pipeline.settled()
        documents = Documents()
        seen: Counter[str] = Counter()
        faults: Counter[str] = Counter()

        async def read() -> None:
            seen.clear()
            faults.clear()
            for name in STREAMS:
                for record in await records_on(
                    bootstrap=pipeline.state.kafka_bootstrap, topic=name
                ):
                    fact = dict(record.headers)["ce_type"].decode()
                    seen[fact] += 1
                    faults.update(documents.faults_of(record))
                    body = orjson.loads(record.value)
                    schema = validator_of(name, STREAMS[name].by_type[fact].__name__)
                    faults.update(f"{fact}: {each.message}" for each in schema.iter_errors(body))

        async def all_are_seen() -> bool:
            await read()
            return set(seen) >= wanted

        wanted = {fact for stream in STREAMS.values() for fact in stream.by_type} - set(NOT_SEEN)
        try:
            await eventually_true(all_are_seen, timeout_seconds=30, what="every fact")
        except AssertionError:
            raise AssertionError(f"never seen: {sorted(wanted - set(seen))}") from None
        assert faults == Counter()
