"""The committed AsyncAPI and OpenAPI documents are what the services print of themselves.

`make docs` writes them anew; a changed document is a reviewed change of a contract.
"""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import orjson
import pytest
from scripts.documents import DOCUMENTS, ROOT, printed
from tests.contract.facts.test_facts import GOLDEN
from tests.support.recorded import Documents, validator_of

from shared.contracts.streams import STREAMS


@pytest.fixture(scope="module")
def printed_now() -> dict[str, bytes]:
    """What every service prints, asked for side by side."""
    with ThreadPoolExecutor() as threads:
        texts = threads.map(printed, DOCUMENTS.values())
        return dict(zip(DOCUMENTS, texts, strict=True))


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_a_committed_document_is_what_its_service_prints(name, printed_now):
    assert (ROOT / name).read_bytes() == printed_now[name]


@pytest.mark.parametrize("name", sorted(n for n in DOCUMENTS if "asyncapi" in n))
class TestAsyncApiDocument:
    def test_is_of_version_3(self, name):
        assert orjson.loads((ROOT / name).read_bytes())["asyncapi"] == "3.0.0"

    def test_describes_every_fact_of_its_streams(self, name):
        document = orjson.loads((ROOT / name).read_bytes())
        schemas = document["components"]["schemas"]
        addresses = {each["address"] for each in document["channels"].values()}
        assert addresses <= set(STREAMS)
        for address in addresses:
            assert {fact.__name__ for fact in STREAMS[address].facts} <= set(schemas)


class TestOpenApiDocument:
    def test_describes_the_doors_beside_the_api(self):
        document = orjson.loads((ROOT / "docs/openapi/payment-intake.json").read_bytes())
        assert {
            "/webhooks/stripe",
            "/webhooks/standard/{source}",
            "/portal/events",
            "/payments",
            "/payments/{payment_id}",
            "/accounts/{account_id}/payments",
        } <= set(document["paths"])
        answers = document["paths"]["/webhooks/stripe"]["post"]["responses"]
        assert {"200", "401", "408", "413", "415", "422", "503"} <= set(answers)


class TestGoldenRecords:
    @pytest.mark.parametrize("path", sorted(GOLDEN.iterdir()), ids=lambda path: path.stem)
    def test_are_what_the_documents_say(self, path):
        golden = orjson.loads(path.read_bytes())
        record = SimpleNamespace(
            topic=golden["topic"],
            headers=[(name, value.encode()) for name, value in golden["headers"].items()],
            value=orjson.dumps(golden["value"]),
        )
        assert Documents().faults_of(record) == []
        fact = STREAMS[golden["topic"]].by_type[golden["headers"]["ce_type"]]
        validator = validator_of(golden["topic"], fact.__name__)
        validator.validate(golden["value"])
        # A document that lets everything pass says nothing.
        required = [name for name, field in fact.model_fields.items() if field.is_required()]
        assert required
        for name in required:
            without = {each: value for each, value in golden["value"].items() if each != name}
            assert not validator.is_valid(without)
