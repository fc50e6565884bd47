"""The posting protocol's JSON, read and written: docs/cis-protocol.md in code. Pure.

Whatever passes here can be stored: each field is bounded, so that one posting can never fail the
batch that it shares with others.
"""

import re
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any
from uuid import UUID

from paypost.simulators.cis.ledger import Account, Decision, Kind, Outcome, Posting, Reason

POSTINGS_MAX = 500
KEYS_MAX = 500
ACCOUNTS_MAX = 5_000
AMOUNT_CENTS_MAX = 10**12

_CURRENCY = re.compile(r"[A-Z]{3}\Z")
_TEXT = re.compile(r"[^\x00-\x1f\x7f]+\Z")
_KINDS = {kind.value: kind for kind in Kind}

STATUS_OF_OUTCOME = {
    Outcome.APPLIED: 201,
    Outcome.EXISTS: 200,
    Outcome.CONFLICT: 409,
    Outcome.REFUSED: 422,
    Outcome.UNAVAILABLE: 503,
    Outcome.NOT_FOUND: 404,
}

TITLE_OF_OUTCOME = {
    Outcome.CONFLICT: "The key stands on the ledger with other content",
    Outcome.REFUSED: "The posting was refused",
    Outcome.UNAVAILABLE: "Nothing was applied; ask again later",
    Outcome.NOT_FOUND: "No posting of this key is on the ledger",
}


class MalformedError(Exception):
    """A body that is not of the protocol's shape; `field` is the path of what is wrong."""

    def __init__(self, *, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


def parse_posting(value: object, *, path: str = "") -> Posting:
    """Read one posting. Raises MalformedError naming the first field that is wrong."""
    if not isinstance(value, dict):
        raise MalformedError(field=path or "body", message="must be an object")
    key = _uuid(value, "key", path)
    kind = _KINDS.get(value.get("kind", ""))
    if kind is None:
        raise MalformedError(field=f"{path}kind", message=f"must be one of {', '.join(_KINDS)}")
    amount_cents = value.get("amount_cents")
    # `type` and not isinstance: true is an int, and a float of cents is a mistake upstream.
    if type(amount_cents) is not int or not 0 < amount_cents <= AMOUNT_CENTS_MAX:
        raise MalformedError(
            field=f"{path}amount_cents",
            message=f"must be a whole number of 1 to {AMOUNT_CENTS_MAX}",
        )
    currency = value.get("currency")
    if not isinstance(currency, str) or not _CURRENCY.match(currency):
        raise MalformedError(field=f"{path}currency", message="must be three capital letters")
    payment_key = key if kind is Kind.PAYMENT else _uuid(value, "payment_key", path)
    if kind is Kind.PAYMENT and value.get("payment_key") is not None:
        if _uuid(value, "payment_key", path) != key:
            raise MalformedError(field=f"{path}payment_key", message="of a payment must be its key")
    elif kind is not Kind.PAYMENT and payment_key == key:
        raise MalformedError(field=f"{path}payment_key", message="must be another posting's key")
    return Posting(
        key=key,
        kind=kind,
        account=_text(value, "account", path, length_max=64),
        amount_cents=amount_cents,
        currency=currency,
        effective_date=_date(value, "effective_date", path),
        accepted_at=_instant(value, "accepted_at", path),
        payment_key=payment_key,
        reference=_text(value, "reference", path, length_max=255),
        memo=None if value.get("memo") is None else _text(value, "memo", path, length_max=500),
    )


def parse_postings(value: object) -> list[Posting]:
    """Read the body of a batch call. Raises MalformedError: one bad posting fails the call."""
    items = _items(value, "postings", count_max=POSTINGS_MAX)
    return [parse_posting(item, path=f"postings[{n}].") for n, item in enumerate(items)]


def parse_keys(value: object) -> list[UUID]:
    """Read the body of a find call. Raises MalformedError."""
    items = _items(value, "keys", count_max=KEYS_MAX)
    return [parse_key(item, field=f"keys[{n}]") for n, item in enumerate(items)]


def parse_key(value: object, *, field: str) -> UUID:
    """Read one key. Raises MalformedError."""
    if isinstance(value, str) and len(value) == 36:
        try:
            return UUID(value)
        except ValueError:
            pass
    raise MalformedError(field=field, message="must be a UUID of 36 characters")


def parse_account(value: object, *, account: str | None = None, path: str = "") -> Account:
    """Read an account; its `balance_cents` is the opening balance. Raises MalformedError.

    With `account` given (it stood in the address) the body need not repeat it.
    """
    if not isinstance(value, dict):
        raise MalformedError(field=path or "body", message="must be an object")
    if account is None or "account" in value:
        named = _text(value, "account", path, length_max=64)
        if account is not None and named != account:
            raise MalformedError(field=f"{path}account", message="is not the one in the address")
        account = named
    if not _TEXT.match(account) or len(account) > 64 or account.startswith("ledger:"):
        raise MalformedError(field=f"{path}account", message="is not an account's number")
    status = value.get("status", "active")
    if status not in {"active", "closed"}:
        raise MalformedError(field=f"{path}status", message="must be active or closed")
    cash_only = value.get("cash_only", False)
    if not isinstance(cash_only, bool):
        raise MalformedError(field=f"{path}cash_only", message="must be true or false")
    currency = value.get("currency", "USD")
    if not isinstance(currency, str) or not _CURRENCY.match(currency):
        raise MalformedError(field=f"{path}currency", message="must be three capital letters")
    opening_cents = value.get("opening_balance_cents", 0)
    if type(opening_cents) is not int or abs(opening_cents) > AMOUNT_CENTS_MAX:
        raise MalformedError(field=f"{path}opening_balance_cents", message="must be whole cents")
    return Account(
        account=account,
        name=_text(value, "name", path, length_max=200),
        status=status,
        cash_only=cash_only,
        currency=currency,
        balance_cents=opening_cents,
    )


def parse_accounts(value: object) -> list[Account]:
    """Read the body of a bulk seeding. Raises MalformedError."""
    items = _items(value, "accounts", count_max=ACCOUNTS_MAX)
    accounts = [parse_account(item, path=f"accounts[{n}].") for n, item in enumerate(items)]
    if len({account.account for account in accounts}) != len(accounts):
        raise MalformedError(field="accounts", message="names an account twice")
    return accounts


def render_decision(decision: Decision) -> dict[str, Any]:
    """Return a decision as the protocol's answer: always the same members, null where not known."""
    entry = decision.entry
    return {
        "key": decision.key,
        "outcome": decision.outcome.value,
        "reason": decision.reason.value if decision.reason else None,
        "kind": entry.kind.value if entry else None,
        "account": entry.account if entry else None,
        "amount_cents": entry.amount_cents if entry else None,
        "currency": entry.currency if entry else None,
        "payment_key": entry.payment_key if entry else None,
        "cis_reference": entry.cis_reference if entry else None,
        "balance_cents": decision.balance_cents,
        "posted_at": entry.posted_at if entry else None,
    }


def undecided(key: UUID, *, outcome: Outcome, reason: Reason | None) -> Decision:
    """Return the answer for a posting that was not looked at."""
    return Decision(key, outcome, reason)


def _items(value: object, name: str, *, count_max: int) -> list[Any]:
    items = value.get(name) if isinstance(value, dict) else None
    if not isinstance(items, list) or not 0 < len(items) <= count_max:
        raise MalformedError(field=name, message=f"must be a list of 1 to {count_max}")
    return items


def _uuid(value: Mapping[str, Any], name: str, path: str) -> UUID:
    return parse_key(value.get(name), field=f"{path}{name}")


def _text(value: Mapping[str, Any], name: str, path: str, *, length_max: int) -> str:
    text = value.get(name)
    if not isinstance(text, str) or len(text) > length_max or not _TEXT.match(text):
        raise MalformedError(
            field=f"{path}{name}", message=f"must be a text of 1 to {length_max} characters"
        )
    return text


def _date(value: Mapping[str, Any], name: str, path: str) -> date:
    text = value.get(name)
    if isinstance(text, str) and len(text) == 10:
        try:
            return date.fromisoformat(text)
        except ValueError:
            pass
    raise MalformedError(field=f"{path}{name}", message="must be a date as YYYY-MM-DD")


def _instant(value: Mapping[str, Any], name: str, path: str) -> datetime:
    text = value.get(name)
    if isinstance(text, str) and len(text) <= 40:
        try:
            instant = datetime.fromisoformat(text)
        except ValueError:
            pass
        else:
            if instant.tzinfo is not None:
                return instant
    raise MalformedError(field=f"{path}{name}", message="must be an RFC 3339 time with its offset")
