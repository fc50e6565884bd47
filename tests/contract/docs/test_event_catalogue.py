"""The catalogue names every fact and every field of it, in the part of its stream."""

import re
from pathlib import Path

import orjson
import pytest

from shared.contracts.enrolments import AutopayRule, PaymentMethod
from shared.contracts.streams import STREAMS

DOCS = Path(__file__).parents[3] / "docs"
GOLDEN = Path(__file__).parents[1] / "facts" / "golden"
CATALOGUE = (DOCS / "event-catalogue.md").read_text(encoding="utf-8")
FACTS = [(name, fact) for name, stream in STREAMS.items() for fact in stream.facts]


def part_of(stream: str) -> str:
    """Return what the catalogue says of a stream."""
    _, _, after = CATALOGUE.partition(f"\n## `{stream}`\n")
    return after.partition("\n## ")[0]


@pytest.mark.parametrize(("stream", "fact"), FACTS, ids=lambda value: getattr(value, "TYPE", value))
class TestEveryFact:
    def test_has_one_row(self, stream, fact):
        rows = [line for line in part_of(stream).splitlines() if line.startswith("| `")]
        assert len([row for row in rows if row.startswith(f"| `{fact.TYPE}` |")]) == 1

    def test_has_every_field_named(self, stream, fact):
        named = set(re.findall(r"`([a-z0-9_]+)`", part_of(stream)))
        assert set(fact.model_fields) <= named


@pytest.mark.parametrize("model", [AutopayRule, PaymentMethod])
def test_what_an_authorisation_holds_is_named(model):
    named = set(re.findall(r"`([a-z0-9_]+)`", part_of("portal.v1")))
    assert set(model.model_fields) <= named


@pytest.mark.parametrize("stream", STREAMS)
def test_every_example_is_a_fact_on_the_wire(stream):
    golden = [orjson.loads(path.read_bytes()) for path in GOLDEN.glob(f"{stream}.*")]
    bodies = [each["value"] for each in golden]
    examples = re.findall(r"```json\n(.*?)```", part_of(stream), flags=re.DOTALL)
    assert examples
    for example in examples:
        assert orjson.loads(example) in bodies
