"""What the statements of autopay-scheduler read: what they work on, and nothing of the history."""

import asyncio

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from tests.support.autopay_books import errors_in
from tests.support.autopay_scheduler import (
    Scheduler,
    SchedulerDatabase,
    StillClock,
    at,
    at_intake,
    bill,
    cancelled,
    enrolled,
    noticed,
    paused,
    posted,
    registered,
)

from autopay_scheduler.adapters import reenrolment_tables, statements, tables

HISTORY = 20_000
MONDAY = at("2026-03-02 12:00")
DUE = "2026-03-20"
BIG = (
    *("accounts", "announcements", "bills", "charges", "enrolments", "expiry_warnings"),
    *("failures", "mandates", "plans_due", "postings"),
)


async def fill(rows: SchedulerDatabase) -> None:
    """Years of others: ended, and never looked at by VACUUM or ANALYZE."""
    await rows.execute(
        "INSERT INTO accounts (account_id, balance_cents, balance_at, heard_at)"
        f" SELECT 'H-' || n, 0, now(), now() FROM generate_series(1, {HISTORY}) n"
    )
    await rows.execute(
        "INSERT INTO enrolments (id, account_id, reference, status, processor,"
        " payment_method_token, method_kind, method_expires, charge_on, amount_rule,"
        " authorisation_version, authorised_at, locale, word_at, taken_at)"
        " SELECT gen_random_uuid(), account_id, account_id, 'active', 'stripe',"
        " 'pm_' || account_id, 'card', '2031-12', 'due_date', 'full_balance', '1', now(), 'en',"
        " now(), now() FROM accounts WHERE account_id LIKE 'H-%'"
    )
    await rows.execute(
        "INSERT INTO charges (id, enrolment_id, account_id, bill_reference, due_date, planned_on,"
        " chosen_on, charge_on, amount_cents, currency, status, attempt, requested_cents,"
        " paid_cents, posted_at, payment_id, created_at)"
        " SELECT gen_random_uuid(), id, account_id, 'B', '2025-01-20', '2025-01-01',"
        " '2025-01-20', '2025-01-20', 100, 'USD', 'paid', 1, 100, 100, now(), gen_random_uuid(),"
        " now() FROM enrolments WHERE account_id LIKE 'H-%'"
    )
    await rows.execute(
        "INSERT INTO announcements (charge_id, version, fact_id, amount_cents, left_cents,"
        " charge_on, announced_at, status)"
        " SELECT id, 1, gen_random_uuid(), 100, 0, '2025-01-20', now(), 'sent' FROM charges"
    )
    await rows.execute(
        "INSERT INTO bills (account_id, bill_reference, version, amount_cents, currency, due_date,"
        " stated_at, paid_before_cents, status)"
        " SELECT account_id, 'B', 1, 100, 'USD', '2025-01-20', now(), 0, 'open' FROM accounts"
        " WHERE account_id LIKE 'H-%'"
    )
    await rows.execute(
        "INSERT INTO postings (posting_key, payment_id, account_id, signed_cents, posted_at)"
        " SELECT gen_random_uuid(), payment_id, account_id, 100, now() FROM charges"
    )
    await rows.execute(
        "INSERT INTO mandates (enrolment_id, account_id, event_source, event_id, type, said_at,"
        " document, heard_at) SELECT id, account_id, 's', account_id, 'autopay.enrolled', now(),"
        " '{}', now() FROM enrolments"
    )


async def scans(rows: SchedulerDatabase) -> dict[str, tuple[int, int]]:
    """Scans of the whole of each table, and index entries read of it, so far."""
    await asyncio.sleep(0.3)
    await rows.execute("SELECT pg_stat_force_next_flush()")
    await rows.execute("SELECT pg_stat_clear_snapshot()")
    found = await rows.fetch(
        "SELECT relname, seq_scan, (SELECT coalesce(sum(idx_tup_read), 0)"
        " FROM pg_stat_user_indexes i WHERE i.relid = t.relid) AS read"
        " FROM pg_stat_user_tables t WHERE schemaname = 'autopay_scheduler'"
    )
    return {row["relname"]: (int(row["seq_scan"]), int(row["read"])) for row in found}


async def whole_life(autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock) -> None:
    """Every hot statement, more than five times: by then a generic plan may have been chosen."""
    for number in range(8):
        name = f"A-{number}"
        clock.now = MONDAY
        await autopay.hear(registered(name, when=clock()), enrolled(name, when=clock()))
        await autopay.hear(bill(name, DUE, 8_000, when=clock()))
        await autopay.run()
        clock.advance(minutes=5)
        await autopay.restate()
        announced = (await rows.stated("charge.announced"))[-1]
        await autopay.hear(noticed(announced, when=clock()))
        clock.to(f"{DUE} 06:00")
        await autopay.run()
        charge = at_intake((await rows.stated("charge.requested"))[-1])
        clock.advance(minutes=5)
        await autopay.restate()
        decline = charge.declined(clock(), "insufficient_funds", attempt=f"ch_{number}")
        await autopay.hear(decline, decline)
        clock.to("2026-03-23 06:00")
        await autopay.run()
        await autopay.hear(charge.paid(clock()))
        await autopay.hear(
            posted(name, 8_000, when=clock(), balance_cents=0, payment_id=charge.payment_id)
        )
        await autopay.hear(paused(name, when=clock()))
        await autopay.close()
        await autopay.warn()
        await autopay.run()
        await autopay.hear(cancelled(name, when=clock()))
        await autopay.store.backlog(now=clock())
        await autopay.view.account(name)
        await autopay.view.preview(day=clock().date(), after=None, limit=10)


class TestMigrations:
    async def test_make_what_the_tables_say(self, rows: SchedulerDatabase) -> None:
        def differences(connection: Connection) -> list[object]:
            options = {
                "include_schemas": True,
                "include_name": lambda name, kind, _: (
                    kind != "schema" or name == "autopay_scheduler"
                ),
                "version_table_schema": "autopay_scheduler",
                "compare_server_default": True,
            }
            # Imported, so that the tables of the move are among them.
            assert reenrolment_tables.reenrolments.metadata is tables.metadata
            context = MigrationContext.configure(connection, opts=options)
            return list(compare_metadata(context, tables.metadata))

        # As superuser: the service's own search path would hide the schema's name.
        url = rows.database.superuser_dsn.replace("postgresql://", "postgresql+asyncpg://", 1)
        engine = create_async_engine(url)
        async with engine.connect() as connection:
            found = await connection.run_sync(differences)
        await engine.dispose()
        assert found == []

    async def test_keep_the_checks_of_the_tables(self, rows: SchedulerDatabase) -> None:
        found = await rows.fetch(
            "SELECT conname, pg_get_constraintdef(oid) AS says FROM pg_constraint"
            " WHERE contype = 'c' AND connamespace = 'autopay_scheduler'::regnamespace"
        )
        checks = {row["conname"]: row["says"] for row in found}
        for name, values in (
            ("charges_status_known", 12),
            ("enrolments_status_known", 4),
            ("announcements_status_known", 4),
            ("bills_status_known", 2),
            ("enrolments_charge_on_known", 3),
            ("enrolments_amount_rule_known", 3),
        ):
            assert checks[name].count("'::text") == values, name
        assert "requested_cents > 0" in checks["charges_requested_have_amount"]


class TestBooks:
    """What proves the others is itself able to fail."""

    @pytest.mark.parametrize(
        ("damage", "found"),
        [
            ("UPDATE charges SET attempt = 2", "is at attempt 2; stated: [1]"),
            ("UPDATE charges SET status = 'cancelled', act_at = NULL", "nobody was told"),
            ("UPDATE charges SET act_at = NULL", "to be looked at None"),
            ("UPDATE announcements SET amount_cents = 1", "announced: [1]"),
            ("UPDATE announcements SET noticed_at = '2026-03-15'", "announced: []"),
            ("DELETE FROM outbox WHERE value LIKE '%activated_at%'", "nobody was told"),
            ("UPDATE enrolments SET status = 'stopped'", "was stopped, and told 0 times"),
            ("UPDATE charges SET due_date = '2026-03-21'", "is not the one of its enrolment"),
        ],
    )
    async def test_see_what_is_wrong(
        self,
        autopay: Scheduler,
        rows: SchedulerDatabase,
        clock: StillClock,
        damage: str,
        found: str,
    ) -> None:
        await autopay.hear(registered("A-1", when=clock()), enrolled("A-1", when=clock()))
        await autopay.hear(bill("A-1", DUE, 8_000, when=clock()))
        await autopay.run()
        [announced] = await rows.stated("charge.announced")
        await autopay.hear(noticed(announced, when=clock()))
        clock.to(f"{DUE} 06:00")
        await autopay.run()
        assert await errors_in(rows) == []
        await rows.execute(damage)
        assert found in "\n".join(await errors_in(rows))


class TestStatements:
    async def test_read_what_they_work_on_and_no_history(
        self, rows: SchedulerDatabase, clock: StillClock
    ) -> None:
        """Counted by the server, so that it is about the plans that really ran."""
        await fill(rows)
        autopay = rows.scheduler(clock=clock)
        before = await scans(rows)
        await whole_life(autopay, rows, clock)
        await rows.release()
        after = await scans(rows)
        assert {table: after[table][0] - before[table][0] for table in BIG} == dict.fromkeys(BIG, 0)
        read = {table: after[table][1] - before[table][1] for table in BIG}
        assert all(count < HISTORY / 4 for count in read.values()), read

    @pytest.mark.parametrize(
        "name", ["CLAIM_DUE", "CLAIM_PLANNED", "CLAIM_UNHEARD", "CLAIM_UNNOTICED"]
    )
    async def test_take_the_first_of_many_without_sorting_them(
        self, autopay: Scheduler, rows: SchedulerDatabase, clock: StillClock, name: str
    ) -> None:
        """A million are due at one moment; each claim that read all of them took seconds.

        The statistics are the worst: of the moment when the rows were not committed yet.
        """
        await fill(rows)
        await rows.execute(
            "UPDATE pg_class SET reltuples = 0, relpages = pg_relation_size(oid) / 8192"
            " WHERE oid IN ('charges'::regclass, 'enrolments'::regclass,"
            " 'announcements'::regclass)"
        )
        status = {"CLAIM_PLANNED": "planned", "CLAIM_UNHEARD": "requested"}.get(name, "announced")
        await rows.execute("UPDATE charges SET status = $1, act_at = $2", status, clock())
        await rows.execute("UPDATE announcements SET restate_at = $1", clock())
        before = await scans(rows)
        asked = {"now": clock(), "limit": 10}
        if name in ("CLAIM_UNHEARD", "CLAIM_UNNOTICED"):
            asked |= {"first": 60.0, "cap": 3600.0}
        async with autopay.engine.begin() as connection:
            found = await connection.execute(text(getattr(statements, name).text), asked)
            assert len(found.all()) == 10
        await rows.release()
        after = await scans(rows)
        for table in ("charges", "enrolments"):
            assert after[table][0] == before[table][0]
            assert after[table][1] - before[table][1] < 1_000
