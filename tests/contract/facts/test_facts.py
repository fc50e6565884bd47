"""Every fact on the wire, against its golden file: a changed file is a changed promise.

`PAYPOST_WRITE_GOLDEN=1 pytest tests/contract/facts` writes them anew, for review.
"""

import os
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest
from tests.contract.facts.examples import EXAMPLES

from shared.contracts.fact import Fact
from shared.contracts.streams import STREAMS
from shared.contracts.wire import decode, encode

GOLDEN = Path(__file__).parent / "golden"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
STREAM_OF = {fact: stream for stream in STREAMS.values() for fact in stream.facts}


def path_of(fact: Fact) -> Path:
    return GOLDEN / f"{STREAM_OF[type(fact)].name}.{fact.TYPE}.json"


def on_the_wire(fact: Fact) -> dict:
    record = encode(fact, stream=STREAM_OF[type(fact)], traceparent=TRACE)
    return {
        "topic": record.topic,
        "key": record.key.decode(),
        "headers": {name: value.decode() for name, value in record.headers},
        "value": orjson.loads(record.value),
    }


def from_the_wire(golden: dict) -> SimpleNamespace:
    return SimpleNamespace(
        topic=golden["topic"],
        key=golden["key"].encode(),
        headers=[(name, value.encode()) for name, value in golden["headers"].items()],
        value=orjson.dumps(golden["value"]),
    )


@pytest.mark.parametrize("fact", EXAMPLES, ids=lambda fact: fact.TYPE)
class TestFact:
    def test_reads_on_the_wire_as_its_golden_file(self, fact):
        if os.environ.get("PAYPOST_WRITE_GOLDEN"):
            options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
            path_of(fact).write_bytes(orjson.dumps(on_the_wire(fact), option=options))
        assert on_the_wire(fact) == orjson.loads(path_of(fact).read_bytes())

    def test_is_read_back_from_its_golden_file(self, fact):
        assert decode(from_the_wire(orjson.loads(path_of(fact).read_bytes()))).fact == fact

    def test_has_every_field_set_in_its_example(self, fact):
        assert fact.model_fields_set | {"channel"} >= set(type(fact).model_fields)


class TestGoldenFiles:
    def test_exist_for_every_fact_of_every_stream_and_for_nothing_else(self):
        expected = {
            f"{stream.name}.{fact.TYPE}.json"
            for stream in STREAMS.values()
            for fact in stream.facts
        }
        assert {path.name for path in GOLDEN.iterdir()} == expected
        assert {type(example) for example in EXAMPLES} == set(STREAM_OF)
