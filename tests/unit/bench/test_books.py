"""A payment counts when the CIS and the mail sink both hold it exactly once."""

from pathlib import Path
from typing import Any

import orjson
from bench.pipeline.books import Books, LineCounter, match, overtakings, read_books
from bench.pipeline.load import Payment

AT = "2025-03-14T18:22:05+00:00"
FIRST, SECOND = Payment(0, "B-1", 8450), Payment(1, "B-2", 120_000)
ACCOUNTS = {"b-1@customers.example": "B-1", "b-2@customers.example": "B-2"}


def posting(payment: Payment) -> dict[str, Any]:
    return {
        "account": payment.account,
        "amount_cents": payment.amount_cents,
        "posted_at": AT,
    }


def mail(
    payment: Payment, *, subject: str = "Your payment is posted", amount: str | None = None
) -> dict[str, Any]:
    cents = payment.amount_cents
    text = amount or f"Amount: ${cents // 100:,}.{cents % 100:02d}"
    return {
        "to": [f"{payment.account.lower()}@customers.example"],
        "received_at": AT,
        "raw": f"From: city@example.org\r\nSubject: {subject}\r\nMIME-Version: 1.0\r\n\r\n"
        f"Hello,\r\n\r\n{text}\r\nBalance now: $12.00\r\n",
    }


def books_of(*, postings: list[dict[str, Any]], mails: list[dict[str, Any]]) -> Books:
    books = Books()
    for line in postings:
        books.add_posting(line)
    for line in mails:
        books.add_mail(line, accounts=ACCOUNTS)
    return books


class TestMatching:
    def test_holds_where_both_books_have_every_payment_once(self) -> None:
        books = books_of(
            postings=[posting(FIRST), posting(SECOND)], mails=[mail(SECOND), mail(FIRST)]
        )
        found = match(payments=[FIRST, SECOND], books=books)
        assert found.holds
        assert found.once == 2

    def test_names_what_is_missing_in_either_book(self) -> None:
        books = books_of(postings=[posting(FIRST)], mails=[mail(SECOND)])
        found = match(payments=[FIRST, SECOND], books=books)
        assert found.faults == {"not posted": 1, "not mailed": 1}
        assert found.once == 0

    def test_names_what_was_posted_or_mailed_twice(self) -> None:
        books = books_of(
            postings=[posting(FIRST)] * 3 + [posting(SECOND)],
            mails=[mail(FIRST), mail(SECOND), mail(SECOND)],
        )
        found = match(payments=[FIRST, SECOND], books=books)
        assert found.faults == {"posted again": 2, "mailed again": 1}
        assert found.once == 0

    def test_does_not_take_another_amount_for_the_payment(self) -> None:
        other = Payment(0, "B-1", 8451)
        books = books_of(postings=[posting(other)], mails=[mail(FIRST)])
        found = match(payments=[FIRST], books=books)
        assert found.faults == {"not posted": 1, "of no payment": 1}

    def test_takes_what_should_not_be_there_for_a_stranger(self) -> None:
        books = books_of(
            postings=[posting(FIRST), posting(SECOND)], mails=[mail(FIRST), mail(SECOND)]
        )
        found = match(payments=[FIRST, SECOND], books=books, without={SECOND.number})
        assert found.faults == {"of no payment": 1}

    def test_counts_a_mail_that_says_no_amount_against_the_yardstick(self) -> None:
        books = books_of(postings=[posting(FIRST)], mails=[mail(FIRST, amount="Thank you")])
        found = match(payments=[FIRST], books=books)
        assert found.faults == {"not mailed": 1, "mails that say nothing": 1}

    def test_does_not_take_word_of_a_delay_for_word_of_the_posting(self) -> None:
        delayed = mail(FIRST, subject="Your payment is accepted, posting is delayed")
        books = books_of(postings=[posting(FIRST)], mails=[delayed, mail(FIRST)])
        assert match(payments=[FIRST], books=books).holds
        assert books.others == {"posting is delayed": 1}

    def test_does_not_take_the_balance_for_the_amount(self) -> None:
        books = books_of(postings=[], mails=[mail(FIRST)])
        assert list(books.mailed) == [("B-1", 8450)]


class TestReading:
    def test_leaves_out_a_line_that_is_still_being_written(self, tmp_path: Path) -> None:
        journal, mails = tmp_path / "journal", tmp_path / "mails"
        whole = orjson.dumps(posting(FIRST))
        journal.write_bytes(whole + b"\n" + whole[:20])
        mails.write_bytes(orjson.dumps(mail(FIRST)) + b"\n")
        books = read_books(journal_path=journal, mail_path=mails, accounts=ACCOUNTS)
        assert match(payments=[FIRST], books=books).holds

    def test_of_books_that_are_not_there_yet_is_empty(self, tmp_path: Path) -> None:
        books = read_books(journal_path=tmp_path / "a", mail_path=tmp_path / "b", accounts=ACCOUNTS)
        assert not books.posted
        assert not books.mailed


class TestLineCounter:
    def test_counts_whole_lines_as_they_come(self, tmp_path: Path) -> None:
        path = tmp_path / "lines"
        counter = LineCounter(path=path)
        assert counter.look() == 0
        path.write_bytes(b"one\ntw")
        assert counter.look() == 1
        with path.open("ab") as file:
            file.write(b"o\nthree\n")
        assert counter.look() == 3


class TestOvertaking:
    """Within an account only what is certain counts: answered before the other left."""

    EARLIER, LATER = Payment(0, "B-1", 100), Payment(1, "B-1", 200)

    def count(self, *, order: list[Payment], left_at: float) -> int:
        return overtakings(
            payments=[self.EARLIER, self.LATER],
            left_at={0: 0.0, 1: left_at},
            accepted_at={0: 1.0, 1: left_at + 1},
            books=books_of(postings=[posting(each) for each in order], mails=[]),
        )

    def test_is_seen_where_a_later_one_is_posted_first(self) -> None:
        assert self.count(order=[self.LATER, self.EARLIER], left_at=2.0) == 1

    def test_is_none_where_they_are_in_order(self) -> None:
        assert self.count(order=[self.EARLIER, self.LATER], left_at=2.0) == 0

    def test_is_none_where_both_were_under_way_at_once(self) -> None:
        assert self.count(order=[self.LATER, self.EARLIER], left_at=0.5) == 0

    def test_is_none_between_accounts(self) -> None:
        other = Payment(1, "B-2", 200)
        assert (
            overtakings(
                payments=[self.EARLIER, other],
                left_at={0: 0.0, 1: 2.0},
                accepted_at={0: 1.0, 1: 3.0},
                books=books_of(postings=[posting(other), posting(self.EARLIER)], mails=[]),
            )
            == 0
        )
