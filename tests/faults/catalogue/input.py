"""Faults of what comes in: doubled, late, forged, poisoned; and a secret that is exchanged."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import orjson
from aiokafka import AIOKafkaProducer
from tests.faults.registry import Fault, fault
from tests.faults.run import Run
from tests.faults.violations import Violation

from paypost.simulators.processor.delivery import Disorder
from paypost.simulators.processor.events import Event, Purchase
from paypost.simulators.processor.scenarios import Step, Train
from paypost.simulators.processor.signatures import sign_standard, sign_stripe

CONFLICTS = "payment_intake_conflicts_total"


@fault(
    17,
    title="duplicate webhooks: one id 50 times at once; one event, two ids; one id, two bodies",
    how="the load generator; the last is answered `conflict` and counted as an alarm",
    oracles="LDANO",
    touches=("load",),
    short=True,
)
class DuplicateWebhooks(Fault):
    hold_seconds = 1.0

    async def inject(self, run: Run) -> None:
        before = await run.controls.counters("payment-intake")
        sender = run.load.sender
        storm, twin, changed = (run.load.extra() for _ in range(3))
        now = datetime.now(UTC)
        for step in storm.steps:
            event = step.build(now)
            await asyncio.gather(*(sender.send(event) for _ in range(50)))
        for step in twin.steps:
            event = step.build(now)
            await asyncio.gather(sender.send(event), sender.send(_under_another_id(event)))
        for step in changed.steps:
            event = step.build(now)
            await sender.send(event)
            await sender.send(replace(event, body=_with_another_amount(event.body)))
        after = await run.controls.counters("payment-intake")
        self.alarms = _total(after, CONFLICTS) - _total(before, CONFLICTS)
        self.changed = len(changed.steps)

    async def heal(self, run: Run) -> None:
        """Nothing to undo."""

    async def check(self, run: Run) -> list[Violation]:
        run.note(alarms=self.alarms)
        # In a mix intake may have been restarted meanwhile, and its counters with it.
        if run.alone and self.alarms != self.changed:
            return [
                Violation(
                    oracle="17",
                    what=f"{self.changed} bodies under known ids raised {self.alarms:g} alarms",
                )
            ]
        return []


@fault(
    18,
    title="out of order, interleaved, 30 days late",
    how="the load generator: the events of a payment shuffled and sent at once, those of several "
    "on one account among one another, and events that happened 30 days ago",
    oracles="LDANO",
    touches=("load",),
)
class DisorderedWebhooks(Fault):
    hold_seconds = 1.0
    scenarios = ("card", "refund", "partial_refunds", "dispute", "dispute_won", "ach")

    async def inject(self, run: Run) -> None:
        shuffled = [
            run.load.extra(scenario=scenario, in_order=False)
            for scenario in self.scenarios
            for _ in range(4)
        ]
        late = [_aged(run.load.extra(scenario=scenario), days=30) for scenario in self.scenarios]
        run.note(shuffled=len(shuffled), late=len(late))
        await asyncio.gather(
            run.load.send(shuffled, disorder=Disorder(duplicates=1, reorder=True)),
            run.load.send(late),
        )

    async def heal(self, run: Run) -> None:
        """Nothing to undo."""


RESTARTS_SECONDS_MAX = 60.0
"""For how long a service that other faults kill may be away: several stacks share the cores."""
CARD = "4242424242424242"
"""Stripe's test number."""
CARD_FORMS = (CARD, " ".join(CARD[at : at + 4] for at in range(0, 16, 4)), CARD.encode().hex())
"""As it might stand somewhere: plain, in groups, as a binary column is shown."""


@fault(
    19,
    title="forged, truncated, oversized, slow, bad base64, bad JSON, NaN and negative amounts, a "
    "card number inside",
    how="raw requests at both doors; then every file of Kafka, of PostgreSQL and every log, and "
    "every column of every table is searched for the card number",
    oracles="LDANM",
    touches=("load",),
    short=True,
)
class BadInput(Fault):
    hold_seconds = 0.5

    async def inject(self, run: Run) -> None:
        self.wrong: list[str] = []
        calls = _bad_calls(run)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
            for call in calls:
                await self._call(run, session, call)
        delivery = await run.load.sender.send(_with_card(run))
        if not delivery.taken:
            self.wrong.append(f"an event with a card number in it was answered {delivery.status}")
        await asyncio.gather(
            self._raw(run, _slow_call, "a body that does not arrive", {408}),
            self._raw(run, _cut_call, "a body that breaks off", {None, 400}),
        )
        run.note(bad_calls=len(calls) + 3)

    async def _raw(
        self,
        run: Run,
        call: Callable[[Run], int | None],
        what: str,
        statuses: set[int | None],
    ) -> None:
        status: int | None = 0
        # In a mix the service may be killed while it reads, and is back when it can.
        deadline = time.monotonic() + (0 if run.alone else RESTARTS_SECONDS_MAX)
        while True:
            with suppress(OSError):
                status = await asyncio.to_thread(call, run)
                if status in statuses:
                    return
            if time.monotonic() >= deadline:
                break
            await asyncio.sleep(1.0)
        self.wrong.append(f"{what} was answered {status}")

    async def _call(self, run: Run, session: aiohttp.ClientSession, call: _BadCall) -> None:
        url = f"{run.stack.state.http_urls['payment-intake']}{call.path}"
        # What a connection does meanwhile is no answer: another fault may be under way.
        for _ in range(60):
            with suppress(aiohttp.ClientError, TimeoutError):
                async with session.post(url, data=call.body, headers=call.headers()) as answer:
                    if answer.status != 503:
                        if answer.status not in call.statuses:
                            self.wrong.append(f"{call.what} was answered {answer.status}")
                        return
            await asyncio.sleep(0.5)
        self.wrong.append(f"{call.what} was never answered")

    async def heal(self, run: Run) -> None:
        """Nothing to undo."""

    async def check(self, run: Run) -> list[Violation]:
        found = [Violation(oracle="19", what=each) for each in self.wrong]
        places = await asyncio.to_thread(_files_with_card, run)
        places += await _columns_with_card(run)
        return found + [
            Violation(oracle="19", what=f"a card number is in {each}") for each in places
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _BadCall:
    """A request, and the statuses that it may be answered with; headers are made anew each time."""

    what: str
    path: str
    body: bytes
    headers: Callable[[], Mapping[str, str]]
    statuses: frozenset[int]


def _bad_calls(run: Run) -> list[_BadCall]:
    secrets = run.stack.state.secrets
    train = run.load.scenarios.card(Purchase(account=run.load.extra_accounts[2], amount_cents=777))
    good = train.steps[1].build(datetime.now(UTC)).body
    parsed = orjson.loads(good)
    stripe, portal = "/webhooks/stripe", "/portal/events"

    def signed(body: bytes, *, secret: str = "", age_seconds: int = 0) -> dict[str, str]:
        signature = sign_stripe(
            body=body,
            secrets=[secret or secrets.stripe_webhook_secret],
            timestamp=int(time.time()) - age_seconds,
        )
        return {"stripe-signature": signature, "content-type": "application/json"}

    def bad(what: str, body: bytes, *statuses: int, **how: object) -> _BadCall:
        return _BadCall(
            what=what,
            path=stripe,
            body=body,
            headers=lambda: signed(body, **how),  # type: ignore[arg-type]
            statuses=frozenset(statuses),
        )

    def amount(value: str) -> bytes:
        text = json.dumps(parsed | {"id": f"evt_bad{run.chance.getrandbits(64):x}"})
        # Which of its amounts says what was taken depends on the event's type and API version.
        cents = parsed["data"]["object"]["amount"]
        return re.sub(
            rf'("amount(?:_received|_captured)?": ){cents}\b', rf"\g<1>{value}", text
        ).encode()

    unsigned = _BadCall(
        what="an event without a signature",
        path=stripe,
        body=good,
        headers=lambda: {"content-type": "application/json"},
        statuses=frozenset({401}),
    )
    return [
        bad("a forged event", good, 401, secret="whsec_forged"),
        bad("an event signed an hour ago", good, 401, age_seconds=3_600),
        unsigned,
        replace(
            unsigned,
            what="a malformed signature",
            headers=lambda: {
                "content-type": "application/json",
                "stripe-signature": "t=now,v1=\u00ff",
            },
        ),
        replace(
            unsigned,
            what="a form",
            headers=lambda: signed(good) | {"content-type": "application/x-www-form-urlencoded"},
            statuses=frozenset({415}),
        ),
        bad("an oversized event", b'{"a": "' + b"x" * 300_000 + b'"}', 413),
        bad("bad JSON", b'{"id": "evt_', 400, 422),
        bad("no JSON at all", b"\xff\xfe\x00", 400, 422),
        bad("a list", b"[]", 400, 422),
        bad("deep JSON", b"[" * 20_000, 400, 422),
        bad("NaN", amount("NaN"), 400, 422),
        bad("a negative amount", amount("-500"), 400, 422),
        bad("a fraction of a cent", amount("10.5"), 400, 422),
        bad("an absurd amount", amount("9" * 30), 400, 422),
        replace(
            unsigned,
            what="bad base64 at the portal's door",
            path=portal,
            body=b"[]",
            headers=lambda: (
                sign_standard(
                    body=b"[]",
                    secrets=[secrets.standard_webhook_secrets["portal"]],
                    message_id="msg_bad",
                    timestamp=int(time.time()),
                )
                | {
                    "webhook-signature": "v1,%%%not-base64",
                    "content-type": "application/cloudevents-batch+json",
                }
            ),
        ),
    ]


def _with_card(run: Run) -> Event:
    """An event that posts nothing, with a card number in a text where customers put them."""
    purchase = Purchase(account=run.load.extra_accounts[2], amount_cents=778)
    event = run.load.scenarios.card(purchase).steps[0].build(datetime.now(UTC))
    body = orjson.loads(event.body)
    body["type"] = "customer.updated"
    body["data"]["object"]["description"] = f"my card is {CARD_FORMS[1]}, or {CARD}"
    return replace(event, type=body["type"], body=orjson.dumps(body))


def _slow_call(run: Run) -> int | None:
    """A body of which a byte comes each half second: the status of the answer."""
    with _opened(run, length_bytes=1_000) as connection:
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            with suppress(TimeoutError):
                return _status(connection)
            connection.sendall(b" ")
    return None


def _cut_call(run: Run) -> int | None:
    """A body that ends after half of what was announced."""
    with _opened(run, length_bytes=1_000) as connection:
        connection.sendall(b"{" * 500)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(15)
        try:
            return _status(connection)
        except OSError:
            return None


def _opened(run: Run, *, length_bytes: int) -> socket.socket:
    host, _, port = (
        run.stack.state.http_urls["payment-intake"].removeprefix("http://").partition(":")
    )
    connection = socket.create_connection((host, int(port)), timeout=10)
    connection.sendall(
        f"POST /webhooks/stripe HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
        f"content-length: {length_bytes}\r\n\r\n".encode()
    )
    connection.settimeout(0.5)
    return connection


def _status(connection: socket.socket) -> int | None:
    answer = connection.recv(4_096)
    return int(answer.split(b" ", 2)[1]) if answer else None


def _files_with_card(run: Run) -> list[str]:
    forms = [each.encode() for each in CARD_FORMS[:2]]
    directory = run.stack.directory
    roots = [directory.logs, run.folder, *(each.resolve() for each in directory.data.iterdir())]
    found = []
    for root in roots:
        for path in [root] if root.is_file() else root.rglob("*"):
            with suppress(OSError):
                if path.is_file() and _holds(path, forms):
                    found.append(str(path))
    return found


def _holds(path: Path, forms: Sequence[bytes]) -> bool:
    size = 1 << 20
    kept = b""
    with path.open("rb") as file:
        while piece := file.read(size):
            if any(form in kept + piece for form in forms):
                return True
            kept = piece[-32:]
    return False


async def _columns_with_card(run: Run) -> list[str]:
    tables = await run.controls.rows(
        "SELECT schemaname, tablename FROM pg_tables"
        " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
    )
    found = []
    for row in tables:
        table = f'"{row["schemaname"]}"."{row["tablename"]}"'
        # Backwards: PostgreSQL logs a slow search with its parameters, and logs are searched too.
        count = await run.controls.value(
            f"SELECT count(*) FROM {table} AS t WHERE t::text LIKE ANY(ARRAY("
            " SELECT '%' || reverse(form) || '%' FROM unnest($1::text[]) AS form))",
            [form[::-1] for form in CARD_FORMS],
        )
        if count:
            found.append(table)
    return found


@fault(
    20,
    title="webhook secret rotated under load",
    how="as docs/settings.md says: both at intake, the sender changes, the old one goes; and back",
    oracles="LDAN",
    touches=("payment-intake",),
    mixes=False,
)
class RotatedSecret(Fault):
    hold_seconds = 0.5
    breaking_seconds = 8.0

    async def inject(self, run: Run) -> None:
        self.old = run.stack.state.secrets.stripe_webhook_secret
        new = "whsec_rotated_by_the_fault_campaign"
        await self._rotate(run, old=self.old, new=new)
        await self._rotate(run, old=new, new=self.old)

    async def _rotate(self, run: Run, *, old: str, new: str) -> None:
        await self._intake_takes(run, [old, new])
        run.load.secrets[:] = [old, new]
        await asyncio.sleep(0.5)
        run.load.secrets[:] = [new]
        await self._restart(run, "processor", STRIPE_WEBHOOK_SECRET=new)
        # What was signed with the old one alone has been answered by then, or is signed anew.
        await asyncio.sleep(0.5)
        await self._intake_takes(run, [new])

    async def _intake_takes(self, run: Run, secrets: list[str]) -> None:
        await self._restart(
            run, "payment-intake", PAYMENT_INTAKE_STRIPE_WEBHOOK_SECRETS=json.dumps(secrets)
        )

    async def _restart(self, run: Run, name: str, **environment: str) -> None:
        spec = run.stack.supervisor._get(name).spec
        changed = replace(spec, env={**spec.env, **environment})
        await run.blocking(run.stack.supervisor.start, changed)
        await run.blocking(run.stack.supervisor.wait_ready, name=name, timeout_seconds=30)

    async def heal(self, run: Run) -> None:
        run.load.secrets[:] = [self.old]
        await run.controls.until_ready()

    async def check(self, run: Run) -> list[Violation]:
        refused = [
            each for each in run.load.deliveries if each.status is not None and each.status != 200
        ]
        sent = (orjson.loads(line) for line in (run.folder / "sent.jsonl").open("rb"))
        unsigned = [each["event_id"] for each in sent if each["status"] == 401]
        run.note(refused=len(refused) + len(unsigned))
        return [
            Violation(oracle="20", what=f"the valid event {each} was answered 401")
            for each in unsigned
        ]


@fault(
    21,
    title="poison records: bad JSON, unknown version or type, null value, 1 MB, negative amount",
    how="a plain producer, on every stream",
    oracles="LDANQHT",
    touches=("load",),
    short=True,
)
class PoisonRecords(Fault):
    hold_seconds = 1.5

    async def inject(self, run: Run) -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=run.stack.state.kafka_bootstrap,
            acks="all",
            max_request_size=2_000_000,
        )
        await producer.start()
        try:
            for stream, event_type in POISONED.items():
                for value, headers, dies in _poison(run, event_type):
                    await producer.send_and_wait(
                        stream, key=b"poison", value=value, headers=headers
                    )
                    if dies:
                        run.poison.setdefault(f"{stream}.dead", []).append(value or b"")
        finally:
            await producer.stop()
        run.note(poison=sum(len(each) for each in run.poison.values()))

    async def heal(self, run: Run) -> None:
        """Nothing to undo: what is poisoned has to be buried, and the rest goes on."""


POISONED = {
    "payments.v1": "payment.accepted",
    "postings.v1": "posting.posted",
    "portal.v1": "customer.registered",
    "notifications.v1": "notification.sent",
    "autopay.v1": "charge.requested",
    "bills.v1": "bill.issued",
}
"""By stream, a type that its readers know."""

Headers = list[tuple[str, bytes]]


def _poison(run: Run, event_type: str) -> list[tuple[bytes | None, Headers, bool]]:
    def headers(*, kind: str = event_type, version: str = "1.0") -> Headers:
        return [
            ("ce_specversion", version.encode()),
            ("ce_id", f"poison-{run.chance.getrandbits(64):x}".encode()),
            ("ce_type", kind.encode()),
            ("ce_source", b"/poison"),
            ("ce_time", datetime.now(UTC).isoformat().encode()),
        ]

    mark = f"{run.chance.getrandbits(64):x}".encode()
    return [
        (b'{"mark": "' + mark, headers(), True),
        (b'{"version": "' + mark + b'"}', headers(version="9.9"), True),
        (b'{"type": "' + mark + b'"}', headers(kind="payment.imagined"), False),
        (None, headers(), True),
        (b'{"large": "' + mark + b"x" * 1_000_000 + b'"}', headers(), True),
        (b'{"mark": "' + mark + b'", "amount_cents": -500}', headers(), True),
    ]


def _under_another_id(event: Event) -> Event:
    body = orjson.loads(event.body)
    body["id"] = f"{body['id'][:-6]}Second"
    return replace(event, id=body["id"], body=orjson.dumps(body))


def _with_another_amount(body: bytes) -> bytes:
    changed = orjson.loads(body)
    changed["data"]["object"]["amount"] += 1
    return orjson.dumps(changed)


def _aged(train: Train, *, days: int) -> Train:
    def aged(step: Step) -> Step:
        return replace(step, build=lambda at: step.build(at - timedelta(days=days)))

    return replace(train, steps=[aged(step) for step in train.steps])


def _total(counters: Mapping[str, float], name: str) -> float:
    return sum(value for label, value in counters.items() if label.startswith(name))
