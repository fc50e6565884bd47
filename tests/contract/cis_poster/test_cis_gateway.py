"""The scenarios of `CisGateway`, on the stub and on the HTTP adapter with the reference CIS.

What matters most: nothing is ever reported as not applied when it was.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Protocol
from uuid import UUID, uuid4

import pytest
from tests.support.backends import TestDatabase
from tests.support.cis_poster import CountedMetrics, StubCisGateway, a_posting, a_reversal
from tests.support.reference_cis import API_KEY, ReferenceCis, free_port, running_cis

from cis_poster.adapters.cis_http import HttpCisGateway
from cis_poster.domain import Answer, Outcome, Posting
from cis_poster.ports import CisGateway

TIMEOUT_SECONDS = 0.25
CERTAINLY_NOT_APPLIED = {Outcome.UNAVAILABLE, Outcome.REFUSED, Outcome.NOT_FOUND}


class World(Protocol):
    """A CIS behind a gateway, and what a test may do to it."""

    gateway: CisGateway

    def open(self, **members: object) -> str: ...
    def unavailable(self, account: str, reason: str) -> None: ...
    def lose_next(self, *, applied: bool) -> None: ...
    def lose_next_question(self) -> None: ...
    def holds(self, posting: Posting) -> bool: ...


class StubWorld:
    def __init__(self) -> None:
        self.gateway = StubCisGateway(open_to_all=False)

    def open(self, **members: object) -> str:
        account = f"A-{uuid4().hex[:10]}"
        if members.get("status") == "closed":
            self.gateway.refusals[account] = "account_closed"
        elif members.get("cash_only"):
            self.gateway.refusals[account] = "cash_only"
        self.gateway._accounts.add(account)
        return account

    def unavailable(self, account: str, reason: str) -> None:
        self.gateway.unavailable[account] = reason

    def lose_next(self, *, applied: bool) -> None:
        self.gateway.post_faults = ["lost_after" if applied else "lost_before"]

    def lose_next_question(self) -> None:
        self.gateway.find_faults = ["cis_timeout"]

    def holds(self, posting: Posting) -> bool:
        return posting.id in self.gateway.ledger


class HttpWorld:
    def __init__(self, *, cis: ReferenceCis, gateway: HttpCisGateway) -> None:
        self.cis = cis
        self.gateway = gateway

    def open(self, **members: object) -> str:
        account = f"A-{uuid4().hex[:10]}"
        self.cis.open_accounts([account], **members)
        return account

    def unavailable(self, account: str, reason: str) -> None:
        self.cis.switch(**{reason: {"accounts": [account]}})

    def lose_next(self, *, applied: bool) -> None:
        name = "timeout_after_apply" if applied else "timeout_before_apply"
        self.cis.switch(**{name: {"count": 1}})

    def lose_next_question(self) -> None:
        self.cis.switch(hang={"count": 1, "operations": ["find"]})

    def holds(self, posting: Posting) -> bool:
        found = self.cis.call("POST", "/v1/postings/find", {"keys": [str(posting.id)]})
        return bool(found["answers"][0]["outcome"] == "exists")


@pytest.fixture(scope="module")
def cis(database: TestDatabase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReferenceCis]:
    with running_cis(database=database, directory=tmp_path_factory.mktemp("cis")) as cis:
        yield cis


@asynccontextmanager
async def http_gateway(
    url: str, *, timeout_seconds: float = TIMEOUT_SECONDS, api_key: str = API_KEY
) -> AsyncIterator[HttpCisGateway]:
    gateway = HttpCisGateway(
        base_url=url,
        api_key=api_key,
        timeout_seconds=timeout_seconds,
        connections_max=8,
        metrics=CountedMetrics(),
    )
    yield gateway
    await gateway.close()


@pytest.fixture
async def real(cis: ReferenceCis) -> AsyncIterator[HttpWorld]:
    async with http_gateway(cis.url) as gateway:
        yield HttpWorld(cis=cis, gateway=gateway)
    cis.switch()


@pytest.fixture(params=["stub", "http"])
def world(request: pytest.FixtureRequest) -> World:
    if request.param == "stub":
        return StubWorld()
    found: World = request.getfixturevalue("real")
    return found


def outcomes(answers: object) -> list[Outcome]:
    return [answer.outcome for answer in answers]  # type: ignore[attr-defined]


class TestCisGateway:
    async def test_posts_one(self, world: World) -> None:
        posting = a_posting(account_id=world.open())
        [answer] = await world.gateway.post([posting])
        assert answer.outcome is Outcome.APPLIED
        assert answer.cis_reference
        assert answer.balance_cents == -2_500
        assert answer.posted_at is not None
        assert (answer.amount_cents, answer.account_id) == (2_500, posting.account_id)
        assert world.holds(posting)

    async def test_posts_many_in_order_with_an_answer_each(self, world: World) -> None:
        account, other = world.open(), world.open()
        batch = [a_posting(account_id=account if n % 2 else other) for n in range(20)]
        answers = await world.gateway.post(batch)
        assert outcomes(answers) == [Outcome.APPLIED] * 20
        assert [a.balance_cents for a in answers[1::2]] == [-2_500 * n for n in range(1, 11)]

    async def test_says_that_a_key_exists_with_its_first_reference(self, world: World) -> None:
        posting = a_posting(account_id=world.open())
        [first] = await world.gateway.post([posting])
        [again] = await world.gateway.post([posting])
        assert again.outcome is Outcome.EXISTS
        assert again.cis_reference == first.cis_reference
        assert (again.amount_cents, again.account_id) == (2_500, posting.account_id)

    async def test_says_conflict_for_a_key_of_another_amount(self, world: World) -> None:
        posting = a_posting(account_id=world.open())
        await world.gateway.post([posting])
        [answer] = await world.gateway.post([replace(posting, amount_cents=9)])
        assert (answer.outcome, answer.amount_cents) == (Outcome.CONFLICT, 2_500)

    async def test_says_conflict_for_a_key_of_another_account(self, world: World) -> None:
        posting = a_posting(account_id=world.open())
        await world.gateway.post([posting])
        [answer] = await world.gateway.post([replace(posting, account_id=world.open())])
        assert answer.outcome is Outcome.CONFLICT

    @pytest.mark.parametrize(
        ("members", "reason"),
        [({"status": "closed"}, "account_closed"), ({"cash_only": True}, "cash_only")],
    )
    async def test_refuses_with_a_reason(
        self, world: World, members: dict[str, object], reason: str
    ) -> None:
        [answer] = await world.gateway.post([a_posting(account_id=world.open(**members))])
        assert (answer.outcome, answer.reason) == (Outcome.REFUSED, reason)

    async def test_refuses_an_unknown_account_and_goes_on_with_the_others(
        self, world: World
    ) -> None:
        bad, good = (
            a_posting(account_id=f"A-{uuid4().hex[:10]}"),
            a_posting(account_id=world.open()),
        )
        answers = await world.gateway.post([bad, good])
        assert outcomes(answers) == [Outcome.REFUSED, Outcome.APPLIED]
        assert answers[0].reason == "account_unknown"

    async def test_refuses_a_reversal_without_its_payment(self, world: World) -> None:
        payment = a_posting(account_id=world.open())
        reversal = a_reversal(payment)
        [answer] = await world.gateway.post([reversal])
        assert (answer.outcome, answer.reason) == (Outcome.REFUSED, "payment_unknown")
        answers = await world.gateway.post([payment, reversal])
        assert outcomes(answers) == [Outcome.APPLIED] * 2
        assert answers[1].balance_cents == 0

    @pytest.mark.parametrize("reason", ["down", "batch_closed"])
    async def test_applies_nothing_of_an_account_after_one_that_is_unavailable(
        self, world: World, reason: str
    ) -> None:
        account, other = world.open(), world.open()
        world.unavailable(account, reason)
        batch = [a_posting(account_id=each) for each in (account, other, account, other)]
        answers = await world.gateway.post(batch)
        assert outcomes(answers) == [
            *(Outcome.UNAVAILABLE, Outcome.APPLIED, Outcome.UNAVAILABLE, Outcome.APPLIED)
        ]
        assert answers[0].reason == reason
        assert (answers[0].attempted, answers[2].attempted) == (True, False)
        assert [world.holds(posting) for posting in batch] == [False, True, False, True]

    @pytest.mark.parametrize("size", [1, 3])
    @pytest.mark.parametrize("applied", [True, False])
    async def test_does_not_know_what_became_of_a_call_without_an_answer(
        self, world: World, applied: bool, size: int
    ) -> None:
        batch = [a_posting(account_id=world.open()) for _ in range(size)]
        world.lose_next(applied=applied)
        answers = await world.gateway.post(batch)
        assert outcomes(answers) == [Outcome.LOST] * size
        assert answers[0].reason == "cis_timeout"
        found = await world.gateway.find(batch)
        expected = Outcome.EXISTS if applied else Outcome.NOT_FOUND
        assert outcomes(found) == [expected] * size

    async def test_finds_what_stands_under_each_key(self, world: World) -> None:
        here, gone = a_posting(account_id=world.open()), a_posting()
        [posted] = await world.gateway.post([here])
        answers = await world.gateway.find([gone, here])
        assert outcomes(answers) == [Outcome.NOT_FOUND, Outcome.EXISTS]
        assert answers[1].cis_reference == posted.cis_reference
        assert (answers[1].amount_cents, answers[1].account_id) == (2_500, here.account_id)

    async def test_knows_no_more_after_a_question_without_an_answer(self, world: World) -> None:
        posting = a_posting(account_id=world.open())
        await world.gateway.post([posting])
        world.lose_next_question()
        assert outcomes(await world.gateway.find([posting])) == [Outcome.LOST]


SWITCHES = [
    # switch, outcome, reason, whether it was applied
    ({"error_before_apply": True}, Outcome.LOST, "cis_http_500", False),
    ({"error_after_apply": True}, Outcome.LOST, "cis_http_500", True),
    ({"timeout_before_apply": True}, Outcome.LOST, "cis_timeout", False),
    ({"timeout_after_apply": True}, Outcome.LOST, "cis_timeout", True),
    ({"timeout_after_apply": True, "hang_ms": 100}, Outcome.LOST, "cis_http_504", True),
    ({"hang": True}, Outcome.LOST, "cis_timeout", False),
    ({"latency_ms": 1_000}, Outcome.LOST, "cis_timeout", None),
    ({"latency_ms": 50}, Outcome.APPLIED, None, True),
    ({"wrong_answer": True}, Outcome.LOST, "cis_answer_not_understood", False),
    ({"down": True}, Outcome.UNAVAILABLE, "down", False),
    ({"batch_closed": True}, Outcome.UNAVAILABLE, "batch_closed", False),
    ({"exists_other_amount": True}, Outcome.EXISTS, None, False),
]


class TestHttpCisGateway:
    @pytest.mark.parametrize("size", [1, 3])
    @pytest.mark.parametrize(("switches", "outcome", "reason", "applied"), SWITCHES, ids=str)
    async def test_maps_each_way_to_fail(
        self,
        real: HttpWorld,
        size: int,
        switches: dict[str, object],
        outcome: Outcome,
        reason: str | None,
        applied: bool | None,
    ) -> None:
        batch = [a_posting(account_id=real.open()) for _ in range(size)]
        real.cis.switch(**switches)
        answers = await real.gateway.post(batch)
        real.cis.switch()
        assert {(answer.outcome, answer.reason) for answer in answers} == {(outcome, reason)}
        if applied is None:
            return
        for posting, answer in zip(batch, answers, strict=True):
            assert real.holds(posting) == applied
            assert not (applied and answer.outcome in CERTAINLY_NOT_APPLIED)

    async def test_reports_the_amount_that_the_cis_claims_to_hold(self, real: HttpWorld) -> None:
        posting = a_posting(account_id=real.open())
        real.cis.switch(exists_other_amount=True)
        [answer] = await real.gateway.post([posting])
        assert (answer.outcome, answer.amount_cents) == (Outcome.EXISTS, 2_600)

    @pytest.mark.parametrize(
        "switches",
        [{"down": True}, {"hang": True}, {"wrong_answer": True}],
        ids=str,
    )
    async def test_takes_no_failure_of_a_question_for_its_answer(
        self, real: HttpWorld, switches: dict[str, object]
    ) -> None:
        posting = a_posting(account_id=real.open())
        await real.gateway.post([posting])
        real.cis.switch(**switches)
        assert outcomes(await real.gateway.find([posting])) == [Outcome.LOST]

    async def test_sends_nothing_it_may_not(self, cis: ReferenceCis) -> None:
        account = f"A-{uuid4().hex[:10]}"
        cis.open_accounts([account])
        async with http_gateway(cis.url, api_key="wrong") as gateway:
            [answer] = await gateway.post([a_posting(account_id=account)])
            assert (answer.outcome, answer.reason) == (Outcome.UNAVAILABLE, "cis_http_401")
            assert outcomes(await gateway.find([a_posting()])) == [Outcome.LOST]

    async def test_knows_that_nothing_was_sent_where_nobody_listens(self) -> None:
        async with http_gateway(f"http://127.0.0.1:{free_port()}") as gateway:
            answers = await gateway.post([a_posting(), a_posting()])
            assert {(a.outcome, a.reason) for a in answers} == {
                (Outcome.UNAVAILABLE, "cis_unreachable")
            }

    async def test_refuses_only_the_posting_that_is_malformed(self, real: HttpWorld) -> None:
        account = real.open()
        batch = [a_posting(account_id=account) for _ in range(9)]
        batch[4] = replace(batch[4], reference="r" * 256)
        answers = await real.gateway.post(batch)
        assert outcomes(answers) == [
            Outcome.REFUSED if n == 4 else Outcome.APPLIED for n in range(9)
        ]
        assert answers[4].reason == "malformed"
        assert real.cis.posted(account) == [str(p.id) for n, p in enumerate(batch) if n != 4]

    async def test_sends_nothing_after_a_loss_while_it_looks_for_the_malformed_one(
        self, real: HttpWorld
    ) -> None:
        account, lost = real.open(), real.open()
        batch = [a_posting(account_id=account) for _ in range(4)]
        batch[0] = replace(batch[0], account_id=lost)
        batch[3] = replace(batch[3], reference="r" * 256)
        real.cis.switch(timeout_before_apply={"accounts": [lost]})
        answers = await real.gateway.post(batch)
        assert outcomes(answers) == [
            *(Outcome.LOST, Outcome.LOST, Outcome.UNAVAILABLE, Outcome.UNAVAILABLE)
        ]
        assert [answer.attempted for answer in answers] == [True, True, False, False]
        assert not any(real.holds(posting) for posting in batch)

    async def test_survives_a_cis_that_was_killed_and_started_again(self, real: HttpWorld) -> None:
        account = real.open()
        assert outcomes(await real.gateway.post([a_posting(account_id=account)])) == [
            Outcome.APPLIED
        ]
        real.cis.kill()
        [gone] = await real.gateway.post([posting := a_posting(account_id=account)])
        assert gone.outcome in (Outcome.UNAVAILABLE, Outcome.LOST)
        real.cis.start()
        assert outcomes(await real.gateway.post([posting])) == [Outcome.APPLIED]

    @pytest.mark.parametrize(
        ("behaviour", "outcome", "reason"),
        [
            ("reset", Outcome.LOST, "cis_connection_lost"),
            ("close", Outcome.LOST, "cis_connection_lost"),
            ("half_answer", Outcome.LOST, "cis_connection_lost"),
            ("garbage", Outcome.LOST, "cis_connection_lost"),
            ("silence", Outcome.LOST, "cis_timeout"),
            ("slow_body", Outcome.LOST, "cis_timeout"),
            ("empty", Outcome.LOST, "cis_answer_not_understood"),
            ("html", Outcome.LOST, "cis_answer_not_understood"),
            ("nan", Outcome.LOST, "cis_answer_not_understood"),
            ("other_key", Outcome.LOST, "cis_answer_for_other_keys"),
            ("unknown_outcome", Outcome.LOST, "cis_answer_not_understood"),
            ("no_reference", Outcome.LOST, "cis_answer_not_understood"),
            ("not_found", Outcome.LOST, "cis_answer_not_understood"),
            ("conflict_of_a_proxy", Outcome.LOST, "cis_answer_not_understood"),
            ("bad_gateway", Outcome.LOST, "cis_http_502"),
            ("too_many", Outcome.UNAVAILABLE, "cis_http_429"),
        ],
    )
    async def test_takes_what_it_cannot_understand_for_a_loss(
        self, behaviour: str, outcome: Outcome, reason: str | None
    ) -> None:
        posting = a_posting()
        async with misbehaving(behaviour, posting.id) as url, http_gateway(url) as gateway:
            [answer] = await gateway.post([posting])
            assert (answer.outcome, answer.reason) == (outcome, reason)

    async def test_goes_on_when_the_server_closes_kept_connections(self) -> None:
        posting = a_posting()
        async with (
            misbehaving("applied_then_close", posting.id) as url,
            http_gateway(url) as gateway,
        ):
            answers: list[Answer] = []
            for _ in range(20):
                answers += await gateway.post([posting])
                await asyncio.sleep(0.005)
            assert set(outcomes(answers)) <= {Outcome.APPLIED, Outcome.LOST}
            assert outcomes(answers).count(Outcome.APPLIED) >= 18


APPLIED = (
    '{"key": "%s", "outcome": "applied", "cis_reference": "CIS-1", "balance_cents": 1, '
    '"amount_cents": 2500, "account": "A-1", "posted_at": "2026-03-05T18:00:01Z"}'
)


@asynccontextmanager
async def misbehaving(behaviour: str, key: UUID) -> AsyncIterator[str]:
    """A server that reads a request and then does something else than answering it."""
    applied = APPLIED % key

    def answer(body: str, status: str = "200 OK", length: int | None = None) -> bytes:
        size = len(body) if length is None else length
        return f"HTTP/1.1 {status}\r\nContent-Length: {size}\r\n\r\n{body}".encode()

    answers = {
        "half_answer": answer(applied[:20], length=500),
        "slow_body": answer(applied[:20], length=500),
        "garbage": b"\x00\x01\x02 not http\r\n\r\n",
        "empty": answer(""),
        "html": answer("<html>maintenance</html>"),
        "nan": answer(applied.replace('"balance_cents": 1', '"balance_cents": NaN')),
        "other_key": answer(APPLIED % uuid4()),
        "unknown_outcome": answer(applied.replace('"applied"', '"queued"')),
        "no_reference": answer(applied.replace('"CIS-1"', "null")),
        "not_found": answer(applied.replace('"applied"', '"not_found"')),
        "conflict_of_a_proxy": answer("conflict", status="409 Conflict"),
        "bad_gateway": answer("bad gateway", status="502 Bad Gateway"),
        "too_many": answer("slow down", status="429 Too Many Requests"),
        "applied_then_close": answer(applied, status="201 Created"),
    }

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            writer.write(answers.get(behaviour, b""))
            if behaviour in ("silence", "slow_body"):
                await asyncio.sleep(2)
            elif behaviour == "reset":
                writer.transport.abort()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
