"""How much is charged, and why nothing is: the examples."""

from tests.support.autopay.tables import (
    LEAST_CENTS,
    LIMIT_CENTS,
    NOTHING,
    Cells,
    Chapter,
    Table,
    cents,
    cents_or_none,
    money,
)

from autopay_scheduler.domain.amounts import AmountRule, Charge, Hold, Limits, Owed, Skip, judge
from autopay_scheduler.domain.charges import Decision, Miss, Wait


def limits_of(text: str) -> Limits:
    """Read `full balance`, `statement`, `fixed $50.00`, with `, min $5.00`, `, max $200.00`."""
    rule, *bounds = text.split(", ")
    named = dict(bound.split(" ", 1) for bound in bounds)
    assert set(named) <= {"min", "max"}, text
    fixed_cents = cents(rule.removeprefix("fixed ")) if rule.startswith("fixed ") else None
    amount = {
        "full balance": AmountRule.FULL_BALANCE,
        "statement": AmountRule.STATEMENT_BALANCE,
        rule if fixed_cents else "": AmountRule.FIXED,
    }[rule]
    return Limits(
        amount=amount,
        fixed_cents=fixed_cents,
        minimum_cents=cents(named["min"]) if "min" in named else None,
        maximum_cents=cents(named["max"]) if "max" in named else None,
    )


def decision_in_words(decision: Decision) -> str:
    match decision:
        case Charge(amount_cents):
            return f"charge {money(amount_cents)}"
        case Hold(amount_cents, maximum_cents):
            return f"hold {money(amount_cents)} above {money(maximum_cents)}"
        case Skip(reason):
            return f"skip: {reason}"
        case Wait(reason):
            return f"wait: {reason}"
        case Miss(reason):
            return f"miss: {reason}"


def _judge(cells: Cells) -> Cells:
    owed = Owed(
        is_newest=cells.get("later bill", NOTHING) == NOTHING,
        statement_cents=cents(cells["bill"]),
        paid_since_cents=cents_or_none(cells["paid since"]) or 0,
        balance_cents=cents_or_none(cells["balance"]),
        open_cents=cents_or_none(cells["under way"]) or 0,
    )
    verdict = judge(
        limits=limits_of(cells["rule"]),
        owed=owed,
        least_cents=LEAST_CENTS,
        limit_cents=LIMIT_CENTS,
    )
    return {"verdict": decision_in_words(verdict)}


_COLUMNS = ("rule", "bill", "paid since", "balance", "under way", "verdict", "why")

WHAT_IS_OWED = Table(
    title="What is owed",
    text=(
        "`bill` is the bill's total due, `paid since` what was posted after it was stated, "
        "`balance` the whole balance as the CIS said it since then, `under way` what autopay has "
        "asked for on other due dates and is not on the ledger yet."
    ),
    columns=_COLUMNS,
    answers=_judge,
    rows=(
        (
            "full balance",
            "$120.00",
            NOTHING,
            NOTHING,
            NOTHING,
            "charge $120.00",
            "no balance was said: the bill's",
        ),
        (
            "full balance",
            "$120.00",
            NOTHING,
            "$150.00",
            NOTHING,
            "charge $150.00",
            "charged to the account since the bill: all of it is owed",
        ),
        (
            "full balance",
            "$120.00",
            "$100.00",
            "$50.00",
            NOTHING,
            "charge $50.00",
            "partly paid, and newer charges",
        ),
        ("full balance", "$120.00", "$20.00", "$100.00", NOTHING, "charge $100.00", "partly paid"),
        ("full balance", "$120.00", "$20.00", NOTHING, NOTHING, "charge $100.00", "partly paid"),
        ("full balance", "$120.00", "$120.00", "$0.00", NOTHING, "skip: paid", "paid otherwise"),
        (
            "full balance",
            "$120.00",
            "$150.00",
            "-$30.00",
            NOTHING,
            "skip: in_credit",
            "paid too much",
        ),
        (
            "full balance",
            "$120.00",
            "$150.00",
            NOTHING,
            NOTHING,
            "skip: in_credit",
            "the same, where no balance was said",
        ),
        ("full balance", "-$30.00", NOTHING, NOTHING, NOTHING, "skip: in_credit", "a credit bill"),
        ("full balance", "$0.00", NOTHING, "$0.00", NOTHING, "skip: paid", "a bill of nothing"),
        (
            "full balance",
            "$120.00",
            "-$40.00",
            "$160.00",
            NOTHING,
            "charge $160.00",
            "an earlier payment was returned after the bill",
        ),
        (
            "full balance",
            "$120.00",
            NOTHING,
            "$120.00",
            "$120.00",
            "skip: charge_under_way",
            "an earlier due date's charge takes it all",
        ),
        (
            "full balance",
            "$120.00",
            NOTHING,
            "$120.00",
            "$70.00",
            "charge $50.00",
            "the rest of what is under way",
        ),
        (
            "full balance",
            "$120.00",
            "$120.00",
            "$0.00",
            "$70.00",
            "skip: paid",
            "paid, whatever is under way besides",
        ),
        ("statement", "$120.00", NOTHING, NOTHING, NOTHING, "charge $120.00", "the bill's"),
        (
            "statement",
            "$120.00",
            NOTHING,
            "$150.00",
            NOTHING,
            "charge $120.00",
            "newer charges are another bill's",
        ),
        (
            "statement",
            "$120.00",
            NOTHING,
            "$90.00",
            NOTHING,
            "charge $90.00",
            "less is owed than the bill says, by a credit of the CIS's own",
        ),
        (
            "statement",
            "$120.00",
            "$20.00",
            "$130.00",
            NOTHING,
            "charge $100.00",
            "partly paid, and newer charges",
        ),
        (
            "statement",
            "$120.00",
            "$120.00",
            "$30.00",
            NOTHING,
            "skip: paid",
            "the bill is paid; what came since is not due yet",
        ),
        (
            "statement",
            "$120.00",
            NOTHING,
            "-$5.00",
            NOTHING,
            "skip: in_credit",
            "in credit, whatever the bill says",
        ),
        (
            "statement",
            "$120.00",
            NOTHING,
            "$120.00",
            "$100.00",
            "charge $20.00",
            "what was left before is under way",
        ),
        (
            "statement",
            "$120.00",
            "-$40.00",
            "$160.00",
            NOTHING,
            "charge $160.00",
            "a returned payment is owed again",
        ),
        ("fixed $50.00", "$120.00", NOTHING, "$120.00", NOTHING, "charge $50.00", "what was set"),
        (
            "fixed $50.00",
            "$30.00",
            NOTHING,
            "$30.00",
            NOTHING,
            "charge $30.00",
            "never more than is owed",
        ),
        (
            "fixed $50.00",
            "$120.00",
            "$90.00",
            "$30.00",
            NOTHING,
            "charge $30.00",
            "partly paid",
        ),
        ("fixed $50.00", "$0.00", NOTHING, "$0.00", NOTHING, "skip: paid", "nothing is owed"),
        (
            "fixed $50.00",
            "$40.00",
            NOTHING,
            "$40.00",
            "$40.00",
            "skip: charge_under_way",
            "all of it is under way",
        ),
    ),
)

LATER_BILLS = Table(
    title="Two bills at a time",
    text=(
        "Once a later bill is open, an earlier due date takes what is left of its own bill, by "
        "whichever rule: what the later one added is charged on its own day."
    ),
    columns=("rule", "bill", "paid since", "balance", "later bill", "verdict", "why"),
    answers=lambda cells: _judge({**cells, "under way": NOTHING}),
    rows=(
        (
            "full balance",
            "$120.00",
            NOTHING,
            "$200.00",
            NOTHING,
            "charge $200.00",
            "no later bill: all of the balance",
        ),
        (
            "full balance",
            "$120.00",
            NOTHING,
            "$200.00",
            "open",
            "charge $120.00",
            "the other $80.00 are due later",
        ),
        (
            "full balance",
            "$120.00",
            "$120.00",
            "$80.00",
            "open",
            "skip: paid",
            "paid otherwise; the later bill has its own day",
        ),
        (
            "full balance",
            "$120.00",
            NOTHING,
            "-$30.00",
            "open",
            "skip: in_credit",
            "the later bill is a credit",
        ),
        (
            "full balance",
            "$120.00",
            NOTHING,
            "$90.00",
            "open",
            "charge $90.00",
            "the later bill took something off",
        ),
        (
            "fixed $50.00",
            "$120.00",
            "$120.00",
            "$80.00",
            "open",
            "skip: paid",
            "a fixed amount is not charged ahead either",
        ),
        (
            "fixed $50.00",
            "$120.00",
            "$90.00",
            "$110.00",
            "open",
            "charge $30.00",
            "what is left of this bill",
        ),
        (
            "statement",
            "$120.00",
            NOTHING,
            "$200.00",
            "open",
            "charge $120.00",
            "the bill's own, as ever",
        ),
    ),
)

BOUNDS = Table(
    title="Minimum and maximum",
    text=(
        "Below the customer's minimum nothing is charged: it waits for the next bill. The least "
        "that the processor charges, here $0.50, is a minimum for everybody. Above the maximum "
        "nothing is charged either: the customer is asked. The city's own limit, here $10,000.00, "
        "is a maximum for everybody."
    ),
    columns=_COLUMNS,
    answers=_judge,
    rows=(
        (
            "full balance, min $10.00",
            "$9.99",
            NOTHING,
            NOTHING,
            NOTHING,
            "skip: below_minimum",
            "a cent too little",
        ),
        (
            "full balance, min $10.00",
            "$10.00",
            NOTHING,
            NOTHING,
            NOTHING,
            "charge $10.00",
            "the minimum itself is charged",
        ),
        (
            "statement, min $10.00",
            "$120.00",
            "$115.00",
            "$5.00",
            NOTHING,
            "skip: below_minimum",
            "the rest of what was paid otherwise",
        ),
        (
            "full balance",
            "$120.00",
            "$119.51",
            "$0.49",
            NOTHING,
            "skip: below_minimum",
            "the processor would refuse so little",
        ),
        (
            "full balance",
            "$120.00",
            "$119.50",
            "$0.50",
            NOTHING,
            "charge $0.50",
            "the least that it takes",
        ),
        (
            "full balance, min $10.00",
            "$0.00",
            NOTHING,
            NOTHING,
            NOTHING,
            "skip: paid",
            "nothing is owed: that is the reason",
        ),
        (
            "full balance, max $200.00",
            "$200.00",
            NOTHING,
            NOTHING,
            NOTHING,
            "charge $200.00",
            "the maximum itself is charged",
        ),
        (
            "full balance, max $200.00",
            "$200.01",
            NOTHING,
            NOTHING,
            NOTHING,
            "hold $200.01 above $200.00",
            "a cent too much",
        ),
        (
            "full balance, max $200.00",
            "$250.00",
            "$60.00",
            "$190.00",
            NOTHING,
            "charge $190.00",
            "partly paid: within it again",
        ),
        (
            "statement, max $200.00",
            "$190.00",
            NOTHING,
            "$260.00",
            NOTHING,
            "charge $190.00",
            "the bill counts, not the balance",
        ),
        (
            "full balance, max $200.00",
            "$250.00",
            NOTHING,
            "$250.00",
            "$100.00",
            "charge $150.00",
            "what is under way is not asked for again",
        ),
        (
            "full balance, min $10.00, max $200.00",
            "$300.00",
            NOTHING,
            NOTHING,
            NOTHING,
            "hold $300.00 above $200.00",
            "both are set",
        ),
        (
            "full balance",
            "$10,000.00",
            NOTHING,
            NOTHING,
            NOTHING,
            "charge $10,000.00",
            "the city's limit itself",
        ),
        (
            "full balance",
            "$10,000.01",
            NOTHING,
            NOTHING,
            NOTHING,
            "hold $10,000.01 above $10,000.00",
            "the city's limit",
        ),
        (
            "full balance, max $20,000.00",
            "$15,000.00",
            NOTHING,
            NOTHING,
            NOTHING,
            "hold $15,000.00 above $10,000.00",
            "the lower of the two",
        ),
        (
            "fixed $50.00, max $200.00",
            "$300.00",
            NOTHING,
            NOTHING,
            NOTHING,
            "charge $50.00",
            "what is charged counts, not what is owed",
        ),
    ),
)

CHAPTER = Chapter(
    title="The amount",
    text="What is owed now, by the customer's rule, within the customer's and the city's bounds.",
    tables=(WHAT_IS_OWED, LATER_BILLS, BOUNDS),
)
