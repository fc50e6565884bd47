"""The processor counterpart as a process with an endpoint, and the official SDK pointed at it."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import stripe
from tests.integration.simulators.counterparts import Counterpart, free_port

SECRET = "whsec_of_the_tests"
API_KEY = "sk_test_123"
VERSION_BEFORE_LATEST_CHARGE = "2020-08-27"


@dataclass(frozen=True)
class Told:
    """One event, as it was sent."""

    id: str
    type: str
    subject: dict[str, Any]


class Endpoint:
    """A webhook endpoint that verifies with the official SDK and keeps what it was sent."""

    def __init__(self) -> None:
        self.events: list[Told] = []
        self.open = threading.Event()
        """Cleared, it keeps every event waiting."""
        self.open.set()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                endpoint.open.wait(30)
                event = stripe.Webhook.construct_event(
                    body, self.headers["stripe-signature"], SECRET
                )
                subject = json.loads(body)["data"]["object"]
                endpoint.events.append(Told(event.id, event.type, subject))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """Says nothing: the processor is killed in mid-sentence here."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/webhooks"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def types_of(self, intent: str) -> list[str]:
        """The types of what was sent about an intent, in the order of arrival."""
        return [event.type for event in self.about(intent)]

    def about(self, intent: str) -> list[Told]:
        return [
            event
            for event in list(self.events)
            if intent in {event.subject["id"], event.subject.get("payment_intent")}
        ]


class RunningProcessor:
    """One processor; can be killed and started again on its journals."""

    def __init__(self, *, directory: Path, endpoint: Endpoint, options: Sequence[str]) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.endpoint = endpoint
        self.book_path = directory / "processor-book.jsonl"
        self.process = Counterpart(
            module="paypost.simulators.processor",
            arguments=[
                *("--port", str(port), "--target", endpoint.url, "--secret", SECRET),
                *("--journal", str(directory / "processor.jsonl")),
                *options,
            ],
            ready_url=f"{self.url}/readyz",
        )
        self.client = self.client_with(API_KEY)

    @asynccontextmanager
    async def asynchronous(self) -> AsyncIterator[stripe.StripeClient]:
        http = stripe.AIOHTTPClient()
        try:
            yield self.client_with(API_KEY, http_client=http)
        finally:
            await http.close_async()  # type: ignore[no-untyped-call]

    def client_with(self, key: str, **options: Any) -> stripe.StripeClient:
        return stripe.StripeClient(
            key, base_addresses={"api": self.url}, max_network_retries=0, **options
        )

    def switch(self, **switches: object) -> None:
        """Set these switches, after everything else was switched off."""
        self.call("POST", "/_switches/reset")
        if switches:
            self.call("PUT", "/_switches", switches)

    def advance(self, **by: int) -> None:
        """Move the clock, when what was announced before has arrived: else its order is open."""
        self.settle()
        self.call("POST", "/clock/advance", by)

    def charges(self, **filters: str) -> dict[str, Any]:
        query = "&".join(f"{name}={value}" for name, value in filters.items())
        charges: dict[str, Any] = self.call("GET", f"/_charges?{query}")
        return charges

    def settle(self) -> None:
        """Return when every webhook was taken."""
        self.call("POST", "/settle")

    def call(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(self.url + path, data=data, method=method), timeout=60) as answer:
            return json.loads(answer.read())


@contextmanager
def running_processor(
    *, directory: Path, options: Sequence[str] = ()
) -> Iterator[RunningProcessor]:
    endpoint = Endpoint()
    with contextlib.closing(endpoint):
        processor = RunningProcessor(directory=directory, endpoint=endpoint, options=options)
        processor.process.start()
        try:
            yield processor
        finally:
            processor.process.stop()


def autopay_charge(charge_id: str, **changes: Any) -> Any:
    """The parameters of an autopay charge, as payment-intake makes it; a change to None drops one.

    Any, because the SDK has a type of its own for each call.
    """
    params: dict[str, Any] = {
        "amount": 8_450,
        "currency": "usd",
        "customer": "cus_1",
        "payment_method": "pm_card_visa",
        "allowed_payment_method_types": ["card", "us_bank_account"],
        "confirm": True,
        "off_session": True,
        "description": "City Utilities",
        "metadata": {
            "account_number": f"A-{charge_id}",
            "bill_reference": "B-1",
            "paypost_charge_id": charge_id,
        },
    }
    return {name: value for name, value in (params | changes).items() if value is not None}
