"""What only a real PostgreSQL shows of payment-intake's store."""

import asyncio
import re
from dataclasses import replace
from datetime import timedelta

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import TextClause, text
from sqlalchemy.exc import DBAPIError
from tests.support.backends import create_database
from tests.support.intake import NOW, heard, incoming, policy
from tests.support.intake_database import IntakeDatabase, intake_database, migrate_intake

from payment_intake.adapters import charge_rows, repositories
from payment_intake.adapters.tables import metadata
from payment_intake.domain import Heard, MovementKind, MovementStatus, PaymentStatus
from payment_intake.domain.charges import ChargeStatus
from payment_intake.domain.declines import MethodKind
from payment_intake.metrics import Metrics
from payment_intake.ports import Outcome
from payment_intake.usecases import ConcurrentTakeError, TakeEvents
from shared.db.engine import DatabaseUnavailableError
from shared.ids import uuid7
from shared.work.batcher import MicroBatcher
from shared.work.patience import patiently

CAPTURED = heard(Heard.CAPTURED)


@pytest.fixture(scope="module")
async def rows(database):
    async with intake_database(database) as found:
        yield found


@pytest.fixture(autouse=True)
async def emptied(rows):
    await rows.empty()


def taking(rows) -> TakeEvents:
    return TakeEvents(store=rows.store(), policy=policy(), new_id=uuid7, metrics=Metrics())


async def take(rows, *events):
    """As the service does it: again when somebody else was first."""
    return await patiently(lambda: taking(rows)(events), patience_seconds=5)


class TestConcurrentTakers:
    async def test_make_one_of_an_event_that_comes_fifty_times_at_once(self, rows):
        event = incoming(CAPTURED, event_id="evt_1")
        outcomes = await asyncio.gather(*(take(rows, event) for _ in range(50)))
        said = [each for (each,) in outcomes]
        assert said.count(Outcome.ACCEPTED) == 1
        assert said.count(Outcome.DUPLICATE) == 49
        assert await rows.count("movements") == 1
        assert await rows.facts() == [("payment.accepted", "1002003")]

    async def test_make_one_payment_of_its_several_events(self, rows):
        events = [
            incoming(replace(CAPTURED, references=names), event_id=f"evt_{number}")
            for number, names in enumerate([("pi_1",), ("pi_1", "ch_1"), ("ch_1", "pi_1")] * 8)
        ]
        await asyncio.gather(*(take(rows, event) for event in events))
        assert await rows.count("payments", "credited") == 1
        assert await rows.count("movements") == 1
        assert await rows.count("events") == 24

    async def test_of_the_same_batch_in_other_orders_both_come_through(self, rows):
        events = [
            incoming(heard(Heard.CAPTURED, references=(f"pi_{n}",)), event_id=f"evt_{n}")
            for n in range(40)
        ]
        await asyncio.gather(*(take(rows, *order) for order in (events, events[::-1]) * 3))
        assert await rows.count("movements") == 40

    async def test_notice_when_the_other_gives_a_name_to_its_payment_first(self, rows):
        await take(rows, incoming(heard(Heard.SUBMITTED, references=("pi_1",)), event_id="e1"))
        refund = heard(Heard.REFUNDED, minute=5, references=("ch_1",))
        with pytest.raises(ConcurrentTakeError):
            async with rows.store().transaction() as unit:
                [payment] = await unit.lock_payments([("stripe", "pi_1"), ("stripe", "ch_1")])
                await take(rows, incoming(refund, event_id="e2"))
                named = replace(payment, references=frozenset({"pi_1", "ch_1"}))
                await unit.save(changed=[named])
        await take(rows, incoming(CAPTURED, event_id="e3"))
        assert sorted(fact for fact, _ in await rows.facts()) == [
            "payment.accepted",
            "payment.reversed",
        ]

    async def test_offer_for_announcement_only_what_is_committed(self, rows):
        await take(rows, incoming(CAPTURED, event_id="e1"))
        assert len(rows.offered.rows) == 1
        with pytest.raises(RuntimeError):
            async with rows.store().transaction() as unit:
                await unit.announce([rows.offered.rows[0].record])
                raise RuntimeError("a defect")
        assert len(rows.offered.rows) == 1
        assert await rows.count("outbox") == 1


class TestMicroBatchedWriter:
    async def test_lets_a_poison_event_fail_alone(self, rows):
        batcher = MicroBatcher(
            flush=lambda events: take(rows, *events), batch_size_max=100, queue_size_max=100
        )
        good = [
            incoming(heard(Heard.CAPTURED, references=(f"pi_{n}",)), event_id=f"evt_{n}")
            for n in range(10)
        ]
        # PostgreSQL's text holds no zero byte.
        poison = incoming(heard(Heard.CAPTURED, references=("pi_x",)), event_id="evt\x00")
        results = await asyncio.gather(
            *(batcher.submit(each) for each in (*good[:5], poison, *good[5:])),
            return_exceptions=True,
        )
        assert isinstance(results.pop(5), DBAPIError)
        assert results == [Outcome.ACCEPTED] * 10
        assert await rows.count("movements") == 10


class TestUnavailableDatabase:
    async def test_is_said_to_be_so_when_it_has_no_connection_left(self, rows):
        await rows.execute("ALTER ROLE payment_intake CONNECTION LIMIT 0")
        try:
            other = IntakeDatabase(rows.database)
            with pytest.raises(DatabaseUnavailableError):
                await taking(other)([incoming(CAPTURED, event_id="e1")])
            await other.close()
        finally:
            await rows.execute("ALTER ROLE payment_intake CONNECTION LIMIT -1")

    async def test_is_said_to_be_so_when_its_sessions_are_ended(self, rows):
        await take(rows, incoming(CAPTURED, event_id="e1"))
        with pytest.raises(DatabaseUnavailableError):
            async with rows.store().transaction() as unit:
                await unit.lock_payments([("stripe", "pi_1")])
                await rows.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE usename = 'payment_intake'"
                )
                await unit.lock_payments([("stripe", "pi_1")])
        # What was pooled is noticed and renewed.
        assert await take(rows, incoming(CAPTURED, event_id="e1")) == [Outcome.DUPLICATE]


PARAMETERS = {
    "_DIGESTS": {"sources": ["stripe"], "ids": ["evt_1"]},
    "_LOCK_PAYMENTS": {"processors": ["stripe"], "names": ["pi_1"]},
    "_NAMED": {"processors": ["stripe"], "names": ["pi_1"]},
    "_REPOINT_REFERENCES": {"into": uuid7(), "other": uuid7()},
    "_HEAR": {
        "ids": [uuid7()],
        "statuses": ["posted"],
        "ats": [NOW],
        "reasons": [None],
        "cis_references": ["C"],
        "balances": [1],
    },
    "_TELL": {
        "movement_ids": [uuid7()],
        "payment_ids": [uuid7()],
        "kinds": ["payment"],
        "ats": [NOW],
        "outcomes": ["sent"],
    },
    "_CLAIM_UNFINISHED": {"now": NOW, "limit": 10, "first": 30.0, "cap": 60.0},
    "_CLAIM_DELAYED": {
        "now": NOW,
        "limit": 10,
        "accepted_before": NOW,
        "spared_since": NOW,
        "spared_until": NOW,
    },
    "_BACKLOG": {"now": NOW, "statuses": ["announced"]},
    "_UPDATE_PAYMENTS": {
        **{name: [None] for name in repositories._PAYMENT_COLUMNS},
        "id": [uuid7()],
        "created_at": [NOW],
        "credited": [False],
        "fee_cents": [0],
    },
}

CHARGE_PARAMETERS = {
    "_CLAIM": {
        "now": NOW,
        "limit": 10,
        "owner": uuid7(),
        "leased_until": NOW,
        "switch": "charges",
    },
    "_RELEASE": {"ids": [uuid7()], "unknown": [], "owner": uuid7(), "now": NOW},
    "_PERMIT": {"id": uuid7(), "owner": uuid7(), "switch": "charges"},
    "_BACKLOG": {"now": NOW, "statuses": ["due"]},
    "_SAVE": {name: [] for name in charge_rows._COLUMNS},
}


class TestStatements:
    @pytest.mark.parametrize("module", [repositories, charge_rows])
    def test_are_all_looked_at_here(self, module):
        statements = {n for n, v in vars(module).items() if isinstance(v, TextClause)}
        inserts = {name for name in statements if name.startswith("_INSERT")}
        known = PARAMETERS if module is repositories else CHARGE_PARAMETERS
        assert statements - inserts == set(known)

    @pytest.mark.parametrize(
        ("module", "name"),
        [(repositories, name) for name in sorted(PARAMETERS)]
        + [(charge_rows, name) for name in sorted(CHARGE_PARAMETERS)],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    async def test_find_their_rows_by_an_index(self, rows, module, name):
        statement = getattr(module, name)
        parameters = (PARAMETERS if module is repositories else CHARGE_PARAMETERS)[name]
        async with rows.engine.begin() as connection:
            found = await connection.execute(text(f"EXPLAIN {statement.text}"), parameters)
            plan = "\n".join(found.scalars())
            await connection.rollback()
        assert "Seq Scan" not in plan, plan
        assert "Index" in plan, plan

    @pytest.mark.parametrize(
        ("query", "index"),
        [
            (
                "SELECT 1 FROM events WHERE processor = 'stripe' AND reference = 'pi_1'"
                " AND (received_at AT TIME ZONE 'UTC')::date = ANY('{2026-07-01, 2026-07-02}')",
                "events_day_reference",
            ),
            (
                "SELECT 1 FROM payments WHERE account_id = '1' AND created_at < now() "
                "ORDER BY created_at DESC LIMIT 20",
                "payments_account",
            ),
            ("SELECT 1 FROM movements WHERE payment_id = gen_random_uuid()", "movements_payment"),
            (
                "SELECT 1 FROM payment_references WHERE payment_id = gen_random_uuid()",
                "payment_references_payment",
            ),
        ],
    )
    async def test_of_the_readers_have_the_index_made_for_them(self, rows, query, index):
        async with rows.engine.begin() as connection:
            await connection.execute(text("SET LOCAL search_path = payment_intake"))
            found = await connection.execute(text(f"EXPLAIN {query}"))
            assert index in "\n".join(found.scalars())


class TestSchema:
    async def test_is_what_the_tables_say(self, rows):
        def differences(connection):
            # The role's own schema is its default one, which Alembic would call by no name.
            connection.dialect.default_schema_name = "public"
            connection.execute(text("SET search_path TO public"))
            context = MigrationContext.configure(
                connection,
                opts={
                    "include_schemas": True,
                    "version_table_schema": "payment_intake",
                    "include_name": lambda name, kind, _: (
                        kind != "schema" or name == "payment_intake"
                    ),
                    "compare_type": True,
                    "compare_server_default": True,
                },
            )
            return compare_metadata(context, metadata)

        engine = rows.new_engine()
        async with engine.connect() as connection:
            assert await connection.run_sync(differences) == []
        await engine.dispose()

    @pytest.mark.parametrize(
        ("constraint", "values"),
        [
            ("payments_status_known", PaymentStatus),
            ("movements_status_known", MovementStatus),
            ("movements_kind_known", MovementKind),
            ("charges_status_known", ChargeStatus),
            ("charges_method_kind_known", MethodKind),
        ],
    )
    async def test_knows_the_values_that_the_code_knows(self, rows, constraint, values):
        [row] = await rows.fetch(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = $1", constraint
        )
        assert set(re.findall(r"'(\w+)'", row[0])) == {str(value) for value in values}

    async def test_refuses_a_credit_without_an_amount(self, rows):
        with pytest.raises(Exception, match="payments_credited_has_amount"):
            await rows.execute(
                """INSERT INTO payments (id, processor, status, fee_cents, book, credited,
                   created_at) VALUES (gen_random_uuid(), 's', 'captured', 0, '{}', true, now())"""
            )

    def test_is_made_unmade_and_made_again(self, postgres):
        database = create_database(postgres=postgres)
        for revision in ("head", "base", "head", "head"):
            migrate_intake(database, revision=revision)

    def test_is_unmade_without_a_trace(self, postgres):
        database = create_database(postgres=postgres)
        migrate_intake(database)
        migrate_intake(database, revision="base")

        async def left() -> list[str]:
            rows = IntakeDatabase(database)
            found = await rows.fetch(
                "SELECT tablename FROM pg_tables WHERE schemaname = 'payment_intake'"
            )
            await rows.close()
            return [row[0] for row in found]

        assert asyncio.run(left()) == ["alembic_version"]


class TestStoredTimes:
    async def test_come_back_as_they_were(self, rows):
        at = NOW + timedelta(microseconds=123456)
        event = incoming(replace(CAPTURED, at=at), event_id="e1", received_at=at)
        await take(rows, event)
        view = await rows.store().payment_by_reference(processor="stripe", reference="pi_1")
        assert view.payment.captured_at == at
        assert view.movements[0].movement.accepted_at == at
