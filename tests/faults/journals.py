"""What those outside of the system have written down of one run: all that oracles read.

The load generator's journals say what was asked and how it was answered, the CIS's journal what
took effect, the mail sink's store what customers got, the processor's book what was charged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from paypost.simulators.mail.store import FILE_NAME, message_of
from paypost.simulators.processor.book import Entry
from paypost.simulators.processor.records import ACCOUNT_FIELD

Movement = tuple[str, int]
"""Kind (`payment`, `reversal`, `reinstatement`) and amount in cents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """A payment that the generator sent the events of.

    Attributes:
        reference: the processor's name.
        account: whose; `amount_cents` is unique among the account's payments of one run.
        amount_cents: the bill's, without the fee.
        scenario: what happens to it.
        movements: what has to be on the ledger in the end.
        declined: whether the customer is to be told of a decline.
        in_order: whether its events were sent in theirs; else two refunds may come as one.
        told: whether its customer can be told; the mail server refuses some for good.
        planned: whether it belongs to the plan, which is the same for each fault of a seed.
    """

    reference: str
    account: str
    amount_cents: int
    scenario: str
    movements: tuple[Movement, ...]
    declined: bool = False
    planned: bool = True
    in_order: bool = True
    told: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DueCharge:
    """A bill of a customer with autopay, due today: its amount has to be posted once."""

    account: str
    amount_cents: int
    planned: bool = True
    """Whether it belongs to the plan, which is the same for each fault of a seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One delivery of one event, and its answer; status None where there was none."""

    event_id: str
    type: str
    reference: str
    account: str
    sent_at: datetime
    latency_seconds: float
    status: int | None
    attempt: int = 1

    @property
    def answered_at(self) -> float:
        """In seconds of the epoch."""
        return self.sent_at.timestamp() + self.latency_seconds

    @property
    def taken(self) -> bool:
        """Whether it was answered 2xx."""
        return self.status is not None and 200 <= self.status < 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A line of the CIS's journal."""

    sequence: int
    key: str
    kind: str
    account: str
    amount_cents: int
    payment_key: str
    posted_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A mail; kind as notifier's (posted, reversed, reinstated, declined), else `OTHER`."""

    message_id: str
    address: str
    kind: str
    amount_cents: int
    received_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Charged:
    """A charge that took money, by the processor's book."""

    intent: str
    account: str
    amount_cents: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """How one process was at one moment.

    Attributes:
        at: in seconds of the epoch.
        ready: what its /readyz said; False where it did not answer.
        starts: how often it was started so far.
        cpu_seconds: used since its start.
        commits: of the whole database server so far; None where it did not answer.
    """

    at: float
    process: str
    ready: bool
    starts: int
    cpu_seconds: float
    commits: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """The moments of a run, in seconds of the epoch."""

    began: float
    injected: float
    healed: float
    ended: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Journals:
    """All of one run, restricted to its own accounts.

    Attributes:
        accounts: all that this run may touch.
        deliveries: what the processor sent of autopay's charges.
        strangers: effects of the run's time on accounts of nobody here.
        addresses: of each account.
        counters: by service, what its metrics counted during the run; only of those that were not
            restarted meanwhile.
        dead: by stream, the original bytes of what was buried during the run.
        stories: by payment, what its timeline lacks.
    """

    accounts: frozenset[str]
    addresses: Mapping[str, str]
    payments: Sequence[Payment]
    charges: Sequence[DueCharge]
    attempts: Sequence[Attempt]
    effects: Sequence[Effect]
    letters: Sequence[Letter]
    charged: Sequence[Charged]
    times: Times
    deliveries: Sequence[Attempt] = ()
    strangers: Sequence[Effect] = ()
    samples: Sequence[Sample] = ()
    counters: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    dead: Mapping[str, Sequence[bytes]] = field(default_factory=dict)
    stories: Mapping[str, Sequence[str]] = field(default_factory=dict)


SAYS = {
    "posted": re.compile(r"^Your payment of (?P<amount>\S+) is posted$"),
    "reversed": re.compile(r"^(?P<amount>\S+) was taken off your account$"),
    "reinstated": re.compile(r"^(?P<amount>\S+) is back on your account$"),
    "declined": re.compile(r"^Your payment of (?P<amount>\S+) was declined$"),
}
"""By kind of notice, its English subject."""

TOLD_AS = {"payment": "posted", "reversal": "reversed", "reinstatement": "reinstated"}
"""By kind of effect, the notice that tells of it."""

OTHER = "other"
"""The kind of a mail that tells of no effect: of autopay's words, of a delay."""


def lines_after(path: Path, *, offset_bytes: int) -> Iterator[dict[str, Any]]:
    """Yield the whole lines of a journal from there on; none where there is no file yet."""
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offset_bytes)
        for line in file:
            if line.endswith(b"\n"):
                yield orjson.loads(line)


def size_bytes(path: Path) -> int:
    """How long a journal is; 0 where there is none yet."""
    return path.stat().st_size if path.exists() else 0


def read_effects(path: Path, *, offset_bytes: int) -> list[Effect]:
    """The effects in the CIS's journal from there on."""
    return [
        Effect(
            sequence=line["sequence"],
            key=line["key"],
            kind=line["kind"],
            account=line["account"],
            amount_cents=line["amount_cents"],
            payment_key=line["payment_key"],
            posted_at=datetime.fromisoformat(line["posted_at"]),
        )
        for line in lines_after(path, offset_bytes=offset_bytes)
    ]


def read_letters(folder: Path, *, offset_bytes: int, addresses: frozenset[str]) -> list[Letter]:
    """What the mail sink kept from there on for these addresses and of payments."""
    found = []
    for line in lines_after(folder / FILE_NAME, offset_bytes=offset_bytes):
        if addresses.isdisjoint(line["to"]):
            continue
        message = message_of(line)
        kind, cents = _said(message.subject)
        found.append(
            Letter(
                message_id=message.message_id,
                address=message.recipients[0],
                kind=kind,
                amount_cents=cents,
                received_at=message.received_at,
            )
        )
    return found


def _said(subject: str) -> tuple[str, int]:
    for kind, pattern in SAYS.items():
        said = pattern.match(subject)
        if said is not None:
            return kind, cents_of(said["amount"])
    return OTHER, 0


def cents_of(text: str) -> int:
    """Whole cents of an amount as a mail writes it: `$1,234.50`."""
    dollars, _, cents = text.lstrip("$").replace(",", "").partition(".")
    return int(dollars) * 100 + int(cents)


def read_attempts(path: Path, *, offset_bytes: int = 0) -> list[Attempt]:
    """A journal of deliveries from there on: the generator's, or the processor's of autopay."""
    return [
        Attempt(
            event_id=line["event_id"],
            type=line["type"],
            reference=line["reference"],
            account=line["account"],
            sent_at=datetime.fromisoformat(line["sent_at"]),
            latency_seconds=line["latency_seconds"],
            status=line["status"],
            attempt=line["attempt"],
        )
        for line in lines_after(path, offset_bytes=offset_bytes)
    ]


def charged_of(entries: Iterator[Entry], *, accounts: frozenset[str]) -> list[Charged]:
    """What the processor's book says was taken from these accounts, each PaymentIntent once."""
    found: dict[str, Charged] = {}
    for entry in entries:
        for charge in entry.change.charges:
            account = charge.metadata.get(ACCOUNT_FIELD, "")
            if charge.status == "succeeded" and account in accounts:
                found[charge.id] = Charged(
                    intent=charge.intent, account=account, amount_cents=charge.amount_cents
                )
    return list(found.values())
