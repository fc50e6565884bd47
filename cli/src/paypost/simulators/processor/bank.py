"""The bridge to a bank: ACH debits go out as NACHA files, and come back as NACHA returns.

With it no token decides what becomes of a debit: the bank does. A file's debits and identity are
written down before it is sent, so a file whose answer was lost is sent again as the very same and
the bank refuses it as a duplicate instead of collecting twice. What the bank has not returned
within ACH_DAYS has settled; while the bank cannot be asked, nothing settles.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Protocol

import aiohttp

from paypost.simulators.processor.ledger import Ledger
from paypost.simulators.processor.nacha import (
    Debit,
    Originator,
    Return,
    modifier_of,
    parse_returns,
    render_debits,
)
from paypost.simulators.processor.records import ACCOUNT_FIELD, BankFile, Change, Charge

ROUTING_NUMBER = "110000000"
"""Of the customers' bank; the one that the API shows."""
DEBITS_PER_FILE_MAX = 5_000
TIMEOUT_SECONDS = 10.0


class BankUnavailableError(Exception):
    """The bank did not answer, or not with anything that can be read; it may have the file."""


class FileRefusedError(Exception):
    """The bank does not take a file as it is: a defect of ours.

    Attributes:
        reason: in the bank's words.
    """

    def __init__(self, *, reason: str) -> None:
        super().__init__(f"the bank refuses the file: {reason}")
        self.reason = reason


class Bank(Protocol):
    """What is needed of a bank."""

    async def submit(self, file: str) -> None:
        """Hand over a file; one that the bank has already is as good as a new one.

        Raises BankUnavailableError, FileRefusedError.
        """

    async def advance_to(self, day: date) -> None:
        """Let the bank's calendar reach a day. Raises BankUnavailableError."""

    async def return_files(self) -> Sequence[str]:
        """Return every return file, also those that were read before.

        Raises BankUnavailableError.
        """


class MockBank:
    """A `mock-bank` (PyPI) over HTTP."""

    def __init__(self, *, url: str) -> None:
        self._url = url.rstrip("/")

    async def submit(self, file: str) -> None:
        """Hand over a file. Raises BankUnavailableError, FileRefusedError."""
        status, answer = await self._call("POST", "/payments", body=file.encode("ascii"))
        if status == 202 or answer.get("reason") == "DUPL":
            return
        if status != 422:
            raise BankUnavailableError(f"the bank answered {status}")
        raise FileRefusedError(
            reason=f"{answer.get('reason')} {answer.get('reason_text')} {answer.get('findings')}"
        )

    async def advance_to(self, day: date) -> None:
        """Move the bank's clock to a day. Raises BankUnavailableError."""
        status, answer = await self._call("POST", f"/_mock/advance?to={day.isoformat()}")
        if status != 200:
            raise BankUnavailableError(f"the bank's clock stays: {answer}")

    async def return_files(self) -> Sequence[str]:
        """Return every return file in the mailbox, and leave it there."""
        status, answer = await self._call("GET", "/_mock/mailbox?leave&type=nacha.return")
        if status != 200:
            raise BankUnavailableError(f"the bank answered {status}")
        return [message["body"] for message in answer]

    async def _call(self, method: str, path: str, *, body: bytes | None = None) -> tuple[int, Any]:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.request(method, self._url + path, data=body) as answer,
            ):
                return answer.status, await answer.json(content_type=None)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise BankUnavailableError(f"{type(error).__name__}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class BankBridge:
    """Carries debits to a bank and returns from it; whoever calls records the changes."""

    ledger: Ledger
    bank: Bank
    clock: Callable[[], datetime]
    originator: Originator = field(default_factory=Originator)

    def prepare(self) -> list[Change]:
        """Put the debits that no bank has yet into files; to be recorded before it is sent."""
        changes = []
        while change := self.ledger.hand_over(
            routing_number=self.originator.bank_routing_number, debits_max=DEBITS_PER_FILE_MAX
        ):
            changes.append(change)
        return changes

    async def submit_next(self) -> Change | None:
        """Send the eldest file that the bank may not have; None when it has all.

        Raises BankUnavailableError, FileRefusedError.
        """
        for file in self.ledger.files.values():
            if not file.taken:
                await self.bank.submit(self.render(file))
                return self.ledger.take_file(file.number)
        return None

    async def collect(self) -> list[Change]:
        """Read the bank's returns up to the processor's day.

        Raises BankUnavailableError, MalformedReturnFileError.
        """
        await self.bank.advance_to(self.clock().date())
        returns: list[Return] = []
        for text in await self.bank.return_files():
            returns += parse_returns(text)
        changes = [
            self.ledger.return_debit(one.original_trace, return_code=one.code) for one in returns
        ]
        return [change for change in changes if change is not None]

    def render(self, file: BankFile) -> str:
        """Return a file as the bank gets it; the same each time."""
        created_at = datetime.fromtimestamp(file.created, UTC)
        return render_debits(
            [_debit(self.ledger.charges[identifier]) for identifier in file.charges],
            originator=self.originator,
            created_at=created_at,
            modifier=modifier_of(file.number),
            effective_on=created_at.date() + timedelta(days=1),
        )


def bank_reference(charge_id: str) -> str:
    """Return by which name the bank knows a charge: its last fifteen characters."""
    return charge_id[-15:]


def _debit(charge: Charge) -> Debit:
    return Debit(
        trace=charge.trace or "",
        reference=bank_reference(charge.id),
        routing_number=ROUTING_NUMBER,
        account_number=_account_number(charge),
        amount_cents=charge.amount_cents,
        name=charge.metadata.get(ACCOUNT_FIELD, "CUSTOMER"),
        again=charge.attempt > 1,
    )


def _account_number(charge: Charge) -> str:
    # Nobody's number: it is made of the token each time, and stored nowhere.
    digest = hashlib.sha256(charge.method.encode()).digest()
    return f"{int.from_bytes(digest[:4]) % 10**8:08d}{charge.last4}"
