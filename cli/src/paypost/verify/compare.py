"""What must be true of the books together; pure but for reading the streams it is given.

Invariant: each stream is read once, in key order, and only the rows under the present key are
held. So the memory needed does not grow with the number of payments.
"""

from __future__ import annotations

import collections
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from paypost.verify.align import Stream, aligned
from paypost.verify.rows import Entry, Mail, Movement, Notice, Posting, Reference

SETTLED_NOTICES = frozenset({"sent", "skipped", "failed"})
HELD_STATUSES = frozenset({"suspended", "conflicted", "returned", "waiting"})
OPEN_STATUSES = frozenset({"due", "attempting", "unknown"})
ENDING_NOTICE = {"payment": "posted", "reversal": "reversed", "reinstatement": "reinstated"}
"""Which notice confirms which movement."""


UNMAILED = frozenset(("skipped", why) for why in ("no_address", "opted_out", "no_account"))
"""Notices of which there is never a mail."""


class Fault(StrEnum):
    """In which way the books disagree."""

    LOST = "lost"
    """Accepted, and neither on the ledger nor held back for a stated reason."""
    TWICE = "twice"
    """More effects than payments."""
    INVENTED = "invented"
    """An effect, or word of one, that nothing accepted stands behind."""
    AMOUNT = "amount"
    ACCOUNT = "account"
    KIND = "kind"
    ORDER = "order"
    """A reversal stands on the ledger before its payment."""
    JOURNAL = "journal"
    """The CIS's journal and its ledger disagree."""
    BALANCE = "balance"
    """The ledger's balances do not follow from its entries."""
    UNFINISHED = "unfinished"
    """On its way: done in one book and not yet in the next."""
    UNCONFIRMED = "unconfirmed"
    """On the ledger, and the customer was not told."""
    TOLD_TWICE = "told_twice"
    MAIL_MISSING = "mail_missing"
    """Said to be sent, and the mail server never had it."""
    MAIL_INVENTED = "mail_invented"
    DEAD_LETTERS = "dead_letters"
    OUTBOX = "outbox"
    CHARGED_TWICE = "charged_twice"
    """Autopay: the processor took the money of one due date more than once."""
    CHARGED_ANYWAY = "charged_anyway"
    """Autopay: charged and not given back, though the scheduler says that it is not charged."""
    CHARGED_AFTER_CANCELLATION = "charged_after_cancellation"
    """Autopay: charged after the customer's word that ended it, and not given back."""
    NOT_CHARGED = "not_charged"
    """Autopay: said to be charged, and the processor took nothing."""
    NOT_REFUNDED = "not_refunded"
    """Autopay: said or owed to be given back, and the processor still has it."""
    ABOVE_ANNOUNCEMENT = "above_announcement"
    """Autopay: more was charged than the customer was told."""
    NOTICE_TOO_SHORT = "notice_too_short"
    """Autopay: charged before the days of its notice were over."""
    UNEXPLAINED = "unexplained"
    """Autopay: a bill's due date has passed with neither a charge nor a reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One disagreement, with everything that one needs to look it up."""

    fault: Fault
    key: str
    """The posting's key, the notice's id, or what else it is about."""
    detail: str
    payment_id: str | None = None


@dataclass(slots=True)
class Sum:
    """How many, and how much together."""

    count: int = 0
    cents: int = 0


@dataclass(slots=True)
class Tally:
    """What was counted on the way: by book, kind and currency."""

    sums: dict[tuple[str, str, str], Sum] = field(default_factory=dict)
    held: collections.Counter[str] = field(default_factory=collections.Counter)
    """Accepted and not on the ledger: by status and reason."""
    notices: collections.Counter[str] = field(default_factory=collections.Counter)
    """By kind and what became of them."""
    mails: int = 0
    mails_repeated: int = 0
    """Mails that came again under the same Message-ID."""

    def add(self, book: str, *, kind: str, currency: str | None, cents: int) -> None:
        entered = self.sums.setdefault((book, kind, currency or "-"), Sum())
        entered.count += 1
        entered.cents += cents


class Books(Protocol):
    """The books of one system at one instant, each a stream in the order named."""

    def movements(self) -> AsyncIterable[Movement]:
        """By id."""
        ...

    def postings(self) -> AsyncIterable[Posting]:
        """By id."""
        ...

    def ledger_by_key(self) -> AsyncIterable[Entry]: ...
    def ledger_by_sequence(self) -> AsyncIterable[Entry]: ...

    def ledger_of_reversed(self) -> AsyncIterable[Entry]:
        """Of payments that were ever reversed: by payment, then sequence."""
        ...

    def journal(self) -> AsyncIterable[Entry]:
        """As written."""
        ...

    def posted_references(self) -> AsyncIterable[Reference]:
        """By processor and reference."""
        ...

    def notices_by_posting(self) -> AsyncIterable[Notice]:
        """Those about a posting, by its key."""
        ...

    def declines(self) -> AsyncIterable[Movement]:
        """By payment."""
        ...

    def decline_notices(self) -> AsyncIterable[Notice]:
        """By payment; those of autopay's declines, too, but for debits returned after posting."""
        ...

    def notices(self) -> AsyncIterable[Notice]:
        """By id."""
        ...

    def mails(self) -> AsyncIterable[Mail]:
        """By notice."""
        ...


async def compare(*, books: Books, tally: Tally) -> AsyncIterator[Difference]:
    """Yield every difference between the books; `tally` counts what was seen.

    One book is read in several orders: by posting, by sequence, by payment, by notice.
    """
    for part in (
        _compare_effects(books, tally),
        _compare_journal(books, tally),
        _check_order(books),
        _check_references(books),
        _compare_declines(books, tally),
        _compare_mails(books, tally),
    ):
        async for difference in part:
            yield difference


async def _compare_effects(books: Books, tally: Tally) -> AsyncIterator[Difference]:
    async for key, (movements, postings, entries, notices) in aligned(
        Stream(books.movements(), lambda row: row.id),
        Stream(books.postings(), lambda row: row.id),
        Stream(books.ledger_by_key(), lambda row: row.key),
        Stream(books.notices_by_posting(), lambda row: row.posting_key),
    ):
        _count_effects(tally, movements, postings, entries, notices)
        movement = movements[0] if movements else None
        posting = postings[0] if postings else None
        if movement is None:
            yield _invented(key, posting, entries, notices)
        elif movement.kind == "decline":
            if posting is not None or entries:
                yield _of(movement, Fault.INVENTED, "a declined charge reached the poster")
        else:
            for difference in _judge(movement, posting, entries, notices, tally):
                yield difference


def _count_effects(
    tally: Tally,
    movements: Sequence[Movement],
    postings: Sequence[Posting],
    entries: Sequence[Entry],
    notices: Sequence[Notice],
) -> None:
    for movement in movements:
        tally.add(
            "accepted",
            kind=movement.kind,
            currency=movement.currency,
            cents=movement.amount_cents,
        )
    for posting in postings:
        book = "posted" if posting.status == "posted" else "held"
        tally.add(book, kind=posting.kind, currency=posting.currency, cents=posting.amount_cents)
    for entry in entries:
        tally.add("ledger", kind=entry.kind, currency=entry.currency, cents=entry.amount_cents)
    kinds = {notice: kind for kind, notice in ENDING_NOTICE.items()}
    for notice in notices:
        if notice.kind in kinds and notice.status in SETTLED_NOTICES:
            tally.add(
                "told",
                kind=kinds[notice.kind],
                currency=notice.currency,
                cents=notice.amount_cents or 0,
            )


def _invented(
    key: UUID, posting: Posting | None, entries: Sequence[Entry], notices: Sequence[Notice]
) -> Difference:
    if entries:
        entry = entries[0]
        what = (
            f"{entry.kind} of {entry.amount_cents} on account {entry.account} stands on the "
            f"ledger (number {entry.sequence}) and was never accepted"
        )
    elif posting is not None:
        what = f"the poster has a {posting.kind} that was never accepted"
    else:
        what = f"the customer was told ({notices[0].kind}) of what was never accepted"
    payment_id = str(posting.payment_id) if posting is not None else None
    return Difference(fault=Fault.INVENTED, key=str(key), detail=what, payment_id=payment_id)


def _of(movement: Movement, fault: Fault, detail: str) -> Difference:
    return Difference(
        fault=fault, key=str(movement.id), detail=detail, payment_id=str(movement.payment_id)
    )


def _judge(
    movement: Movement,
    posting: Posting | None,
    entries: Sequence[Entry],
    notices: Sequence[Notice],
    tally: Tally,
) -> Iterator[Difference]:
    """Say what is wrong with one accepted movement's way to the ledger and the customer."""
    if posting is not None:
        yield from _judge_copy(movement, posting)
    if not entries:
        yield from _judge_absence(movement, posting, tally)
        for notice in notices:
            if notice.kind == ENDING_NOTICE[movement.kind]:
                yield _of(
                    movement,
                    Fault.INVENTED,
                    f"the customer was told {notice.kind!r}, and nothing stands on the ledger",
                )
        return
    if len(entries) > 1:
        numbers = ", ".join(str(entry.sequence) for entry in entries)
        yield _of(movement, Fault.TWICE, f"stands {len(entries)} times on the ledger: {numbers}")
    yield from _judge_entry(movement, posting, entries[0])
    yield from _judge_confirmation(movement, entries[0], notices)


def _judge_copy(movement: Movement, posting: Posting) -> Iterator[Difference]:
    if (posting.amount_cents, posting.currency) != (movement.amount_cents, movement.currency):
        yield _of(
            movement,
            Fault.AMOUNT,
            f"accepted {movement.amount_cents} {movement.currency}, "
            f"at the poster {posting.amount_cents} {posting.currency}",
        )
    if (posting.kind, posting.payment_id) != (movement.kind, movement.payment_id):
        yield _of(
            movement,
            Fault.KIND,
            f"accepted as {movement.kind} of {movement.payment_id}, "
            f"at the poster {posting.kind} of {posting.payment_id}",
        )
    # What was announced without an account may have learnt it since; the poster holds it back.
    learnt_late = posting.account_id is None and posting.status in HELD_STATUSES
    if posting.account_id != movement.account_id and not posting.released and not learnt_late:
        yield _of(
            movement,
            Fault.ACCOUNT,
            f"accepted for {movement.account_id}, at the poster {posting.account_id}",
        )


def _judge_absence(
    movement: Movement, posting: Posting | None, tally: Tally
) -> Iterator[Difference]:
    if posting is None:
        yield _of(movement, Fault.LOST, f"{_said(movement)}; the poster has never had it")
        return
    reason = posting.reason or movement.wait_reason
    if posting.status == "posted":
        yield _of(movement, Fault.LOST, "the poster says posted, and the ledger has nothing")
    elif posting.status in HELD_STATUSES:
        tally.held[f"{posting.status}: {reason or 'no reason'}"] += 1
        if reason is None:
            yield _of(movement, Fault.LOST, f"{posting.status} without a reason")
        believed = posting.status if posting.status in {"suspended", "returned"} else None
        if believed is not None and movement.status != believed:
            yield _of(movement, Fault.UNFINISHED, f"the poster says {believed}; {_said(movement)}")
    elif reason is not None:
        tally.held[f"{posting.status}: {reason}"] += 1
    else:
        yield _of(movement, Fault.UNFINISHED, f"the poster is at it ({posting.status})")


def _judge_entry(movement: Movement, posting: Posting | None, entry: Entry) -> Iterator[Difference]:
    if (entry.amount_cents, entry.currency) != (movement.amount_cents, movement.currency):
        yield _of(
            movement,
            Fault.AMOUNT,
            f"accepted {movement.amount_cents} {movement.currency}, "
            f"on the ledger {entry.amount_cents} {entry.currency}",
        )
    if (entry.kind, entry.payment_key) != (movement.kind, movement.payment_id):
        yield _of(
            movement,
            Fault.KIND,
            f"accepted as {movement.kind} of {movement.payment_id}, "
            f"on the ledger {entry.kind} of {entry.payment_key}",
        )
    wanted = movement.account_id if posting is None else posting.account_id
    if entry.account != wanted:
        yield _of(movement, Fault.ACCOUNT, f"to be on {wanted}, on the ledger on {entry.account}")
    if posting is None:
        yield _of(movement, Fault.INVENTED, "on the ledger, and the poster has never had it")
    elif posting.status == "returned":
        yield _of(movement, Fault.TWICE, "given back to the payer, and on the ledger as well")
    elif posting.status != "posted":
        yield _of(movement, Fault.UNFINISHED, f"on the ledger; the poster says {posting.status}")


def _judge_confirmation(
    movement: Movement, entry: Entry, notices: Sequence[Notice]
) -> Iterator[Difference]:
    ending = [notice for notice in notices if notice.kind == ENDING_NOTICE[movement.kind]]
    delays = [notice for notice in notices if notice.kind == "delayed"]
    for notice in notices:
        if notice not in ending and notice not in delays:
            yield _of(movement, Fault.INVENTED, f"told as {notice.kind}, being a {movement.kind}")
        elif notice.amount_cents != movement.amount_cents:
            yield _of(
                movement,
                Fault.AMOUNT,
                f"accepted {movement.amount_cents}, told {notice.amount_cents} ({notice.kind})",
            )
    for kind in (ending, delays):
        if len(kind) > 1:
            yield _of(movement, Fault.TOLD_TWICE, f"{len(kind)} notices of {kind[0].kind!r}")
    if not ending:
        yield _of(movement, Fault.UNCONFIRMED, "on the ledger; no notice of it")
        return
    notice = ending[0]
    if notice.account_id != entry.account:
        yield _of(
            movement,
            Fault.ACCOUNT,
            f"on the ledger on {entry.account}, told to {notice.account_id}",
        )
    if notice.status not in SETTLED_NOTICES:
        why = f" ({notice.reason})" if notice.reason else ""
        yield _of(movement, Fault.UNCONFIRMED, f"on the ledger; notice {notice.status}{why}")
    elif movement.status != "confirmed":
        yield _of(movement, Fault.UNFINISHED, f"posted and told; {_said(movement)}")


def _said(movement: Movement) -> str:
    why = f" ({movement.wait_reason})" if movement.wait_reason else ""
    return f"intake says {movement.status}{why}"


async def _compare_journal(books: Books, tally: Tally) -> AsyncIterator[Difference]:
    repeated: list[Difference] = []

    async def increasing() -> AsyncIterator[Entry]:
        last = 0
        async for entry in books.journal():
            if entry.sequence > last:
                last = entry.sequence
                tally.add(
                    "journal", kind=entry.kind, currency=entry.currency, cents=entry.amount_cents
                )
                yield entry
            else:
                repeated.append(
                    Difference(
                        fault=Fault.TWICE,
                        key=str(entry.key),
                        detail=f"the journal has number {entry.sequence} again, after {last}",
                    )
                )

    async for sequence, (ledger, journal) in aligned(
        Stream(books.ledger_by_sequence(), lambda row: row.sequence),
        Stream(increasing(), lambda row: row.sequence),
    ):
        if ledger != journal:
            key = (ledger or journal)[0].key
            held = _terms(ledger[0]) if ledger else "nothing"
            written = _terms(journal[0]) if journal else "nothing"
            detail = f"number {sequence}: on the ledger {held}, in the journal {written}"
            yield Difference(fault=Fault.JOURNAL, key=str(key), detail=detail)
    for difference in repeated:
        yield difference


def _terms(entry: Entry) -> str:
    return f"{entry.kind} {entry.amount_cents} {entry.currency} on {entry.account} ({entry.key})"


async def _check_order(books: Books) -> AsyncIterator[Difference]:
    payment: UUID | None = None
    async for entry in books.ledger_of_reversed():
        if entry.kind == "payment":
            payment = entry.key
        elif payment != entry.payment_key:
            yield Difference(
                fault=Fault.ORDER,
                key=str(entry.key),
                payment_id=str(entry.payment_key),
                detail=f"{entry.kind} on {entry.account} (number {entry.sequence}) stands on "
                "the ledger before its payment",
            )


async def _check_references(books: Books) -> AsyncIterator[Difference]:
    async for (processor, reference), (rows,) in aligned(
        Stream(books.posted_references(), lambda row: (row.processor, row.reference))
    ):
        if len(rows) > 1:
            ids = ", ".join(str(row.posting_id) for row in rows)
            yield Difference(
                fault=Fault.TWICE,
                key=reference,
                detail=f"{processor}'s {reference} was posted {len(rows)} times: {ids}",
            )


async def _compare_declines(books: Books, tally: Tally) -> AsyncIterator[Difference]:
    async for payment_id, (declines, notices) in aligned(
        Stream(books.declines(), lambda row: row.payment_id),
        Stream(books.decline_notices(), lambda row: row.payment_id),
    ):
        settled = [notice for notice in notices if notice.status in SETTLED_NOTICES]
        for notice in settled:
            cents = notice.amount_cents or 0
            tally.add("told", kind="decline", currency=notice.currency, cents=cents)
        if len(notices) > len(declines):
            fault = Fault.TOLD_TWICE if declines else Fault.INVENTED
        elif len(settled) < len(declines):
            fault = Fault.UNCONFIRMED
        else:
            continue
        yield Difference(
            fault=fault,
            key=str(payment_id),
            payment_id=str(payment_id),
            detail=f"{len(declines)} declines, {len(notices)} notices, {len(settled)} settled",
        )


async def _compare_mails(books: Books, tally: Tally) -> AsyncIterator[Difference]:
    async for notice_id, (notices, mails) in aligned(
        Stream(books.notices(), lambda row: row.id),
        Stream(books.mails(), lambda row: row.notice_id),
    ):
        tally.mails += len(mails)
        tally.mails_repeated += max(0, len(mails) - 1)
        notice = notices[0] if notices else None
        if notice is not None:
            tally.notices[_outcome(notice)] += 1
        # A delay may have been mailed, unanswered, before the posting made it no news.
        unsent = notice is not None and (notice.status, notice.reason) in UNMAILED
        if notice is None or (mails and unsent):
            why = "no notice stands behind it" if notice is None else "its notice was skipped"
            yield Difference(
                fault=Fault.MAIL_INVENTED,
                key=str(notice_id),
                payment_id=_payment_told(notice),
                detail=f"mail {mails[0].number}: {why}",
            )
        elif notice.status == "sent" and not mails:
            yield Difference(
                fault=Fault.MAIL_MISSING,
                key=str(notice_id),
                payment_id=_payment_told(notice),
                detail=f"{notice.kind!r} is said to be sent, and the mail server never had it",
            )


def _payment_told(notice: Notice | None) -> str | None:
    """Of which payment a notice tells; of none where it is about autopay."""
    return None if notice is None or notice.payment_id is None else str(notice.payment_id)


def _outcome(notice: Notice) -> str:
    why = f" ({notice.reason})" if notice.reason and notice.status != "sent" else ""
    return f"{notice.kind} {notice.status}{why}"
