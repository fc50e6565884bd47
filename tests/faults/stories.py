"""Whether a payment's timeline tells all of it: what `paypost trace` shows a clerk."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from tests.faults.controls import Controls
from tests.faults.journals import TOLD_AS, Journals, Payment

from paypost.trace.timeline import PaymentNotFoundError, Timeline, find_payment, read_timeline

STORIES_MAX = 12
WAIT_SECONDS = 4.0
"""From acceptance to the ledger: what took longer has to say why."""
REASONS = ("attempt:", "held back", "in hand", "announced", "delayed", "on its way")


async def read_stories(
    *, controls: Controls, journals: Journals, chance: random.Random
) -> dict[str, Sequence[str]]:
    """By reference, what the timelines of some payments lack: half drawn, half the slowest."""
    posted = {
        (each.account, each.amount_cents): each.posted_at
        for each in journals.effects
        if each.kind == "payment"
    }
    first_sent = {}
    for attempt in journals.attempts:
        first_sent.setdefault(attempt.reference, attempt.sent_at)
    owed = [
        each
        for each in journals.payments
        if (each.account, each.amount_cents) in posted
        and each.reference in first_sent
        and each.told
    ]
    slowest = sorted(
        owed,
        key=lambda each: posted[each.account, each.amount_cents] - first_sent[each.reference],
        reverse=True,
    )[: STORIES_MAX // 2]
    drawn = chance.sample(owed, k=min(len(owed), STORIES_MAX // 2))
    stories: dict[str, Sequence[str]] = {}
    async with controls.database() as connection:
        for payment in {each.reference: each for each in (*slowest, *drawn)}.values():
            try:
                payment_id = await find_payment(connection=connection, name=payment.reference)
                timeline = await read_timeline(
                    connection=connection, state=controls.state, payment_id=payment_id
                )
            except PaymentNotFoundError as error:
                stories[payment.reference] = [str(error)]
            else:
                lacks = lacks_of(payment=payment, moments=moments_of(timeline))
                stories[payment.reference] = [*lacks, *timeline.waits()]
    return stories


def moments_of(timeline: Timeline) -> list[Mapping[str, object]]:
    """The moments with the seconds since the payment's acceptance."""
    found: list[Mapping[str, object]] = timeline.as_json()["moments"]
    return found


def lacks_of(*, payment: Payment, moments: Sequence[Mapping[str, object]]) -> list[str]:
    """What a timeline should tell of a payment that has come through, and does not."""
    told = [(str(each["where"]), str(each["what"])) for each in moments]
    lacks = [] if any(what.startswith("heard") for _, what in told) else ["no event of it"]
    for kind in sorted({kind for kind, _ in payment.movements}):
        steps = (
            ("payment-intake", f"accepted {kind}"),
            ("cis-poster", f"took {kind}"),
            ("cis-poster", f"{kind} posted"),
            ("CIS ledger", f"{kind} stands"),
            ("notifier", f"took {TOLD_AS[kind]!r}"),
            ("notifier", f"{TOLD_AS[kind]!r} sent"),
            ("payment-intake", f"{kind} confirmed"),
        )
        lacks += [
            f"{where} does not say {what!r}" for where, what in steps if (where, what) not in told
        ]
    if not any(where == "mail server" for where, _ in told):
        lacks.append("no mail")
    stood = [
        float(str(each["after_seconds"])) for each in moments if each["what"] == "payment stands"
    ]
    said = " ".join(f"{each['what']} {each['detail']}" for each in moments)
    if stood and stood[0] > WAIT_SECONDS and not any(reason in said for reason in REASONS):
        lacks.append(f"{stood[0]:.1f} s until it was on the ledger, and nothing says why")
    return lacks
