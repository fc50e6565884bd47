"""The tables of transitions of all services, held to the same rules."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import pytest

import autopay_scheduler.domain.charges
import autopay_scheduler.domain.enrolments
import autopay_scheduler.domain.reenrolment
import cis_poster.domain
import notifier.domain
import payment_intake.domain
import payment_intake.domain.charges

Table = Mapping[tuple[Any, Any], str | None]

TABLES: Mapping[str, tuple[type[StrEnum], Table, set[str]]] = {
    "payment": (
        payment_intake.domain.PaymentStatus,
        payment_intake.domain.PAYMENT_TRANSITIONS,
        {"captured"},
    ),
    "movement": (
        payment_intake.domain.MovementStatus,
        payment_intake.domain.MOVEMENT_TRANSITIONS,
        {"confirmed", "returned"},
    ),
    "charge at intake": (
        payment_intake.domain.charges.ChargeStatus,
        payment_intake.domain.charges.CHARGE_TRANSITIONS,
        {"refunded"},
    ),
    "posting": (
        cis_poster.domain.Status,
        cis_poster.domain.TRANSITIONS,
        {"posted", "returned"},
    ),
    "notification": (
        notifier.domain.Status,
        notifier.domain.TRANSITIONS,
        {"sent", "failed", "skipped"},
    ),
    "enrolment": (
        autopay_scheduler.domain.enrolments.EnrolmentStatus,
        autopay_scheduler.domain.enrolments.ENROLMENT_TRANSITIONS,
        {"stopped", "refused"},
    ),
    "re-enrolment": (
        autopay_scheduler.domain.reenrolment.ReenrolmentStatus,
        autopay_scheduler.domain.reenrolment.REENROLMENT_TRANSITIONS,
        {"enrolled"},
    ),
    "charge of autopay": (
        autopay_scheduler.domain.charges.Status,
        autopay_scheduler.domain.charges.TRANSITIONS,
        set(),
    ),
}
"""What each is about, its table, and the statuses that nothing leaves, written by hand."""


def reached(table: Table, start: Any) -> set[Any]:
    found = {start}
    while more := {after for before, after in table if before in found} - found:
        found |= more
    return found


@pytest.mark.parametrize(("statuses", "table", "ends"), TABLES.values(), ids=list(TABLES))
class TestTable:
    def test_knows_every_status_and_no_other(self, statuses, table, ends):
        named = {status for change in table for status in change} - {None}
        assert named == set(statuses)

    def test_reaches_every_status_from_nothing(self, statuses, table, ends):
        assert reached(table, None) == {None, *statuses}

    def test_leads_nothing_back_to_before_it_was(self, statuses, table, ends):
        assert all(after is not None for _, after in table)

    def test_has_no_way_out_of_these_and_one_out_of_all_others(self, statuses, table, ends):
        left = {before for before, after in table if before is not None and before is not after}
        assert {str(status) for status in set(statuses) - left} == ends

    def test_leads_from_every_status_to_an_end(self, statuses, table, ends):
        for status in statuses:
            assert not ends or ends & {str(each) for each in reached(table, status)}, status
