"""Real payloads, spoilt: what a faulty sender, a newer version of it, or an enemy might send."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import orjson
from hypothesis import strategies as st

CARD_TEXTS = ("4242424242424242", "4242 4242 4242 4242", "4242-4242-4242-4242")
EXEMPT = frozenset(
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
"""The fields that docs/guarantees.md exempts from masking: all-digit references exist."""
Path = tuple[str | int, ...]

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.sampled_from([0, -1, 2**31, 2**53, 2**63, 253402300800, 10**18]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(["\x00", "a\x00b", "1e9", "NaN", "2026-02-30T25:00:00Z", "9" * 40, "x" * 3000]),
    st.lists(st.integers(0, 9), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(0, 9), max_size=3),
)
"""What stands in a place where it does not belong."""


def _paths(document: Any, at: Path = ()) -> Iterator[Path]:
    members = (
        document.items()
        if isinstance(document, dict)
        else enumerate(document)
        if isinstance(document, list)
        else ()
    )
    for name, value in members:
        yield (*at, name)
        yield from _paths(value, (*at, name))


def _holder(document: Any, path: Path) -> Any:
    for name in path[:-1]:
        document = document[name]
    return document


@st.composite
def spoilt_documents(draw: st.DrawFn, originals: st.SearchStrategy[Any]) -> Any:
    """One of the originals with some of its members removed, replaced, renamed or moved."""
    document = deepcopy(draw(originals))
    for _ in range(draw(st.integers(1, 4))):
        paths = list(_paths(document))
        if not paths:
            break
        path = draw(st.sampled_from(paths))
        holder, name = _holder(document, path), path[-1]
        match draw(st.sampled_from(["remove", "replace", "replace", "rename", "copy"])):
            case "remove":
                del holder[name]
            case "replace":
                holder[name] = draw(JUNK)
            case "rename" if isinstance(holder, dict):
                holder[draw(st.text(max_size=5))] = holder.pop(name)
            case _:
                other = draw(st.sampled_from(paths))
                holder[name] = deepcopy(_holder(document, other)[other[-1]])
    return document


@st.composite
def spoilt_bodies(draw: st.DrawFn, originals: st.SearchStrategy[Any]) -> bytes:
    """The bytes of a spoilt document, now and then spoilt once more as bytes."""
    body = orjson.dumps(draw(spoilt_documents(originals)), option=orjson.OPT_NON_STR_KEYS)
    match draw(st.sampled_from(["whole"] * 6 + ["cut", "flipped", "other", "deep", "doubled"])):
        case "cut":
            return body[: draw(st.integers(0, len(body)))]
        case "flipped":
            at = draw(st.integers(0, len(body) - 1))
            return body[:at] + draw(st.binary(min_size=1, max_size=3)) + body[at + 1 :]
        case "other":
            return draw(st.binary(max_size=60))
        case "deep":
            depth = draw(st.integers(1, 3000))
            return b'{"a":' * depth + body + b"}" * depth
        case "doubled":
            return body[:-1] + b"," + body[1:]
        case _:
            return body


@st.composite
def with_a_card_number(draw: st.DrawFn, originals: st.SearchStrategy[Any]) -> Any:
    """One of the originals with a card's number somewhere in it, where none has business to be."""
    document = deepcopy(draw(originals))
    paths = [path for path in _paths(document) if not EXEMPT & set(path) and path[-1] != "type"]
    path = draw(st.sampled_from(paths))
    number = draw(st.sampled_from(CARD_TEXTS))
    _holder(document, path)[path[-1]] = draw(
        st.sampled_from([number, f"my card is {number}, thanks", int(CARD_TEXTS[0])])
    )
    return document
