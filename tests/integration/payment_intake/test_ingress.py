"""payment-intake's doors over real HTTP, on real PostgreSQL and Kafka."""

import asyncio
import itertools
import random
import time
from urllib.parse import urlsplit
from uuid import uuid4

import orjson
import pytest
from structlog.testing import capture_logs
from tests.support.intake import GROSS_CENTS, NET_CENTS, NOW, stripe_train
from tests.support.intake_database import intake_database, sqlalchemy_url
from tests.support.intake_service import (
    KIOSK_SECRET,
    STRIPE_SECRET_OLD,
    eventually_async,
    intake_settings,
    records_on,
    running_intake,
)
from tests.support.proxy import Proxy

from paypost.simulators.processor.events import Purchase
from shared.contracts.streams import PORTAL
from shared.contracts.topics import create_topics
from shared.contracts.wire import OutboundRecord, envelope
from shared.messaging.producer import RecordProducer

CARD = "4242424242424242"
SEEDS = itertools.count(random.SystemRandom().randrange(10**9))


@pytest.fixture(scope="module")
async def rows(database):
    async with intake_database(database) as found:
        yield found


@pytest.fixture(scope="module")
async def topics(kafka):
    await create_topics(bootstrap_servers=kafka.bootstrap, replication_factor=1)
    return kafka.bootstrap


@pytest.fixture(scope="module")
async def intake(rows, topics):
    settings = intake_settings(database_url=sqlalchemy_url(rows.database), kafka=topics)
    async with running_intake(settings) as found:
        yield found


def train(name="card", **options):
    """A payment that no other test knows."""
    return stripe_train(name, seed=next(SEEDS), **options)


def succeeded(**changes) -> tuple[dict, str]:
    """A `payment_intent.succeeded` with fields of its object replaced, and its reference."""
    event = orjson.loads(train()[2].body)
    event["data"]["object"] |= changes
    return event, event["data"]["object"]["id"]


def submitted(**changes) -> dict:
    data = {
        "account_id": "1002003",
        "processor": "stripe",
        "reference": f"pi_{uuid4().hex}",
        "amount_cents": NET_CENTS,
        "currency": "USD",
        "submitted_at": "2026-03-02T17:00:00Z",
    }
    return {
        "specversion": "1.0",
        "id": uuid4().hex,
        "source": "/portal",
        "type": "payment.submitted",
        "data": data | changes,
    }


class TestStripeDoor:
    async def test_takes_a_payment_once_and_says_what_is_a_duplicate(self, intake):
        events = train()
        said = [(await intake.stripe(each.body))[:2] for each in events]
        assert said == [
            (200, {"status": "ignored"}),
            (200, {"status": "accepted"}),
            (200, {"status": "accepted"}),
            (200, {"status": "ignored"}),
        ]
        for each in events:
            assert (await intake.stripe(each.body))[:2] == (200, {"status": "duplicate"})
        status, shown = await intake.get(
            f"/payments?processor=stripe&reference={events[0].reference}"
        )
        assert (status, shown["status"], shown["amount_cents"]) == (200, "captured", NET_CENTS)
        assert [each["kind"] for each in shown["movements"]] == ["payment"]

    async def test_announces_what_it_has_taken(self, intake, topics):
        events = train()
        await intake.stripe(events[2].body)

        async def announced():
            return bool(await facts_about(topics, events[0].reference))

        await eventually_async(announced)
        [record] = await facts_about(topics, events[0].reference)
        fact = orjson.loads(record.value)
        assert record.key == b"1002003"
        assert dict(record.headers)["ce_type"] == b"payment.accepted"
        assert (fact["amount_cents"], fact["fee_cents"]) == (NET_CENTS, GROSS_CENTS - NET_CENTS)

    async def test_makes_one_of_an_event_that_comes_fifty_times_at_once(self, intake):
        event = train()[2]
        answers = await asyncio.gather(*(intake.stripe(event.body) for _ in range(50)))
        said = [body["status"] for _, body, _ in answers]
        assert said.count("accepted") == 1
        assert said.count("duplicate") == 49

    async def test_takes_signatures_of_both_secrets_while_one_is_rotated(self, intake):
        status, body, _ = await intake.stripe(train()[2].body, secret=STRIPE_SECRET_OLD)
        assert (status, body) == (200, {"status": "accepted"})

    @pytest.mark.parametrize(
        ("headers", "reason"),
        [
            ({}, "missing"),
            ({"Stripe-Signature": "nonsense"}, "malformed"),
            ({"Stripe-Signature": "t=now,v1=00"}, "mismatch"),
            ({"Stripe-Signature": "t=1,v1=00"}, "expired"),
        ],
    )
    async def test_refuses_a_bad_signature_and_stores_nothing(self, intake, rows, headers, reason):
        name = "payment_intake_refused_requests_total"
        labels = {"door": "stripe", "reason": f"signature_{reason}"}
        before = await rows.count("events"), await rows.count("rejections")
        counted = intake.counted(name, **labels)
        # Now and not when the tests were collected: minutes later it would have expired.
        now = str(int(time.time()))
        sent = {header: value.replace("now", now) for header, value in headers.items()}
        status, body, answered = await intake.post("/webhooks/stripe", train()[2].body, sent)
        assert status == body["status"] == 401
        assert answered["Content-Type"] == "application/problem+json"
        assert (await rows.count("events"), await rows.count("rejections")) == before
        assert intake.counted(name, **labels) == counted + 1

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"amount_received": -1}, "data.object.amount_received"),
            ({"amount_received": 0}, "data.object.amount_received"),
            ({"amount_received": 12.5}, "data.object.amount_received"),
            ({"amount_received": 10**12}, "data.object.amount_received"),
            ({"currency": "xxx"}, "data.object.currency"),
            ({"currency": None}, "data.object.currency"),
        ],
    )
    async def test_keeps_what_it_does_not_understand_as_evidence(self, intake, change, field):
        event, reference = succeeded(**change)
        status, body, answered = await intake.stripe(orjson.dumps(event))
        assert status == 422
        assert answered["Content-Type"] == "application/problem+json"
        assert body["errors"][0]["field"] == field
        _, kept = await intake.get("/rejections?limit=1")
        assert kept[0]["field"] == field
        assert reference in kept[0]["body"]
        assert (await intake.get(f"/payments?processor=stripe&reference={reference}"))[0] == 404

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"amount": NaN}', b"\xff\xfe"])
    async def test_refuses_what_is_no_event(self, intake, body):
        status, problem, _ = await intake.stripe(body)
        assert status == 422
        assert problem["errors"][0]["field"] == "body"

    async def test_keeps_and_counts_an_unknown_type(self, intake, rows):
        event, _ = succeeded()
        event |= {"id": f"evt_{uuid4().hex}", "type": "radar.early_fraud_warning.created"}
        counted = intake.counted("payment_intake_events_total", source="stripe", outcome="ignored")
        assert (await intake.stripe(orjson.dumps(event)))[:2] == (200, {"status": "ignored"})
        assert await rows.count("events", f"event_id = '{event['id']}'") == 1
        assert (
            intake.counted("payment_intake_events_total", source="stripe", outcome="ignored")
            == counted + 1
        )

    async def test_records_the_same_id_with_another_body(self, intake, rows):
        event, reference = succeeded()
        await intake.stripe(orjson.dumps(event))
        event["data"]["object"]["amount_received"] += 1
        status, body, _ = await intake.stripe(orjson.dumps(event))
        assert (status, body) == (200, {"status": "conflict"})
        assert await rows.count("conflicts", f"event_id = '{event['id']}'") == 1
        _, shown = await intake.get(f"/payments?processor=stripe&reference={reference}")
        assert [each["amount_cents"] for each in shown["movements"]] == [NET_CENTS]

    async def test_records_the_same_payment_with_another_amount(self, intake):
        event, reference = succeeded()
        await intake.stripe(orjson.dumps(event))
        event["id"] = f"evt_{uuid4().hex}"
        event["data"]["object"]["amount_received"] += 1
        assert (await intake.stripe(orjson.dumps(event)))[:2] == (200, {"status": "conflict"})
        assert intake.counted("payment_intake_conflicts_total", kind="payment_amount") >= 1
        _, shown = await intake.get(f"/payments?processor=stripe&reference={reference}")
        assert shown["amount_cents"] == NET_CENTS

    async def test_accepts_money_without_an_account(self, intake):
        event, reference = succeeded(metadata={})
        assert (await intake.stripe(orjson.dumps(event)))[:2] == (200, {"status": "accepted"})
        _, shown = await intake.get(f"/payments?processor=stripe&reference={reference}")
        assert (shown["account_id"], shown["amount_cents"]) == (None, GROSS_CENTS)

    async def test_masks_a_card_number_before_anything_is_kept(self, intake, rows, topics):
        purchase = Purchase(
            account=CARD, amount_cents=NET_CENTS, metadata={"note": "4242 4242 4242 4242 12/30"}
        )
        events = train(purchase=purchase)
        counted = intake.counted("payment_intake_masked_card_numbers_total", source="stripe")
        with capture_logs() as logs:
            assert (await intake.stripe(events[2].body))[0] == 200
            bad = orjson.loads(events[1].body)
            bad["data"]["object"]["amount_captured"] = CARD
            assert (await intake.stripe(orjson.dumps(bad)))[0] == 422

            async def announced():
                return bool(await facts_about(topics, events[0].reference))

            await eventually_async(announced)
        [record] = await facts_about(topics, events[0].reference)
        assert record.key == b"************4242"
        assert CARD.encode() not in record.value
        assert CARD not in str(logs)
        for table, column in (("events", "body"), ("rejections", "body"), ("outbox", "value")):
            for digits in (CARD, "4242 4242 4242"):
                condition = f"position('{digits}' in encode({column}, 'escape')) > 0"
                assert await rows.count(table, condition) == 0
        assert await rows.count("payments", f"account_id = '{CARD}'") == 0
        after = intake.counted("payment_intake_masked_card_numbers_total", source="stripe")
        assert after > counted


async def facts_about(bootstrap: str, reference: str):
    records = await records_on(bootstrap=bootstrap, topic="payments.v1")
    return [each for each in records if reference.encode() in (each.value or b"")]


class TestEveryDoor:
    @pytest.mark.parametrize("path", ["/webhooks/stripe", "/webhooks/standard/x", "/portal/events"])
    @pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
    async def test_takes_post_only(self, intake, method, path):
        async with intake.http.request(method, intake.url + path) as answer:
            assert answer.status == 405
            assert answer.headers["Allow"] == "POST"
            assert answer.headers["Content-Type"] == "application/problem+json"

    @pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded"])
    async def test_refuses_other_content_types(self, intake, content_type):
        status, _, _ = await intake.post("/webhooks/stripe", b"{}", {"Content-Type": content_type})
        assert status == 415

    async def test_takes_its_content_type_with_a_charset(self, intake):
        status, _, _ = await intake.post(
            "/webhooks/stripe", b"{}", {"Content-Type": "Application/JSON; charset=utf-8"}
        )
        assert status == 401

    async def test_refuses_a_body_that_is_too_large(self, intake):
        body = b" " * (256 * 1024 + 1)
        assert (await intake.post("/webhooks/stripe", body, {}))[0] == 413
        # At the limit it is read, and found unsigned.
        assert (await intake.post("/webhooks/stripe", body[:-1], {}))[0] == 401

    async def test_refuses_a_body_that_turns_out_too_large(self, intake):
        async def chunks():
            for _ in range(300):
                yield b" " * 1024

        async with intake.http.post(
            f"{intake.url}/webhooks/stripe",
            data=chunks(),
            headers={"Content-Type": "application/json"},
        ) as answer:
            assert answer.status == 413

    async def test_does_not_wait_for_a_slow_body(self, intake):
        address = urlsplit(intake.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(
            b"POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 10\r\n\r\n{"
        )
        line = await asyncio.wait_for(reader.readline(), 5)
        writer.close()
        assert b" 408 " in line

    async def test_does_not_mind_a_caller_that_hangs_up(self, intake):
        address = urlsplit(intake.url)
        _, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(
            b"POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 10\r\n\r\n{"
        )
        await writer.drain()
        writer.transport.abort()
        name = "payment_intake_refused_requests_total"

        async def counted():
            return intake.counted(name, door="stripe", reason="disconnected") >= 1

        await eventually_async(counted)

    async def test_leaves_other_paths_to_the_api(self, intake):
        assert (await intake.post("/webhooks/unheard-of", b"{}", {}))[0] == 404


class TestPortalDoor:
    async def test_shows_a_submitted_payment_that_posts_nothing(self, intake):
        event = submitted()
        assert (await intake.portal(event))[:2] == (200, {"status": "accepted"})
        reference = event["data"]["reference"]
        _, shown = await intake.get(f"/payments?processor=stripe&reference={reference}")
        assert (shown["status"], shown["movements"]) == ("submitted", [])

    async def test_takes_a_batch_and_says_of_each_what_became_of_it(self, intake):
        known, new = submitted(), submitted()
        await intake.portal(known)
        status, body, _ = await intake.portal(
            [known, new], **{"Content-Type": "application/cloudevents-batch+json"}
        )
        assert (status, body) == (200, {"statuses": ["duplicate", "accepted"]})

    async def test_names_the_event_of_a_batch_that_is_wrong_and_takes_none(self, intake):
        good, bad = submitted(), submitted(amount_cents=0)
        status, body, _ = await intake.portal([good, bad])
        assert (status, body["errors"][0]["field"]) == (422, "[1].data.amount_cents")
        reference = good["data"]["reference"]
        assert (await intake.get(f"/payments?processor=stripe&reference={reference}"))[0] == 404

    @pytest.mark.parametrize("size", [0, 101])
    async def test_bounds_a_batch(self, intake, size):
        assert (await intake.portal([submitted() for _ in range(size)]))[0] == 422

    async def test_knows_the_same_event_from_kafka_and_from_http(self, intake, topics, rows):
        event = submitted()
        await publish_portal(topics, event)
        reference = event["data"]["reference"]

        async def shown():
            return (await intake.get(f"/payments?processor=stripe&reference={reference}"))[0] == 200

        await eventually_async(shown)
        assert (await intake.portal(event))[:2] == (200, {"status": "duplicate"})
        assert await rows.count("events", f"event_id = '{event['id']}'") == 1

    async def test_believes_money_of_trusted_sources_only(self, intake):
        data = submitted()["data"] | {"processor": "kiosk", "captured_at": "2026-03-02T17:00:00Z"}
        captured = submitted() | {"type": "payment.captured", "data": data}
        assert (await intake.portal(captured))[1] == {"status": "untrusted"}
        body = orjson.dumps({"type": "payment.captured", "timestamp": "", "data": data})
        status, said, _ = await intake.standard(
            "/webhooks/standard/kiosk", body, secret=KIOSK_SECRET, message_id=uuid4().hex
        )
        assert (status, said) == (200, {"status": "accepted"})
        _, shown = await intake.get(f"/payments?processor=kiosk&reference={data['reference']}")
        assert [each["kind"] for each in shown["movements"]] == ["payment"]

    async def test_passes_on_to_kafka_what_is_for_other_services(self, intake, topics):
        account = uuid4().hex
        event = submitted() | {
            "type": "contact.changed",
            "data": {
                "account_id": account,
                "email": "ana@example.org",
                "changed_at": "2026-03-02T17:00:00Z",
            },
        }
        assert (await intake.portal(event))[1] == {"status": "accepted"}

        async def passed_on():
            records = await records_on(bootstrap=topics, topic="portal.v1")
            found = [each for each in records if each.key == account.encode()]
            return [dict(each.headers)["ce_id"] for each in found] == [event["id"].encode()]

        await eventually_async(passed_on)

    async def test_refuses_a_source_without_a_secret(self, intake):
        status, _, _ = await intake.standard(
            "/webhooks/standard/nobody", b"{}", secret=KIOSK_SECRET, message_id="m"
        )
        assert status == 401


async def publish_portal(bootstrap: str, event: dict) -> None:
    producer = RecordProducer(bootstrap_servers=bootstrap, client_id="test")
    record = OutboundRecord(
        topic=PORTAL.name,
        key=event["data"]["account_id"].encode(),
        value=orjson.dumps(event["data"]),
        headers=envelope(
            event_id=event["id"],
            event_type=event["type"],
            source=event["source"],
            subject=event["data"]["account_id"],
            time=NOW,
            traceparent=None,
        ),
    )
    await producer.publish([record])
    await producer.close()


class TestReadApi:
    @pytest.mark.parametrize("key", [None, "wrong", ""])
    @pytest.mark.parametrize(
        "path", [f"/payments/{uuid4()}", "/payments?processor=a&reference=b", "/rejections"]
    )
    async def test_is_closed_without_a_key(self, intake, path, key):
        assert (await intake.get(path, key=key))[0] == 401

    @pytest.mark.parametrize(
        "path",
        [
            "/payments/none",
            "/payments?processor=stripe",
            "/payments?processor=stripe&reference=%00",
            "/accounts/%00/payments",
            "/accounts/1/payments?before=yesterday",
            "/accounts/1/payments?limit=0",
            "/accounts/1/payments?limit=101",
        ],
    )
    async def test_names_what_is_wrong_with_a_question(self, intake, path):
        status, body = await intake.get(path)
        assert status == 422
        assert body["errors"]

    async def test_lists_an_accounts_payments_in_pages(self, intake):
        account = uuid4().hex[:12]
        references = []
        for _ in range(3):
            event = submitted(account_id=account)
            await intake.portal(event)
            references.insert(0, event["data"]["reference"])
        _, first = await intake.get(f"/accounts/{account}/payments?limit=2")
        before = first["next_before"]
        _, second = await intake.get(f"/accounts/{account}/payments?limit=2&before={before}")
        shown = [each["reference"] for each in (*first["payments"], *second["payments"])]
        assert shown == references
        assert second["next_before"] is None

    async def test_says_what_a_payment_waits_for(self, intake):
        event, reference = succeeded()
        await intake.stripe(orjson.dumps(event))
        _, shown = await intake.get(f"/payments?processor=stripe&reference={reference}")
        assert shown["reference"] == reference
        [movement] = shown["movements"]
        assert (movement["status"], movement["waiting_for"]) == ("announced", "posting")
        assert [step["step"] for step in movement["steps"]] == ["accepted"]
        assert [step["step"] for step in shown["steps"]] == ["captured"]


class TestOverload:
    async def test_is_answered_with_503_beyond_the_queue(self, rows, topics):
        settings = intake_settings(
            database_url=sqlalchemy_url(rows.database),
            kafka=topics,
            take_queue_size_max=2,
            take_batch_size_max=1,
            lock_wait_seconds=10,
        )
        bodies = [train()[2].body for _ in range(8)]
        async with running_intake(settings) as intake:
            # A table lock holds the first batch; the others gather behind it.
            session = await rows._session()
            async with session.transaction():
                await rows.execute("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
                sent = [asyncio.create_task(intake.stripe(bodies[0]))]

                async def in_flight():
                    return intake.counted("payment_intake_take_batch_size_count") == 1

                await eventually_async(in_flight)
                sent += [asyncio.create_task(intake.stripe(body)) for body in bodies[1:]]

                async def refused():
                    return sum(task.done() for task in sent) == 5

                await eventually_async(refused)
            answers = [await task for task in sent]
            statuses = sorted(status for status, _, _ in answers)
            assert statuses == [200] * 3 + [503] * 5
            assert all(h["Retry-After"] == "1" for status, _, h in answers if status == 503)
            # What was refused comes again and is new.
            again = [await intake.stripe(body) for body in bodies]
            said = sorted(body["status"] for _, body, _ in again)
            assert said == ["accepted"] * 5 + ["duplicate"] * 3


class TestLockedRows:
    """Somebody's console, or a migration, holds what a webhook is to change."""

    async def test_hold_up_their_own_payment_alone(self, rows, topics):
        settings = intake_settings(
            database_url=sqlalchemy_url(rows.database), kafka=topics, lock_wait_seconds=0.2
        )
        *charged, refunded = train("partial_refunds")[:5]
        others = [event for _ in range(5) for event in train()]
        async with running_intake(settings) as intake:
            for event in charged:
                assert (await intake.stripe(event.body))[0] == 200
            session = await rows._session()
            async with session.transaction():
                await session.execute("SELECT 1 FROM payment_intake.payments FOR UPDATE")
                sent = (intake.stripe(event.body) for event in (refunded, *others))
                statuses = [status for status, _, _ in await asyncio.gather(*sent)]
            assert statuses == [503, *(200 for _ in others)]
            assert (await intake.stripe(refunded.body))[1] == {"status": "accepted"}

    async def test_are_not_waited_for_by_a_sender_beyond_its_time(self, rows, topics):
        settings = intake_settings(
            database_url=sqlalchemy_url(rows.database),
            kafka=topics,
            lock_wait_seconds=10,
            take_seconds_max=0.3,
        )
        body = train()[2].body
        async with running_intake(settings) as intake:
            session = await rows._session()
            async with session.transaction():
                await session.execute("LOCK TABLE payment_intake.events IN ACCESS EXCLUSIVE MODE")
                status, problem, headers = await intake.stripe(body)
                assert (status, problem["status"], headers["Retry-After"]) == (503, 503, "1")

            async def is_known():
                status, answer, _ = await intake.stripe(body)
                return (status, answer) == (200, {"status": "duplicate"})

            await eventually_async(is_known)


class TestDatabaseAway:
    async def test_is_answered_with_503_and_passes_without_a_restart(self, rows, topics):
        address = urlsplit(sqlalchemy_url(rows.database))
        proxy = Proxy(host=address.hostname, port=address.port)
        await proxy.open()
        place = address.netloc.replace(f":{address.port}", f":{proxy.port}")
        settings = intake_settings(
            database_url=address._replace(netloc=place).geturl(), kafka=topics
        )
        before, during = train()[2].body, train()[2].body
        unreadable, _ = succeeded(currency="xxx")
        async with running_intake(settings) as intake:
            assert (await intake.stripe(before))[1] == {"status": "accepted"}
            await proxy.cut()
            status, problem, headers = await intake.stripe(during)
            assert (status, problem["status"], headers["Retry-After"]) == (503, 503, "1")
            status, _, headers = await intake.stripe(orjson.dumps(unreadable))
            assert (status, headers["Retry-After"]) == (503, "1")
            status, _ = await intake.get("/payments?processor=stripe&reference=pi_1")
            assert status == 503
            check = intake.app.service.ready["database"]
            assert "does not answer" in await check()
            await proxy.open()
            assert (await intake.stripe(during))[:2] == (200, {"status": "accepted"})
            assert (await intake.stripe(before))[1] == {"status": "duplicate"}
            assert await check() is None
        await proxy.cut()
