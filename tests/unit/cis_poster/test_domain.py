from datetime import timedelta
from itertools import product

import pytest
from tests.support.cis_poster import NOON, a_posting

from cis_poster.adapters.tables import postings as postings_table
from cis_poster.domain import (
    HELD_BACK,
    NOT_SENT,
    TRANSITIONS,
    UNSETTLED,
    Answer,
    Attempt,
    Decision,
    Kind,
    Outcome,
    Status,
    decide,
    next_status,
    states_deferral,
)
from shared.contracts.postings import PostingKind
from shared.contracts.streams import POSTINGS

S, O = Status, Outcome  # noqa: E741

ALLOWED = {
    # A row begins with what was known when it was taken.
    (None, S.ATTEMPTING): None,
    (None, S.DUE): "posting.deferred",
    (None, S.WAITING): None,
    (None, S.SUSPENDED): "posting.suspended",
    # Taken up: due, of unknown outcome, or left by a crash.
    (S.DUE, S.ATTEMPTING): None,
    (S.UNKNOWN, S.ATTEMPTING): None,
    (S.ATTEMPTING, S.ATTEMPTING): None,
    # What became of an attempt.
    (S.ATTEMPTING, S.POSTED): "posting.posted|posting.reversed",
    (S.ATTEMPTING, S.DUE): "posting.deferred",
    (S.ATTEMPTING, S.UNKNOWN): "posting.deferred",
    (S.ATTEMPTING, S.SUSPENDED): "posting.suspended",
    (S.ATTEMPTING, S.CONFLICTED): "posting.suspended",
    # A reversal whose payment was decided.
    (S.WAITING, S.DUE): None,
    (S.WAITING, S.RETURNED): "posting.returned",
    # What an operator does.
    (S.SUSPENDED, S.DUE): None,
    (S.SUSPENDED, S.RETURNED): "posting.returned",
    (S.CONFLICTED, S.DUE): None,
    (S.CONFLICTED, S.RETURNED): "posting.returned",
}


def an_attempt(
    *, ask_first: bool = False, last_reason: str | None = None, attempts: int = 0
) -> Attempt:
    return Attempt(
        posting=a_posting(),
        attempts=attempts,
        ask_first=ask_first,
        leased_until=NOON + timedelta(seconds=30),
        last_reason=last_reason,
    )


class TestTransitions:
    @pytest.mark.parametrize(("before", "after"), list(product((None, *Status), Status)))
    def test_says_of_every_pair_whether_it_is_allowed_and_what_states_it(
        self, before: Status | None, after: Status
    ) -> None:
        is_allowed = (before, after) in TRANSITIONS
        assert is_allowed == ((before, after) in ALLOWED)
        if is_allowed:
            assert TRANSITIONS[before, after] == ALLOWED[before, after]

    def test_reaches_every_status_and_leaves_only_the_final_ones_never(self) -> None:
        reached: set[Status | None] = {None}
        while found := {b for a, b in TRANSITIONS if a in reached} - reached:
            reached |= found
        assert reached == {None, *Status}
        assert {s for s in Status if all(before is not s for before, _ in TRANSITIONS)} == {
            S.POSTED,
            S.RETURNED,
        }

    def test_states_facts_that_its_stream_knows(self) -> None:
        types = {kind for fact in TRANSITIONS.values() if fact for kind in fact.split("|")}
        assert types == set(POSTINGS.by_type)

    def test_lets_nothing_unsettled_end_an_account(self) -> None:
        assert {S.DUE, S.ATTEMPTING, S.UNKNOWN} == UNSETTLED
        for status in UNSETTLED:
            assert any(before is status for before, _ in TRANSITIONS)

    def test_names_what_the_database_and_the_contract_name(self) -> None:
        checks = {
            str(constraint.name): str(getattr(constraint, "sqltext", ""))
            for constraint in postings_table.constraints
        }
        assert checks["postings_status_known"] == (
            "status IN ('due', 'attempting', 'unknown', 'waiting', 'posted', 'suspended', "
            "'conflicted', 'returned')"
        )
        assert checks["postings_kind_known"] == ("kind IN ('payment', 'reversal', 'reinstatement')")
        assert {str(kind) for kind in Kind} == set(PostingKind.__args__)


class TestDecide:
    @pytest.mark.parametrize(
        ("kind", "answer", "expected"),
        [
            (Kind.PAYMENT, Answer(outcome=O.APPLIED), (S.POSTED, None)),
            (Kind.REVERSAL, Answer(outcome=O.APPLIED), (S.POSTED, None)),
            (Kind.REINSTATEMENT, Answer(outcome=O.APPLIED), (S.POSTED, None)),
            (Kind.PAYMENT, Answer(outcome=O.EXISTS), (S.POSTED, None)),
            (Kind.PAYMENT, Answer(outcome=O.EXISTS, amount_cents=2_500), (S.POSTED, None)),
            (
                Kind.PAYMENT,
                Answer(outcome=O.EXISTS, amount_cents=2_600),
                (S.CONFLICTED, "amount_conflict"),
            ),
            (
                Kind.PAYMENT,
                Answer(outcome=O.EXISTS, amount_cents=2_500, account_id="A-2"),
                (S.CONFLICTED, "amount_conflict"),
            ),
            (
                Kind.PAYMENT,
                Answer(outcome=O.EXISTS, amount_cents=2_500, account_id="A-1"),
                (S.POSTED, None),
            ),
            (Kind.PAYMENT, Answer(outcome=O.CONFLICT), (S.CONFLICTED, "amount_conflict")),
            (
                Kind.PAYMENT,
                Answer(outcome=O.REFUSED, reason="account_closed"),
                (S.SUSPENDED, "account_closed"),
            ),
            (Kind.PAYMENT, Answer(outcome=O.REFUSED), (S.SUSPENDED, "refused")),
            (
                Kind.PAYMENT,
                Answer(outcome=O.REFUSED, reason="payment_unknown"),
                (S.SUSPENDED, "payment_unknown"),
            ),
            (
                Kind.REVERSAL,
                Answer(outcome=O.REFUSED, reason="payment_unknown"),
                (S.SUSPENDED, "payment_unknown"),
            ),
            (
                Kind.REINSTATEMENT,
                Answer(outcome=O.REFUSED, reason="payment_unknown"),
                (S.SUSPENDED, "payment_unknown"),
            ),
            (
                Kind.REVERSAL,
                Answer(outcome=O.REFUSED, reason="amount_exceeds_payment"),
                (S.SUSPENDED, "amount_exceeds_payment"),
            ),
            (Kind.PAYMENT, Answer(outcome=O.UNAVAILABLE), (S.DUE, "cis_unavailable")),
            (
                Kind.PAYMENT,
                Answer(outcome=O.UNAVAILABLE, reason="batch_closed"),
                (S.DUE, "batch_closed"),
            ),
            (Kind.PAYMENT, Answer(outcome=O.LOST), (S.UNKNOWN, "answer_lost")),
            (
                Kind.PAYMENT,
                Answer(outcome=O.LOST, reason="cis_timeout"),
                (S.UNKNOWN, "cis_timeout"),
            ),
            (Kind.PAYMENT, Answer(outcome=O.NOT_FOUND), (S.DUE, "not_found")),
        ],
    )
    def test_makes_of_an_answer(
        self, kind: Kind, answer: Answer, expected: tuple[Status, str | None]
    ) -> None:
        decision = decide(posting=a_posting(kind=kind), answer=answer)
        assert (decision.status, decision.reason) == expected

    def test_knows_every_outcome_and_moves_only_as_the_table_allows(self) -> None:
        for kind, outcome in product(Kind, Outcome):
            decision = decide(posting=a_posting(kind=kind), answer=Answer(outcome=outcome))
            assert (S.ATTEMPTING, decision.status) in TRANSITIONS


class TestNextStatus:
    @pytest.mark.parametrize(
        ("ask_first", "answer", "expected"),
        [
            # Never sent before, and not sent now: nothing can have happened.
            (False, NOT_SENT, S.DUE),
            (False, HELD_BACK, S.DUE),
            # An earlier try may have taken effect, and nobody has asked.
            (True, NOT_SENT, S.UNKNOWN),
            (True, HELD_BACK, S.UNKNOWN),
            # Asked, not found, sent again and refused for now: known not to have happened.
            (True, Answer(outcome=O.UNAVAILABLE), S.DUE),
            (False, Answer(outcome=O.LOST), S.UNKNOWN),
            (True, Answer(outcome=O.LOST), S.UNKNOWN),
            (True, Answer(outcome=O.APPLIED), S.POSTED),
        ],
    )
    def test_keeps_a_question_open_until_it_is_answered(
        self, ask_first: bool, answer: Answer, expected: Status
    ) -> None:
        attempt = an_attempt(ask_first=ask_first)
        decision = decide(posting=attempt.posting, answer=answer)
        assert next_status(attempt=attempt, answer=answer, decision=decision) is expected


class TestStatesDeferral:
    @pytest.mark.parametrize(
        ("last_reason", "decision", "expected"),
        [
            (None, Decision(status=S.DUE, reason="down"), True),
            ("down", Decision(status=S.DUE, reason="down"), False),
            ("down", Decision(status=S.UNKNOWN, reason="cis_timeout"), True),
            ("cis_timeout", Decision(status=S.UNKNOWN, reason="cis_timeout"), False),
            (None, Decision(status=S.DUE, reason="earlier_posting_open"), False),
            (None, Decision(status=S.POSTED), False),
            (None, Decision(status=S.SUSPENDED, reason="account_closed"), False),
        ],
    )
    def test_is_for_the_first_reason_and_each_change_of_it(
        self, last_reason: str | None, decision: Decision, expected: bool
    ) -> None:
        attempt = an_attempt(last_reason=last_reason)
        assert states_deferral(attempt=attempt, decision=decision) is expected
