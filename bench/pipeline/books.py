"""What the CIS and the mail sink hold of a load, and whether each payment is there exactly once.

Nothing is asked of a yardstick: the reference CIS's journal and the mail sink's store are read from
their files, and matched to the payments by account and amount.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from bench.pipeline.load import Payment

Key = tuple[str, int]
"""Account and amount in cents."""

_SUBJECT = re.compile(r"^subject:[ \t]*([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
_AMOUNT = re.compile(r"^Amount:\s*\$([0-9][0-9,]*)\.([0-9]{2})\s*$", re.MULTILINE)
POSTED_SUBJECT_END = "is posted"


class LineCounter:
    """Follows a growing file of lines as cheaply as can be: it counts newlines, no more."""

    def __init__(self, *, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.count = 0

    def look(self) -> int:
        """How many whole lines there are by now."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._offset)
                while chunk := file.read(1 << 20):
                    self._offset += len(chunk)
                    self.count += chunk.count(b"\n")
        return self.count


def read_lines(*, path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file of JSON lines; nothing where there is no file."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield orjson.loads(line)


@dataclass(slots=True)
class Books:
    """When what was posted and mailed, by account and amount.

    Attributes:
        posted: times at which the CIS had it, in the order of its ledger.
        mailed: times at which the mail sink had it.
        order: what was posted, in the order of the ledger.
        others: mails that do not tell of a posting, by how their subject ends.
        unreadable: mails that tell of a posting of nobody knows what.
    """

    posted: dict[Key, list[float]] = field(default_factory=dict)
    mailed: dict[Key, list[float]] = field(default_factory=dict)
    order: list[Key] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    unreadable: int = 0

    def add_posting(self, line: Mapping[str, Any]) -> None:
        """A line of the CIS's journal."""
        key = (line["account"], line["amount_cents"])
        self.posted.setdefault(key, []).append(_seconds(line["posted_at"]))
        self.order.append(key)

    def add_mail(self, line: Mapping[str, Any], *, accounts: Mapping[str, str]) -> None:
        """A line of the mail sink's store; `accounts` by e-mail address."""
        head, _, text = line["raw"].partition("\r\n\r\n")
        subject = _SUBJECT.search(head)
        said = subject[1] if subject else ""
        if not said.endswith(POSTED_SUBJECT_END):
            self.others[" ".join(said.split()[-3:])] += 1
            return
        amount = _AMOUNT.search(text)
        account = accounts.get(line["to"][0]) if len(line["to"]) == 1 else None
        if amount is None or account is None:
            self.unreadable += 1
            return
        key = (account, int(amount[1].replace(",", "")) * 100 + int(amount[2]))
        self.mailed.setdefault(key, []).append(_seconds(line["received_at"]))


def read_books(*, journal_path: Path, mail_path: Path, accounts: Mapping[str, str]) -> Books:
    """The books as they stand in the files now.

    Args:
        journal_path: the reference CIS's journal.
        mail_path: the mail sink's file of messages.
        accounts: by e-mail address.
    """
    books = Books()
    for line in read_lines(path=journal_path):
        books.add_posting(line)
    for line in read_lines(path=mail_path):
        books.add_mail(line, accounts=accounts)
    return books


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A load held against the books.

    Attributes:
        once: payments that both books hold exactly once.
        unposted, unmailed: payments that a book lacks.
        posted_again, mailed_again: entries beyond the first of a payment.
        strangers: entries of no payment of the load.
        unreadable: mails of which nobody can say which payment they tell of.
    """

    once: int
    unposted: int
    unmailed: int
    posted_again: int
    mailed_again: int
    strangers: int
    unreadable: int

    @property
    def holds(self) -> bool:
        """Whether every payment is there exactly once, and nothing else."""
        return not self.faults

    @property
    def faults(self) -> dict[str, int]:
        """What does not hold, by name, each with its count; empty where all holds."""
        counted = {
            "not posted": self.unposted,
            "not mailed": self.unmailed,
            "posted again": self.posted_again,
            "mailed again": self.mailed_again,
            "of no payment": self.strangers,
            "mails that say nothing": self.unreadable,
        }
        return {name: count for name, count in counted.items() if count}


def match(
    *, payments: Iterable[Payment], books: Books, without: Collection[int] = frozenset()
) -> Match:
    """Hold all payments of a run, the warm-up's too, against the books.

    Args:
        payments: what was sent.
        books: what became of it.
        without: payments, by their numbers, that are to be in no book: one that is there all the
            same is a stranger.
    """
    wanted = {
        (payment.account, payment.amount_cents)
        for payment in payments
        if payment.number not in without
    }
    posted = {key: len(times) for key, times in books.posted.items()}
    mailed = {key: len(times) for key, times in books.mailed.items()}
    found = (posted.keys() | mailed.keys()) - wanted
    return Match(
        once=sum(posted.get(key) == 1 and mailed.get(key) == 1 for key in wanted),
        unposted=sum(key not in posted for key in wanted),
        unmailed=sum(key not in mailed for key in wanted),
        posted_again=sum(count - 1 for key, count in posted.items() if key in wanted),
        mailed_again=sum(count - 1 for key, count in mailed.items() if key in wanted),
        strangers=len(found),
        unreadable=books.unreadable,
    )


def overtakings(
    *,
    payments: Sequence[Payment],
    left_at: Mapping[int, float],
    accepted_at: Mapping[int, float],
    books: Books,
) -> int:
    """How often a payment stands on the ledger before one of its account that was accepted earlier.

    Only what is certain counts: the one had been answered before the other left.
    """
    by_key = {(payment.account, payment.amount_cents): payment.number for payment in payments}
    latest_left: dict[str, float] = {}
    count = 0
    for key in books.order:
        number = by_key.get(key)
        if number is None or number not in accepted_at:
            continue
        account = key[0]
        if accepted_at[number] < latest_left.get(account, float("-inf")):
            count += 1
        latest_left[account] = max(latest_left.get(account, float("-inf")), left_at[number])
    return count
