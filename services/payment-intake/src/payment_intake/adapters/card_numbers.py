"""Finds and masks card numbers before anything is kept, logged or published.

A card number here is a run of 13 to 19 digits, spaces or dashes between them allowed, that
begins as an issuer's numbers begin (ISO/IEC 7812) and passes the Luhn check. The sender's own
references are exempt: some processors number payments with digits alone.
"""

import re
from typing import Any

import orjson

_CANDIDATE = re.compile(rb"(?<![0-9A-Za-z_])(?:[0-9][ -]?){12,18}[0-9](?![0-9A-Za-z_])")
_CANDIDATE_TEXT = re.compile(r"(?<![0-9A-Za-z_])(?:[0-9][ -]?){12,18}[0-9](?![0-9A-Za-z_])")
_ISSUERS = re.compile(r"^(?:4|5[1-5]|2[2-7]|3[47]|3[068]|35|6(?:011|4[4-9]|5)|62|50|5[6-9]|6[37])")
_EXEMPT = frozenset(
    {
        "id",
        "reference",
        "event_id",
        "payment_intent",
        "charge",
        "latest_charge",
        "balance_transaction",
        "enrolment_reference",
    }
)
"""Fields that hold the sender's own references."""


def masked(body: bytes) -> tuple[bytes, int]:
    """Return the body with every card number masked, and how many there were.

    A body without any is returned as it is, byte for byte. One that is not JSON is masked as text.
    """
    if not any(_is_card_number(match.group().decode()) for match in _CANDIDATE.finditer(body)):
        return body, 0
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        text, count = _masked_text(body.decode(errors="replace"))
        return text.encode(), count
    cleaned, count = _masked_value(document)
    return (orjson.dumps(cleaned), count) if count else (body, 0)


def _masked_value(value: Any, name: str = "") -> tuple[Any, int]:
    match value:
        case dict():
            return _masked_items(value)
        case list():
            found = [_masked_value(each, name) for each in value]
            return [each for each, _ in found], sum(count for _, count in found)
        case str() if name not in _EXEMPT:
            return _masked_text(value)
        case int() if name not in _EXEMPT and _is_card_number(str(value)):
            return _mask(str(value)), 1
        case _:
            return value, 0


def _masked_items(document: dict[str, Any]) -> tuple[dict[str, Any], int]:
    cleaned, total = {}, 0
    for key, value in document.items():
        name, in_name = _masked_text(key)
        cleaned[name], in_value = _masked_value(value, key)
        total += in_name + in_value
    return cleaned, total


def _masked_text(text: str) -> tuple[str, int]:
    count = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal count
        if not _is_card_number(match.group()):
            return match.group()
        count += 1
        return _mask(match.group())

    return _CANDIDATE_TEXT.sub(replace, text), count


def _mask(number: str) -> str:
    """Keep the last four digits, which receipts may show (PCI DSS 3.4)."""
    digits = re.sub(r"\D", "", number)
    return "*" * (len(digits) - 4) + digits[-4:]


def _is_card_number(text: str) -> bool:
    digits = re.sub(r"\D", "", text)
    return 13 <= len(digits) <= 19 and bool(_ISSUERS.match(digits)) and _passes_luhn(digits)


_DOUBLED: tuple[int, ...] = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def _passes_luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B."""
    total = sum(
        _DOUBLED[int(digit)] if position % 2 else int(digit)
        for position, digit in enumerate(reversed(digits))
    )
    return total % 10 == 0
