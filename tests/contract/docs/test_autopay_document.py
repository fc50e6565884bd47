"""What docs/autopay.md shows to the portal's developers is taken, and every reason has its line."""

import json
import re
from collections.abc import Iterable
from datetime import date
from functools import partial
from pathlib import Path
from typing import get_args

import pytest

from autopay_scheduler.adapters.import_files import CsvImportFiles
from autopay_scheduler.api.accounts import AccountState
from autopay_scheduler.domain.charges import TRANSITIONS, Status
from autopay_scheduler.domain.enrolments import EnrolmentStatus
from autopay_scheduler.domain.import_lines import DraftLine, EnrolmentLine, Reason, Refusal
from autopay_scheduler.domain.reenrolment import ReenrolmentStatus
from autopay_scheduler.ports.store import Unbilled
from autopay_scheduler.settings import Settings
from payment_intake.adapters.portal import PortalReader
from payment_intake.domain.declines import NACHA_CODES, STRIPE_CODES
from payment_intake.settings import Settings as IntakeSettings
from shared.contracts.autopay import RefusalReason, StopReason
from shared.contracts.bills import BillCancelled, BillIssued
from shared.contracts.notifications import NotificationKind
from shared.contracts.payments import DeclineCategory
from shared.contracts.portal import (
    AutopayCancelled,
    AutopayChanged,
    AutopayEnrolled,
    AutopayInvitationDeclined,
    AutopayPaused,
    AutopayResumed,
)

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "autopay.md").read_text(encoding="utf-8")
SERVICE = ROOT / "services" / "autopay-scheduler" / "src" / "autopay_scheduler"

FACTS = (
    AutopayEnrolled,
    AutopayChanged,
    AutopayPaused,
    AutopayResumed,
    AutopayCancelled,
    AutopayInvitationDeclined,
    BillIssued,
    BillCancelled,
)
SAID_BY_INTAKE = {"expired", "refund"}
SETTLED_AS_EVERY_PAYMENT = {"posted", "reversed", "reinstated", "delayed", "declined"}


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", TEXT, re.DOTALL | re.MULTILINE)
    return ["\n".join(line[len(i) :] for line in text.split("\n")) for i, text in found]


ENVELOPE, *_ = blocks("json")
[ANSWER] = [block for block in blocks("json") if '"mandates"' in block]
STATED = [block for block in blocks("json") if block not in (ENVELOPE, ANSWER)]


def section(title: str) -> str:
    level = title.partition(" ")[0]
    return re.split(rf"\n#{{2,{len(level)}}} ", TEXT[TEXT.index(f"\n{title}\n") + 1 :])[0]


def told(text: str) -> list[str]:
    """Return the names in the first cells of the tables of a section."""
    cells = re.findall(r"^\| ((?:`[a-z_]+`(?:, )?)+) \|", text, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([a-z_]+)`", cell)]


def in_code(*patterns: str, rooms: Iterable[str] = ("domain", "usecases")) -> set[str]:
    found: set[str] = set()
    for path in [each for room in rooms for each in (SERVICE / room).glob("*.py")]:
        text = path.read_text(encoding="utf-8")
        for pattern in patterns:
            found |= set(re.findall(pattern, text))
    return found


def reasons_in_code() -> set[str]:
    found = in_code(
        r'\b(?:Skip|Miss)\(\s*"([a-z_]+)"',
        r'Status\.(?:MISSED|SKIPPED),\s*"([a-z_]+)"',
        r'status=Status\.(?:MISSED|SKIPPED),\s*reason="([a-z_]+)"',
    )
    text = (SERVICE / "domain" / "amounts.py").read_text(encoding="utf-8")
    nothing_due = text[text.index("def _nothing_due") :].partition("\n\n\n")[0]
    return found | set(re.findall(r'"([a-z_]+)"', nothing_due))


class TestAnExampleOfAFact:
    @pytest.mark.parametrize(("number", "fact"), list(enumerate(FACTS)))
    def test_is_taken_as_it_stands(self, number, fact):
        assert fact.model_validate_json(STATED[number])

    @pytest.mark.parametrize(("number", "fact"), list(enumerate(FACTS)))
    def test_names_no_field_that_would_be_ignored(self, number, fact):
        assert json.loads(STATED[number]).keys() <= fact.model_fields.keys()

    def test_is_there_for_every_fact_that_the_page_names(self):
        assert len(STATED) == len(FACTS)
        for fact in FACTS:
            assert f"`{fact.TYPE}`" in TEXT

    def test_is_passed_on_to_the_stream_where_it_comes_over_http(self):
        portal = PortalReader(trusted_sources=[], currencies=["USD"])
        reading = portal.read_cloud_event(json.loads(ENVELOPE), traceparent="00-0-0-00")
        assert reading.event_type == "autopay.paused"
        assert reading.relay is not None

    def test_is_told_field_by_field(self):
        fields = set(told(section("### Say what the customer did")))
        moments = {"enrolled_at", "changed_at"}
        assert fields | moments >= AutopayEnrolled.model_fields.keys() - {"account_id"}


class TestTheAnswerOfTheApi:
    def test_is_of_the_form_that_the_api_has(self):
        shown = AccountState.model_validate_json(ANSWER)
        assert shown.model_dump(mode="json", exclude={"mandates"}) == {
            name: value for name, value in json.loads(ANSWER).items() if name != "mandates"
        }

    def test_has_every_status_explained(self):
        explained = set(told(section("### Read what became of it")))
        assert explained == {*EnrolmentStatus, *Status}


class TestAnExampleOfAList:
    async def lines(self, read, text):
        async def chunks():
            yield text.encode()

        return [line async for batch in read(chunks()) for line in batch]

    async def test_of_old_enrolments_is_imported_line_by_line(self):
        files = CsvImportFiles(lines_max=100, limit_cents=1_000_000)
        found = await self.lines(files.enrolments, blocks("csv")[0])
        assert [type(each) for each in found] == [EnrolmentLine] * 3
        assert [each.account_id for each in found] == ["100-0001", "100-0002", "100-0003"]

    async def test_of_drafts_is_imported_line_by_line(self):
        files = CsvImportFiles(lines_max=100, limit_cents=1_000_000)
        read = partial(files.drafts, today=date(2026, 12, 1))
        [found] = await self.lines(read, blocks("csv")[1])
        assert isinstance(found, DraftLine)


class TestReasons:
    def test_all_have_a_line_for_the_clerk(self):
        in_contracts = {*get_args(RefusalReason), *get_args(StopReason), *get_args(Unbilled)}
        explained = told(section("### What each reason means"))
        assert len(explained) == len(set(explained))
        held = in_code(r'reason=f"([a-z_]+):\{')
        assert set(explained) == reasons_in_code() | held | in_contracts | SAID_BY_INTAKE

    def test_for_which_a_charge_waits_all_have_a_line(self):
        waits = in_code(r'\bWait\)?\(\s*"([a-z_]+)"')
        assert "day_not_come" in waits
        assert set(told(section("### Why a charge waits"))) == waits

    def test_for_which_a_file_is_refused_all_have_a_line(self):
        assert set(told(section("### What a file is refused for"))) == {*get_args(Refusal)}

    def test_for_which_a_line_is_left_out_all_have_a_line(self):
        assert set(told(section("### What a line is left out for"))) == {*Reason}

    def test_categories_of_declines_all_have_a_line(self):
        assert told(section("### Declines")) == list(get_args(DeclineCategory))

    def test_codes_stand_beside_the_category_that_they_have(self):
        rows = re.findall(r"^\| `([a-z_]+)` \| (.*?) \|", section("### Declines"), re.MULTILINE)
        codes = {**STRIPE_CODES, **NACHA_CODES}
        shown = [
            (code, category)
            for category, examples in rows
            for code in re.findall(r"[a-z]+(?:_[a-z]+)+|R[0-9]{2}", examples)
        ]
        assert len(shown) > 20
        for code, category in shown:
            assert codes[code] == category, code

    def test_statuses_of_the_move_all_have_a_line(self):
        moved = told(section("## The move from the old portal"))
        assert set(ReenrolmentStatus) <= set(moved)


class TestMails:
    def test_are_all_told(self):
        kinds = {*get_args(NotificationKind)} - SETTLED_AS_EVERY_PAYMENT | {"posted"}
        assert set(told(section("### What the customer is mailed"))) == kinds


class TestSettings:
    def test_that_the_page_names_exist(self):
        named = set(re.findall(r"`([A-Z][A-Z0-9]*_[A-Z0-9_]*[A-Z0-9])`", TEXT))
        ours = {name.upper() for name in Settings.model_fields}
        theirs = {f"PAYMENT_INTAKE_{name.upper()}" for name in IntakeSettings.model_fields}
        prefixed = {f"AUTOPAY_SCHEDULER_{name}" for name in ours}
        assert {"NOTICE_DAYS", "LATE_GRACE_DAYS", "RETRY_DAYS"} <= named
        assert named - ours - theirs - prefixed == set()


class TestTheTableOfChanges:
    def test_of_architecture_is_the_one_of_the_code(self):
        text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
        table = text[text.index("### Charge of autopay") :].partition("\n## ")[0]
        shown: set[tuple[str | None, str]] = set()
        for before, after in re.findall(r"^\| (.*?) \| (.*?) \|", table, re.MULTILINE):
            states = re.findall(r"`([a-z]+)`", re.sub(r"\(.*?\)", "", before))
            sources = [None] if "(new)" in before else states
            targets = re.findall(r"`([a-z]+)`", re.sub(r"\(.*?\)", "", after))
            shown |= {(source, target) for source in sources for target in targets}
        assert shown == set(TRANSITIONS)
