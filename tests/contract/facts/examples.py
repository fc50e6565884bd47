"""One example of every fact, each of its fields set; the golden files are these on the wire."""

from datetime import UTC, date, datetime
from uuid import UUID

from shared.contracts.autopay import (
    ChargeAnnounced,
    ChargeCancelled,
    ChargeClosed,
    ChargeFailed,
    ChargeHeld,
    ChargeRequested,
    EnrolmentActivated,
    EnrolmentInvited,
    EnrolmentRefused,
    EnrolmentStopped,
    MethodExpiring,
)
from shared.contracts.bills import BillCancelled, BillChanged, BillIssued, DisconnectScheduled
from shared.contracts.enrolments import AutopayRule, PaymentMethod
from shared.contracts.fact import Fact
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
    PaymentDelayed,
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
    PaymentCaptured,
    PaymentSubmitted,
)
from shared.contracts.postings import (
    PostingDeferred,
    PostingPosted,
    PostingReturned,
    PostingReversed,
    PostingSuspended,
)

_PAYMENT_ID = UUID("0197a5d0-0000-7000-8000-000000000001")
_POSTING_KEY = UUID("0197a5d0-0000-7000-8000-000000000002")
_NOTIFICATION_ID = UUID("0197a5d0-0000-7000-8000-000000000003")
_ENROLMENT_ID = UUID("0197a5d0-0000-7000-8000-000000000004")
_CHARGE_ID = UUID("0197a5d0-0000-7000-8000-000000000005")
_ABOUT = UUID("0197a5d0-0000-7000-8000-000000000006")
_AT = datetime(2026, 3, 2, 17, 4, 5, 678901, tzinfo=UTC)
_LATER = datetime(2026, 3, 2, 17, 4, 6, tzinfo=UTC)
_AUTHORISED_AT = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
_DAY = date(2026, 3, 2)

_MONEY = {"amount_cents": 8250, "currency": "USD"}
_PAYMENT = {
    "payment_id": _PAYMENT_ID,
    "account_id": "1002003",
    "processor": "stripe",
    "reference": "pi_3OaExample",
    **_MONEY,
    "charge_id": _CHARGE_ID,
}
_LEDGER = {"posting_key": _POSTING_KEY, "effective_date": _DAY, "accepted_at": _AT}
_POSTING = {
    "posting_key": _POSTING_KEY,
    "payment_id": _PAYMENT_ID,
    "account_id": "1002003",
    "accepted_at": _AT,
    **_MONEY,
}
_ON_LEDGER = {
    "effective_date": _DAY,
    "posted_at": _LATER,
    "cis_reference": "CIS-77",
    "balance_after_cents": -250,
}
_NOTIFICATION = {
    "notification_id": _NOTIFICATION_ID,
    "payment_id": _PAYMENT_ID,
    "posting_key": _POSTING_KEY,
    "about": _ABOUT,
    "account_id": "1002003",
}
_PORTAL_PAYMENT = {
    "account_id": "1002003",
    "processor": "stripe",
    "reference": "pi_3OaExample",
    "bill_reference": "B-2026-03",
    **_MONEY,
}
_CARD = PaymentMethod(kind="card", label="Visa", last4="4242", expires="2027-08")
_BANK_ACCOUNT = PaymentMethod(
    kind="us_bank_account", label="First Bank", last4="6789", expires=None
)
_RULE = AutopayRule(
    charge_on="days_before_due",
    days_before=3,
    day_of_month=None,
    amount="statement_balance",
    fixed_cents=None,
    minimum_cents=500,
    maximum_cents=20_000,
)
_FIXED_RULE = AutopayRule(
    charge_on="day_of_month",
    days_before=None,
    day_of_month=31,
    amount="fixed",
    fixed_cents=5000,
    minimum_cents=None,
    maximum_cents=None,
)
_ENROLMENT = {"account_id": "1002003", "enrolment_id": _ENROLMENT_ID}
_WORD = {"account_id": "1002003", "enrolment_reference": "enr_1"}
_TOKENS = {
    "processor": "stripe",
    "payment_method_token": "pm_1OaExample",
    "customer_token": "cus_OaExample",
    "mandate_token": "mandate_1OaExample",
}
_AUTHORISATION = {
    **_WORD,
    **_TOKENS,
    "authorisation_version": "2026-01",
    "authorised_at": _AUTHORISED_AT,
}
_CHARGE = {
    **_ENROLMENT,
    "charge_id": _CHARGE_ID,
    "due_date": date(2026, 3, 20),
    "currency": "USD",
    "bill_reference": "B-2026-03",
    "method": _CARD,
}
_BILL = {
    "account_id": "1002003",
    "bill_reference": "B-2026-03",
    "stated_at": _AT,
    "balance_cents": 9000,
}
_DUE = {"due_date": date(2026, 3, 20), **_MONEY}

EXAMPLES: tuple[Fact, ...] = (
    PaymentAccepted(
        **_PAYMENT, **_LEDGER, fee_cents=250, method="card", bill_reference="B-2026-03"
    ),
    PaymentReversed(**_PAYMENT, **_LEDGER, reason="ach_return", reason_code="R01", category="soft"),
    PaymentReinstated(**_PAYMENT, **_LEDGER, reason="dispute", reason_code="fraudulent"),
    PaymentPending(**_PAYMENT, pending_at=_AT, method="us_bank_account"),
    PaymentDelayed(
        **_PAYMENT,
        posting_key=_POSTING_KEY,
        accepted_at=_AT,
        delayed_at=_LATER,
        reason="not_posted_yet",
    ),
    ChargeDeclined(
        **_PAYMENT,
        declined_at=_AT,
        reason_code="insufficient_funds",
        category="soft",
        attempt="ch_3OaExample",
    ),
    ChargeWithdrawn(
        charge_id=_CHARGE_ID,
        account_id="1002003",
        attempt=1,
        reason="cancelled",
        is_refunded=True,
        **_MONEY,
        withdrawn_at=_LATER,
    ),
    MethodUpdated(
        processor="stripe", payment_method_token="pm_1OaExample", method=_CARD, updated_at=_AT
    ),
    MandateWithdrawn(
        processor="stripe",
        payment_method_token="pm_1OaExample",
        mandate_token="mandate_1OaExample",
        withdrawn_at=_AT,
    ),
    PostingPosted(**_POSTING, **_ON_LEDGER, kind="payment"),
    PostingReversed(**_POSTING, **_ON_LEDGER, kind="reversal", reason="refund"),
    PostingDeferred(
        **_POSTING, kind="payment", reason="cis_unavailable", attempts=3, deferred_at=_LATER
    ),
    PostingSuspended(
        **_POSTING, kind="payment", reason="account_unknown", suspension=1, suspended_at=_LATER
    ),
    PostingReturned(**_POSTING, kind="payment", returned_at=_LATER, reason="payer asked"),
    NotificationSent(
        **_NOTIFICATION, kind="posted", sent_at=_LATER, message_id="<n1@mail.example.org>"
    ),
    NotificationFailed(**_NOTIFICATION, kind="reversed", failed_at=_LATER, reason="550 unknown"),
    NotificationSkipped(**_NOTIFICATION, kind="delayed", skipped_at=_LATER, reason="superseded"),
    PaymentSubmitted(**_PORTAL_PAYMENT, submitted_at=_AT),
    PaymentCaptured(**_PORTAL_PAYMENT, captured_at=_AT, method="cash"),
    CustomerRegistered(
        account_id="1002003",
        name="Ana Pérez",
        email="ana@example.org",
        locale="es",
        registered_at=_AT,
    ),
    ContactChanged(
        account_id="1002003",
        name="Ana Pérez",
        email="ana@example.org",
        locale="es",
        email_opted_out=True,
        changed_at=_AT,
    ),
    AutopayEnrolled(
        **_AUTHORISATION, method=_BANK_ACCOUNT, rule=_RULE, enrolled_at=_AT, locale="es"
    ),
    AutopayChanged(**_AUTHORISATION, method=_CARD, rule=_FIXED_RULE, changed_at=_AT),
    AutopayPaused(**_WORD, paused_at=_AT, resume_on=date(2026, 5, 1)),
    AutopayResumed(**_WORD, resumed_at=_AT),
    AutopayCancelled(**_WORD, cancelled_at=_AT),
    AutopayInvitationDeclined(account_id="1002003", declined_at=_AT),
    EnrolmentActivated(
        **_ENROLMENT,
        enrolment_reference="enr_1",
        method=_BANK_ACCOUNT,
        rule=_RULE,
        authorisation_version="2026-01",
        authorised_at=_AUTHORISED_AT,
        activated_at=_AT,
    ),
    EnrolmentRefused(
        **_ENROLMENT,
        enrolment_reference="enr_1",
        reason="foreign_token",
        field="payment_method_token",
        refused_at=_AT,
    ),
    EnrolmentStopped(**_ENROLMENT, stopped_at=_AT, reason="mandate_withdrawn", method=_CARD),
    EnrolmentInvited(
        account_id="1002003",
        invitation=2,
        name="Ana Pérez",
        email="ana@example.org",
        locale="es",
        link="https://pay.example.org/autopay",
        due_date=date(2026, 3, 20),
        **_MONEY,
        invited_at=_AT,
    ),
    MethodExpiring(
        **_ENROLMENT, method=_CARD, expires_on=date(2027, 8, 31), days_left=30, warned_at=_AT
    ),
    ChargeAnnounced(
        **_CHARGE,
        version=2,
        amount_cents=8250,
        left_cents=750,
        charge_on=date(2026, 3, 17),
        announced_at=_AT,
    ),
    ChargeHeld(**_CHARGE, amount_cents=25_000, maximum_cents=20_000, held_at=_AT),
    ChargeRequested(
        **_CHARGE,
        **_TOKENS,
        attempt=1,
        amount_cents=8250,
        requested_at=_AT,
        valid_until=datetime(2026, 3, 6, 17, 4, 5, tzinfo=UTC),
    ),
    ChargeCancelled(**_CHARGE, attempt=1, amount_cents=8250, cancelled_at=_AT),
    ChargeFailed(
        **_CHARGE,
        attempt=1,
        amount_cents=8250,
        payment_id=_PAYMENT_ID,
        decline="ch_3OaExample",
        reason_code="insufficient_funds",
        category="soft",
        next_step="retry",
        next_attempt_on=date(2026, 3, 20),
        failed_at=_AT,
    ),
    ChargeClosed(
        **_CHARGE, outcome="paid", reason="charged", amount_cents=8250, attempt=1, closed_at=_AT
    ),
    BillIssued(**_BILL, **_DUE, version=1),
    BillChanged(**_BILL, **_DUE, version=2),
    BillCancelled(**_BILL, version=3),
    DisconnectScheduled(account_id="1002003", disconnect_on=date(2026, 4, 20), stated_at=_AT),
)
