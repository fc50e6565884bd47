"""The streams: who states what where, and how each topic is kept.

One stream per producing service, keyed by account, so that all that a service states about an
account stays in order.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from shared.contracts import autopay, bills, notifications, payments, portal, postings
from shared.contracts.fact import Fact

PARTITIONS = 12
"""Replicas of a service scale up to this number; more can be added, fewer never."""

_DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A topic, the service that writes it, and the facts it may carry."""

    name: str
    producer: str
    facts: tuple[type[Fact], ...]
    partitions: int = PARTITIONS
    retention_ms: int = 7 * _DAY_MS
    """Kafka is transport, never the record: every hand-over is durable in a database."""
    by_type: Mapping[str, type[Fact]] = field(init=False)

    def __post_init__(self) -> None:
        by_type = MappingProxyType({fact.TYPE: fact for fact in self.facts})
        object.__setattr__(self, "by_type", by_type)

    @property
    def dead_letters(self) -> str:
        """The topic for records of this stream that a consumer gave up on."""
        return f"{self.name}.dead"


PAYMENTS = Stream(
    name="payments.v1",
    producer="payment-intake",
    facts=(
        payments.PaymentAccepted,
        payments.PaymentPending,
        payments.PaymentReversed,
        payments.PaymentReinstated,
        payments.PaymentDelayed,
        payments.ChargeDeclined,
        payments.ChargeWithdrawn,
        payments.MethodUpdated,
        payments.MandateWithdrawn,
    ),
)
POSTINGS = Stream(
    name="postings.v1",
    producer="cis-poster",
    facts=(
        postings.PostingPosted,
        postings.PostingReversed,
        postings.PostingDeferred,
        postings.PostingSuspended,
        postings.PostingReturned,
    ),
)
NOTIFICATIONS = Stream(
    name="notifications.v1",
    producer="notifier",
    facts=(
        notifications.NotificationSent,
        notifications.NotificationFailed,
        notifications.NotificationSkipped,
    ),
)
PORTAL = Stream(
    name="portal.v1",
    producer="portal",
    facts=(
        portal.PaymentSubmitted,
        portal.PaymentCaptured,
        portal.CustomerRegistered,
        portal.ContactChanged,
        portal.AutopayEnrolled,
        portal.AutopayChanged,
        portal.AutopayPaused,
        portal.AutopayResumed,
        portal.AutopayCancelled,
        portal.AutopayInvitationDeclined,
    ),
)
AUTOPAY = Stream(
    name="autopay.v1",
    producer="autopay-scheduler",
    facts=(
        autopay.EnrolmentActivated,
        autopay.EnrolmentRefused,
        autopay.EnrolmentStopped,
        autopay.EnrolmentInvited,
        autopay.MethodExpiring,
        autopay.ChargeAnnounced,
        autopay.ChargeHeld,
        autopay.ChargeRequested,
        autopay.ChargeCancelled,
        autopay.ChargeFailed,
        autopay.ChargeClosed,
    ),
)
BILLS = Stream(
    name="bills.v1",
    producer="cis",
    facts=(bills.BillIssued, bills.BillChanged, bills.BillCancelled, bills.DisconnectScheduled),
)

STREAMS: Mapping[str, Stream] = MappingProxyType(
    {s.name: s for s in (PAYMENTS, POSTINGS, NOTIFICATIONS, PORTAL, AUTOPAY, BILLS)}
)
