"""Records as they stand on the streams, held against the AsyncAPI documents of the services."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import orjson

DOCUMENTS = Path(__file__).resolve().parents[2] / "docs/asyncapi"
_FORMATS = jsonschema.Draft202012Validator.FORMAT_CHECKER


class Documents:
    """What the documents say of a stream's messages: their headers and their bodies."""

    def __init__(self) -> None:
        self._channels: dict[str, list[tuple[str, Mapping[str, Any], Any]]] = {}
        for path in sorted(DOCUMENTS.glob("*.json")):
            document = orjson.loads(path.read_bytes())
            for channel in document["channels"].values():
                for message in channel["messages"].values():
                    self._channels.setdefault(channel["address"], []).append(
                        (path.stem, document, _resolved(document, message))
                    )

    @property
    def streams(self) -> Sequence[str]:
        return sorted(self._channels)

    def faults_of(self, record: Any) -> list[str]:
        """Return, for each document that speaks of the record's stream, what does not fit it."""
        headers = {name: value.decode() for name, value in record.headers}
        body = orjson.loads(record.value)
        faults = []
        for name, document, message in self._channels[record.topic]:
            for part, value in (("headers", headers), ("payload", body)):
                if part not in message:
                    faults.append(f"{name}: says nothing of its {part}")
                    continue
                schema = {**message[part], "components": document["components"]}
                error = jsonschema.exceptions.best_match(_validator(schema).iter_errors(value))
                if error is not None:
                    faults.append(f"{name}: {part} of {headers.get('ce_type')}: {error.message}")
        return faults


def body_schema(*, stream: str, fact: str) -> Mapping[str, Any]:
    """Return the schema by which the stream's producer, or a reader of it, describes a fact."""
    for path in sorted(DOCUMENTS.glob("*.json")):
        document = orjson.loads(path.read_bytes())
        addresses = {channel["address"] for channel in document["channels"].values()}
        schemas = document["components"]["schemas"]
        if stream in addresses and fact in schemas:
            return {"$ref": f"#/components/schemas/{fact}", "components": document["components"]}
    raise AssertionError(f"no document describes {fact} of {stream}")


@cache
def validator_of(stream: str, fact: str) -> jsonschema.Draft202012Validator:
    """Return what holds a body of one fact against its own schema, formats included."""
    return _validator(body_schema(stream=stream, fact=fact))


def _validator(schema: Mapping[str, Any]) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema, format_checker=_FORMATS)


def _resolved(document: Mapping[str, Any], reference: Mapping[str, Any]) -> Any:
    found: Any = document
    for name in reference["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return found
