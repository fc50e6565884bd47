"""Whose enrolment is taken, and when a pause ends: the examples."""

from datetime import UTC, datetime

from tests.support.autopay.amounts import limits_of
from tests.support.autopay.tables import LIMIT_CENTS, NOTHING, Cells, Chapter, Table, day

from autopay_scheduler.domain.days import ChargeOn
from autopay_scheduler.domain.enrolments import (
    Enrolment,
    EnrolmentStatus,
    Method,
    Rule,
    enrolment_id,
    refusal,
)

TOKEN_PREFIXES = {"stripe": ("pm_", "card_", "ba_", "src_"), "kiosk": ()}
_AT = datetime(2026, 3, 2, 17, 4, 5, tzinfo=UTC)


def enrolment(
    *,
    processor: str = "stripe",
    token: str = "pm_1OaExample",
    rule: str = "full balance",
    status: EnrolmentStatus = EnrolmentStatus.ACTIVE,
    resume_on: str = NOTHING,
) -> Enrolment:
    return Enrolment(
        id=enrolment_id("enr_1"),
        account_id="1002003",
        reference="enr_1",
        status=status,
        method=Method(
            processor=processor,
            token=token,
            customer_token=None,
            mandate_token=None,
            kind="card",
            label="Visa",
            last4="4242",
            expires="2027-08",
        ),
        rule=Rule(
            charge_on=ChargeOn.DUE_DATE,
            days_before=None,
            day_of_month=None,
            limits=limits_of(rule),
        ),
        authorisation_version="2026-01",
        authorised_at=_AT,
        locale="en",
        resume_on=None if resume_on == NOTHING else day(resume_on),
        word_at=_AT,
    )


def _refusal(cells: Cells) -> Cells:
    found = refusal(
        enrolment=enrolment(processor=cells["processor"], token=cells["token"], rule=cells["rule"]),
        is_account_known=cells["account"] != "unknown",
        has_other=cells["account"] == "has autopay",
        token_prefixes=TOKEN_PREFIXES,
        limit_cents=LIMIT_CENTS,
    )
    return {
        "refused": found.reason if found else NOTHING,
        "field": found.field if found else NOTHING,
    }


REFUSALS = Table(
    title="Whose enrolment is taken",
    text="The city's limit is $10,000.00. What stands in the way is named by its field.",
    columns=("processor", "token", "rule", "account", "refused", "field", "why"),
    answers=_refusal,
    rows=(
        ("stripe", "pm_1OaExample", "full balance", "known", NOTHING, NOTHING, "taken"),
        ("stripe", "ba_1OaExample", "full balance", "known", NOTHING, NOTHING, "a bank account"),
        (
            "paypal",
            "pm_1OaExample",
            "full balance",
            "known",
            "unknown_processor",
            "processor",
            "no such processor here",
        ),
        (
            "kiosk",
            "pm_1OaExample",
            "full balance",
            "known",
            "foreign_token",
            "payment_method_token",
            "a processor that charges no tokens",
        ),
        (
            "stripe",
            "cus_OaExample",
            "full balance",
            "known",
            "foreign_token",
            "payment_method_token",
            "a customer is no payment method",
        ),
        (
            "stripe",
            "tok_1OaExample",
            "full balance",
            "known",
            "foreign_token",
            "payment_method_token",
            "good for one charge only",
        ),
        (
            "stripe",
            "pm_1OaExample",
            "fixed $10,000.00",
            "known",
            NOTHING,
            NOTHING,
            "the limit itself",
        ),
        (
            "stripe",
            "pm_1OaExample",
            "fixed $10,000.01",
            "known",
            "above_city_limit",
            "rule.fixed_cents",
            "a cent above it",
        ),
        (
            "stripe",
            "pm_1OaExample",
            "full balance, max $10,000.01",
            "known",
            "above_city_limit",
            "rule.maximum_cents",
            "a maximum that would never hold",
        ),
        (
            "stripe",
            "pm_1OaExample",
            "full balance, min $10,000.01",
            "known",
            "above_city_limit",
            "rule.minimum_cents",
            "nothing would ever be charged",
        ),
        (
            "stripe",
            "pm_1OaExample",
            "full balance",
            "unknown",
            "unknown_account",
            "account_id",
            "neither the CIS nor the portal has named it",
        ),
        (
            "stripe",
            "pm_1OaExample",
            "full balance",
            "has autopay",
            "already_enrolled",
            "account_id",
            "one enrolment for an account",
        ),
        (
            "stripe",
            "cus_OaExample",
            "full balance",
            "has autopay",
            "foreign_token",
            "payment_method_token",
            "the method is looked at first",
        ),
    ),
)


def _paused(cells: Cells) -> Cells:
    held = enrolment(status=EnrolmentStatus(cells["status"]), resume_on=cells["resumes on"])
    return {"paused": "yes" if held.is_paused(on=day(cells["on"])) else "no"}


PAUSES = Table(
    title="When a pause ends",
    text="Charged again from the day on which the customer said that it resumes.",
    columns=("status", "resumes on", "on", "paused", "why"),
    answers=_paused,
    rows=(
        ("active", NOTHING, "Fri 2026-03-20", "no", "not paused"),
        ("active", "Wed 2026-04-01", "Fri 2026-03-20", "no", "resumed in person before that day"),
        ("paused", NOTHING, "Fri 2026-03-20", "yes", "until further notice"),
        ("paused", "Wed 2026-04-01", "Tue 2026-03-31", "yes", "the day before"),
        ("paused", "Wed 2026-04-01", "Wed 2026-04-01", "no", "the day itself"),
        ("paused", "Tue 2028-02-29", "Mon 2028-02-28", "yes", "before a leap day"),
        ("paused", "Tue 2028-02-29", "Wed 2028-03-01", "no", "after it"),
    ),
)

CHAPTER = Chapter(
    title="The enrolment",
    text="One active enrolment for an account.",
    tables=(REFUSALS, PAUSES),
)
