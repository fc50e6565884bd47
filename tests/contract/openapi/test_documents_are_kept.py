"""Each OpenAPI document against its running application: what it says is what is answered.

The calls are made up from the document itself, fitting it and not. On real PostgreSQL; Kafka is
not needed, since what was decided waits in the outbox.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.support import poster_database, reenrolment_database
from tests.support.backends import PostgresBackend, create_database
from tests.support.examples import examples
from tests.support.intake_database import migrate_intake, sqlalchemy_url
from tests.support.intake_service import (
    KIOSK_SECRET,
    PORTAL_SECRET,
    STRIPE_SECRET,
    intake_settings,
)
from tests.support.reference_cis import API_KEY, running_cis
from tests.support.served import served

import autopay_scheduler.app
import autopay_scheduler.settings
import cis_poster.app
import cis_poster.settings
import payment_intake.app
from paypost.simulators.processor.signatures import sign_standard, sign_stripe

DOCUMENTS = Path(__file__).resolve().parents[3] / "docs/openapi"
KEY = API_KEY
"""One key for every role: who may do what has tests of its own."""
HASHED = [hashlib.sha256(KEY.encode()).hexdigest()]
NO_KAFKA = "127.0.0.1:9"
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


def operations(name: str) -> dict[str, Any]:
    schema = schemathesis.openapi.from_path(DOCUMENTS / f"{name}.json")
    return {found.label: found for each in schema.get_all_operations() if (found := each.ok())}


OPERATIONS = {
    name: operations(name) for name in ("payment-intake", "cis-poster", "autopay-scheduler", "cis")
}
ALL = [(name, label) for name, found in OPERATIONS.items() for label in found]


class Signing(requests.auth.AuthBase):
    """The bearer key, and at the doors the signature of whatever is sent."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {KEY}"
        body = request.body or b""
        body = body.encode() if isinstance(body, str) else body
        now = int(time.time())
        path = request.path_url
        if path.startswith("/webhooks/stripe"):
            signature = sign_stripe(body=body, secrets=[STRIPE_SECRET], timestamp=now)
            request.headers["Stripe-Signature"] = signature
        elif path.startswith(("/webhooks/standard", "/portal/events")):
            secret = PORTAL_SECRET if path.startswith("/portal") else KIOSK_SECRET
            request.headers.update(
                sign_standard(body=body, secrets=[secret], message_id=uuid4().hex, timestamp=now)
            )
        return request


@pytest.fixture(scope="module")
def addresses(
    postgres: PostgresBackend, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], str]]:
    """The address of an application by its document's name; each is started when first asked."""
    from contextlib import ExitStack

    started: dict[str, str] = {}
    with ExitStack() as stack:

        def address(name: str) -> str:
            if name not in started:
                database = create_database(postgres=postgres)
                directory = tmp_path_factory.mktemp(name)
                started[name] = stack.enter_context(SERVED[name](database, directory))
            return started[name]

        yield address


def serve_intake(database: Any, _: Path) -> Any:
    migrate_intake(database)

    def build() -> Any:
        app = payment_intake.app.build_app(
            intake_settings(
                database_url=sqlalchemy_url(database),
                kafka=NO_KAFKA,
                portal_api_key_sha256s=HASHED,
                operator_key_sha256s=HASHED,
            )
        )
        return app.ingress, app.service

    return served(build)


def serve_poster(database: Any, _: Path) -> Any:
    poster_database.migrate_poster(database)

    def build() -> Any:
        app = cis_poster.app.build_app(
            cis_poster.settings.Settings(
                environment="local",
                database_url=poster_database.sqlalchemy_url(database),
                kafka_bootstrap_servers=NO_KAFKA,
                cis_base_url="http://127.0.0.1:9",
                cis_api_key="unused",
                operator_key_sha256s=HASHED,
            )
        )
        return app.api, app.service

    return served(build)


def serve_scheduler(database: Any, _: Path) -> Any:
    reenrolment_database.migrate_scheduler(database)

    def build() -> Any:
        app = autopay_scheduler.app.build_app(
            autopay_scheduler.settings.Settings(
                environment="local",
                database_url=reenrolment_database.sqlalchemy_url(database),
                kafka_bootstrap_servers=NO_KAFKA,
                portal_url="https://pay.springfield.example",
                portal_api_key_sha256s=HASHED,
                operator_key_sha256s=HASHED,
            )
        )
        return app.api, app.service

    return served(build)


def serve_cis(database: Any, directory: Path) -> Any:
    from contextlib import contextmanager

    @contextmanager
    def started() -> Iterator[str]:
        with running_cis(database=database, directory=directory) as cis:
            yield cis.url

    return started()


SERVED = {
    "payment-intake": serve_intake,
    "cis-poster": serve_poster,
    "autopay-scheduler": serve_scheduler,
    "cis": serve_cis,
}


@pytest.mark.parametrize(("name", "label"), ALL)
def test_what_is_answered_is_what_the_document_says(name, label, addresses):
    operation = OPERATIONS[name][label]
    address = addresses(name)
    session = requests.Session()
    session.auth = Signing()
    cases = st.one_of(
        operation.as_strategy(generation_mode=GenerationMode.POSITIVE),
        operation.as_strategy(generation_mode=GenerationMode.NEGATIVE),
    )

    @settings(
        max_examples=examples(12),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def check(case):
        try:
            response = case.call(base_url=address, session=session, timeout=10)
            case.validate_response(response, checks=CHECKS)
        finally:
            if label.startswith("PUT /_switches"):
                session.post(f"{address}/_switches/reset", timeout=10)

    check()
