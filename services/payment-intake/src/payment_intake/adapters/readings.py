"""What a reader makes of a webhook's body, whoever sent it."""

from dataclasses import dataclass

from payment_intake.domain import Observation
from shared.contracts.wire import OutboundRecord
from shared.errors import PermanentError


class InvalidEventError(PermanentError):
    """The body is signed and cannot be understood: `field` says where, the message why.

    The message never repeats the input: it may hold what must not be logged.
    """

    def __init__(self, *, field: str, message: str) -> None:
        super().__init__(f"{field} {message}")
        self.field = field
        self.message = message


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """An event, read."""

    event_id: str
    event_type: str
    source: str | None = None
    """Where the event names its own source; else the door does."""
    observation: Observation | None = None
    about: tuple[str, str] | None = None
    """The processor and its name for the payment that an event without consequences speaks of."""
    relay: OutboundRecord | None = None
    is_untrusted: bool = False
    canonical: bytes | None = None
    """What repeats, whichever way it comes; else the body itself."""
