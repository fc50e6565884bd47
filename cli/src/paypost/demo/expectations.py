"""What must be true after the scenario: counts and sums worked out by hand, none of them computed.

| what | payments | dollars |
|---|---|---|
| three times a hundred card payments of 45.00, 82.75 and 120.10 | 300 | 24,785.00 |
| the unknown account (stays in suspense) | 1 | 60.00 |
| the refund before its payment | 1 | 75.00 |
| the ACH debit that settles | 1 | 150.00 |
| the portal's, over Kafka 55.00 and over HTTP 65.00 | 2 | 120.00 |
| the kiosk's, over Kafka 40.00 and over HTTP 35.00 | 2 | 75.00 |
| autopay's: 84.50 at once, 61.20 after a decline, a debit of 52.75 after its return | 3 | 198.45 |
| autopay's that was cancelled meanwhile, and given back | 1 | 29.90 |
| **accepted** | **311** | **25,493.35** |
| **on the ledger**: all but the unknown account's | **310** | **25,433.35** |

Of the 310 postings, 6 are of the customer without an address: 304 confirmations are mailed. Given
back: the refund of 75.00 and autopay's of 29.90. Declines: the ACH return of 90.00, autopay's of
61.20 and of 40.00, its debit of 52.75. Stripe's events: 301 + 2 card payments of four each, five of
the refunded one, four of each ACH debit: 1,225; of autopay four of the charge that is paid at once,
three of each decline and three more of the one that is then paid, four until the debit comes back
and three more until it settles, four of the one that is given back and two of that: 26. Stripe's
answers to autopay: one, two and one of the cards, two of the debit, two of the one given back: 8.
Account D-001 owed 500.00, paid 45.00, 82.75 and 120.10 twice each, and had a payment of 75.00
refunded: it owes 4.30.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg

from paypost.demo.scenario import Played
from paypost.remote import Remote
from paypost.stack.state import StackState
from paypost.verify.report import Report

EXPECTED: Mapping[str, object] = {
    "payments accepted": (311, "25493.35"),
    "payments on the ledger": (310, "25433.35"),
    "payments in the CIS's journal": (310, "25433.35"),
    "payments confirmed to customers": (310, "25433.35"),
    "reversals on the ledger": (2, "104.90"),
    "reversals confirmed to customers": (2, "104.90"),
    "declines told": (4, "243.95"),
    "in suspense": {"suspended: account_unknown": 1},
    "Stripe's events kept, each once": 1251,
    "Stripe's answers to autopay kept": 8,
    "the portal's events kept": 5,
    "Stripe's events not taken": 0,
    "confirmations mailed": 304,
    "confirmations without an address": 6,
    "submitted, never paid": ("submitted", 0),
    "account D-001 owes": "4.30",
    "autopay: charges": {
        "P-001": "paid",
        "P-002": "paid",
        "P-003": "failed",
        "P-004": "announced",
        "P-005": "held",
        "P-006": "cancelled",
        "P-007": "paid",
        "P-008": "refunded",
    },
    "autopay: enrolments": {
        "P-001": "active",
        "P-002": "active",
        "P-003": "stopped: declined_for_good",
        "P-004": "active",
        "P-005": "active",
        "P-006": "stopped: cancelled",
        "P-007": "active",
        "P-008": "stopped: cancelled",
    },
    "autopay: charged while paused": 0,
    "autopay: charged, by the processor's book": {"P-001": 1, "P-002": 1, "P-007": 1, "P-008": 1},
    "autopay: given back, by the processor's book": {"P-008": "29.90"},
    "autopay: started, announced, held": (8, 7, 1),
    "autopay: declined, stopped, given back": (3, 3, 1),
    "old enrolments imported, refused, invited": (3, 1, 3),
    "would lapse, first of all": "D-010",
    "starts of the killed service": 2,
    "still on its way": 0,
    "lost, twice, invented": (0, 0, 0),
    "every book agrees with every other": True,
}
"""By what is expected; the order is the order of printing."""

AT_LEAST: Mapping[str, int] = {
    "answers lost by the CIS and asked about": 1,
    "customers told of the delay": 1,
    "copies of events beyond the first": 30,
}
"""Where the exact number depends on the moment: the least that must be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One expectation and what was found."""

    what: str
    expected: str
    found: str
    holds: bool


async def check(*, state: StackState, played: Played, report: Report) -> list[Check]:
    """Hold what was found against what is expected."""
    found = await _found(state, played, report)
    exact = [
        Check(
            what=what,
            expected=_text(expected),
            found=_text(found[what]),
            holds=found[what] == expected,
        )
        for what, expected in EXPECTED.items()
    ]
    least = [
        Check(
            what=what,
            expected=f"{expected} or more",
            found=_text(found[what]),
            holds=int(found[what]) >= expected,
        )
        for what, expected in AT_LEAST.items()
    ]
    return exact + least


async def _found(state: StackState, played: Played, report: Report) -> dict[str, Any]:
    def book(name: str, kind: str) -> tuple[int, str]:
        found = report.tally.sums.get((name, kind, "USD"))
        return (0, "0.00") if found is None else (found.count, _dollars(found.cents))

    notices = report.tally.notices
    autopay = played.autopay
    connection = await asyncpg.connect(state.superuser_dsn)
    try:
        kept = await connection.fetch(
            "SELECT source, count(*) AS n FROM payment_intake.events GROUP BY source"
        )
        lost = await connection.fetchval(
            "SELECT count(*) FROM cis_poster.failed_attempts WHERE outcome = 'lost'"
        )
        never = await connection.fetchrow(
            "SELECT p.status, (SELECT count(*) FROM payment_intake.movements m"
            " WHERE m.payment_id = p.id) AS movements"
            " FROM payment_intake.payments p JOIN payment_intake.payment_references r"
            " ON r.payment_id = p.id WHERE r.reference = 'pi_never_paid'"
        )
    finally:
        await connection.close()
    async with Remote(base_url=state.http_urls["cis"], bearer_key=state.secrets.cis_api_key) as cis:
        owes = (await cis.get("/v1/accounts/D-001"))["balance_cents"]
    events = {row["source"]: row["n"] for row in kept}
    counts = report.as_json()
    return {
        "payments accepted": book("accepted", "payment"),
        "payments on the ledger": book("ledger", "payment"),
        "payments in the CIS's journal": book("journal", "payment"),
        "payments confirmed to customers": book("told", "payment"),
        "reversals on the ledger": book("ledger", "reversal"),
        "reversals confirmed to customers": book("told", "reversal"),
        "declines told": book("told", "decline"),
        "in suspense": dict(report.tally.held),
        "Stripe's events kept, each once": events.get("stripe", 0),
        "Stripe's answers to autopay kept": events.get("stripe-api", 0),
        "the portal's events kept": sum(
            count for source, count in events.items() if source not in ("stripe", "stripe-api")
        ),
        "Stripe's events not taken": sum(sent.not_taken for sent in played.sent),
        "confirmations mailed": notices["posted sent"],
        "confirmations without an address": notices["posted skipped (no_address)"],
        "submitted, never paid": (never["status"], never["movements"]) if never else None,
        "account D-001 owes": _dollars(owes),
        "autopay: charges": dict(sorted(autopay.statuses.items())),
        "autopay: enrolments": dict(sorted(autopay.enrolments.items())),
        "autopay: charged while paused": autopay.charged_while_paused,
        "autopay: charged, by the processor's book": dict(sorted(autopay.charged.items())),
        "autopay: given back, by the processor's book": {
            account: _dollars(cents) for account, cents in autopay.given_back_cents.items()
        },
        "autopay: started, announced, held": tuple(
            notices[f"{kind} sent"]
            for kind in ("autopay_started", "charge_announced", "charge_held")
        ),
        "autopay: declined, stopped, given back": tuple(
            notices[f"{kind} sent"]
            for kind in ("charge_declined", "autopay_stopped", "charge_refunded")
        ),
        "old enrolments imported, refused, invited": (
            autopay.imported["imported"],
            autopay.imported["refused"],
            notices["autopay_invited sent"],
        ),
        "would lapse, first of all": autopay.lapsing[0]["account_id"] if autopay.lapsing else None,
        "starts of the killed service": played.restarts,
        "still on its way": played.pending.total,
        "lost, twice, invented": (counts["lost"], counts["twice"], counts["invented"]),
        "every book agrees with every other": report.holds,
        "answers lost by the CIS and asked about": lost,
        "customers told of the delay": notices["delayed sent"],
        "copies of events beyond the first": played.doubled,
    }


def _dollars(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return " / ".join(str(each) for each in value)
    if isinstance(value, dict):
        return ", ".join(f"{what}: {found}" for what, found in value.items()) or "none"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return str(value)
