"""Stripe's requests read: form-encoded, nested by brackets, every parameter known or refused.

Sources: Stripe's API reference, "Metadata", "Errors"; its SDKs' encoding of lists and objects
(`expand[0]=…`, `metadata[account]=…`, `created[gte]=…`).
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from paypost.simulators.processor.errors import ApiError, invalid, missing_parameter

Value = Any  # str, or a list or mapping of Values

FIELDS_MAX = 1_000
DEPTH_MAX = 6
METADATA_KEYS_MAX = 50
METADATA_KEY_LENGTH_MAX = 40
METADATA_VALUE_LENGTH_MAX = 500

_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_INTEGER = re.compile(r"-?[0-9]{1,18}")


def parse_form(body: bytes) -> dict[str, Value]:
    """Return the parameters of a body or query. Raises ApiError 400."""
    try:
        pairs = parse_qsl(
            body.decode("utf-8"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=FIELDS_MAX,
        )
    except ValueError as error:
        raise invalid(f"Invalid request body: {error}", param=None) from None
    form: dict[str, Value] = {}
    for name, value in pairs:
        _put(form, name, value)
    return {name: _with_lists(value) for name, value in form.items()}


def _put(form: dict[str, Value], name: str, value: str) -> None:
    found = _NAME.fullmatch(name)
    keys = [found[1], *found[2][1:-1].split("][")] if found and found[2] else [name]
    if found is None or len(keys) > DEPTH_MAX:
        raise invalid(f"Invalid parameter name: {name}", param=name)
    place = form
    for key in keys[:-1]:
        place = place.setdefault(key or str(len(place)), {})
        if not isinstance(place, dict):
            raise invalid(f"Invalid parameter: {name} is both a value and an object", param=name)
    last = keys[-1] or str(len(place))
    if isinstance(place.get(last), dict):
        raise invalid(f"Invalid parameter: {name} is both a value and an object", param=name)
    place[last] = value


def _with_lists(value: Value) -> Value:
    if not isinstance(value, dict):
        return value
    if value and all(key.isdecimal() for key in value):
        return [_with_lists(value[key]) for key in sorted(value, key=int)]
    return {key: _with_lists(one) for key, one in value.items()}


class Parameters:
    """The parameters of one request, each read by its type. Every method raises ApiError."""

    def __init__(self, form: Mapping[str, Value], *, allowed: Iterable[str]) -> None:
        self._form = form
        refuse_unknown(form, allowed=allowed)

    def __contains__(self, name: str) -> bool:
        return name in self._form

    def text(self, name: str) -> str | None:
        """Return a text; None when absent."""
        value = self._form.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise invalid("Invalid string: must be a text", param=name)
        if not value:
            raise invalid(
                f"You passed an empty string for '{name}'. We assume empty values are an attempt"
                f" to unset a parameter; however '{name}' cannot be unset. You should remove"
                f" '{name}' from your request or supply a non-empty value.",
                param=name,
                code="parameter_invalid_empty",
            )
        return value

    def unsettable_text(self, name: str) -> str | None:
        """Return a text that may be empty; None when absent."""
        return None if self._form.get(name) == "" else self.text(name)

    def required_text(self, name: str) -> str:
        """Return a text."""
        value = self.text(name)
        if value is None:
            raise missing_parameter(name)
        return value

    def integer(self, name: str) -> int | None:
        """Return a whole number; None when absent."""
        return _integer(self.text(name), name)

    def boolean(self, name: str) -> bool | None:
        """Return true or false; None when absent."""
        value = self.text(name)
        if value is None or value in {"true", "false"}:
            return None if value is None else value == "true"
        raise invalid(f"Invalid boolean: {value}", param=name)

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of texts; empty when absent."""
        value = self._form.get(name, [])
        if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
            raise invalid("Invalid array", param=name)
        return tuple(value)

    def object(self, name: str, *, allowed: Iterable[str]) -> dict[str, Value] | None:
        """Return an object of known members; None when absent."""
        value = self._form.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise invalid("Invalid object", param=name)
        refuse_unknown(value, allowed=allowed, within=name)
        return value

    def metadata(self, *, held: Mapping[str, str]) -> dict[str, str]:
        """Return `held` as the request changes it: keys are set singly, an empty value unsets."""
        value = self._form.get("metadata", {})
        if value == "":
            return {}
        if isinstance(value, list):
            value = {str(number): one for number, one in enumerate(value)}
        if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
            raise invalid("Invalid hash: metadata holds texts only", param="metadata")
        for key, text in value.items():
            _check_metadata(key, text)
        changed = {key: text for key, text in (dict(held) | value).items() if text}
        if len(changed) > METADATA_KEYS_MAX:
            raise invalid(
                f"You may have up to {METADATA_KEYS_MAX} metadata keys on an object.",
                param="metadata",
            )
        return changed

    def range(self, name: str) -> tuple[int, int]:
        """Return a range of Unix times, both ends within; `created=…` is one instant."""
        value = self._form.get(name, {})
        if isinstance(value, str):
            instant = _integer(value, name) or 0
            return instant, instant
        bounds = self.object(name, allowed=("gt", "gte", "lt", "lte")) or {}
        read = {key: _integer(text, f"{name}[{key}]") or 0 for key, text in bounds.items()}
        earliest = max(read.get("gte", 0), read.get("gt", -1) + 1)
        latest = min(read.get("lte", 2**62), read.get("lt", 2**62 + 1) - 1)
        return earliest, latest


def refuse_unknown(
    form: Mapping[str, Value], *, allowed: Iterable[str], within: str | None = None
) -> None:
    """Refuse what is not allowed. Raises ApiError 400 `parameter_unknown`."""
    unknown = sorted(set(form) - set(allowed))
    if not unknown:
        return
    names = [f"{within}[{name}]" if within else name for name in unknown]
    plural = "s" if len(names) > 1 else ""
    raise ApiError(
        status=400,
        message=f"Received unknown parameter{plural}: {', '.join(names)}",
        code="parameter_unknown",
        param=names[0],
    )


def _integer(text: object, name: str) -> int | None:
    if text is None:
        return None
    if not isinstance(text, str) or not _INTEGER.fullmatch(text):
        raise invalid(f"Invalid integer: {text}", param=name, code="parameter_invalid_integer")
    return int(text)


def _check_metadata(key: str, text: str) -> None:
    if len(key) > METADATA_KEY_LENGTH_MAX:
        raise invalid(
            f"Metadata keys can have up to {METADATA_KEY_LENGTH_MAX} characters,"
            f" but you passed in a key that is {len(key)} characters. Invalid key: {key}",
            param="metadata",
        )
    if len(text) > METADATA_VALUE_LENGTH_MAX:
        raise invalid(
            f"Metadata values can have up to {METADATA_VALUE_LENGTH_MAX} characters,"
            f" but you passed in a value that is {len(text)} characters.",
            param=f"metadata[{key}]",
        )
