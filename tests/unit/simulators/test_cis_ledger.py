from datetime import UTC, date, datetime
from uuid import UUID, uuid4

import pytest

from paypost.simulators.cis.ledger import Account, Book, Entry, Kind, Outcome, Posting, Reason
from paypost.simulators.cis.protocol import MalformedError, parse_account, parse_posting

NOW = datetime(2025, 3, 14, 12, tzinfo=UTC)
KEY = UUID("7c1e6f1e-8f43-4b0e-9f0c-1d2f3a4b5c6d")


def book(
    *, status: str = "active", cash_only: bool = False, entries: tuple[Entry, ...] = ()
) -> Book:
    return Book(
        accounts={"A1": Account("A1", "Ann", status, cash_only, "USD", 10_000)},
        entries=entries,
        reversed_cents={},
        next_sequence=7,
        now=NOW,
    )


def posting(
    *,
    key: UUID = KEY,
    kind: Kind = Kind.PAYMENT,
    account: str = "A1",
    amount_cents: int = 2_500,
    currency: str = "USD",
    payment_key: UUID | None = None,
) -> Posting:
    return Posting(
        key=key,
        kind=kind,
        account=account,
        amount_cents=amount_cents,
        currency=currency,
        effective_date=date(2025, 3, 14),
        accepted_at=NOW,
        payment_key=payment_key or key,
        reference="pi_1",
        memo=None,
    )


class TestBook:
    def test_applies_a_payment_and_lowers_what_is_owed(self) -> None:
        decision = book().post(posting())
        assert decision.outcome is Outcome.APPLIED
        assert decision.balance_cents == 7_500
        assert decision.entry is not None
        assert decision.entry.cis_reference == "CIS0000000007"

    def test_answers_a_repeated_key_with_the_original_and_the_balance_now(self) -> None:
        ledger = book()
        first = ledger.post(posting())
        ledger.post(posting(key=uuid4(), amount_cents=500))
        again = ledger.post(posting())
        assert (again.outcome, again.entry, again.balance_cents) == (
            Outcome.EXISTS,
            first.entry,
            7_000,
        )
        assert len(ledger.fresh) == 2

    @pytest.mark.parametrize(
        "other",
        [
            posting(amount_cents=2_501),
            posting(account="A2"),
            posting(kind=Kind.REVERSAL, payment_key=uuid4()),
        ],
    )
    def test_states_what_it_holds_when_the_content_differs(self, other: Posting) -> None:
        ledger = book()
        ledger.post(posting())
        decision = ledger.post(other)
        assert decision.outcome is Outcome.CONFLICT
        assert decision.entry is not None
        assert decision.entry.amount_cents == 2_500

    @pytest.mark.parametrize(
        ("ledger", "asked", "reason"),
        [
            (book(), posting(account="A2"), Reason.ACCOUNT_UNKNOWN),
            (book(status="closed"), posting(), Reason.ACCOUNT_CLOSED),
            (book(cash_only=True), posting(), Reason.CASH_ONLY),
            (book(), posting(currency="EUR"), Reason.CURRENCY_UNKNOWN),
            (
                book(),
                posting(kind=Kind.REVERSAL, payment_key=uuid4()),
                Reason.PAYMENT_UNKNOWN,
            ),
        ],
    )
    def test_refuses_with_a_reason(self, ledger: Book, asked: Posting, reason: Reason) -> None:
        decision = ledger.post(asked)
        assert (decision.outcome, decision.reason) == (Outcome.REFUSED, reason)
        assert ledger.fresh == []

    def test_reverses_at_most_what_is_left_of_the_payment(self) -> None:
        ledger = book()
        ledger.post(posting())
        first = ledger.post(_reversal(1_500))
        second = ledger.post(_reversal(1_001))
        third = ledger.post(_reversal(1_000))
        assert (first.outcome, first.balance_cents) == (Outcome.APPLIED, 9_000)
        assert second.reason is Reason.AMOUNT_EXCEEDS_PAYMENT
        assert (third.outcome, third.balance_cents) == (Outcome.APPLIED, 10_000)

    def test_reinstates_at_most_what_was_reversed(self) -> None:
        ledger = book()
        ledger.post(posting())
        ledger.post(_reversal(1_000))
        too_much = posting(
            key=uuid4(), kind=Kind.REINSTATEMENT, amount_cents=1_001, payment_key=KEY
        )
        enough = posting(key=uuid4(), kind=Kind.REINSTATEMENT, amount_cents=1_000, payment_key=KEY)
        assert ledger.post(too_much).reason is Reason.AMOUNT_EXCEEDS_PAYMENT
        assert ledger.post(enough).balance_cents == 7_500

    def test_takes_reversals_on_a_cash_only_account(self) -> None:
        payment = Entry(1, KEY, Kind.PAYMENT, "A1", 2_500, "USD", KEY, NOW)
        ledger = book(cash_only=True, entries=(payment,))
        assert ledger.post(_reversal(2_500)).outcome is Outcome.APPLIED

    def test_finds_what_stands_and_nothing_else(self) -> None:
        ledger = book()
        ledger.post(posting())
        assert ledger.find(KEY).outcome is Outcome.EXISTS
        assert ledger.find(uuid4()).outcome is Outcome.NOT_FOUND


def _reversal(amount_cents: int) -> Posting:
    return posting(key=uuid4(), kind=Kind.REVERSAL, amount_cents=amount_cents, payment_key=KEY)


class TestParsePosting:
    @pytest.mark.parametrize(
        ("member", "value"),
        [
            ("key", "7c1e6f1e"),
            ("kind", "opening"),
            ("account", ""),
            ("account", "A\x001"),
            ("amount_cents", 0),
            ("amount_cents", -1),
            ("amount_cents", 12.5),
            ("amount_cents", True),
            ("amount_cents", "100"),
            ("currency", "usd"),
            ("effective_date", "2025-02-30"),
            ("accepted_at", "2025-03-14T12:00:00"),
            ("payment_key", str(uuid4())),
            ("reference", None),
        ],
    )
    def test_names_the_field_that_is_wrong(self, member: str, value: object) -> None:
        body = {
            "key": str(KEY),
            "kind": "payment",
            "account": "A1",
            "amount_cents": 2_500,
            "currency": "USD",
            "effective_date": "2025-03-14",
            "accepted_at": "2025-03-14T12:00:00Z",
            "reference": "pi_1",
        }
        assert parse_posting(body) == posting()
        with pytest.raises(MalformedError) as raised:
            parse_posting(body | {member: value})
        assert raised.value.field == member

    def test_keeps_the_ledgers_own_accounts_out_of_reach(self) -> None:
        with pytest.raises(MalformedError):
            parse_account({"name": "x"}, account="ledger:processor-clearing")
