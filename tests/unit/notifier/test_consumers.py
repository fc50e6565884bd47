from datetime import date, timedelta
from uuid import UUID

import pytest
from tests.contract.facts.examples import EXAMPLES
from tests.unit.notifier import autopay_facts as facts
from tests.unit.notifier.autopay_facts import received
from tests.unit.notifier.fakes import NOON

from notifier.consumers import TOLD_LATER, to_contact, to_notification
from notifier.domain import Kind
from shared.contracts.autopay import ChargeCancelled, ChargeRequested
from shared.contracts.notifications import notification_id
from shared.contracts.payments import ChargeDeclined, PaymentAccepted, PaymentDelayed
from shared.contracts.portal import ContactChanged, CustomerRegistered
from shared.contracts.postings import PostingPosted, PostingReversed, PostingSuspended
from shared.contracts.streams import PAYMENTS
from shared.contracts.wire import encode
from shared.messaging.inbox import is_of_type

PAYMENT = UUID("0198c5b1-0000-7000-8000-000000000001")
REVERSAL = UUID("0198c5b1-0000-7000-8000-000000000002")
ABOUT = {"payment_id": PAYMENT, "account_id": "4711", "amount_cents": 500, "currency": "USD"}
ON_LEDGER = {
    **ABOUT,
    "accepted_at": NOON,
    "effective_date": date(2026, 3, 5),
    "posted_at": NOON + timedelta(seconds=2),
    "cis_reference": "L-1",
    "balance_after_cents": -700,
}
AT_PROCESSOR = {**ABOUT, "processor": "stripe", "reference": "pi_1"}


class TestToNotification:
    @pytest.mark.parametrize(
        ("fact_class", "posting_kind", "kind"),
        [
            (PostingPosted, "payment", Kind.POSTED),
            (PostingPosted, "reinstatement", Kind.REINSTATED),
            (PostingReversed, "reversal", Kind.REVERSED),
        ],
    )
    def test_tells_what_is_on_the_ledger(self, fact_class, posting_kind, kind):
        fact = fact_class(posting_key=REVERSAL, kind=posting_kind, **ON_LEDGER)
        notification = to_notification(received(fact))
        assert notification is not None
        assert notification.id == notification_id(kind=kind, key=REVERSAL)
        assert (notification.kind, notification.payment_id) == (kind, PAYMENT)
        assert notification.posting_key == REVERSAL
        assert notification.balance_after_cents == -700
        assert notification.happened_at - NOON == timedelta(seconds=2)
        assert notification.about == fact.id()
        assert notification.traceparent is not None

    def test_tells_a_delay(self):
        fact = PaymentDelayed(
            **AT_PROCESSOR,
            posting_key=PAYMENT,
            accepted_at=NOON,
            delayed_at=NOON + timedelta(minutes=5),
            reason="not_posted_yet",
        )
        notification = to_notification(received(fact))
        assert notification is not None
        assert notification.id == notification_id(kind=Kind.DELAYED, key=PAYMENT)
        assert notification.accepted_at == NOON

    def test_tells_each_decline_of_a_payment(self):
        ids = set()
        for attempt in ("evt_1", "evt_2", "evt_2"):
            fact = ChargeDeclined(**AT_PROCESSOR, declined_at=NOON, attempt=attempt)
            notification = to_notification(received(fact))
            assert notification is not None
            assert notification.posting_key is None
            ids.add(notification.id)
        assert len(ids) == 2

    def test_tells_nothing_of_what_is_only_accepted_or_suspended(self):
        accepted = PaymentAccepted(
            **AT_PROCESSOR, posting_key=PAYMENT, effective_date=date(2026, 3, 5), accepted_at=NOON
        )
        suspended = PostingSuspended(
            **ABOUT,
            posting_key=PAYMENT,
            kind="payment",
            accepted_at=NOON,
            reason="account_unknown",
            suspension=1,
            suspended_at=NOON,
        )
        assert to_notification(received(accepted)) is None
        assert to_notification(received(suspended)) is None

    def test_leaves_a_decline_of_autopay_to_whoever_knows_what_happens_next(self):
        fact = ChargeDeclined(
            **AT_PROCESSOR, declined_at=NOON, attempt="evt_1", charge_id=facts.CHARGE
        )
        assert to_notification(received(fact)) is None


class TestToNoticeOfAutopay:
    @pytest.mark.parametrize(
        ("fact", "kind", "amount"),
        [
            (facts.activated(), "autopay_started", None),
            (facts.refused(), "autopay_refused", None),
            (facts.stopped(), "autopay_stopped", None),
            (facts.invited(), "autopay_invited", None),
            (facts.invited(invitation=2), "autopay_reminded", None),
            (facts.announced(), "charge_announced", (8250, "USD")),
            (facts.held(), "charge_held", (8250, "USD")),
            (facts.failed(), "charge_declined", (8250, "USD")),
            (facts.closed(), "charge_missed", None),
            (facts.refunded(), "charge_refunded", (8250, "USD")),
            (facts.expiring(), "method_expiring", None),
        ],
    )
    def test_tells(self, fact, kind, amount):
        notification = to_notification(received(fact))
        assert notification is not None
        assert notification.kind == kind
        assert notification.id == notification_id(kind=Kind(kind), key=fact.id())
        assert (notification.about, notification.fact) == (fact.id(), fact)
        assert notification.account_id == "4711-0815"
        assert notification.happened_at == NOON
        assert notification.traceparent == facts.TRACE
        assert (notification.amount_cents, notification.currency) == (amount or (None, None))

    def test_names_the_payment_of_a_decline_and_of_nothing_else(self):
        declined = to_notification(received(facts.failed()))
        announced = to_notification(received(facts.announced()))
        assert declined is not None
        assert announced is not None
        assert (declined.payment_id, announced.payment_id) == (facts.DECLINED_PAYMENT, None)

    def test_tells_each_version_and_each_decline_once(self):
        stated = [
            facts.announced(version=1),
            facts.announced(version=1),
            facts.announced(version=2),
            facts.failed(decline="ch_1"),
            facts.failed(decline="ch_2"),
        ]
        found = [to_notification(received(fact)) for fact in stated]
        assert len({each.id for each in found if each is not None}) == 4

    def test_tells_nothing_of_what_is_asked_of_intake_or_ends_as_wished(self):
        charge = facts.announced().model_dump(exclude={"version", "left_cents", "announced_at"})
        requested = ChargeRequested(
            **charge,
            attempt=1,
            processor="stripe",
            payment_method_token="pm_123",
            customer_token=None,
            mandate_token=None,
            requested_at=NOON,
            valid_until=NOON,
        )
        cancelled = ChargeCancelled(**charge, attempt=1, cancelled_at=NOON)
        ends = [facts.closed(outcome=outcome) for outcome in ("paid", "skipped", "cancelled")]
        for fact in (requested, cancelled, *ends):
            assert to_notification(received(fact)) is None


class TestToContact:
    def test_takes_the_whole_contact(self):
        fact = ContactChanged(
            account_id="4711",
            name="Ada",
            email="ada@example.org",
            locale="es",
            email_opted_out=True,
            changed_at=NOON,
        )
        contact = to_contact(received(fact))
        assert contact is not None
        assert (contact.email, contact.locale, contact.email_opted_out, contact.changed_at) == (
            "ada@example.org",
            "es",
            True,
            NOON,
        )

    def test_takes_a_registration_as_silent_about_opting_out(self):
        fact = CustomerRegistered(account_id="4711", registered_at=NOON)
        contact = to_contact(received(fact))
        assert contact is not None
        assert contact.email_opted_out is None
        assert contact.changed_at == NOON


class TestPassingBy:
    def test_leaves_undecoded_only_what_calls_for_no_notification(self):
        passes_by = is_of_type(*TOLD_LATER)
        passed = []
        for fact in EXAMPLES:
            if type(fact) not in PAYMENTS.facts:
                continue
            if passes_by(encode(fact, stream=PAYMENTS)):
                passed.append(fact)
        assert passed
        assert not [fact.TYPE for fact in passed if to_notification(received(fact))]
        assert not any(isinstance(fact, PaymentDelayed | ChargeDeclined) for fact in passed)
