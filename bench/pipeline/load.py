"""The payments of a run, and the real Stripe events that tell of them.

Invariant: no two payments of a load have the same account and amount, so that a line of the CIS's
journal and a mail each belong to one payment, whatever keys a yardstick gives them.

The events are those that the processor simulator makes of Stripe's own fixtures. Making one costs
it a large part of what the pipeline takes for a payment; so each kind is made once, cut at what
differs from payment to payment, and filled in anew for each. A test holds the bytes against those
of the simulator.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from paypost.simulators.processor.events import EventBuilder, Ids, PaymentIds, Purchase
from paypost.simulators.processor.processor import expand_accounts
from paypost.simulators.processor.scenarios import Scenarios, Train
from paypost.traffic.customers import Customer, customer_of

ACCOUNTS = 2_000
AMOUNT_CENTS_MIN = 500
AMOUNTS = 39_500
"""How many payments an account can have in one load: from 5.00 to 399.99."""
_STRIDE = 7_919
"""Prime to `AMOUNTS`, so that it meets each amount once before any comes again."""

_ID_LENGTH = 24


@dataclass(frozen=True, slots=True)
class Payment:
    """One payment of a load."""

    number: int
    account: str
    amount_cents: int


class TooManyPaymentsError(ValueError):
    """An account would get two payments of the same amount.

    Attributes:
        account: which.
    """

    def __init__(self, *, account: str) -> None:
        super().__init__(f"{account} cannot have more than {AMOUNTS} payments in one load")
        self.account = account


class Payments:
    """Deals out payments, each different from all before; `spread` says whose the next one is."""

    def __init__(
        self,
        *,
        accounts: Sequence[str],
        spread: Callable[[int], int] | None = None,
    ) -> None:
        """Args:
        accounts: who pays.
        spread: from a payment's number to the place of its account; in turn by default.
        """
        self.accounts = tuple(accounts)
        self._spread = spread or (lambda number: number % len(accounts))
        self._of_account: dict[str, int] = {}
        self._number = 0

    def take(self, *, count: int) -> list[Payment]:
        """The next payments.

        Raises:
            TooManyPaymentsError: an account has had every amount.
        """
        dealt = []
        for number in range(self._number, self._number + count):
            place = self._spread(number)
            account = self.accounts[place]
            turn = self._of_account.get(account, 0)
            if turn >= AMOUNTS:
                raise TooManyPaymentsError(account=account)
            self._of_account[account] = turn + 1
            amount_cents = AMOUNT_CENTS_MIN + (turn * _STRIDE + place) % AMOUNTS
            dealt.append(Payment(number, account, amount_cents))
        self._number += count
        return dealt


def account_names(*, count: int = ACCOUNTS) -> list[str]:
    """The accounts of a run."""
    return expand_accounts("B-#####", count=count)


def customers_of(*, accounts: Sequence[str]) -> Mapping[str, Customer]:
    """Their customers, by account."""
    return {account: customer_of(account=account) for account in accounts}


def third_to_the_first(*, accounts: int) -> Callable[[int], int]:
    """A spread in which every third payment is the first account's."""
    return lambda number: 0 if number % 3 == 0 else 1 + (number - number // 3) % (accounts - 1)


class EventTemplate:
    """One kind of event, ready to be filled in for a payment."""

    def __init__(self, *, event_type: str, make: Callable[[PaymentIds, Purchase], bytes]) -> None:
        self.event_type = event_type
        sample = make(_SAMPLE_IDS, _SAMPLE_PURCHASE)
        gaps = re.compile(b"|".join(re.escape(text) for text in _GAPS) + _OWN_IDS)
        self._parts: list[bytes] = []
        self._fill: list[str] = []
        end = 0
        for found in gaps.finditer(sample):
            self._parts.append(sample[end : found.start()])
            self._fill.append(_GAPS.get(found[0]) or found[0][:4].decode())
            end = found.end()
        self._parts.append(sample[end:])

    def render(self, *, values: Mapping[str, bytes]) -> bytes:
        """The event's body; `values` by what each gap is called."""
        pieces = [self._parts[0]]
        for name, part in zip(self._fill, self._parts[1:], strict=True):
            pieces.append(values[name])
            pieces.append(part)
        return b"".join(pieces)


_SAMPLE_IDS = PaymentIds(
    "pi_" + "p" * _ID_LENGTH, "ch_" + "c" * _ID_LENGTH, "pm_" + "m" * _ID_LENGTH
)
_SAMPLE_PURCHASE = Purchase(account="sample-account-number", amount_cents=987_654_321)
_SAMPLE_AT = datetime.fromtimestamp(1_234_567_890, UTC)
_SAMPLE_NEW = "n" * _ID_LENGTH
# Longest first where one is a part of another: a charge's id stands in its intent's secret, too.
_GAPS: dict[bytes, str] = {
    _SAMPLE_IDS.payment_intent.encode(): "intent",
    _SAMPLE_IDS.charge.encode(): "charge",
    _SAMPLE_IDS.charge[3:].encode(): "charge_tail",
    _SAMPLE_IDS.payment_method.encode(): "method",
    _SAMPLE_PURCHASE.account.encode(): "account",
    str(_SAMPLE_PURCHASE.amount_cents).encode(): "amount",
    str(int(_SAMPLE_AT.timestamp())).encode(): "created",
}
_OWN_IDS = b"|(?:evt|req|txn)_" + _SAMPLE_NEW.encode()


class _SampleIds(Ids):
    """Ids that can be found again in a body."""

    def __init__(self) -> None:
        super().__init__(chance=random.Random(0))

    def new(self, prefix: str) -> str:
        return f"{prefix}_{_SAMPLE_NEW}"


def template_of(*, event_type: str) -> EventTemplate:
    """The template of `payment_intent.*` or `charge.*` of a card payment."""
    builder = EventBuilder(ids=_SampleIds())
    build = builder.payment_intent if event_type.startswith("payment_intent") else builder.charge

    def make(ids: PaymentIds, purchase: Purchase) -> bytes:
        return build(event_type, ids=ids, purchase=purchase, at=_SAMPLE_AT).body

    return EventTemplate(event_type=event_type, make=make)


ONE_EVENT = ("payment_intent.succeeded",)


def train_types() -> tuple[str, ...]:
    """The events of a usual card payment in their order, as the processor simulator has them."""
    ids = Ids(chance=random.Random(0))
    scenarios = Scenarios(ids=ids, builder=EventBuilder(ids=ids))
    train: Train = scenarios.card(_SAMPLE_PURCHASE)
    return tuple(step.build(_SAMPLE_AT).type for step in train.steps)


class Events:
    """Makes the events of payments, each call with new ids: a payment's events are made once."""

    def __init__(self, *, event_types: Sequence[str] = ONE_EVENT, seed: int) -> None:
        self._templates = [template_of(event_type=event_type) for event_type in event_types]
        self._chance = random.Random(seed)

    @property
    def per_payment(self) -> int:
        """How many events tell of one payment."""
        return len(self._templates)

    @property
    def accepting(self) -> int:
        """The place of the event that says that the money was taken."""
        types = [template.event_type for template in self._templates]
        return types.index("payment_intent.succeeded")

    def bodies(self, payment: Payment, *, at: datetime) -> list[bytes]:
        """The bodies of a payment's events, in their order, as of this time."""
        intent, charge, method, request, booking, *own = self._new_ids()
        values = {
            "intent": b"pi_" + intent,
            "charge": b"ch_" + charge,
            "charge_tail": charge,
            "method": b"pm_" + method,
            "account": payment.account.encode(),
            "amount": b"%d" % payment.amount_cents,
            "created": b"%d" % int(at.timestamp()),
            "req_": b"req_" + request,
            "txn_": b"txn_" + booking,
        }
        bodies = []
        for template, event in zip(self._templates, own, strict=True):
            values["evt_"] = b"evt_" + event
            bodies.append(template.render(values=values))
        return bodies

    def _new_ids(self) -> list[bytes]:
        # As random as Stripe's: ids that came in order would flatter every index.
        count = 5 + len(self._templates)
        drawn = self._chance.randbytes(count * _ID_LENGTH // 2).hex().encode()
        return [drawn[at : at + _ID_LENGTH] for at in range(0, len(drawn), _ID_LENGTH)]
