"""What the processor has done: the records, and every operation of the API on them.

Invariant: an intent that has succeeded, or is processing, is never charged again. An operation
either raises before it has changed anything or returns the Change that it has applied. Nothing here
waits, so operations cannot interleave.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from paypost.simulators.processor.errors import (
    ApiError,
    invalid,
    missing_resource,
    unexpected_state,
)
from paypost.simulators.processor.events import Ids
from paypost.simulators.processor.objects import API_VERSION_OF_LATEST_CHARGE, Renderer
from paypost.simulators.processor.records import (
    Announcement,
    BankFile,
    Change,
    Charge,
    Customer,
    Intent,
    Mandate,
    Method,
    PaymentError,
    Refund,
)
from paypost.simulators.processor.tokens import (
    BANK_METHOD,
    CARD_METHOD,
    Behaviour,
    Failure,
    ach_return,
    behaviour_of,
)

ACH_DAYS = 4
REFUND_DAYS = 4
"""How long a refund to a bank account takes, and after how long one to a dead card comes back."""

CHANGEABLE = ("requires_payment_method", "requires_confirmation", "requires_action")
CANCELLATION_REASONS = frozenset({"duplicate", "fraudulent", "requested_by_customer", "abandoned"})
REFUND_REASONS = frozenset({"duplicate", "fraudulent", "requested_by_customer"})
INACTIVE_MANDATE = "mandate_script_inactive"
MISSING_CUSTOMER = "cus_script_missing"

# Stripe's API reference, "Dispute object": reasons of debits.
_DISPUTE_REASONS = frozenset({"debit_not_authorized", "insufficient_funds"})

# Payment methods that are tokens only were not made at any time; the fixture's time is as good.
TOKEN_CREATED = 1_648_320_107


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """How an intent is to be confirmed."""

    method: str | None = None
    off_session: bool = False
    error_on_requires_action: bool = False
    mandate: str | None = None
    key: str | None = None
    """The request's idempotency key; recorded with the charge."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Members of the intent that are set with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page of a list, newest first."""

    intents: Sequence[Intent]
    has_more: bool


class Ledger:
    """All records, in memory; `apply` brings back what a journal holds."""

    def __init__(
        self,
        *,
        ids: Ids,
        clock: Callable[[], datetime],
        bank_decides: bool = False,
    ) -> None:
        self._ids = ids
        self._clock = clock
        self._bank_decides = bank_decides
        self.intents: dict[str, Intent] = {}
        self.charges: dict[str, Charge] = {}
        self.refunds: dict[str, Refund] = {}
        self.customers: dict[str, Customer] = {}
        self.methods: dict[str, Method] = {}
        self.files: dict[int, BankFile] = {}
        self.withdrawn: dict[str, Mandate] = {}
        # In the order of creation, so that a page is found without sorting.
        self._intent_ids: list[str] = []
        self._intent_ids_of: dict[str, list[str]] = {}
        self._refund_ids_of: dict[str, list[str]] = {}
        self._waiting: dict[str, int] = {}
        self._pending: dict[str, None] = {}
        self._charge_of_trace: dict[str, str] = {}
        self._places: dict[str, int] = {}

    # Reading

    def intent(self, identifier: str, *, param: str = "intent", in_path: bool = True) -> Intent:
        """Return an intent. Raises ApiError `resource_missing`."""
        found = self.intents.get(identifier)
        if found is None:
            raise missing_resource("payment_intent", identifier, param=param, in_path=in_path)
        return found

    def charge(self, identifier: str, *, param: str = "charge", in_path: bool = True) -> Charge:
        """Return a charge. Raises ApiError `resource_missing`."""
        found = self.charges.get(identifier)
        if found is None:
            raise missing_resource("charge", identifier, param=param, in_path=in_path)
        return found

    def refund(self, identifier: str) -> Refund:
        """Return a refund. Raises ApiError `resource_missing`."""
        found = self.refunds.get(identifier)
        if found is None:
            raise missing_resource("refund", identifier, param="refund", in_path=True)
        return found

    def method(
        self, identifier: str, *, param: str = "payment_method", in_path: bool = False
    ) -> Method:
        """Return a payment method; a token's is made up. Raises ApiError `resource_missing`."""
        held = self.methods.get(identifier)
        if held is not None:
            return held
        behaviour = behaviour_of(identifier)
        if behaviour is None:
            raise missing_resource("PaymentMethod", identifier, param=param, in_path=in_path)
        return Method(
            id=identifier,
            token=identifier,
            type=behaviour.method_type,
            last4=behaviour.last4,
            created=TOKEN_CREATED,
        )

    def customer(self, identifier: str, *, in_path: bool = False) -> Customer:
        """Return a customer; any `cus_…` but one exists. Raises ApiError `resource_missing`."""
        held = self.customers.get(identifier)
        if held is not None:
            return held
        if not identifier.startswith("cus_") or identifier.startswith(MISSING_CUSTOMER):
            param = "id" if in_path else "customer"
            raise missing_resource("customer", identifier, param=param, in_path=in_path)
        return Customer(id=identifier, created=TOKEN_CREATED)

    def refunds_of(self, charge: str | None) -> tuple[Refund, ...]:
        """Return a charge's refunds, oldest first."""
        return tuple(self.refunds[one] for one in self._refund_ids_of.get(charge or "", ()))

    def render(self, renderer: Renderer, intent: Intent) -> dict[str, Any]:
        """Return an intent as JSON, with its latest charge where the version has it inside."""
        latest = intent.latest_charge
        charge = self.charges.get(latest) if latest else None
        return renderer.intent(intent, charge=charge, refunds=self.refunds_of(latest))

    def page(
        self,
        *,
        customer: str | None,
        created: tuple[int, int],
        limit: int,
        starting_after: str | None,
        ending_before: str | None,
    ) -> Page:
        """Return a page of intents. Raises ApiError when a cursor names nothing."""
        ids = self._intent_ids if customer is None else self._intent_ids_of.get(customer, [])
        low = bisect_left(ids, created[0], key=lambda one: self.intents[one].created)
        high = bisect_right(ids, created[1], key=lambda one: self.intents[one].created)
        if starting_after is not None:
            place = self._place(starting_after, "starting_after")
            high = min(high, bisect_left(ids, place, key=self._places.__getitem__))
        if ending_before is not None:
            place = self._place(ending_before, "ending_before")
            low = max(low, bisect_right(ids, place, key=self._places.__getitem__))
            chosen = ids[low : min(high, low + limit)]
            return self._page(chosen, has_more=high - low > limit)
        chosen = ids[max(low, high - limit) : max(low, high)]
        return self._page(chosen, has_more=high - low > limit)

    def _page(self, ids: Sequence[str], *, has_more: bool) -> Page:
        return Page(intents=[self.intents[one] for one in reversed(ids)], has_more=has_more)

    def _place(self, identifier: str, param: str) -> int:
        self.intent(identifier, param=param, in_path=False)
        return self._places[identifier]

    # Operations

    def create_customer(self, customer: Customer) -> tuple[Customer, Change]:
        """Make a customer; its id and time are given here."""
        made = replace(customer, id=self._ids.new("cus"), created=self._now())
        return made, self._applied(Change(customers=(made,)))

    def create_method(
        self, *, token: str, method_type: str, last4: str | None, metadata: Mapping[str, str]
    ) -> tuple[Method, Change]:
        """Make a payment method that does what a token does. Raises ApiError."""
        like = self.method(token, param="type")
        if like.type != method_type:
            raise invalid(f"That token is no {method_type}.", param="type")
        made = replace(
            like,
            id=self._ids.new("pm"),
            last4=last4 or like.last4,
            created=self._now(),
            metadata=metadata,
        )
        return made, self._applied(Change(methods=(made,)))

    def attach_method(self, identifier: str, *, customer: str) -> tuple[Method, Change]:
        """Attach a payment method to a customer. Raises ApiError."""
        held = self.method(identifier, in_path=True)
        if held.customer is not None:
            raise ApiError(
                status=400,
                message="The payment method you provided has already been attached to a customer.",
                executed=True,
            )
        made = replace(held, customer=self.customer(customer).id)
        return made, self._applied(Change(methods=(made,)))

    def create(self, draft: Intent, *, confirm: Confirmation | None) -> tuple[Intent, Change]:
        """Make an intent and, where asked, confirm it; its id and time are given here.

        An attempt that fails is no error here: the intent says so. Raises ApiError.
        """
        if draft.customer is not None:
            self.customer(draft.customer)
        if draft.method is not None:
            self._check_method(draft, draft.method)
        made = replace(
            draft,
            id=self._ids.new("pi"),
            created=self._now(),
            status="requires_confirmation" if draft.method else "requires_payment_method",
        )
        created = replace(made, status="requires_payment_method", method=None)
        announcements = (self._announce("payment_intent.created", intent=created),)
        if confirm is None:
            return made, self._applied(Change(intents=(made,), announcements=announcements))
        intent, charge, more = self._attempt(made, confirm)
        change = Change(
            intents=(intent,),
            charges=(charge,) if charge else (),
            announcements=(*announcements, *more),
        )
        return intent, self._applied(change)

    def confirm(self, identifier: str, *, confirm: Confirmation) -> tuple[Intent, Change]:
        """Make another attempt on an intent. Raises ApiError; see `create`."""
        held = self.intent(identifier)
        if held.status not in CHANGEABLE:
            done = {
                "succeeded": "it has already succeeded after being previously confirmed",
                "canceled": "it has been canceled",
            }.get(held.status, f"it has a status of {held.status}")
            raise self._unexpected(held, f"You cannot confirm this PaymentIntent because {done}.")
        held = replace(held, **confirm.changes)
        intent, charge, announcements = self._attempt(held, confirm)
        change = Change(
            intents=(intent,),
            charges=(charge,) if charge else (),
            announcements=announcements,
        )
        return intent, self._applied(change)

    def modify(self, identifier: str, *, changes: Mapping[str, Any]) -> tuple[Intent, Change]:
        """Change an intent's members; money and method only before it is charged.

        Raises ApiError.
        """
        held = self.intent(identifier)
        fixed = {"amount_cents", "currency", "customer", "method", "method_types"}
        if held.status not in CHANGEABLE and fixed & set(changes):
            name = {"amount_cents": "amount", "method": "payment_method"}
            first = min(fixed & set(changes))
            raise self._unexpected(
                held,
                f"This PaymentIntent's {name.get(first, first)} could not be updated because it"
                f" has a status of {held.status}. You may only update the"
                f" {name.get(first, first)} of a PaymentIntent with one of the following"
                f" statuses: {', '.join(CHANGEABLE)}.",
            )
        made = replace(held, **changes)
        if made.customer is not None and made.customer != held.customer:
            self.customer(made.customer)
        if made.method is not None and made.method != held.method:
            self._check_method(made, made.method)
            made = replace(made, status="requires_confirmation")
        return made, self._applied(Change(intents=(made,)))

    def cancel(self, identifier: str, *, reason: str | None) -> tuple[Intent, Change]:
        """Cancel an intent that has not been charged. Raises ApiError.

        A debit that is processing can be cancelled only where its method says so.
        """
        held = self.intent(identifier)
        charge = self.charges.get(held.latest_charge or "")
        recalled = charge is not None and self._is_recallable(held, charge)
        if held.status not in CHANGEABLE and not recalled:
            raise self._unexpected(
                held,
                "You cannot cancel this PaymentIntent because it has a status of"
                f" {held.status}. Only a PaymentIntent with one of the following statuses may be"
                f" canceled: requires_payment_method, requires_capture,"
                " requires_confirmation, requires_action, processing.",
            )
        now = self._now()
        made = replace(
            held, status="canceled", cancelled_at=now, cancellation_reason=reason, error=held.error
        )
        charges: tuple[Charge, ...] = ()
        if recalled and charge is not None:
            charges = (replace(charge, status="failed", settles_at=None, ended_at=now),)
        announcement = self._announce(
            "payment_intent.canceled", intent=made, charge=charges[0] if charges else None
        )
        return made, self._applied(
            Change(intents=(made,), charges=charges, announcements=(announcement,))
        )

    def refund_charge(self, draft: Refund, *, amount_cents: int | None) -> tuple[Refund, Change]:
        """Give money of a succeeded charge back; `draft` names intent or charge. Raises ApiError.

        Without an amount it is all that is left.
        """
        charge = self._refundable(draft)
        left_cents = charge.amount_cents - charge.refunded_cents
        if left_cents == 0:
            raise ApiError(
                status=400,
                message=f"Charge {charge.id} has already been refunded.",
                code="charge_already_refunded",
                executed=True,
            )
        amount_cents = left_cents if amount_cents is None else amount_cents
        if amount_cents > left_cents:
            raise ApiError(
                status=400,
                message=f"Refund amount (${amount_cents / 100:.2f}) is greater than unrefunded"
                f" amount on charge (${left_cents / 100:.2f})",
                param="amount",
                executed=True,
            )
        by_bank = charge.method_type == BANK_METHOD
        fails = self._behaviour(charge.method).refund_fails
        made = replace(
            draft,
            id=self._ids.new("re"),
            created=self._now(),
            charge=charge.id,
            intent=charge.intent,
            amount_cents=amount_cents,
            currency=charge.currency,
            status="pending" if by_bank else "succeeded",
            balance_transaction=self._ids.new("txn"),
            settles_at=self._in_days(REFUND_DAYS) if by_bank or fails else None,
            fails=fails,
        )
        charge = replace(charge, refunded_cents=charge.refunded_cents + amount_cents)
        refunds = (*self.refunds_of(charge.id), made)
        announcements = (
            self._announce("refund.created", refunds=(made,)),
            self._announce("charge.refunded", charge=charge, refunds=refunds),
        )
        return made, self._applied(
            Change(charges=(charge,), refunds=(made,), announcements=announcements)
        )

    def settle_due(self) -> list[Change]:
        """End every debit and refund whose day has come, the earliest first."""
        now = self._now()
        due = sorted((at, identifier) for identifier, at in self._waiting.items() if at <= now)
        return [self._settle(identifier) for _, identifier in due]

    def hand_over(self, *, routing_number: str, debits_max: int) -> Change | None:
        """Put debits that no bank has yet into a new file; None when there are none.

        Each gets its trace number: eight digits of the originating bank, seven of its own.
        """
        waiting = [charge for charge in self.pending_debits() if charge.trace is None]
        if not waiting:
            return None
        first = len(self._charge_of_trace) + 1
        charges = tuple(
            replace(charge, trace=f"{routing_number[:8]}{number % 10**7:07d}")
            for number, charge in enumerate(waiting[:debits_max], start=first)
        )
        file = BankFile(
            number=len(self.files),
            created=self._now(),
            charges=tuple(charge.id for charge in charges),
        )
        return self._applied(Change(charges=charges, files=(file,)))

    def take_file(self, number: int) -> Change:
        """Note that the bank has a file: the days of its debits begin."""
        file = self.files[number]
        settles_at = self._in_days(ACH_DAYS)
        charges = tuple(
            replace(self.charges[identifier], settles_at=settles_at)
            for identifier in file.charges
            if self.charges[identifier].status == "pending"
        )
        return self._applied(Change(charges=charges, files=(replace(file, taken=True),)))

    def return_debit(self, trace: str, *, return_code: str) -> Change | None:
        """Let the bank return the debit of this trace number; None when that is nothing new.

        A pending one fails. One that has succeeded is disputed and lost, as Stripe does it: the
        money was made available and is taken back.
        """
        charge = self.charges.get(self._charge_of_trace.get(trace, ""))
        if charge is None or charge.dispute is not None or charge.status == "failed":
            return None
        failure = ach_return(return_code)
        if charge.status == "pending":
            return self._end_debit(charge, failure=failure)
        reason = failure.code if failure.code in _DISPUTE_REASONS else "bank_cannot_process"
        disputed = replace(charge, dispute=self._ids.new("dp"), dispute_reason=reason)
        steps = ("created", "funds_withdrawn", "closed")
        disputes = [self._announce(f"charge.dispute.{step}", charge=disputed) for step in steps]
        mandates, told = self._withdrawn_by(disputed, failure)
        return self._applied(
            Change(charges=(disputed,), mandates=mandates, announcements=(*disputes, *told))
        )

    def withdraw_mandate(self, identifier: str, *, method: str) -> Change:
        """Let a customer withdraw a mandate at the bank. Raises ApiError."""
        mandate = Mandate(id=identifier, method=self.method(method).id)
        event = self._announce("mandate.updated", mandate=mandate)
        return self._applied(Change(mandates=(mandate,), announcements=(event,)))

    def renew_card(self, identifier: str, *, last4: str, month: int, year: int) -> Change:
        """Let the network replace a card under the same payment method. Raises ApiError."""
        made = replace(self.method(identifier), last4=last4, expires_month=month, expires_year=year)
        event = self._announce("payment_method.automatically_updated", method=made)
        return self._applied(Change(methods=(made,), announcements=(event,)))

    def pending_debits(self) -> Iterator[Charge]:
        """Yield the debits that are under way."""
        for identifier in self._pending:
            yield self.charges[identifier]

    @property
    def scheduled(self) -> int:
        """Return how many debits and refunds wait for their day."""
        return len(self._waiting)

    def apply(self, change: Change) -> None:
        """Take over a change's records; an id that is known is replaced."""
        for customer in change.customers:
            self.customers[customer.id] = customer
        for method in change.methods:
            self.methods[method.id] = method
        for intent in change.intents:
            self._put_intent(intent)
        for charge in change.charges:
            self.charges[charge.id] = charge
            self._wait(charge.id, charge.settles_at)
            if charge.trace is not None:
                self._charge_of_trace[charge.trace] = charge.id
            if charge.status == "pending":
                self._pending[charge.id] = None
            else:
                self._pending.pop(charge.id, None)
        for mandate in change.mandates:
            self.withdrawn[mandate.id] = mandate
        for file in change.files:
            self.files[file.number] = file
        for refund in change.refunds:
            if refund.id not in self.refunds:
                self._refund_ids_of.setdefault(refund.charge, []).append(refund.id)
            self.refunds[refund.id] = refund
            self._wait(refund.id, refund.settles_at)

    def _put_intent(self, intent: Intent) -> None:
        held = self.intents.get(intent.id)
        self.intents[intent.id] = intent
        if held is None:
            self._places[intent.id] = len(self._intent_ids)
            self._intent_ids.append(intent.id)
        if held is not None and held.customer != intent.customer and held.customer is not None:
            self._intent_ids_of[held.customer].remove(intent.id)
        if intent.customer is not None and (held is None or held.customer != intent.customer):
            # A customer that is given later stands where the intent was created.
            ids = self._intent_ids_of.setdefault(intent.customer, [])
            place = self._places[intent.id]
            ids.insert(bisect_left(ids, place, key=self._places.__getitem__), intent.id)

    def _wait(self, identifier: str, at: int | None) -> None:
        if at is None:
            self._waiting.pop(identifier, None)
        else:
            self._waiting[identifier] = at

    def _applied(self, change: Change) -> Change:
        self.apply(change)
        return change

    def _is_recallable(self, intent: Intent, charge: Charge) -> bool:
        if intent.status != "processing" or charge.trace is not None:
            return False
        return self._bank_decides or self._behaviour(charge.method).cancellable

    def _attempt(
        self, intent: Intent, confirm: Confirmation
    ) -> tuple[Intent, Charge | None, tuple[Announcement, ...]]:
        token = confirm.method or intent.method
        if token is None:
            raise self._unexpected(
                intent,
                "You cannot confirm this PaymentIntent because it's missing a payment method. You"
                " can either update the PaymentIntent with a payment method and then confirm it"
                " again, or confirm it again directly with a payment method or ConfirmationToken.",
            )
        method = self._check_method(intent, token)
        self._check_mandate(confirm.mandate)
        behaviour = self._behaviour(token)
        attempt = intent.attempts + 1
        failure = behaviour.failure_of(attempt=attempt)
        intent = replace(intent, attempts=attempt, method=token, error=None)
        if failure and behaviour.needs_action and not confirm.off_session:
            if not confirm.error_on_requires_action:
                waiting = replace(intent, status="requires_action")
                return waiting, None, (self._announce("payment_intent.requires_action", waiting),)
            error = PaymentError(failure=failure, charge=None, method=method)
            failed = replace(intent, status="requires_payment_method", method=None, error=error)
            return failed, None, (self._announce("payment_intent.payment_failed", failed),)
        charge = self._new_charge(intent, method, confirm, attempt)
        if method.type == BANK_METHOD:
            charge = replace(
                charge,
                status="pending",
                # Where a bank decides, its days begin when it has the debit.
                settles_at=None if self._bank_decides else self._in_days(ACH_DAYS),
            )
            intent = replace(intent, status="processing", latest_charge=charge.id)
            return intent, charge, (self._announce("payment_intent.processing", intent, charge),)
        return self._ended(intent, charge, failure)

    def _ended(
        self, intent: Intent, charge: Charge, failure: Failure | None
    ) -> tuple[Intent, Charge, tuple[Announcement, ...]]:
        charge = replace(charge, ended_at=self._now(), settles_at=None)
        if failure is not None:
            error = PaymentError(
                failure=failure, charge=charge.id, method=self.method(charge.method)
            )
            charge = replace(charge, status="failed", failure=failure)
            intent = replace(
                intent,
                status="requires_payment_method",
                method=None,
                error=error,
                latest_charge=charge.id,
            )
            return (
                intent,
                charge,
                (
                    self._announce("charge.failed", charge=charge),
                    self._announce("payment_intent.payment_failed", intent, charge),
                ),
            )
        taken = replace(charge, status="succeeded")
        intent = replace(intent, status="succeeded", latest_charge=charge.id)
        booked = replace(taken, balance_transaction=self._ids.new("txn"))
        announcements = (
            self._announce("charge.succeeded", charge=taken),
            self._announce("payment_intent.succeeded", intent, taken),
            self._announce("charge.updated", charge=booked),
        )
        # Of a debit Stripe announces the booking together with the success.
        by_bank = charge.method_type == BANK_METHOD
        return intent, booked, announcements[:2] if by_bank else announcements

    def _end_debit(self, charge: Charge, *, failure: Failure | None) -> Change:
        intent, charge, announcements = self._ended(self.intents[charge.intent], charge, failure)
        mandates, told = self._withdrawn_by(charge, failure)
        return self._applied(
            Change(
                intents=(intent,),
                charges=(charge,),
                mandates=mandates,
                announcements=(*announcements, *told),
            )
        )

    def _withdrawn_by(
        self, charge: Charge, failure: Failure | None
    ) -> tuple[tuple[Mandate, ...], tuple[Announcement, ...]]:
        """Return the mandate that a return as not authorised has ended, and what tells of it."""
        if charge.mandate is None or failure is None or failure.code != "debit_not_authorized":
            return (), ()
        mandate = Mandate(id=charge.mandate, method=charge.method)
        return (mandate,), (self._announce("mandate.updated", mandate=mandate),)

    def _settle(self, identifier: str) -> Change:
        charge = self.charges.get(identifier)
        if charge is not None:
            # A bank that is really asked has returned by now what it returns.
            behaviour = Behaviour() if self._bank_decides else self._behaviour(charge.method)
            failure = behaviour.failure_of(attempt=charge.attempt)
            return self._end_debit(charge, failure=failure)
        refund = self.refunds[identifier]
        charge = self.charges[refund.charge]
        if not refund.fails:
            made = replace(refund, status="succeeded", settles_at=None)
            event = self._announce("charge.refund.updated", refunds=(made,))
            return self._applied(Change(refunds=(made,), announcements=(event,)))
        made = replace(
            refund,
            status="failed",
            settles_at=None,
            failure_reason="expired_or_canceled_card",
        )
        back = replace(charge, refunded_cents=charge.refunded_cents - refund.amount_cents)
        event = self._announce("charge.refund.updated", refunds=(made,))
        return self._applied(Change(charges=(back,), refunds=(made,), announcements=(event,)))

    def _new_charge(
        self, intent: Intent, method: Method, confirm: Confirmation, attempt: int
    ) -> Charge:
        return Charge(
            id=self._ids.new("ch"),
            intent=intent.id,
            created=self._now(),
            amount_cents=intent.amount_cents,
            currency=intent.currency,
            status="pending",
            method=method.id,
            method_type=method.type,
            last4=method.last4,
            attempt=attempt,
            customer=intent.customer,
            description=intent.description,
            mandate=confirm.mandate,
            metadata=intent.metadata,
            key=confirm.key,
        )

    def _refundable(self, draft: Refund) -> Charge:
        if draft.charge:
            charge = self.charge(draft.charge, in_path=False)
            if draft.intent and charge.intent != draft.intent:
                raise invalid("The charge is not of that PaymentIntent.", param="payment_intent")
        else:
            intent = self.intent(draft.intent, param="payment_intent", in_path=False)
            if intent.status != "succeeded":
                raise self._unexpected(
                    intent,
                    f"This PaymentIntent ({intent.id}) does not have a successful charge to"
                    " refund.",
                )
            charge = self.charges[intent.latest_charge or ""]
        if charge.status != "succeeded":
            raise ApiError(
                status=400,
                message=f"Charge {charge.id} cannot be refunded because it is {charge.status}.",
                code="charge_not_refundable",
                executed=True,
            )
        return charge

    def _check_method(self, intent: Intent, token: str) -> Method:
        method = self.method(token)
        if method.type not in intent.method_types:
            raise ApiError(
                status=400,
                message=f"The PaymentMethod provided ({method.type}) is not allowed for this"
                " PaymentIntent. Please attach a PaymentMethod of one of the following types:"
                f" {', '.join(intent.method_types)}.",
                code="payment_intent_incompatible_payment_method",
                param="payment_method",
                executed=True,
            )
        if method.type == BANK_METHOD and intent.currency != "usd":
            raise invalid("us_bank_account takes usd only.", param="currency")
        if method.customer is not None and method.customer != intent.customer:
            raise ApiError(
                status=400,
                message="The provided PaymentMethod cannot be attached. To reuse a PaymentMethod,"
                " you must provide the customer it belongs to.",
                param="payment_method",
                executed=True,
            )
        return method

    def _check_mandate(self, mandate: str | None) -> None:
        if mandate is None:
            return
        if not mandate.startswith("mandate_"):
            raise missing_resource("mandate", mandate, param="mandate")
        if mandate in self.withdrawn or mandate.startswith(INACTIVE_MANDATE):
            raise ApiError(
                status=400,
                message="The provided mandate is invalid and can not be used for the payment"
                " intent.",
                code="payment_intent_mandate_invalid",
                param="mandate",
                executed=True,
            )

    def _behaviour(self, method: str) -> Behaviour:
        return behaviour_of(self.method(method).token) or Behaviour()

    def _unexpected(self, intent: Intent, message: str) -> ApiError:
        renderer = Renderer(api_version=API_VERSION_OF_LATEST_CHARGE)
        return unexpected_state(message, intent=self.render(renderer, intent))

    def _announce(
        self,
        event_type: str,
        intent: Intent | None = None,
        charge: Charge | None = None,
        refunds: tuple[Refund, ...] = (),
        *,
        method: Method | None = None,
        mandate: Mandate | None = None,
    ) -> Announcement:
        return Announcement(
            id=self._ids.new("evt"),
            type=event_type,
            created=self._now(),
            intent=intent,
            charge=charge,
            refunds=refunds,
            method=method,
            mandate=mandate,
        )

    def _now(self) -> int:
        return int(self._clock().timestamp())

    def _in_days(self, days: int) -> int:
        return int((self._clock() + timedelta(days=days)).timestamp())


METHOD_TYPES = (CARD_METHOD, BANK_METHOD)
