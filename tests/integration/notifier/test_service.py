"""The whole of notifier on real Kafka, real PostgreSQL and a real SMTP server."""

import asyncio
import email
import email.policy
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from email.message import EmailMessage
from uuid import UUID, uuid4

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer
from tests.contract.notifier.smtp_world import SmtpWorld
from tests.support.backends import KafkaBackend, TestDatabase
from tests.unit.notifier import autopay_facts as autopay

from notifier.app import App, build_app
from notifier.consumers import to_notification
from notifier.domain import Kind
from notifier.settings import Settings
from shared.contracts.fact import Fact
from shared.contracts.notifications import notification_id
from shared.contracts.payments import ChargeDeclined
from shared.contracts.portal import ContactChanged, Locale
from shared.contracts.postings import PostingPosted
from shared.contracts.streams import AUTOPAY, NOTIFICATIONS, PAYMENTS, PORTAL, POSTINGS
from shared.contracts.topics import create_topics
from shared.contracts.wire import encode
from shared.db.migrations import migrate
from shared.messaging.producer import RecordProducer

NOW = datetime.now(UTC)


async def eventually(holds: Callable[[], Awaitable[bool]], *, seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not await holds():  # noqa: ASYNC110  another process's state has no event
            await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def migrated(database: TestDatabase) -> Iterator[TestDatabase]:
    with ThreadPoolExecutor(1) as executor:
        url = database.dsns["notifier"].replace("postgresql://", "postgresql+asyncpg://")
        executor.submit(migrate, url=url, package="notifier").result()
    yield database


@pytest.fixture(scope="module")
async def producer(kafka: KafkaBackend) -> AsyncIterator[RecordProducer]:
    await create_topics(bootstrap_servers=kafka.bootstrap, replication_factor=1)
    producer = RecordProducer(bootstrap_servers=kafka.bootstrap, client_id="test")
    yield producer
    await producer.close()


@pytest.fixture(scope="module")
async def mail_server() -> AsyncIterator[SmtpWorld]:
    world = SmtpWorld(pipelining=True)
    yield world
    await world.close()


@pytest.fixture(scope="module")
async def session(migrated: TestDatabase) -> AsyncIterator[asyncpg.Connection]:
    session = await asyncpg.connect(migrated.dsns["notifier"])
    yield session
    await session.close()


@pytest.fixture(scope="module")
def settings(migrated: TestDatabase, kafka: KafkaBackend, mail_server: SmtpWorld) -> Settings:
    return Settings(
        environment="local",
        database_url=migrated.dsns["notifier"].replace("postgresql://", "postgresql+asyncpg://"),
        kafka_bootstrap_servers=kafka.bootstrap,
        smtp_host="127.0.0.1",
        smtp_port=mail_server.port,
        smtp_security="plain",
        smtp_reply_timeout_seconds=1.0,
        sender_address="payments@springfield.example",
        sender_name="City of Springfield Utilities",
        city_name="City of Springfield",
        city_time_zone="America/Chicago",
        portal_url="https://pay.springfield.example",
        support_phone="555-0100",
        send_seconds_max=2.0,
        lease_seconds=3.0,
        retry_initial_seconds=0.1,
        retry_cap_seconds=0.5,
        breaker_pause_seconds=0.1,
        breaker_pause_seconds_max=0.3,
        recovery_interval_seconds=0.1,
    )


@pytest.fixture(scope="module")
async def app(settings: Settings, producer: RecordProducer) -> AsyncIterator[App]:
    """The service's doors and loops in this process, stopped in the service's own order.

    After the producer, whose fixture creates the topics: consumers do not start without them.

    One for the module: joining a consumer group takes Kafka three seconds.
    """
    app = build_app(settings)
    loops = [asyncio.create_task(loop()) for loop in app.service.loops.values()]
    for door in app.service.doors:
        await door.start()

    async def consumes() -> bool:
        return await app.service.ready["kafka"]() is None

    await eventually(consumes, seconds=60)
    yield app
    for door in app.service.doors:
        await door.stop()
    for drain in app.service.drains:
        await drain()
    for loop in loops:
        loop.cancel()
    await asyncio.gather(*loops, return_exceptions=True)
    for close in app.service.closes:
        await close()


def a_posting(account: str) -> PostingPosted:
    key = uuid4()
    return PostingPosted(
        posting_key=key,
        payment_id=key,
        account_id=account,
        kind="payment",
        amount_cents=12_034,
        currency="USD",
        accepted_at=NOW,
        effective_date=date(2026, 3, 5),
        posted_at=NOW + timedelta(seconds=2),
        cis_reference="L-1",
        balance_after_cents=3_410,
    )


async def register(
    producer: RecordProducer,
    session: asyncpg.Connection,
    *accounts: str,
    locale: Locale = "en",
    opted_out: bool = False,
) -> None:
    contacts = [
        ContactChanged(
            account_id=account,
            name="Ada Byron",
            email=f"{account}@example.org",
            locale=locale,
            email_opted_out=opted_out,
            changed_at=NOW,
        )
        for account in accounts
    ]
    await producer.publish([encode(contact, stream=PORTAL) for contact in contacts])

    async def known() -> bool:
        found = await session.fetchval(
            "SELECT count(*) FROM contacts WHERE account_id = ANY($1::text[])", list(accounts)
        )
        return bool(found == len(accounts))

    await eventually(known)


async def settled(session: asyncpg.Connection, *postings: PostingPosted) -> None:
    await settled_ids(
        session, *(notification_id(kind=Kind.POSTED, key=each.posting_key) for each in postings)
    )


async def settled_ids(session: asyncpg.Connection, *ids: UUID) -> None:
    async def all_settled() -> bool:
        found = await session.fetchval(
            "SELECT count(*) FROM notifications WHERE id = ANY($1::uuid[]) "
            "AND settled_at IS NOT NULL",
            list(ids),
        )
        return bool(found == len(ids))

    await eventually(all_settled)


def breaker_is(app: App, *, open_: bool) -> Callable[[], Awaitable[bool]]:
    """Whether a scrape would say so at this moment."""

    async def says_so() -> bool:
        return app.metrics.registry.get_sample_value("notifier_breaker_open") == float(open_)

    return says_so


async def announced(kafka: KafkaBackend, notification: UUID, *, count: int) -> list[Fact]:
    """Return the facts about a notification, once so many of them are there."""
    consumer = AIOKafkaConsumer(
        NOTIFICATIONS.name, bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest"
    )
    await consumer.start()
    found: list[Fact] = []
    try:
        async with asyncio.timeout(10):
            while len(found) < count:
                record = await consumer.getone()
                fact_class = NOTIFICATIONS.by_type[dict(record.headers)["ce_type"].decode()]
                fact = fact_class.model_validate_json(record.value)
                if getattr(fact, "notification_id", None) == notification:
                    found.append(fact)
    finally:
        await consumer.stop()
    return found


@pytest.mark.usefixtures("app")
class TestNotifier:
    async def test_tells_what_was_posted_once_and_says_so_as_often_as_asked(
        self, producer, session, mail_server, kafka
    ):
        account = f"A{uuid4().hex}"
        posting = a_posting(account)
        notification = notification_id(kind=Kind.POSTED, key=posting.posting_key)
        await register(producer, session, account)
        await producer.publish([encode(posting, stream=POSTINGS)] * 2)
        await settled(session, posting)
        await producer.publish([encode(posting, stream=POSTINGS)])
        facts = await announced(kafka, notification, count=2)

        [message] = mails(mail_server, account)
        assert message["Subject"] == "Your payment of $120.34 is posted"
        assert message["Message-ID"] == f"<{notification}@springfield.example>"
        assert {fact.TYPE for fact in facts} == {"notification.sent"}
        assert len({fact.id() for fact in facts}) == 1

    async def test_keeps_all_through_an_outage_of_the_mail_server(
        self, app, producer, session, mail_server
    ):
        accounts = [f"A{uuid4().hex}" for _ in range(60)]
        postings = [a_posting(account) for account in accounts]
        await register(producer, session, *accounts)
        mail_server.go_down()
        await producer.publish([encode(posting, stream=POSTINGS) for posting in postings])
        await eventually(lambda: _count(session, "settled_at IS NULL", at_least=60))
        await eventually(breaker_is(app, open_=True))
        problems = [await app.service.ready[name]() for name in ("kafka", "database")]
        mail_server.come_back()
        assert problems == [None, None]
        await settled(session, *postings)
        assert await breaker_is(app, open_=False)()
        assert [len(mails(mail_server, account)) for account in accounts] == [1] * 60

    async def test_repeats_under_one_message_id_what_was_taken_without_an_answer(
        self, producer, session, mail_server
    ):
        account = f"A{uuid4().hex}"
        posting = a_posting(account)
        mail_server.drop_answer_of(f"{account}@example.org")
        await register(producer, session, account)
        await producer.publish([encode(posting, stream=POSTINGS)])
        await eventually(
            lambda: _count(session, f"repeats > 0 AND account_id = '{account}'", at_least=1)
        )
        mail_server.handler.dropped.clear()
        await settled(session, posting)
        ids = [message["Message-ID"] for message in mails(mail_server, account)]
        assert len(ids) >= 2
        assert len(set(ids)) == 1

    async def test_tells_again_what_a_crash_has_left_in_hand(self, producer, session, mail_server):
        account = f"A{uuid4().hex}"
        posting = a_posting(account)
        await register(producer, session, account)
        await producer.publish([encode(posting, stream=POSTINGS)])
        await settled(session, posting)
        # As if a process had died between the mail server's yes and the settlement.
        await session.execute(
            "UPDATE notifications SET status = 'sending', settled_at = NULL, "
            "due_at = now() + interval '0.3 seconds' WHERE account_id = $1",
            account,
        )
        await settled(session, posting)
        assert len(mails(mail_server, account)) == 2
        repeats = await session.fetchval(
            "SELECT repeats FROM notifications WHERE account_id = $1", account
        )
        assert repeats == 1


def notices_of(account: str) -> dict[str, Fact]:
    """Return one fact of autopay for each kind of notice, about one account of its own."""
    enrolment = {"account_id": account, "enrolment_id": uuid4()}
    charge = {**enrolment, "charge_id": uuid4()}
    return {
        "autopay_started": autopay.activated(**enrolment),
        "autopay_refused": autopay.refused(**enrolment),
        "charge_announced": autopay.announced(**charge),
        "charge_held": autopay.held(**charge),
        "charge_declined": autopay.failed(**charge),
        "charge_missed": autopay.closed(**charge),
        "charge_refunded": autopay.refunded(**charge),
        "method_expiring": autopay.expiring(**enrolment),
        "autopay_stopped": autopay.stopped(**enrolment),
    }


SUBJECTS = {
    "en": [
        "Automatic payments are on for account {account}",
        "Your request for automatic payments was not accepted",
        "We will charge $82.50 on March 18, 2026",
        "Please decide: $82.50 is above your maximum for automatic payments",
        "Your automatic payment of $82.50 did not go through",
        "Your bill due on March 20, 2026 will not be paid automatically",
        "Your automatic payment of $82.50 goes back to you",
        "The card for your automatic payments expires soon",
        "Automatic payments are off for account {account}",
    ],
    "es": [
        "Los pagos automáticos de la cuenta {account} están activados",
        "No se aceptó su solicitud de pagos automáticos",
        "Cobraremos $82.50 el 18 de marzo de 2026",
        "Decida usted: $82.50 supera su máximo para pagos automáticos",
        "Su pago automático de $82.50 no se pudo realizar",
        "Su factura con vencimiento el 20 de marzo de 2026 no se pagará automáticamente",
        "Le devolvemos su pago automático de $82.50",
        "La tarjeta de sus pagos automáticos vence pronto",
        "Los pagos automáticos de la cuenta {account} están desactivados",
    ],
}


@pytest.mark.usefixtures("app")
class TestNoticesOfAutopay:
    @pytest.mark.parametrize("locale", ["en", "es"])
    async def test_reach_the_customer_once_each_in_order_in_the_right_language(
        self, producer, session, mail_server, locale
    ):
        account = f"A{uuid4().hex}"
        facts = notices_of(account)
        await register(producer, session, account, locale=locale)
        records = [encode(fact, stream=AUTOPAY) for fact in facts.values()]
        await producer.publish(records)
        await producer.publish(records)
        ids = [notification_id(kind=Kind(kind), key=fact.id()) for kind, fact in facts.items()]
        await settled_ids(session, *ids)
        await producer.publish(records[:1])
        # What comes after it on the same partition has been told: so the repeat has been taken.
        last = autopay.expiring(account_id=account, enrolment_id=uuid4())
        await producer.publish([encode(last, stream=AUTOPAY)])
        await settled_ids(session, notification_id(kind=Kind.METHOD_EXPIRING, key=last.id()))
        subjects = [message["Subject"] for message in mails(mail_server, account)]
        expected = [subject.format(account=account) for subject in SUBJECTS[locale]]
        assert subjects == [*expected, expected[7]]
        languages = {message["Content-Language"] for message in mails(mail_server, account)}
        assert languages == {locale}

    async def test_are_stated_with_the_fact_that_they_tell_and_the_payment_of_a_decline(
        self, producer, session, kafka
    ):
        account = f"A{uuid4().hex}"
        await register(producer, session, account)
        declined = autopay.failed(account_id=account, charge_id=uuid4(), payment_id=uuid4())
        announced_fact = autopay.announced(account_id=account, charge_id=uuid4())
        await producer.publish(
            [encode(fact, stream=AUTOPAY) for fact in (declined, announced_fact)]
        )
        for fact, payment in ((declined, declined.payment_id), (announced_fact, None)):
            notification = to_notification(autopay.received(fact))
            assert notification is not None
            [stated] = await announced(kafka, notification.id, count=1)
            assert stated.TYPE == "notification.sent"
            assert (stated.about, stated.payment_id) == (fact.id(), payment)

    async def test_invite_whom_nobody_here_knows(self, producer, session, mail_server):
        account = f"A{uuid4().hex}"
        invitation = autopay.invited(account_id=account, email=f"{account}@example.org")
        reminder = autopay.invited(account_id=account, email=f"{account}@example.org", invitation=2)
        records = [encode(fact, stream=AUTOPAY) for fact in (invitation, invitation, reminder)]
        await producer.publish(records)
        await settled_ids(
            session,
            notification_id(kind=Kind.AUTOPAY_INVITED, key=invitation.id()),
            notification_id(kind=Kind.AUTOPAY_REMINDED, key=reminder.id()),
        )
        first, second = mails(mail_server, account)
        assert first["Subject"] == "Configure de nuevo sus pagos automáticos"
        assert second["Subject"] == "Recordatorio: aún no ha configurado sus pagos automáticos"
        body = first.get_body(("plain",)).get_content()
        assert body.startswith("Hola, Ana Pérez:")
        assert "https://pay.springfield.example/autopay" in body

    async def test_reach_a_customer_who_wants_no_mail_where_they_are_owed(
        self, producer, session, mail_server
    ):
        account = f"A{uuid4().hex}"
        await register(producer, session, account, opted_out=True)
        facts = [
            autopay.expiring(account_id=account, enrolment_id=uuid4()),
            autopay.announced(account_id=account, charge_id=uuid4()),
        ]
        await producer.publish([encode(fact, stream=AUTOPAY) for fact in facts])
        await settled_ids(
            session,
            notification_id(kind=Kind.METHOD_EXPIRING, key=facts[0].id()),
            notification_id(kind=Kind.CHARGE_ANNOUNCED, key=facts[1].id()),
        )
        [message] = mails(mail_server, account)
        assert message["Subject"] == "We will charge $82.50 on March 18, 2026"

    async def test_leave_the_decline_of_a_charge_to_the_scheduler(
        self, producer, session, mail_server
    ):
        account = f"A{uuid4().hex}"
        await register(producer, session, account)
        by_hand, by_autopay = (
            ChargeDeclined(
                payment_id=uuid4(),
                account_id=account,
                processor="stripe",
                reference="pi_1",
                amount_cents=8250,
                currency="USD",
                declined_at=NOW,
                attempt="ch_1",
                charge_id=charge_id,
            )
            for charge_id in (None, uuid4())
        )
        await producer.publish([encode(fact, stream=PAYMENTS) for fact in (by_autopay, by_hand)])
        await settled_ids(session, notification_id(kind=Kind.DECLINED, key=by_hand.id()))
        [message] = mails(mail_server, account)
        assert message["Subject"] == "Your payment of $82.50 was declined"


def mails(mail_server: SmtpWorld, account: str) -> list[EmailMessage]:
    return [
        email.message_from_bytes(content, policy=email.policy.default)
        for recipient, content in mail_server.inbox
        if recipient == f"{account}@example.org"
    ]


async def _count(session: asyncpg.Connection, condition: str, *, at_least: int) -> bool:
    found = await session.fetchval(f"SELECT count(*) FROM notifications WHERE {condition}")
    return bool(found >= at_least)
