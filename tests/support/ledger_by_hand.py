"""What the ledger must show of a payment: worked out from the set of what was said, no order."""

from collections.abc import Sequence
from datetime import datetime

from payment_intake.domain import Heard, Observation


def ledger_by_hand(
    observations: Sequence[Observation], *, net_cents: int, post_pending: bool
) -> int:
    """Return what is on the ledger in the end, whatever the order and the repetitions."""

    def of(*whats: Heard) -> list[Observation]:
        return [each for each in observations if each.heard in whats]

    def latest(found: Sequence[Observation]) -> datetime | None:
        return max((each.at for each in found), default=None)

    submitted, failed = latest(of(Heard.PENDING)), latest(of(Heard.FAILED, Heard.CANCELLED))
    is_pending = submitted is not None and (failed is None or submitted > failed)
    if not of(Heard.CAPTURED) and not (post_pending and is_pending):
        return 0
    back = 0
    if refunds := of(Heard.REFUNDED):
        last = max(refunds, key=lambda each: (each.at, each.amount_cents))
        first_failures = {}
        for each in sorted(of(Heard.REFUND_FAILED), key=lambda each: each.at, reverse=True):
            first_failures[each.part] = each
        failed_cents = sum(e.amount_cents for e in first_failures.values() if e.at >= last.at)
        back += max(0, last.amount_cents - failed_cents)
    disputes = {each.part: each.amount_cents for each in of(Heard.FUNDS_WITHDRAWN)}
    for part, amount_cents in disputes.items():
        withdrawn = latest([e for e in of(Heard.FUNDS_WITHDRAWN) if e.part == part])
        reinstated = latest([e for e in of(Heard.FUNDS_REINSTATED) if e.part == part])
        if withdrawn is not None and (reinstated is None or reinstated < withdrawn):
            back += amount_cents
    return net_cents - min(net_cents, back)
