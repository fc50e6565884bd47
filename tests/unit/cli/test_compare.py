"""Small worlds written by hand, each with one thing wrong: it is found, and named."""

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from paypost.verify.compare import Difference, Fault, Tally, compare
from paypost.verify.rows import Entry, Mail, Movement, Notice, Posting, Reference

NOW = datetime(2025, 3, 14, 18, 0, tzinfo=UTC)
P1, P2 = UUID(int=1), UUID(int=2)
R1 = UUID(int=11)
N1, N2, N11 = UUID(int=101), UUID(int=102), UUID(int=111)

MOVEMENT = Movement(
    id=P1,
    payment_id=P1,
    kind="payment",
    account_id="A-1",
    amount_cents=8_450,
    currency="USD",
    status="confirmed",
    notification="sent",
)
POSTING = Posting(
    id=P1,
    payment_id=P1,
    kind="payment",
    account_id="A-1",
    amount_cents=8_450,
    currency="USD",
    status="posted",
)
ENTRY = Entry(
    sequence=1,
    key=P1,
    kind="payment",
    account="A-1",
    amount_cents=8_450,
    currency="USD",
    payment_key=P1,
)
NOTICE = Notice(
    id=N1,
    kind="posted",
    payment_id=P1,
    posting_key=P1,
    account_id="A-1",
    amount_cents=8_450,
    currency="USD",
    status="sent",
)
MAIL = Mail(number=1, notice_id=N1, received_at=NOW)


@dataclass(kw_only=True)
class World:
    """The books as lists; one payment of 84.50 that has arrived everywhere, unless said."""

    movement_rows: list[Movement] = field(default_factory=lambda: [MOVEMENT])
    posting_rows: list[Posting] = field(default_factory=lambda: [POSTING])
    ledger_rows: list[Entry] = field(default_factory=lambda: [ENTRY])
    journal_rows: list[Entry] | None = None
    reference_rows: list[Reference] | None = None
    notice_rows: list[Notice] = field(default_factory=lambda: [NOTICE])
    mail_rows: list[Mail] = field(default_factory=lambda: [MAIL])

    def movements(self):
        return _stream(self.movement_rows, lambda row: row.id)

    def postings(self):
        return _stream(self.posting_rows, lambda row: row.id)

    def ledger_by_key(self):
        return _stream(self.ledger_rows, lambda row: row.key)

    def ledger_by_sequence(self):
        return _stream(self.ledger_rows, lambda row: row.sequence)

    def ledger_of_reversed(self):
        reversed_keys = {row.payment_key for row in self.ledger_rows if row.kind != "payment"}
        wanted = [row for row in self.ledger_rows if row.payment_key in reversed_keys]
        return _stream(wanted, lambda row: (row.payment_key, row.sequence))

    def journal(self):
        rows = self.ledger_rows if self.journal_rows is None else self.journal_rows
        return _stream(rows, lambda row: 0)

    def posted_references(self):
        rows = self.reference_rows
        if rows is None:
            rows = [
                Reference(processor="stripe", reference=f"pi_{row.id.int}", posting_id=row.id)
                for row in self.posting_rows
                if row.status == "posted" and row.kind == "payment"
            ]
        return _stream(rows, lambda row: (row.processor, row.reference))

    def notices_by_posting(self):
        wanted = [row for row in self.notice_rows if row.posting_key is not None]
        return _stream(wanted, lambda row: row.posting_key)

    def declines(self):
        wanted = [row for row in self.movement_rows if row.kind == "decline"]
        return _stream(wanted, lambda row: row.payment_id)

    def decline_notices(self):
        wanted = [row for row in self.notice_rows if row.kind == "declined"]
        return _stream(wanted, lambda row: row.payment_id)

    def notices(self):
        return _stream(self.notice_rows, lambda row: row.id)

    def mails(self):
        return _stream(self.mail_rows, lambda row: row.notice_id)


async def _stream(rows: Iterable[Any], key: Any) -> AsyncIterator[Any]:
    for row in sorted(rows, key=key):
        yield row


async def differences(world: World) -> list[Difference]:
    return [each async for each in compare(books=world, tally=Tally())]


async def faults(world: World) -> list[tuple[Fault, str]]:
    return [(each.fault, each.key) for each in await differences(world)]


def with_reversal(*, sequence: int = 2) -> World:
    """The payment, and its refund in full."""
    return World(
        movement_rows=[MOVEMENT, replace(MOVEMENT, id=R1, kind="reversal")],
        posting_rows=[POSTING, replace(POSTING, id=R1, kind="reversal")],
        ledger_rows=[ENTRY, replace(ENTRY, sequence=sequence, key=R1, kind="reversal")],
        notice_rows=[NOTICE, replace(NOTICE, id=N11, kind="reversed", posting_key=R1)],
        mail_rows=[MAIL, Mail(number=2, notice_id=N11, received_at=NOW)],
    )


class TestAWorldInOrder:
    async def test_has_no_differences(self):
        assert await differences(World()) == []

    async def test_may_be_empty(self):
        world = World(
            movement_rows=[], posting_rows=[], ledger_rows=[], notice_rows=[], mail_rows=[]
        )
        assert await differences(world) == []

    async def test_may_hold_a_reversal_after_its_payment(self):
        assert await differences(with_reversal()) == []

    async def test_is_counted_to_the_cent_in_every_book(self):
        tally = Tally()
        assert [each async for each in compare(books=with_reversal(), tally=tally)] == []
        found = {key: (each.count, each.cents) for key, each in tally.sums.items()}
        books = ("accepted", "posted", "ledger", "journal", "told")
        assert found == {
            (book, kind, "USD"): (1, 8_450) for book in books for kind in ("payment", "reversal")
        }
        assert (tally.mails, tally.mails_repeated) == (2, 0)

    async def test_may_hold_a_payment_in_suspense_for_a_stated_reason(self):
        tally = Tally()
        world = World(
            movement_rows=[replace(MOVEMENT, status="suspended", wait_reason="account_unknown")],
            posting_rows=[replace(POSTING, status="suspended", reason="account_unknown")],
            ledger_rows=[],
            notice_rows=[],
            mail_rows=[],
        )
        assert [each async for each in compare(books=world, tally=tally)] == []
        assert dict(tally.held) == {"suspended: account_unknown": 1}

    async def test_may_hold_a_posting_that_was_released_to_another_account(self):
        world = World(
            posting_rows=[replace(POSTING, account_id="A-2", released=True)],
            ledger_rows=[replace(ENTRY, account="A-2")],
            notice_rows=[replace(NOTICE, account_id="A-2")],
        )
        assert await differences(world) == []

    async def test_may_have_customers_without_an_address(self):
        world = World(
            notice_rows=[replace(NOTICE, status="skipped", reason="no_address")], mail_rows=[]
        )
        assert await differences(world) == []

    async def test_may_have_told_a_delay_beside_the_posting(self):
        delay = replace(NOTICE, id=N2, kind="delayed")
        world = World(
            notice_rows=[NOTICE, delay],
            mail_rows=[MAIL, Mail(number=2, notice_id=N2, received_at=NOW)],
        )
        assert await differences(world) == []

    async def test_counts_a_mail_that_came_again_and_takes_it_for_no_fault(self):
        tally = Tally()
        world = World(mail_rows=[MAIL, replace(MAIL, number=2)])
        assert [each async for each in compare(books=world, tally=tally)] == []
        assert (tally.mails, tally.mails_repeated) == (2, 1)

    async def test_may_have_declines_that_were_told(self):
        world = World(
            movement_rows=[MOVEMENT, replace(MOVEMENT, id=P2, payment_id=P2, kind="decline")],
            notice_rows=[
                NOTICE,
                replace(NOTICE, id=N2, kind="declined", payment_id=P2, posting_key=None),
            ],
            mail_rows=[MAIL, Mail(number=2, notice_id=N2, received_at=NOW)],
        )
        assert await differences(world) == []


class TestLost:
    async def test_an_accepted_payment_that_the_poster_never_had(self):
        world = World(
            movement_rows=[replace(MOVEMENT, status="announced")],
            posting_rows=[],
            ledger_rows=[],
            notice_rows=[],
            mail_rows=[],
        )
        found = await differences(world)
        assert [(each.fault, each.key, each.payment_id) for each in found] == [
            (Fault.LOST, str(P1), str(P1))
        ]
        assert "intake says announced" in found[0].detail

    async def test_a_posting_said_to_be_posted_that_the_ledger_has_not(self):
        world = World(ledger_rows=[])
        assert (Fault.LOST, str(P1)) in await faults(world)

    async def test_a_payment_held_back_without_a_reason(self):
        world = World(
            movement_rows=[replace(MOVEMENT, status="suspended")],
            posting_rows=[replace(POSTING, status="suspended")],
            ledger_rows=[],
            notice_rows=[],
            mail_rows=[],
        )
        assert await faults(world) == [(Fault.LOST, str(P1))]


class TestTwice:
    async def test_two_entries_under_one_key(self):
        world = World(ledger_rows=[ENTRY, replace(ENTRY, sequence=2)])
        found = await differences(world)
        assert [(each.fault, each.key) for each in found] == [(Fault.TWICE, str(P1))]
        assert "1, 2" in found[0].detail

    async def test_one_processor_s_payment_posted_under_two_keys(self):
        world = World(
            movement_rows=[MOVEMENT, replace(MOVEMENT, id=P2, payment_id=P2)],
            posting_rows=[POSTING, replace(POSTING, id=P2, payment_id=P2)],
            ledger_rows=[ENTRY, replace(ENTRY, sequence=2, key=P2, payment_key=P2)],
            notice_rows=[NOTICE, replace(NOTICE, id=N2, payment_id=P2, posting_key=P2)],
            mail_rows=[MAIL, Mail(number=2, notice_id=N2, received_at=NOW)],
            reference_rows=[
                Reference(processor="stripe", reference="pi_same", posting_id=P1),
                Reference(processor="stripe", reference="pi_same", posting_id=P2),
            ],
        )
        found = await differences(world)
        assert [(each.fault, each.key) for each in found] == [(Fault.TWICE, "pi_same")]
        assert str(P1) in found[0].detail
        assert str(P2) in found[0].detail

    async def test_a_line_that_the_journal_has_again(self):
        world = World(journal_rows=[ENTRY, ENTRY])
        assert await faults(world) == [(Fault.TWICE, str(P1))]

    async def test_a_payment_given_back_and_posted(self):
        world = World(posting_rows=[replace(POSTING, status="returned", reason="returned")])
        assert await faults(world) == [(Fault.TWICE, str(P1))]


class TestInvented:
    async def test_an_entry_that_nobody_accepted(self):
        world = World(
            ledger_rows=[ENTRY, replace(ENTRY, sequence=2, key=P2, payment_key=P2, account="A-9")]
        )
        found = await differences(world)
        assert [(each.fault, each.key) for each in found] == [(Fault.INVENTED, str(P2))]
        assert "A-9" in found[0].detail
        assert "8450" in found[0].detail

    async def test_word_of_a_posting_that_is_not_on_the_ledger(self):
        world = World(
            movement_rows=[replace(MOVEMENT, status="suspended", wait_reason="cash_only")],
            posting_rows=[replace(POSTING, status="suspended", reason="cash_only")],
            ledger_rows=[],
        )
        assert await faults(world) == [(Fault.INVENTED, str(P1))]

    async def test_a_mail_behind_which_no_notice_stands(self):
        world = World(mail_rows=[MAIL, Mail(number=7, notice_id=N2, received_at=NOW)])
        found = await differences(world)
        assert [(each.fault, each.key) for each in found] == [(Fault.MAIL_INVENTED, str(N2))]
        assert "mail 7" in found[0].detail

    async def test_a_decline_on_the_ledger(self):
        world = World(movement_rows=[replace(MOVEMENT, kind="decline")])
        assert (Fault.INVENTED, str(P1)) in await faults(world)


class TestOtherThanAccepted:
    async def test_a_wrong_amount_on_the_ledger(self):
        world = World(ledger_rows=[replace(ENTRY, amount_cents=8_451)])
        found = await differences(world)
        assert [(each.fault, each.key) for each in found] == [(Fault.AMOUNT, str(P1))]
        assert "8450" in found[0].detail
        assert "8451" in found[0].detail

    async def test_a_wrong_amount_told_to_the_customer(self):
        world = World(notice_rows=[replace(NOTICE, amount_cents=845)])
        assert await faults(world) == [(Fault.AMOUNT, str(P1))]

    async def test_another_account_on_the_ledger(self):
        world = World(ledger_rows=[replace(ENTRY, account="A-2")])
        # The customer of the right account was told, of a posting that is on another one.
        assert await faults(world) == [(Fault.ACCOUNT, str(P1)), (Fault.ACCOUNT, str(P1))]

    async def test_another_account_at_the_poster_that_nobody_released_it_to(self):
        world = World(
            posting_rows=[replace(POSTING, account_id="A-2")],
            ledger_rows=[replace(ENTRY, account="A-2")],
            notice_rows=[replace(NOTICE, account_id="A-2")],
        )
        assert await faults(world) == [(Fault.ACCOUNT, str(P1))]

    async def test_a_reversal_posted_as_a_payment(self):
        world = with_reversal()
        world.ledger_rows[1] = replace(world.ledger_rows[1], kind="payment")
        assert await faults(world) == [(Fault.KIND, str(R1))]


class TestOrder:
    async def test_a_reversal_before_its_payment(self):
        world = with_reversal()
        world.ledger_rows = [
            replace(ENTRY, sequence=5),
            replace(ENTRY, sequence=4, key=R1, kind="reversal"),
        ]
        world.journal_rows = list(reversed(world.ledger_rows))
        found = await differences(world)
        assert [(each.fault, each.key) for each in found] == [(Fault.ORDER, str(R1))]
        assert "number 4" in found[0].detail

    async def test_a_reversal_of_a_payment_that_is_not_there(self):
        world = with_reversal()
        world.ledger_rows = [replace(ENTRY, key=R1, kind="reversal")]
        assert (Fault.ORDER, str(R1)) in await faults(world)


class TestConfirmation:
    async def test_a_posting_of_which_nobody_was_told(self):
        world = World(
            movement_rows=[replace(MOVEMENT, status="posted")], notice_rows=[], mail_rows=[]
        )
        assert await faults(world) == [(Fault.UNCONFIRMED, str(P1))]

    async def test_a_mail_that_the_server_never_had(self):
        world = World(mail_rows=[])
        found = await differences(world)
        assert [(each.fault, each.key, each.payment_id) for each in found] == [
            (Fault.MAIL_MISSING, str(N1), str(P1))
        ]

    async def test_two_notices_of_one_posting(self):
        world = World(
            notice_rows=[NOTICE, replace(NOTICE, id=N2)],
            mail_rows=[MAIL, Mail(number=2, notice_id=N2, received_at=NOW)],
        )
        assert await faults(world) == [(Fault.TOLD_TWICE, str(P1))]

    async def test_a_decline_that_was_not_told(self):
        world = World(
            movement_rows=[MOVEMENT, replace(MOVEMENT, id=P2, payment_id=P2, kind="decline")]
        )
        assert await faults(world) == [(Fault.UNCONFIRMED, str(P2))]


class TestUnfinished:
    async def test_a_posting_that_intake_has_not_heard_of(self):
        world = World(movement_rows=[replace(MOVEMENT, status="announced")])
        assert await faults(world) == [(Fault.UNFINISHED, str(P1))]

    async def test_an_entry_that_the_poster_still_asks_about(self):
        world = World(posting_rows=[replace(POSTING, status="unknown", reason="answer_lost")])
        assert (Fault.UNFINISHED, str(P1)) in await faults(world)


class TestJournal:
    async def test_an_entry_that_the_journal_lacks(self):
        world = World(journal_rows=[])
        assert await faults(world) == [(Fault.JOURNAL, str(P1))]

    async def test_a_line_that_differs_from_its_entry(self):
        world = World(journal_rows=[replace(ENTRY, amount_cents=1)])
        assert await faults(world) == [(Fault.JOURNAL, str(P1))]
