"""The statements of autopay-scheduler: whole batches each, rows locked in one order.

The order is: accounts, plans due, enrolments, charges. Jobs skip what is locked; facts wait.
"""

from sqlalchemy import text

from autopay_scheduler.adapters.rows import (
    ANNOUNCEMENT_COLUMNS,
    CHARGE_COLUMNS,
    ENROLMENT_COLUMNS,
    EVIDENCE_COLUMNS,
    prefixed,
)
from autopay_scheduler.adapters.tables import (
    announcements,
    charges,
    enrolments,
    expiry_warnings,
    failures,
    mandates,
)
from shared.db.bulk import insert_rows, update_rows

_ENROLMENT = prefixed("e", ENROLMENT_COLUMNS, "e_")
_CHARGE = prefixed("c", (*CHARGE_COLUMNS, "declines"), "c_")

# What is owed -----------------------------------------------------------------------------------

KEEP_BALANCES = text(
    """
    INSERT INTO autopay_scheduler.accounts AS a (account_id, balance_cents, balance_at, heard_at)
    SELECT r.account_id, r.balance_cents, r.balance_at, :now
    FROM unnest(CAST(:accounts AS text[]), CAST(:balances AS bigint[]),
                CAST(:ats AS timestamptz[])) AS r(account_id, balance_cents, balance_at)
    ORDER BY r.account_id
    ON CONFLICT (account_id) DO UPDATE SET
        balance_cents = EXCLUDED.balance_cents, balance_at = EXCLUDED.balance_at
    WHERE EXCLUDED.balance_at IS NOT NULL
      AND (a.balance_at IS NULL OR a.balance_at <= EXCLUDED.balance_at)
    """
)
KEEP_BILLS = text(
    """
    INSERT INTO autopay_scheduler.bills AS b (account_id, bill_reference, version, amount_cents,
        currency, due_date, stated_at, paid_before_cents, status)
    SELECT r.account_id, r.bill_reference, r.version, r.amount_cents, r.currency, r.due_date,
        r.stated_at,
        coalesce((SELECT a.paid_cents FROM autopay_scheduler.accounts a
                  WHERE a.account_id = r.account_id), 0)
        - coalesce((SELECT sum(p.signed_cents) FROM autopay_scheduler.postings p
                    WHERE p.account_id = r.account_id AND p.posted_at > r.stated_at), 0),
        r.status
    FROM unnest(CAST(:accounts AS text[]), CAST(:references AS text[]), CAST(:versions AS int[]),
                CAST(:amounts AS bigint[]), CAST(:currencies AS text[]), CAST(:dues AS date[]),
                CAST(:ats AS timestamptz[]), CAST(:statuses AS text[]))
        AS r(account_id, bill_reference, version, amount_cents, currency, due_date, stated_at,
             status)
    ORDER BY r.account_id, r.bill_reference
    ON CONFLICT (account_id, bill_reference) DO UPDATE SET
        version = EXCLUDED.version, amount_cents = EXCLUDED.amount_cents,
        currency = EXCLUDED.currency, due_date = EXCLUDED.due_date,
        stated_at = EXCLUDED.stated_at, paid_before_cents = EXCLUDED.paid_before_cents,
        status = EXCLUDED.status
    WHERE b.version < EXCLUDED.version
    RETURNING b.account_id
    """
)
# A cancelled bill keeps what it said; one that was never heard of is kept as cancelled.
CANCEL_BILLS = text(
    """
    INSERT INTO autopay_scheduler.bills AS b (account_id, bill_reference, version, amount_cents,
        currency, due_date, stated_at, paid_before_cents, status)
    SELECT r.account_id, r.bill_reference, r.version, 0, '', CAST(r.stated_at AS date),
        r.stated_at, 0, 'cancelled'
    FROM unnest(CAST(:accounts AS text[]), CAST(:references AS text[]), CAST(:versions AS int[]),
                CAST(:ats AS timestamptz[])) AS r(account_id, bill_reference, version, stated_at)
    ORDER BY r.account_id, r.bill_reference
    ON CONFLICT (account_id, bill_reference) DO UPDATE SET
        version = EXCLUDED.version, status = 'cancelled'
    WHERE b.version < EXCLUDED.version OR (b.version = EXCLUDED.version AND b.status = 'open')
    RETURNING b.account_id
    """
)
KEEP_POSTINGS = text(
    """
    INSERT INTO autopay_scheduler.postings (posting_key, payment_id, account_id, signed_cents,
        posted_at)
    SELECT * FROM unnest(CAST(:keys AS uuid[]), CAST(:payments AS uuid[]),
        CAST(:accounts AS text[]), CAST(:amounts AS bigint[]), CAST(:ats AS timestamptz[]))
    ON CONFLICT (posting_key) DO NOTHING
    RETURNING posting_key
    """
)
ADD_PAID = text(
    """
    INSERT INTO autopay_scheduler.accounts AS a (account_id, paid_cents, balance_cents,
        balance_at, heard_at)
    SELECT r.account_id, r.paid_cents, r.balance_cents, r.balance_at, :now
    FROM unnest(CAST(:accounts AS text[]), CAST(:paid AS bigint[]),
                CAST(:balances AS bigint[]), CAST(:ats AS timestamptz[]))
        AS r(account_id, paid_cents, balance_cents, balance_at)
    ORDER BY r.account_id
    ON CONFLICT (account_id) DO UPDATE SET
        paid_cents = a.paid_cents + EXCLUDED.paid_cents,
        balance_cents = CASE WHEN a.balance_at IS NULL OR a.balance_at <= EXCLUDED.balance_at
                             THEN EXCLUDED.balance_cents ELSE a.balance_cents END,
        balance_at = greatest(a.balance_at, EXCLUDED.balance_at)
    """
)
# A posting that is heard of after a bill which took it into account: it was paid before it.
PAID_BEFORE = text(
    """
    UPDATE autopay_scheduler.bills t SET paid_before_cents = t.paid_before_cents + late.cents
    FROM (
        SELECT b.account_id, b.bill_reference, sum(r.signed_cents) AS cents
        FROM unnest(CAST(:accounts AS text[]), CAST(:amounts AS bigint[]),
                    CAST(:ats AS timestamptz[])) AS r(account_id, signed_cents, posted_at)
        JOIN autopay_scheduler.bills b
          ON b.account_id = r.account_id AND b.stated_at >= r.posted_at AND b.status = 'open'
        GROUP BY b.account_id, b.bill_reference
    ) late
    WHERE t.account_id = late.account_id AND t.bill_reference = late.bill_reference
    """
)
CHARGES_POSTED = text(
    """
    UPDATE autopay_scheduler.charges c SET posted_at = r.posted_at
    FROM unnest(CAST(:payments AS uuid[]), CAST(:ats AS timestamptz[])) AS r(payment_id, posted_at)
    WHERE c.payment_id = r.payment_id AND c.posted_at IS NULL
    """
)
NOTE_POSTED = text(
    """
    UPDATE autopay_scheduler.charges c SET posted_at = p.posted_at
    FROM autopay_scheduler.postings p
    WHERE c.payment_id = ANY(CAST(:payments AS uuid[])) AND c.posted_at IS NULL
      AND p.payment_id = c.payment_id AND p.signed_cents > 0
    """
)
KNOW_ACCOUNTS = text(
    """
    INSERT INTO autopay_scheduler.accounts (account_id, heard_at)
    SELECT r.account_id, :now FROM unnest(CAST(:accounts AS text[])) AS r(account_id)
    ORDER BY r.account_id
    ON CONFLICT (account_id) DO NOTHING
    """
)

# Enrolments -------------------------------------------------------------------------------------

LOCK_ACCOUNTS = text(
    """
    SELECT account_id FROM autopay_scheduler.accounts
    WHERE account_id = ANY(CAST(:accounts AS text[])) ORDER BY account_id FOR UPDATE
    """
)
KEEP_EVIDENCE = insert_rows(
    mandates,
    EVIDENCE_COLUMNS,
    on_conflict="(event_source, event_id, type) DO NOTHING",
    returning="event_source, event_id, type",
)
PAUSES_OF = text(
    """
    SELECT * FROM autopay_scheduler.mandates
    WHERE account_id = ANY(CAST(:accounts AS text[])) AND enrolment_id = ANY(CAST(:ids AS uuid[]))
      AND type IN ('autopay.paused', 'autopay.resumed')
    ORDER BY said_at, id
    """
)
LOCK_ENROLMENTS = text(
    """
    SELECT * FROM autopay_scheduler.enrolments
    WHERE id = ANY(CAST(:ids AS uuid[]))
       OR (account_id = ANY(CAST(:accounts AS text[])) AND status IN ('active', 'paused'))
    ORDER BY id FOR UPDATE
    """
)
ENROLMENTS_BY_METHOD = text(
    """
    SELECT * FROM autopay_scheduler.enrolments
    WHERE payment_method_token = :token AND processor = :processor
      AND status IN ('active', 'paused')
    ORDER BY id FOR UPDATE
    """
)
SAVE_ENROLMENTS = insert_rows(
    enrolments,
    ENROLMENT_COLUMNS,
    on_conflict="(id) DO UPDATE SET "
    + ", ".join(f"{name} = EXCLUDED.{name}" for name in ENROLMENT_COLUMNS[3:]),
)

# Charges ----------------------------------------------------------------------------------------

# DO UPDATE and not DO NOTHING: a row that a planner is just deleting is waited for, not taken for
# one that will still be planned.
PLAN_ACCOUNTS = text(
    """
    INSERT INTO autopay_scheduler.plans_due AS p (account_id, due_at)
    SELECT r.account_id, :at FROM unnest(CAST(:accounts AS text[])) AS r(account_id)
    ORDER BY r.account_id
    ON CONFLICT (account_id) DO UPDATE SET due_at = least(p.due_at, EXCLUDED.due_at)
    """
)
PLAN_ENROLLED = text(
    """
    INSERT INTO autopay_scheduler.plans_due AS p (account_id, due_at)
    SELECT e.account_id, :at FROM autopay_scheduler.enrolments e
    WHERE e.account_id = ANY(CAST(:accounts AS text[])) AND e.status IN ('active', 'paused')
    ORDER BY e.account_id
    ON CONFLICT (account_id) DO UPDATE SET due_at = least(p.due_at, EXCLUDED.due_at)
    """
)
PLAN_CHARGED = text(
    """
    INSERT INTO autopay_scheduler.plans_due AS p (account_id, due_at)
    SELECT DISTINCT c.account_id, CAST(:at AS timestamptz) FROM autopay_scheduler.charges c
    WHERE c.id = ANY(CAST(:ids AS uuid[])) ORDER BY c.account_id
    ON CONFLICT (account_id) DO UPDATE SET due_at = least(p.due_at, EXCLUDED.due_at)
    """
)
CLAIM_PLANS = text(
    """
    DELETE FROM autopay_scheduler.plans_due WHERE account_id = ANY(ARRAY(
        SELECT account_id FROM autopay_scheduler.plans_due WHERE due_at <= :now
        ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED
    )) RETURNING account_id
    """
)
# For the driver's own session: read by position, one row for each bill of each account.
SITUATIONS = f"""
    SELECT {_ENROLMENT}, a.balance_cents, a.paid_cents, b.bill_reference, b.due_date,
        b.amount_cents, b.paid_before_cents, b.currency, b.stated_at
    FROM unnest($1::text[]) AS r(account_id)
    JOIN autopay_scheduler.enrolments e
      ON e.account_id = r.account_id AND e.status IN ('active', 'paused')
    LEFT JOIN autopay_scheduler.accounts a ON a.account_id = r.account_id
    LEFT JOIN autopay_scheduler.bills b
      ON b.account_id = r.account_id AND b.status = 'open' AND b.due_date >= $2::date
"""  # noqa: S608
OPEN_OF_ACCOUNTS = text(
    """
    SELECT c.* FROM autopay_scheduler.charges c
    WHERE c.account_id = ANY(CAST(:accounts AS text[]))
      AND (c.due_date >= :horizon OR c.act_at IS NOT NULL
           OR (c.status = 'paid' AND c.posted_at IS NULL))
    ORDER BY c.id FOR UPDATE
    """
)
OLD_DRAFTS = text(
    """
    SELECT account_id, draft_date, due_date FROM autopay_scheduler.old_drafts
    WHERE account_id = ANY(CAST(:accounts AS text[])) AND withdrawn_at IS NULL
    """
)
DUE_DATES = text(
    """
    SELECT account_id, due_date FROM autopay_scheduler.bills
    WHERE account_id = ANY(CAST(:accounts AS text[])) AND status = 'open'
      AND due_date >= :horizon
    """
)
# Charges are taken first and their enrolments named by an array: where ANALYZE has seen a table
# whose rows were not committed yet, it counts as empty, and a plan of both reads all enrolments for
# each charge, or all charges for each enrolment.
_WITH_ENROLMENTS = f"""
    SELECT {_CHARGE}, {_ENROLMENT} FROM c
    JOIN autopay_scheduler.enrolments e ON e.id = c.enrolment_id
    WHERE e.id = ANY(ARRAY(SELECT enrolment_id FROM c))
"""  # noqa: S608
# The enrolment is locked with its charge: of two charges of one account that are due together, the
# second is decided by one who sees what became of the first. Otherwise both would ask for all. The
# earlier due date comes first: what is under way for the later one is not taken off its bill.
_DUE = f"""
    WITH c AS MATERIALIZED (
        SELECT * FROM autopay_scheduler.charges c
        WHERE %s LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    {_WITH_ENROLMENTS}
    ORDER BY c.act_at, c.due_date, c.id
    FOR UPDATE OF e SKIP LOCKED
"""  # noqa: S608
CLAIM_PLANNED = text(_DUE % "c.status = 'planned' AND c.act_at <= :now ORDER BY c.act_at")
_PAUSED = """EXISTS (SELECT FROM autopay_scheduler.switches s
                      WHERE s.name = 'requests' AND s.is_paused)"""
# The switch is read by the statement that takes the charges: what is paused now takes none. And
# whoever takes charges holds this lock to the end, which whoever pauses waits for: once a pause is
# acknowledged, no request is committed any more.
HOLD_SWITCH = text("SELECT pg_advisory_xact_lock_shared(hashtext('autopay_scheduler.switches'))")
TURN_SWITCH = text("SELECT pg_advisory_xact_lock(hashtext('autopay_scheduler.switches'))")
CLAIM_DUE = text(
    _DUE
    % f"""c.status IN ('announced', 'retrying') AND c.act_at <= :now
      AND NOT {_PAUSED} ORDER BY c.act_at, c.due_date, c.id"""
)
CLAIM_HELD = text(_DUE % "c.status = 'held' AND c.act_at <= :now ORDER BY c.act_at")
# A bill that was cancelled, or is due on another day by now, asks for nothing here.
OWED = text(
    """
    SELECT r.id, a.balance_cents, b.status = 'open' AS is_open,
        b.status = 'open' AND b.due_date = r.due_date AS is_billed,
        coalesce(b.amount_cents, 0) AS statement_cents,
        NOT EXISTS (
            SELECT FROM autopay_scheduler.bills later
            WHERE later.account_id = r.account_id AND later.status = 'open'
              AND later.due_date > r.due_date
        ) AS is_newest,
        coalesce(a.paid_cents - b.paid_before_cents, 0) AS paid_since_cents,
        coalesce((
            SELECT sum(coalesce(o.paid_cents, o.requested_cents))
            FROM autopay_scheduler.charges o
            WHERE o.account_id = r.account_id AND o.id <> r.id
              AND (o.status IN ('requested', 'pending')
                   OR (o.status = 'paid' AND o.posted_at IS NULL))
        ), 0)::bigint AS open_cents
    FROM unnest(CAST(:ids AS uuid[]), CAST(:accounts AS text[]), CAST(:references AS text[]),
                CAST(:dues AS date[])) AS r(id, account_id, bill_reference, due_date)
    LEFT JOIN autopay_scheduler.accounts a ON a.account_id = r.account_id
    LEFT JOIN autopay_scheduler.bills b
      ON b.account_id = r.account_id AND b.bill_reference = r.bill_reference
    """
)
ANNOUNCEMENTS_OF = text(
    """
    SELECT * FROM autopay_scheduler.announcements
    WHERE charge_id = ANY(CAST(:ids AS uuid[])) ORDER BY charge_id, version
    """
)
# While all is paused, only what is cancelled is stated again. What is with the bank is asked about
# once a day: it stays there for days, and a million of them an hour would be a load of their own.
CLAIM_UNHEARD = text(
    f"""
    WITH due AS MATERIALIZED (
        SELECT id FROM autopay_scheduler.charges
        WHERE status IN ('requested', 'pending') AND act_at <= :now
          AND (cancelled_at IS NOT NULL OR NOT {_PAUSED})
        ORDER BY act_at LIMIT :limit FOR UPDATE SKIP LOCKED
    ), c AS (
        UPDATE autopay_scheduler.charges t SET
            restatements = t.restatements + 1,
            act_at = CAST(:now AS timestamptz) + CASE WHEN t.status = 'pending'
                THEN interval '1 day'
                ELSE least(:cap, :first * power(2, least(t.restatements, 20)))
                     * interval '1 second'
                END
        WHERE t.id = ANY(ARRAY(SELECT id FROM due))
        RETURNING t.*
    )
    {_WITH_ENROLMENTS}
    """  # noqa: S608
)
# Only the last announcement of what is still to be charged: who has cancelled, or was told of
# another amount since, does not hear the old one again.
CLAIM_UNNOTICED = text(
    f"""
    WITH due AS MATERIALIZED (
        SELECT a.charge_id, a.version, EXISTS (
            SELECT FROM autopay_scheduler.charges c
            WHERE c.id = a.charge_id AND c.status = 'announced'
        ) AND NOT EXISTS (
            SELECT FROM autopay_scheduler.announcements later
            WHERE later.charge_id = a.charge_id AND later.version > a.version
        ) AS is_current
        FROM autopay_scheduler.announcements a
        WHERE a.restate_at <= :now
        ORDER BY a.restate_at LIMIT :limit FOR UPDATE OF a SKIP LOCKED
    ), n AS (
        UPDATE autopay_scheduler.announcements t SET
            restatements = t.restatements + 1,
            restate_at = CASE WHEN due.is_current THEN CAST(:now AS timestamptz)
                + least(:cap, :first * power(2, least(t.restatements, 20)))
                  * interval '1 second' END
        FROM due WHERE t.charge_id = due.charge_id AND t.version = due.version
        RETURNING t.*
    ), c AS MATERIALIZED (
        SELECT * FROM autopay_scheduler.charges
        WHERE id = ANY(ARRAY(SELECT charge_id FROM n WHERE restate_at IS NOT NULL))
    ), stated AS ({_WITH_ENROLMENTS})
    SELECT n.*, stated.* FROM n JOIN stated ON stated.c_id = n.charge_id
    WHERE n.restate_at IS NOT NULL
    """  # noqa: S608
)
LOCK_ENROLMENTS_OF = text(
    """
    SELECT * FROM autopay_scheduler.enrolments WHERE id = ANY(ARRAY(
        SELECT enrolment_id FROM autopay_scheduler.charges WHERE id = ANY(CAST(:ids AS uuid[]))
    )) ORDER BY id FOR UPDATE
    """
)
LOCK_CHARGES = text(
    """
    SELECT * FROM autopay_scheduler.charges
    WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR UPDATE
    """
)
OPEN_OF_ENROLMENTS = text(
    """
    SELECT c.* FROM autopay_scheduler.charges c
    WHERE c.account_id = ANY(ARRAY(
            SELECT account_id FROM autopay_scheduler.enrolments
            WHERE id = ANY(CAST(:ids AS uuid[]))))
      AND c.enrolment_id = ANY(CAST(:ids AS uuid[]))
      AND (c.act_at IS NOT NULL OR (c.status = 'paid' AND c.closed_at >= :paid_since))
    ORDER BY c.id FOR UPDATE
    """
)
SAVE_CHARGES = update_rows(charges, key="id", columns=CHARGE_COLUMNS[3:])
ADD_DECLINES = text(
    """
    UPDATE autopay_scheduler.charges c SET declines = string_to_array(r.declines, ' ')
    FROM unnest(CAST(:ids AS uuid[]), CAST(:declines AS text[])) AS r(id, declines)
    WHERE c.id = r.id
    """
)
VOID_ANNOUNCEMENTS = text(
    """
    UPDATE autopay_scheduler.announcements SET is_void = true
    WHERE charge_id = ANY(CAST(:ids AS uuid[]))
    """
)
KEEP_ANNOUNCEMENTS = insert_rows(announcements, ANNOUNCEMENT_COLUMNS)
KEEP_FAILURES = insert_rows(
    failures,
    ("charge_id", "decline", "document", "at"),
    on_conflict="(charge_id, decline) DO NOTHING",
)
FAILURES = text(
    """
    SELECT f.document::text FROM autopay_scheduler.failures f
    JOIN unnest(CAST(:ids AS uuid[]), CAST(:declines AS text[])) AS r(id, decline)
      ON f.charge_id = r.id AND f.decline = r.decline
    """
)
# A notice that cannot be delivered, or was delivered late, is looked at again at once: where it
# cannot be kept any more, the customer is to hear of it before the bill is due.
NOTICE = text(
    """
    WITH n AS (
        UPDATE autopay_scheduler.announcements t SET
            status = r.status, noticed_at = r.at, restate_at = NULL
        FROM unnest(CAST(:facts AS uuid[]), CAST(:statuses AS text[]),
                    CAST(:ats AS timestamptz[])) AS r(fact_id, status, at)
        WHERE t.fact_id = r.fact_id AND t.status <> 'sent' AND t.status <> r.status
        RETURNING t.charge_id,
            t.status <> 'sent' OR t.noticed_at > t.announced_at + interval '1 hour' AS is_news
    ), looked_at AS (
        UPDATE autopay_scheduler.charges c SET act_at = least(c.act_at, :now)
        FROM n WHERE c.id = n.charge_id AND c.status = 'announced' AND n.is_news
    )
    SELECT count(*) FROM n
    """
)
CLAIM_EXPIRING = text(
    """
    SELECT e.*, ARRAY(
        SELECT w.days FROM autopay_scheduler.expiry_warnings w
        WHERE w.enrolment_id = e.id AND w.expires = e.method_expires
    ) AS given
    FROM autopay_scheduler.enrolments e
    WHERE e.status IN ('active', 'paused') AND e.method_expires IS NOT NULL
      AND e.method_expires <= :until AND (CAST(:after AS uuid) IS NULL OR e.id > :after)
    ORDER BY e.id LIMIT :limit
    """
)
KEEP_WARNINGS = insert_rows(
    expiry_warnings,
    ("enrolment_id", "expires", "days", "warned_at"),
    on_conflict="(enrolment_id, expires, days) DO NOTHING",
    returning="enrolment_id, days",
)

# Operators --------------------------------------------------------------------------------------

SWITCH = text(
    """
    INSERT INTO autopay_scheduler.switches (name, is_paused, changed_at)
    VALUES ('requests', :is_paused, :at)
    ON CONFLICT (name) DO UPDATE SET is_paused = EXCLUDED.is_paused,
        changed_at = EXCLUDED.changed_at
    """
)
SWITCH_STATE = text(
    "SELECT is_paused, changed_at FROM autopay_scheduler.switches WHERE name = 'requests'"
)
