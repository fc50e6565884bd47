"""All worked examples, in the order of the page in the docs."""

from tests.support.autopay import amounts, charges, days, declines, enrolments, expiry, notices

CHAPTERS = (
    enrolments.CHAPTER,
    days.CHAPTER,
    amounts.CHAPTER,
    notices.CHAPTER,
    charges.CHAPTER,
    declines.CHAPTER,
    expiry.CHAPTER,
)

_HEAD = """# Autopay: worked examples

What [autopay](autopay.md) does, case by case. The unit tests run these tables
(`tests/support/autopay`), and `tests/contract/docs` runs this page: a rule that changes without its
example fails the build. `PAYPOST_WRITE_EXAMPLES=1 .venv/bin/pytest tests/contract/docs` writes it
anew, for review.

The city of the examples is Chicago. It charges at 06:00, gives ten days' notice, charges up to
three days late, presents a declined charge again after three and seven days, and charges
$10,000.00 at most. `-` is nothing.
"""


def page() -> str:
    """Return the page as it is kept in the docs."""
    return "\n".join([_HEAD, *(chapter.as_markdown() for chapter in CHAPTERS)])
