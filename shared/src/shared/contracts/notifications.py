"""`notifications.v1`: what notifier states; each fact ends the chain that intake owns."""

from datetime import datetime
from typing import ClassVar, Literal
from uuid import UUID

from shared.contracts.fact import AccountId, Fact, Instant
from shared.ids import derived_id

NotificationKind = Literal[
    "posted",
    "reversed",
    "reinstated",
    "delayed",
    "declined",
    "autopay_started",
    "autopay_refused",
    "autopay_stopped",
    "autopay_invited",
    "autopay_reminded",
    "charge_announced",
    "charge_held",
    "charge_declined",
    "charge_missed",
    "charge_refunded",
    "method_expiring",
]


def notification_id(*, kind: str, key: UUID) -> UUID:
    """Return the id of the one notification of this kind about this posting or fact."""
    return derived_id(name=f"notification:{kind}", source=key)


class _NotificationFact(Fact):
    notification_id: UUID
    kind: NotificationKind
    payment_id: UUID | None
    """The payment it tells of; None where it tells of none, as an announcement does."""
    posting_key: UUID | None
    """The posting it tells of; None for a decline, which has none."""
    about: UUID | None = None
    """The id of the fact that it tells of, for whoever stated that."""
    account_id: AccountId | None
    channel: Literal["email"] = "email"

    def key(self) -> str:
        return str(self.notification_id)

    def partition_key(self) -> str:
        return self.account_id or str(self.payment_id or self.notification_id)


class NotificationSent(_NotificationFact):
    """The mail server took the message for the customer."""

    TYPE: ClassVar[str] = "notification.sent"
    sent_at: Instant
    message_id: str

    def happened_at(self) -> datetime:
        return self.sent_at


class NotificationFailed(_NotificationFact):
    """The message cannot be delivered; no further attempt is made."""

    TYPE: ClassVar[str] = "notification.failed"
    failed_at: Instant
    reason: str

    def happened_at(self) -> datetime:
        return self.failed_at


class NotificationSkipped(_NotificationFact):
    """Nobody to tell (no address on file, opted out), or nothing to tell any more."""

    TYPE: ClassVar[str] = "notification.skipped"
    skipped_at: Instant
    reason: Literal["no_address", "opted_out", "no_account", "superseded"]
    """`superseded`: a delay that is no news, since its customer was told of the posting first."""

    def happened_at(self) -> datetime:
        return self.skipped_at
