"""Kafka in: the portal's words, bills, postings, outcomes and notices; translation only."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from faststream.kafka import KafkaMessage, KafkaRouter

from autopay_scheduler.domain.amounts import AmountRule, Limits
from autopay_scheduler.domain.bills import Bill, BillCancellation, LedgerEntry
from autopay_scheduler.domain.days import ChargeOn
from autopay_scheduler.domain.declines import Decline
from autopay_scheduler.domain.enrolments import (
    Enrolment,
    EnrolmentStatus,
    Method,
    Rule,
    enrolment_id,
)
from autopay_scheduler.domain.notices import NoticeStatus
from autopay_scheduler.domain.outcomes import Outcome, OutcomeKind, return_name
from autopay_scheduler.domain.words import Word, WordKind
from autopay_scheduler.ports.store import Evidence, Noticed
from autopay_scheduler.usecases.announcing import KeepNotices
from autopay_scheduler.usecases.enrolling import TakeWords
from autopay_scheduler.usecases.following import FollowCharges, FollowMethods, MethodNews
from autopay_scheduler.usecases.owing import KeepBills, KeepPostings, KnowAccounts
from shared.contracts.bills import BillCancelled, BillChanged, BillIssued
from shared.contracts.notifications import (
    NotificationFailed,
    NotificationSent,
    NotificationSkipped,
)
from shared.contracts.payments import (
    ChargeDeclined,
    ChargeWithdrawn,
    MandateWithdrawn,
    MethodUpdated,
    PaymentAccepted,
    PaymentPending,
    PaymentReinstated,
    PaymentReversed,
)
from shared.contracts.portal import (
    AutopayCancelled,
    AutopayChanged,
    AutopayEnrolled,
    AutopayInvitationDeclined,
    AutopayPaused,
    AutopayResumed,
    ContactChanged,
    CustomerRegistered,
)
from shared.contracts.postings import PostingPosted, PostingReversed
from shared.contracts.streams import BILLS, NOTIFICATIONS, PAYMENTS, PORTAL, POSTINGS
from shared.contracts.wire import KafkaRecord, Received
from shared.errors import PermanentError
from shared.messaging.inbox import Group, Inbox, on_batches

GROUP_ID = "autopay-scheduler"

Translated = TypeVar("Translated")


class DeclineInvitations(Protocol):
    """Notes which customers do not want to enrol again."""

    async def __call__(self, declined: Sequence[AutopayInvitationDeclined], /) -> object: ...


class UnexpectedCurrencyError(PermanentError):
    """A bill in a currency that this city does not charge; the record becomes a dead letter."""

    def __init__(self, *, currency: str) -> None:
        super().__init__(f"bills in {currency} are not charged here")
        self.currency = currency


def build_router(
    *,
    group: Group,
    inbox: Inbox,
    currency: str,
    take_words: TakeWords,
    know_accounts: KnowAccounts,
    decline_invitations: DeclineInvitations,
    keep_bills: KeepBills,
    keep_postings: KeepPostings,
    follow_charges: FollowCharges,
    follow_methods: FollowMethods,
    keep_notices: KeepNotices,
) -> KafkaRouter:
    """Return the subscribers of autopay-scheduler."""
    router = KafkaRouter()

    @on_batches(router, stream=PORTAL, group=group)
    async def on_portal_facts(message: KafkaMessage) -> None:
        """Take what customers say of autopay; learn which accounts there are."""

        async def take(batch: Sequence[Received]) -> None:
            # In this order: who registers and enrols in one breath is known by then.
            await _each(batch, to_account, know_accounts)
            await _each(batch, to_word, take_words)
            await _each(batch, to_declined_invitation, decline_invitations)

        await inbox.deliver(message, take)

    @on_batches(router, stream=BILLS, group=group)
    async def on_bills(message: KafkaMessage) -> None:
        """Keep what is owed, and until when."""

        async def keep(batch: Sequence[Received]) -> None:
            found = [to_bill(received, currency=currency) for received in batch]
            if news := [each for each in found if each is not None]:
                await keep_bills(news)

        await inbox.deliver(message, keep)

    @on_batches(router, stream=POSTINGS, group=group, is_unhurried=True)
    async def on_postings(message: KafkaMessage) -> None:
        """Count what is on the ledger, whoever paid it."""
        await inbox.deliver(message, lambda batch: _each(batch, to_entry, keep_postings))

    @on_batches(router, stream=PAYMENTS, group=group, is_unhurried=True)
    async def on_payments(message: KafkaMessage) -> None:
        """Follow the charges that were asked for, and what processors say of methods."""

        async def follow(batch: Sequence[Received]) -> None:
            await _each(batch, to_outcome, follow_charges)
            await _each(batch, to_method_news, follow_methods)

        await inbox.deliver(message, follow, passes_by=is_of_no_charge)

    @on_batches(router, stream=NOTIFICATIONS, group=group, is_unhurried=True)
    async def on_notifications(message: KafkaMessage) -> None:
        """Keep whether the customers were told of charges."""
        await inbox.deliver(
            message,
            lambda batch: _each(batch, to_noticed, keep_notices),
            passes_by=is_of_no_announcement,
        )

    return router


def is_of_no_charge(record: KafkaRecord) -> bool:
    """Return whether a payment's fact shows at once that autopay has not asked for it.

    By the form in which payment-intake writes it; any other form is decoded.
    """
    return b'"charge_id":null' in (record.value or b"")


def is_of_no_announcement(record: KafkaRecord) -> bool:
    """Return whether a notification shows at once that it tells of what is on the ledger."""
    value = record.value or b""
    return b'"kind":"posted"' in value or b'"kind":"reversed"' in value


async def _each(
    batch: Sequence[Received],
    translate: Callable[[Received], Translated | None],
    use: Callable[[Sequence[Translated]], Awaitable[object]],
) -> None:
    found = [each for received in batch if (each := translate(received)) is not None]
    if found:
        await use(found)


def to_account(received: Received) -> str | None:
    """Return the account that a customer of the portal has."""
    fact = received.fact
    return fact.account_id if isinstance(fact, CustomerRegistered | ContactChanged) else None


def to_declined_invitation(received: Received) -> AutopayInvitationDeclined | None:
    """Return that a customer does not want to enrol again, if a fact says so."""
    return received.fact if isinstance(received.fact, AutopayInvitationDeclined) else None


def to_word(received: Received) -> tuple[Word, Evidence] | None:
    """Return what a customer says of autopay, with the evidence of it."""
    fact = received.fact
    match fact:
        case AutopayEnrolled():
            kind, at = WordKind.ENROLLED, fact.enrolled_at
        case AutopayChanged():
            kind, at = WordKind.CHANGED, fact.changed_at
        case AutopayPaused():
            kind, at = WordKind.PAUSED, fact.paused_at
        case AutopayResumed():
            kind, at = WordKind.RESUMED, fact.resumed_at
        case AutopayCancelled():
            kind, at = WordKind.CANCELLED, fact.cancelled_at
        case _:
            return None
    authorised = fact if isinstance(fact, AutopayEnrolled | AutopayChanged) else None
    word = Word(
        kind=kind,
        account_id=fact.account_id,
        reference=fact.enrolment_reference,
        at=at,
        enrolment=_enrolment(authorised) if authorised else None,
        resume_on=fact.resume_on if isinstance(fact, AutopayPaused) else None,
    )
    evidence = Evidence(
        enrolment_id=enrolment_id(fact.enrolment_reference),
        account_id=fact.account_id,
        event_source=received.source,
        event_id=received.event_id,
        type=received.event_type,
        said_at=at,
        authorisation_version=authorised.authorisation_version if authorised else None,
        authorised_at=authorised.authorised_at if authorised else None,
        document=fact.model_dump(mode="json"),
    )
    return word, evidence


def _enrolment(fact: AutopayEnrolled | AutopayChanged) -> Enrolment:
    rule, method = fact.rule, fact.method
    return Enrolment(
        id=enrolment_id(fact.enrolment_reference),
        account_id=fact.account_id,
        reference=fact.enrolment_reference,
        status=EnrolmentStatus.ACTIVE,
        method=Method(
            processor=fact.processor,
            token=fact.payment_method_token,
            customer_token=fact.customer_token,
            mandate_token=fact.mandate_token,
            kind=method.kind,
            label=method.label,
            last4=method.last4,
            expires=method.expires,
        ),
        rule=Rule(
            charge_on=ChargeOn(rule.charge_on),
            days_before=rule.days_before,
            day_of_month=rule.day_of_month,
            limits=Limits(
                amount=AmountRule(rule.amount),
                fixed_cents=rule.fixed_cents,
                minimum_cents=rule.minimum_cents,
                maximum_cents=rule.maximum_cents,
            ),
        ),
        authorisation_version=fact.authorisation_version,
        authorised_at=fact.authorised_at,
        locale=fact.locale if isinstance(fact, AutopayEnrolled) else "en",
        resume_on=None,
        word_at=fact.happened_at(),
    )


def to_bill(received: Received, *, currency: str) -> Bill | BillCancellation | None:
    """Return what the CIS says of a bill.

    Raises:
        UnexpectedCurrencyError: it is stated in a currency that is not charged here.
    """
    fact = received.fact
    match fact:
        case BillIssued() | BillChanged():
            if fact.currency != currency:
                raise UnexpectedCurrencyError(currency=fact.currency)
            return Bill(
                account_id=fact.account_id,
                bill_reference=fact.bill_reference,
                version=fact.version,
                amount_cents=fact.amount_cents,
                currency=fact.currency,
                due_date=fact.due_date,
                stated_at=fact.stated_at,
                balance_cents=fact.balance_cents,
            )
        case BillCancelled():
            return BillCancellation(
                account_id=fact.account_id,
                bill_reference=fact.bill_reference,
                version=fact.version,
                stated_at=fact.stated_at,
                balance_cents=fact.balance_cents,
            )
        case _:
            return None


def to_entry(received: Received) -> LedgerEntry | None:
    """Return what was posted to an account."""
    fact = received.fact
    if not isinstance(fact, PostingPosted | PostingReversed):
        return None
    sign = -1 if isinstance(fact, PostingReversed) else 1
    return LedgerEntry(
        posting_key=fact.posting_key,
        payment_id=fact.payment_id,
        account_id=fact.account_id,
        signed_cents=sign * fact.amount_cents,
        balance_after_cents=fact.balance_after_cents,
        posted_at=fact.posted_at,
    )


def to_outcome(received: Received) -> Outcome | None:
    """Return what intake states of a charge of autopay."""
    fact = received.fact
    match fact:
        case ChargeWithdrawn():
            kind = OutcomeKind.GIVEN_BACK if fact.is_refunded else OutcomeKind.WITHDRAWN
            return Outcome(
                charge_id=fact.charge_id,
                kind=kind,
                at=fact.withdrawn_at,
                amount_cents=fact.amount_cents,
                attempt=fact.attempt,
                reason=fact.reason,
            )
        case (
            PaymentPending()
            | PaymentAccepted()
            | PaymentReversed()
            | PaymentReinstated()
            | ChargeDeclined()
        ):
            if fact.charge_id is None:
                return None
            return Outcome(
                charge_id=fact.charge_id,
                kind=_kind(fact),
                at=fact.happened_at(),
                amount_cents=fact.amount_cents,
                payment_id=fact.payment_id,
                decline=_decline(fact),
            )
        case _:
            return None


def _kind(
    fact: (PaymentPending | PaymentAccepted | PaymentReversed | PaymentReinstated | ChargeDeclined),
) -> OutcomeKind:
    match fact:
        case PaymentPending():
            return OutcomeKind.PENDING
        case PaymentAccepted():
            return OutcomeKind.PAID
        case ChargeDeclined():
            return OutcomeKind.DECLINED
        case PaymentReversed(reason="ach_return"):
            return OutcomeKind.RETURNED
        case PaymentReinstated():
            return OutcomeKind.REINSTATED
        case PaymentReversed(reason="dispute"):
            return OutcomeKind.DISPUTED
        case PaymentReversed():
            return OutcomeKind.REFUNDED


def _decline(
    fact: (PaymentPending | PaymentAccepted | PaymentReversed | PaymentReinstated | ChargeDeclined),
) -> Decline | None:
    match fact:
        case ChargeDeclined():
            return Decline(id=fact.attempt, category=fact.category or "soft", code=fact.reason_code)
        case PaymentReversed(reason="ach_return"):
            return Decline(
                id=return_name(fact.posting_key),
                category=fact.category or "soft",
                code=fact.reason_code,
            )
        case _:
            return None


def to_method_news(received: Received) -> MethodNews | None:
    """Return what a processor says of a payment method."""
    match received.fact:
        case MethodUpdated() as fact:
            return MethodNews(
                processor=fact.processor,
                token=fact.payment_method_token,
                is_withdrawn=False,
                at=fact.updated_at,
                label=fact.method.label,
                last4=fact.method.last4,
                expires=fact.method.expires,
            )
        case MandateWithdrawn() as fact:
            return MethodNews(
                processor=fact.processor,
                token=fact.payment_method_token,
                is_withdrawn=True,
                at=fact.withdrawn_at,
            )
        case _:
            return None


def to_noticed(received: Received) -> Noticed | None:
    """Return what became of telling a customer of an announcement."""
    fact = received.fact
    match fact:
        case NotificationSent():
            status, at = NoticeStatus.SENT, fact.sent_at
        case NotificationFailed():
            status, at = NoticeStatus.FAILED, fact.failed_at
        case NotificationSkipped():
            status, at = NoticeStatus.SKIPPED, fact.skipped_at
        case _:
            return None
    if fact.kind != "charge_announced" or fact.about is None:
        return None
    return Noticed(fact_id=fact.about, status=status, at=at)
