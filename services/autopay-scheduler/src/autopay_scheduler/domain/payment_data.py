"""Whether a text holds a card or bank number: none may be stored, logged or told again.

Sources: ISO/IEC 7812-1 (issuers' first digits; annex B, the Luhn check), ISO 13616 (IBAN), and
the ABA's routing numbers (first two digits, check digit by the weights 3, 7, 1).

Account numbers of a utility are digits, too, and one in ten of them passes any check digit. So
one alone proves nothing: see `numbers_are_payment_data`.
"""

import re
import unicodedata
from collections.abc import Iterator
from enum import IntEnum

_CARD_DIGITS_MIN, _CARD_DIGITS_MAX = 13, 19
_CHARACTERS_MIN = 13
"""The shortest card number; a bank's pair and an IBAN are longer."""
_NINE_DIGITS = re.compile(r"(?:[^0-9]*[0-9]){9}")
"""Cards, routing numbers and IBANs have as many, or more."""
_RUN = re.compile(r"[0-9]+(?:[ .-][0-9]+)*")
_GROUP = re.compile(r"[0-9]+")
_ISSUERS = re.compile(r"4|5[1-5]|2[2-7]|3[47]|3[0689]|35|6(?:011|4[4-9]|5)|62|50|5[6-9]|6[37]")
_ROUTING = re.compile(r"(?:0[1-9]|1[0-2]|2[1-9]|3[0-2]|6[1-9]|7[0-2]|80)[0-9]{7}")
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}(?![A-Za-z0-9])")

_NAMES_WHOLE = frozenset(
    {"aba", "ach", "bic", "cc", "cid", "csc", "cvc", "cvn", "cvv", "exp", "micr", "pan", "swift"}
)
"""Words that name payment data where they stand alone: `company` is not a `pan`."""
_NAMES_PART = (
    *("bank", "card", "checking", "credit", "cvc", "cvv", "debit", "expir", "iban", "mandate"),
    *("payment", "routing", "savings", "sort_code", "sortcode", "token"),
)


class NumberShape(IntEnum):
    """What a number in an account's column might be."""

    NONE = 0
    POSSIBLE = 1
    """As many digits as a card or a bank's pair has, but its check digits do not fit."""
    FITTING = 2


def names_payment_data(column: str) -> bool:
    """Return whether a column is called like something that holds cards, banks or tokens."""
    plain = re.sub(r"[^a-z0-9]+", "_", column.strip().lower()).strip("_")
    words = {re.sub(r"[0-9]+$", "", word) for word in plain.split("_")}
    return bool(words & _NAMES_WHOLE) or any(part in plain for part in _NAMES_PART)


def may_hold_payment_data(text: str) -> bool:
    """Return False where a text is too short, or has too few digits; cheap, and mostly enough."""
    text = _plain(text)
    return len(text) >= _CHARACTERS_MIN and _NINE_DIGITS.match(text) is not None


def holds_payment_data(text: str) -> bool:
    """Return whether a card number, an IBAN, or a routing with an account number stands in it."""
    return shape_of(text) is NumberShape.FITTING


def shape_of(text: str) -> NumberShape:
    """Return whether a text could hold payment data, and whether the check digits fit."""
    text = _plain(text)
    if not may_hold_payment_data(text):
        return NumberShape.NONE
    if any(_begins_with_iban(found.group()) for found in _IBAN.finditer(text.upper())):
        return NumberShape.FITTING
    return max(_card_shape(text), _bank_shape(text))


def numbers_are_payment_data(*, fitting: int, shaped: int) -> bool:
    """Return whether the numbers of an account's column are to be taken for payment data.

    Args:
        fitting: how many of them have the shape and check digits of payment data.
        shaped: how many have the shape, whatever their check digits.

    By chance one account number in ten fits; where more than half do, they are what they look
    like.
    """
    return fitting * 2 > shaped


def _plain(text: str) -> str:
    """Return a text whose digits, of whatever width or script, and spaces are those of ASCII."""
    if text.isascii():
        return text
    return "".join(
        str(unicodedata.decimal(each)) if each.isdecimal() else each
        for each in unicodedata.normalize("NFKC", text)
    )


def _card_shape(text: str) -> NumberShape:
    found = NumberShape.NONE
    for digits in _joined_groups(text):
        if not _CARD_DIGITS_MIN <= len(digits) <= _CARD_DIGITS_MAX:
            continue
        found = NumberShape.POSSIBLE
        if _ISSUERS.match(digits) and _passes_luhn(digits):
            return NumberShape.FITTING
    return found


def _joined_groups(text: str) -> Iterator[str]:
    """Yield every sequence of neighbouring groups of digits, joined, up to a card's length."""
    for run in _RUN.finditer(text):
        groups = _GROUP.findall(run.group())
        for first in range(len(groups)):
            digits = ""
            for group in groups[first:]:
                digits += group
                if len(digits) > _CARD_DIGITS_MAX:
                    break
                yield digits


def _bank_shape(text: str) -> NumberShape:
    groups = _GROUP.findall(text)
    found = NumberShape.NONE
    for place, group in enumerate(groups):
        others = groups[:place] + groups[place + 1 :]
        if len(group) != 9 or not any(4 <= len(other) <= 17 for other in others):
            continue
        if _ROUTING.fullmatch(group) and _passes_aba(group):
            return NumberShape.FITTING
        found = NumberShape.POSSIBLE
    return found


_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def _passes_luhn(digits: str) -> bool:
    total = sum(
        _DOUBLED[int(digit)] if position % 2 else int(digit)
        for position, digit in enumerate(reversed(digits))
    )
    return total % 10 == 0


def _passes_aba(digits: str) -> bool:
    weighted = zip(digits, (3, 7, 1) * 3, strict=True)
    return sum(int(digit) * weight for digit, weight in weighted) % 10 == 0


def _begins_with_iban(text: str) -> bool:
    """Return whether some of the words, from the first one on, are an IBAN: others may follow."""
    plain = ""
    for word in text.split(" "):
        plain += word
        if 15 <= len(plain) <= 34 and _is_iban(plain):
            return True
    return False


def _is_iban(plain: str) -> bool:
    moved = plain[4:] + plain[:4]
    return int("".join(str(int(each, 36)) for each in moved)) % 97 == 1
