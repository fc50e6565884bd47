import asyncio
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import uuid4

import pytest
from tests.unit.notifier import autopay_facts as facts
from tests.unit.notifier.fakes import (
    NOON,
    InMemoryMailGateway,
    InMemoryNotifications,
    a_contact,
    a_notification,
)

from notifier.consumers import to_notification
from notifier.domain import Answer, Attempt, Contact, Kind, Notification, Outcome, Status
from notifier.metrics import Metrics
from notifier.ports import MailMessage, Settlement
from notifier.usecases import KeepContacts, Sending, TellCustomers, TellDue
from shared.outbox.table import OutboxRow
from shared.work.backoff import Backoff
from shared.work.batcher import MicroBatcher
from shared.work.lanes import Lanes
from shared.work.limit import Breaker, FixedLimit


def told(fact) -> Notification:
    notification = to_notification(facts.received(fact))
    assert notification is not None
    return notification


class PlainComposer:
    def compose(
        self, *, notification: Notification, contact: Contact, now: datetime
    ) -> MailMessage:
        if notification.currency == "???":
            raise ValueError("no such currency")
        return MailMessage(
            message_id=f"<{notification.id}@springfield.example>",
            recipient=contact.email or "",
            content=str(notification.id).encode(),
        )


class House:
    """The use cases of notifier on fakes, with a clock that only the test moves."""

    def __init__(self, *, attempts_max: int = 3, failures_max: int = 3) -> None:
        self.now = NOON
        self.mail = InMemoryMailGateway()
        self.notifications = InMemoryNotifications()
        self.announced: list[OutboxRow] = []
        self.metrics = Metrics()
        self.breaker = Breaker(
            failures_max=failures_max,
            pause_seconds=1.0,
            pause_seconds_max=4.0,
            monotonic=lambda: self.now.timestamp(),  # noqa: PLW0108  `now` moves
        )
        sending = Sending(
            gateway=self.mail,
            composer=PlainComposer(),
            settle=MicroBatcher(flush=self._settle, batch_size_max=10, queue_size_max=100),
            breaker=self.breaker,
            backoff=Backoff(initial_seconds=1.0, cap_seconds=8.0),
            clock=lambda: self.now,
            randomness=random.Random(7),
            metrics=self.metrics,
            attempts_max=attempts_max,
            call_seconds_max=30.0,
        )
        self.lanes: Lanes[Attempt] = Lanes(
            lane_of=lambda attempt: attempt.notification.account_id,
            act=sending,
            settle=sending.settled,
            give_up=lambda attempts: self.notifications.release(attempts, now=self.now),
            limit=FixedLimit(calls=1),
            batch_size_max=10,
            items_max=100,
        )
        self.tell = TellCustomers(
            notifications=self.notifications,
            lanes=self.lanes,
            breaker=self.breaker,
            announce=self,
            clock=lambda: self.now,
            metrics=self.metrics,
        )
        self.tell_due = TellDue(
            notifications=self.notifications,
            lanes=self.lanes,
            breaker=self.breaker,
            announce=self,
            metrics=self.metrics,
            probe_size=5,
        )
        self.keep = KeepContacts(contacts=self.notifications, metrics=self.metrics)

    async def _settle(self, waiting: Sequence[Sequence[Settlement]]) -> Sequence[None]:
        self.offer(await self.notifications.settle([each for batch in waiting for each in batch]))
        return [None for _ in waiting]

    def offer(self, rows: Sequence[OutboxRow]) -> None:
        self.announced.extend(rows)

    async def idle(self) -> None:
        while self.lanes.held:  # noqa: ASYNC110  a task switch, not a wait
            await asyncio.sleep(0)

    async def told(self, *notifications: Notification) -> None:
        await self.tell(notifications)
        await self.idle()

    async def recovered(self, *, seconds: float) -> int:
        self.now += timedelta(seconds=seconds)
        found = await self.tell_due(now=self.now, limit=100)
        await self.idle()
        return found

    def status_of(self, notification: Notification) -> Status:
        return self.notifications.rows[notification.id].status

    def facts(self) -> list[str]:
        return [dict(row.record.headers)["ce_type"].decode() for row in self.announced]

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"notifier_{name}", labels) or 0.0


@pytest.fixture
async def house():
    house = House()
    await house.keep([a_contact()])
    return house


class TestTellCustomers:
    async def test_sends_and_says_so(self, house):
        notification = a_notification()
        await house.told(notification)
        assert house.status_of(notification) is Status.SENT
        assert house.facts() == ["notification.sent"]
        assert [recipient for recipient, _ in house.mail.inbox] == ["ada@example.org"]
        assert house.count("notifications_total", kind="posted", outcome="sent") == 1

    async def test_sends_once_what_it_hears_twice_and_says_it_again(self, house):
        notification = a_notification()
        await house.told(notification, notification)
        await house.told(notification)
        assert len(house.mail.inbox) == 1
        assert house.facts() == ["notification.sent", "notification.sent"]
        ids = {dict(row.record.headers)["ce_id"] for row in house.announced}
        assert len(ids) == 1
        assert house.count("taken_total", outcome="duplicate") == 2

    async def test_skips_a_customer_without_an_address(self, house):
        await house.told(a_notification(account_id="unheard-of"))
        assert house.facts() == ["notification.skipped"]
        assert not house.mail.inbox

    async def test_does_not_tell_of_a_delay_after_the_posting(self, house):
        key = uuid4()
        await house.told(a_notification(posting_key=key))
        delayed = a_notification(kind=Kind.DELAYED, posting_key=key)
        await house.told(delayed)
        assert house.status_of(delayed) is Status.SKIPPED
        assert len(house.mail.inbox) == 1

    async def test_leaves_new_ones_due_while_the_mail_server_is_away(self, house):
        house.mail.go_down()
        for _ in range(3):
            await house.told(a_notification(account_id=str(uuid4())))
        await house.keep([a_contact(account_id=str(n)) for n in range(9)])
        for number in range(3):
            await house.told(a_notification(account_id=str(number)))
        assert house.breaker.state == "open"
        calls = len(house.mail.calls)
        held = a_notification(account_id="8")
        await house.told(held)
        assert house.status_of(held) is Status.DUE
        assert len(house.mail.calls) == calls


class TestTellingOfAutopay:
    async def test_says_of_which_fact_it_told(self, house):
        announcement = told(facts.announced())
        await house.told(announcement, announcement)
        await house.told(announcement)
        assert len(house.mail.inbox) == 1
        assert house.facts() == ["notification.sent", "notification.sent"]
        for row in house.announced:
            assert f'"about":"{facts.announced().id()}"'.encode() in row.record.value
            assert b'"payment_id":null' in row.record.value
        assert house.count("notifications_total", kind="charge_announced", outcome="sent") == 1

    async def test_invites_whom_it_does_not_know(self, house):
        await house.told(told(facts.invited(account_id="never-heard-of")))
        assert [recipient for recipient, _ in house.mail.inbox] == ["ana@example.org"]

    async def test_does_not_announce_what_is_announced_anew(self, house):
        first, second = told(facts.announced(version=1)), told(facts.announced(version=2))
        await house.told(first, second)
        assert house.status_of(first) is Status.SKIPPED
        assert house.status_of(second) is Status.SENT
        assert len(house.mail.inbox) == 1

    async def test_does_not_announce_what_was_announced_anew_during_an_outage(self, house):
        first, second = told(facts.announced(version=1)), told(facts.announced(version=2))
        house.mail.go_down()
        await house.told(first)
        await house.told(second)
        house.mail.come_back()
        while await house.recovered(seconds=5):
            pass
        assert house.status_of(first) is Status.SKIPPED
        assert house.status_of(second) is Status.SENT
        assert [content for _, content in house.mail.inbox] == [str(second.id).encode()]

    async def test_does_not_announce_a_day_that_is_over(self, house):
        announcement = told(facts.announced())
        house.mail.go_down()
        await house.told(announcement)
        house.mail.come_back()
        await house.recovered(seconds=20 * 86_400)
        assert house.status_of(announcement) is Status.SKIPPED
        assert house.notifications.rows[announcement.id].reason == "superseded"
        assert not house.mail.inbox

    async def test_tells_an_opted_out_customer_of_a_charge_and_not_of_an_expiry(self, house):
        await house.keep([a_contact(opted_out=True, changed_at=NOON + timedelta(hours=1))])
        announcement, warning = told(facts.announced()), told(facts.expiring())
        await house.told(announcement, warning)
        assert house.status_of(announcement) is Status.SENT
        assert house.status_of(warning) is Status.SKIPPED


class TestSending:
    async def test_tries_again_what_the_server_wants_later(self, house):
        house.mail.answer_with(
            recipient="ada@example.org", answer=Answer(outcome=Outcome.DEFERRED, reason="smtp_451")
        )
        notification = a_notification()
        await house.told(notification)
        assert house.status_of(notification) is Status.DUE
        assert house.facts() == []
        assert await house.recovered(seconds=0.4) == 0
        house.mail.answer_with(recipient="ada@example.org", answer=Answer(outcome=Outcome.SENT))
        assert await house.recovered(seconds=1.0) == 1
        assert house.status_of(notification) is Status.SENT

    async def test_gives_up_after_the_last_attempt(self, house):
        house.mail.answer_with(
            recipient="ada@example.org", answer=Answer(outcome=Outcome.DEFERRED, reason="smtp_451")
        )
        notification = a_notification()
        await house.told(notification)
        for _ in range(10):
            await house.recovered(seconds=10.0)
        assert house.status_of(notification) is Status.FAILED
        assert house.facts() == ["notification.failed"]
        assert len(house.mail.calls) == 3

    async def test_does_not_try_again_what_the_server_refuses(self, house):
        house.mail.answer_with(
            recipient="ada@example.org", answer=Answer(outcome=Outcome.REFUSED, reason="smtp_550")
        )
        notification = a_notification()
        await house.told(notification)
        assert house.notifications.rows[notification.id].reason == "smtp_550"
        assert house.facts() == ["notification.failed"]
        assert await house.recovered(seconds=100) == 0

    async def test_repeats_under_the_same_message_id_where_the_answer_was_lost(self, house):
        house.mail.drop_answer_of("ada@example.org")
        notification = a_notification()
        await house.told(notification)
        house.mail.answer_with(recipient="ada@example.org", answer=Answer(outcome=Outcome.SENT))
        await house.recovered(seconds=10)
        [first], [again] = house.mail.calls
        assert first.message_id == again.message_id
        assert house.status_of(notification) is Status.SENT
        assert house.notifications.rows[notification.id].repeats == 1
        assert house.count("repeats_total") == 1

    async def test_uses_up_no_attempt_while_the_server_is_away(self, house):
        house.mail.go_down()
        notification = a_notification()
        await house.told(notification)
        for _ in range(20):
            await house.recovered(seconds=5)
        assert house.status_of(notification) is Status.DUE
        house.mail.come_back()
        await house.recovered(seconds=5)
        assert house.status_of(notification) is Status.SENT

    async def test_does_not_send_on_a_lease_that_would_not_last(self, house):
        house.notifications.lease_seconds = 20.0
        notification = a_notification()
        await house.told(notification)
        assert house.mail.calls == []
        assert house.status_of(notification) is Status.DUE

    async def test_fails_only_the_message_that_cannot_be_composed(self, house):
        await house.keep([a_contact(account_id="2", email="two@example.org")])
        good = a_notification(account_id="2")
        bad = a_notification()
        object.__setattr__(bad, "currency", "???")
        await house.told(bad, good)
        assert house.status_of(bad) is Status.FAILED
        assert house.status_of(good) is Status.SENT

    async def test_settles_nothing_that_another_one_holds_unless_it_was_sent(self, house):
        house.mail.answer_with(
            recipient="ada@example.org", answer=Answer(outcome=Outcome.DEFERRED, reason="smtp_451")
        )
        notification = a_notification()
        send = house.mail.send

        async def send_slowly(messages: Sequence[MailMessage]) -> Sequence[Answer]:
            house.notifications.rows[notification.id].lease = uuid4()
            return await send(messages)

        house.mail.send = send_slowly
        await house.told(notification)
        assert house.status_of(notification) is Status.SENDING
        house.mail.answer_with(recipient="ada@example.org", answer=Answer(outcome=Outcome.SENT))
        await house.recovered(seconds=100)
        assert house.status_of(notification) is Status.SENT


class TestTellDue:
    async def test_sends_again_what_a_crash_left_behind(self, house):
        notification = a_notification()
        # Taken and leased by a process that is no more.
        await house.notifications.take(
            [notification], now=house.now, hold=False, lanes_held=house.lanes
        )
        assert await house.recovered(seconds=89) == 0
        assert await house.recovered(seconds=2) == 1
        assert house.status_of(notification) is Status.SENT
        assert house.count("repeats_total") == 1

    async def test_asks_nothing_while_the_breaker_is_open_and_then_tries_with_few(self, house):
        house.mail.go_down()
        contacts = [a_contact(account_id=str(n), email=f"{n}@example.org") for n in range(20)]
        await house.keep(contacts)
        for number in range(20):
            await house.told(a_notification(account_id=str(number)))
        calls = len(house.mail.calls)
        assert calls == 3
        assert await house.recovered(seconds=0.5) == 0
        house.mail.come_back()
        assert await house.recovered(seconds=1.0) == 5
        assert await house.recovered(seconds=0.0) == 15
        assert len(house.mail.inbox) == 20

    async def test_keeps_the_order_of_an_account(self, house):
        house.mail.answer_with(
            recipient="ada@example.org", answer=Answer(outcome=Outcome.DEFERRED, reason="smtp_451")
        )
        first, second = a_notification(), a_notification()
        await house.told(first)
        await house.told(second)
        house.mail.answer_with(recipient="ada@example.org", answer=Answer(outcome=Outcome.SENT))
        while await house.recovered(seconds=1.0):
            pass
        assert [content for _, content in house.mail.inbox] == [
            str(first.id).encode(),
            str(second.id).encode(),
        ]

    async def test_tells_nobody_who_has_opted_out_meanwhile(self, house):
        house.mail.go_down()
        notification = a_notification()
        await house.told(notification)
        await house.keep([a_contact(opted_out=True, changed_at=NOON + timedelta(hours=1))])
        await house.recovered(seconds=10)
        assert house.status_of(notification) is Status.SKIPPED
        assert house.facts() == ["notification.skipped"]


class TestClosingTheLanes:
    async def test_leaves_due_what_was_not_sent(self, house):
        started = asyncio.Event()
        go_on = asyncio.Event()
        send = house.mail.send

        async def send_slowly(messages: Sequence[MailMessage]) -> Sequence[Answer]:
            started.set()
            await go_on.wait()
            return await send(messages)

        house.mail.send = send_slowly
        first, second = a_notification(), a_notification()
        await house.tell([first])
        await started.wait()
        await house.tell([second])
        closing = asyncio.create_task(house.lanes.close())
        await asyncio.sleep(0)
        go_on.set()
        await closing
        assert house.status_of(first) is Status.SENT
        assert house.status_of(second) is Status.DUE

    async def test_takes_nothing_up_any_more(self, house):
        await house.lanes.close()
        notification = a_notification()
        await house.told(notification)
        assert house.status_of(notification) is Status.DUE
        assert await house.recovered(seconds=1) == 0


class TestKeepContacts:
    async def test_counts_what_is_outdated(self, house):
        await house.keep([a_contact(email="x@example.org", changed_at=NOON - timedelta(days=1))])
        assert house.notifications.contacts["4711-0815"].email == "ada@example.org"
        assert house.count("contacts_total", outcome="outdated") == 1
