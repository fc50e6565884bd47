"""What docs/autopay.md shows to the portal's developers is taken, and every reason has its line."""

import re
from datetime import date
from functools import partial
from pathlib import Path
from typing import get_args

import pytest

from autopay_scheduler.adapters.import_files import CsvImportFiles
from autopay_scheduler.domain.import_lines import DraftLine, EnrolmentLine
from autopay_scheduler.ports.store import Unbilled
from shared.contracts.autopay import RefusalReason, StopReason
from shared.contracts.bills import BillCancelled, BillIssued
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

SHOWN = (
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


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", TEXT, re.DOTALL | re.MULTILINE)
    return ["\n".join(line[len(i) :] for line in text.split("\n")) for i, text in found]


def reasons_in_code() -> set[str]:
    found: set[str] = set()
    for path in [*SERVICE.glob("domain/*.py"), *SERVICE.glob("usecases/*.py")]:
        text = path.read_text(encoding="utf-8")
        found |= set(re.findall(r'\b(?:Skip|Miss)\(\s*"([a-z_]+)"', text))
        found |= set(re.findall(r'Status\.(?:MISSED|SKIPPED),\s*"([a-z_]+)"', text))
        found |= set(re.findall(r'status=Status\.(?:MISSED|SKIPPED),\s*reason="([a-z_]+)"', text))
    text = (SERVICE / "domain" / "amounts.py").read_text(encoding="utf-8")
    nothing_due = text[text.index("def _nothing_due") :].partition("\n\n\n")[0]
    return found | set(re.findall(r'"([a-z_]+)"', nothing_due))


def reasons_told() -> set[str]:
    table = TEXT[TEXT.index("### What each reason means") :].partition("\n## ")[0]
    return set(re.findall(r"^\| `([a-z_]+)` \|", table, re.MULTILINE))


class TestAnExampleOfAFact:
    @pytest.mark.parametrize(("number", "fact"), list(enumerate(SHOWN)))
    def test_is_taken_as_it_stands(self, number, fact):
        assert fact.model_validate_json(blocks("json")[number])

    def test_is_there_for_every_fact_that_the_page_names(self):
        assert len(blocks("json")) == len(SHOWN)
        for fact in SHOWN:
            assert f"`{fact.TYPE}`" in TEXT


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
        assert reasons_told() == reasons_in_code() | in_contracts | SAID_BY_INTAKE

    def test_categories_of_declines_all_have_a_line(self):
        table = TEXT[TEXT.index("### Declines") :].partition("\n### ")[0]
        told = re.findall(r"^\| `([a-z_]+)` \|", table, re.MULTILINE)
        assert told == list(get_args(DeclineCategory))
