"""The worked examples in the docs are those of the tests, and the rules do what the page says.

`PAYPOST_WRITE_EXAMPLES=1 pytest tests/contract/docs` writes the page anew, for review.
"""

import os
from pathlib import Path

import pytest
from tests.support.autopay.pages import CHAPTERS, page
from tests.support.autopay.tables import check, tables_of

PAGE = Path(__file__).parents[3] / "docs" / "autopay-worked-examples.md"
TABLES = {table.title: table for chapter in CHAPTERS for table in chapter.tables}


def written() -> str:
    if os.environ.get("PAYPOST_WRITE_EXAMPLES"):
        PAGE.write_text(page(), encoding="utf-8")
    return PAGE.read_text(encoding="utf-8")


class TestThePage:
    def test_has_every_table_of_the_tests_and_no_other(self):
        assert list(tables_of(written())) == list(TABLES)

    def test_is_as_the_tests_write_it(self):
        assert written() == page()


@pytest.mark.parametrize("title", TABLES)
class TestATableOfThePage:
    def test_is_what_the_rules_do(self, title):
        columns, rows = tables_of(written())[title]
        assert rows
        for row in rows:
            check(TABLES[title], dict(zip(columns, row, strict=True)))

    def test_is_the_table_of_the_tests(self, title):
        columns, rows = tables_of(written())[title]
        assert (columns, tuple(rows)) == (TABLES[title].columns, TABLES[title].rows)
