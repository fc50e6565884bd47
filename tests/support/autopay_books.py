"""Whether autopay-scheduler's books are right: read from its tables and its outbox, by hand.

What is checked here is written down anew and asks nothing of the code under test.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from tests.support.autopay_scheduler import ZONE, SchedulerDatabase, Stated, charge_of

ENDED = {"paid", "failed", "skipped", "missed", "cancelled", "refunded"}
CLOSED = {"paid", "skipped", "missed", "cancelled", "refunded"}
NOTICE_DAYS = 10


async def errors_in(rows: SchedulerDatabase, *, is_drained: bool = True) -> list[str]:
    """Return what is wrong; nothing, in order."""
    stated = await rows.stated()
    charges = [dict(row) for row in await rows.fetch("SELECT * FROM charges")]
    enrolments = [dict(row) for row in await rows.fetch("SELECT * FROM enrolments")]
    told = [dict(row) for row in await rows.fetch("SELECT * FROM announcements")]
    words = [
        dict(row)
        for row in await rows.fetch(
            "SELECT enrolment_id, said_at, document->'rule' AS rule FROM mandates"
            " WHERE type IN ('autopay.enrolled', 'autopay.changed')"
        )
    ]
    return [
        *_enrolments(enrolments, stated),
        *_charges(charges, enrolments),
        *_requests(charges, words, told, stated),
        *_announcements(told, stated),
        *_ends(charges, stated),
        *(_leftovers(charges, enrolments) if is_drained else ()),
    ]


async def assert_in_order(rows: SchedulerDatabase, *, is_drained: bool = True) -> None:
    found = await errors_in(rows, is_drained=is_drained)
    assert not found, "\n".join(found[:20])


def _enrolments(enrolments: Sequence[Mapping[str, Any]], stated: Sequence[Stated]) -> Iterable[str]:
    on = Counter(row["account_id"] for row in enrolments if row["status"] in ("active", "paused"))
    for account_id, count in on.items():
        if count > 1:
            yield f"account {account_id} has {count} enrolments that are on"
    activated = {fact["enrolment_id"] for fact in stated if fact.type == "enrolment.activated"}
    stops = Counter(fact["enrolment_id"] for fact in stated if fact.type == "enrolment.stopped")
    for row in enrolments:
        key = str(row["id"])
        is_off = row["status"] == "stopped"
        if row["status"] in ("active", "paused") and key not in activated:
            yield f"enrolment {key} is on, and nobody was told"
        if is_off and key in activated and stops[key] != 1:
            yield f"enrolment {key} was stopped, and told {stops[key]} times"
        if not is_off and stops[key]:
            yield f"enrolment {key} was told to be stopped, and is {row['status']}"


def _charges(
    charges: Sequence[Mapping[str, Any]], enrolments: Sequence[Mapping[str, Any]]
) -> Iterable[str]:
    references = {row["id"]: row["reference"] for row in enrolments}
    for row in charges:
        key = charge_of(references[row["enrolment_id"]], row["due_date"])
        if row["id"] != key:
            yield f"charge {row['id']} is not the one of its enrolment and due date"
        if (row["status"] in ENDED) is not (row["act_at"] is None):
            yield f"charge {key} is {row['status']}, and to be looked at {row['act_at']}"
        if row["attempt"] and not row["requested_cents"]:
            yield f"charge {key} was asked for, and nobody knows how much"
        if row["status"] in ("requested", "pending", "paid", "failed") and not row["attempt"]:
            yield f"charge {key} is {row['status']} and was never asked for"


def _requests(
    charges: Sequence[Mapping[str, Any]],
    words: Sequence[Mapping[str, Any]],
    told: Sequence[Mapping[str, Any]],
    stated: Sequence[Stated],
) -> Iterable[str]:
    by_charge: dict[UUID, dict[int, Stated]] = defaultdict(dict)
    for fact in stated:
        if fact.type != "charge.requested":
            continue
        known = by_charge[UUID(fact["charge_id"])].setdefault(fact["attempt"], fact)
        if known.id != fact.id or _without_names(known) != _without_names(fact):
            yield f"attempt {fact['attempt']} of {fact['charge_id']} was stated in two ways"
    agreed: dict[UUID, list[Mapping[str, Any]]] = defaultdict(list)
    for word in words:
        agreed[word["enrolment_id"]].append(word)
    announced: dict[UUID, list[Mapping[str, Any]]] = defaultdict(list)
    for row in told:
        announced[row["charge_id"]].append(row)
    for row in charges:
        asked = by_charge.pop(row["id"], {})
        if sorted(asked) != list(range(1, row["attempt"] + 1)):
            yield f"charge {row['id']} is at attempt {row['attempt']}; stated: {sorted(asked)}"
        amounts = [asked[attempt]["amount_cents"] for attempt in sorted(asked)]
        if amounts != sorted(amounts, reverse=True):
            yield f"charge {row['id']} was asked for more the second time: {amounts}"
        if asked:
            yield from _notice(row, asked[1], announced[row["id"]], agreed[row["enrolment_id"]])
    for charge_id in by_charge:
        yield f"charge {charge_id} was asked for and is not known"


def _notice(
    row: Mapping[str, Any],
    request: Stated,
    told: Sequence[Mapping[str, Any]],
    agreed: Sequence[Mapping[str, Any]],
) -> Iterable[str]:
    """Nothing is charged above what was announced, with its notice kept where one is owed."""
    requested_at = datetime.fromisoformat(request["requested_at"])
    asked_on = _day(requested_at)
    is_owed = all(_owes_notice(rule) for rule in _in_force(agreed, requested_at))
    kept = [
        each["amount_cents"]
        for each in told
        if not is_owed
        or (
            each["status"] == "sent"
            and _day(each["noticed_at"]) + timedelta(days=NOTICE_DAYS) <= asked_on
        )
    ]
    if request["amount_cents"] > max(kept, default=0):
        yield f"charge {row['id']} was asked for {request['amount_cents']}; announced: {kept}"


def _in_force(agreed: Sequence[Mapping[str, Any]], at: datetime) -> Iterable[Mapping[str, Any]]:
    """The rule that was agreed on last, and any that was said at that very moment."""
    before = [word for word in agreed if word["said_at"] < at]
    last = max((word["said_at"] for word in before), default=at)
    for word in agreed:
        if word["said_at"] in (last, at):
            yield _json(word["rule"])


def _owes_notice(rule: Mapping[str, Any]) -> bool:
    return rule["amount"] != "fixed" and rule["maximum_cents"] is None


def _json(value: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = orjson.loads(value) if isinstance(value, str) else value
    return found


def _announcements(told: Sequence[Mapping[str, Any]], stated: Sequence[Stated]) -> Iterable[str]:
    facts: dict[str, set[UUID]] = defaultdict(set)
    for fact in stated:
        if fact.type == "charge.announced":
            facts[f"{fact['charge_id']}:{fact['version']}"].add(fact.id)
    for row in told:
        name = f"{row['charge_id']}:{row['version']}"
        if facts.pop(name, set()) != {row["fact_id"]}:
            yield f"announcement {name} was not stated as it is kept"
    for name in facts:
        yield f"announcement {name} was stated and is not kept"
    versions: dict[UUID, list[int]] = defaultdict(list)
    for row in told:
        versions[row["charge_id"]].append(row["version"])
    for charge_id, found in versions.items():
        if sorted(found) != list(range(1, len(found) + 1)):
            yield f"announcements of {charge_id} leave versions out: {sorted(found)}"


def _ends(charges: Sequence[Mapping[str, Any]], stated: Sequence[Stated]) -> Iterable[str]:
    outcomes: dict[str, set[str]] = defaultdict(set)
    for fact in stated:
        if fact.type == "charge.closed":
            outcomes[fact["charge_id"]].add(fact["outcome"])
        elif fact.type in ("charge.held", "charge.failed"):
            outcomes[fact["charge_id"]].add(fact.type.removeprefix("charge."))
    for row in charges:
        key, status = str(row["id"]), row["status"]
        if status in CLOSED | {"held", "failed"} and status not in outcomes[key]:
            yield f"charge {key} is {status}, and nobody was told"
        if "paid" in outcomes[key] and status not in ("paid", "refunded", "failed"):
            yield f"charge {key} was told to be paid, and is {status}"


def _leftovers(
    charges: Sequence[Mapping[str, Any]], enrolments: Sequence[Mapping[str, Any]]
) -> Iterable[str]:
    on = {row["id"] for row in enrolments if row["status"] in ("active", "paused")}
    for row in charges:
        is_waiting = row["status"] in ("planned", "announced", "held", "retrying")
        if is_waiting and row["enrolment_id"] not in on and row["status"] != "held":
            yield f"charge {row['id']} is {row['status']} though its enrolment is off"
        if row["status"] == "planned":
            yield f"charge {row['id']} is still to be announced"


def _without_names(fact: Stated) -> dict[str, Any]:
    return {name: value for name, value in fact.body.items() if name != "method"}


def _day(instant: datetime) -> date:
    return instant.astimezone(ZONE).date()
