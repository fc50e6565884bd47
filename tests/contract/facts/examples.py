"""One example of every fact, each of its fields set; the golden files are these on the wire."""

from datetime import UTC, date, datetime
from uuid import UUID

from shared.contracts.autopay import (
    ChargeAnnounced,
    ChargeRequested,
    EnrolmentActivated,
    EnrolmentStopped,
)
from shared.contracts.bills import BillChanged, BillIssued, DisconnectScheduled
from shared.contracts.fact import Fact
from shared.contracts.notifications import (
    NotificationFailed,
    NotificationSent,
    NotificationSkipped,
)
from shared.contracts.payments import (
    ChargeDeclined,
    PaymentAccepted,
    PaymentDelayed,
    PaymentPending,
    PaymentReinstated,
    PaymentReversed,
)
from shared.contracts.portal import (
    AutopayCancelled,
    AutopayEnrolled,
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
_AT = datetime(2026, 3, 2, 17, 4, 5, 678901, tzinfo=UTC)
_LATER = datetime(2026, 3, 2, 17, 4, 6, tzinfo=UTC)
_DAY = date(2026, 3, 2)

_MONEY = {"amount_cents": 8250, "currency": "USD"}
_PAYMENT = {
    "payment_id": _PAYMENT_ID,
    "account_id": "1002003",
    "processor": "stripe",
    "reference": "pi_3OaExample",
    **_MONEY,
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
    "account_id": "1002003",
}
_PORTAL_PAYMENT = {
    "account_id": "1002003",
    "processor": "stripe",
    "reference": "pi_3OaExample",
    "bill_reference": "B-2026-03",
    **_MONEY,
}
_CHARGE = {
    "account_id": "1002003",
    "enrolment_id": _ENROLMENT_ID,
    "charge_id": _CHARGE_ID,
    "due_date": date(2026, 3, 20),
    **_MONEY,
}
_ENROLMENT = {"account_id": "1002003", "enrolment_id": _ENROLMENT_ID}
_BILL = {
    "account_id": "1002003",
    "bill_reference": "B-2026-03",
    "due_date": date(2026, 3, 20),
    "stated_at": _AT,
    **_MONEY,
}

EXAMPLES: tuple[Fact, ...] = (
    PaymentAccepted(
        **_PAYMENT, **_LEDGER, fee_cents=250, method="card", bill_reference="B-2026-03"
    ),
    PaymentReversed(**_PAYMENT, **_LEDGER, reason="ach_return", reason_code="R01"),
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
        **_PAYMENT, declined_at=_AT, reason_code="insufficient_funds", attempt="ch_3OaExample"
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
        account_id="1002003",
        enrolment_reference="enr_1",
        processor="stripe",
        payment_method_token="pm_1",
        authorisation_version="2026-01",
        enrolled_at=_AT,
        locale="es",
    ),
    AutopayCancelled(account_id="1002003", enrolment_reference="enr_1", cancelled_at=_AT),
    ChargeRequested(**_CHARGE, processor="stripe", payment_method_token="pm_1", requested_at=_AT),
    ChargeAnnounced(**_CHARGE, announced_at=_AT),
    EnrolmentActivated(**_ENROLMENT, activated_at=_AT),
    EnrolmentStopped(**_ENROLMENT, stopped_at=_AT, reason="ach_unauthorised"),
    BillIssued(**_BILL, version=1),
    BillChanged(**_BILL, version=2),
    DisconnectScheduled(account_id="1002003", disconnect_on=date(2026, 4, 20), stated_at=_AT),
)
