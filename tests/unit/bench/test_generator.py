"""The generator: signed as it leaves, repeated until taken, and honest about what came late."""

import asyncio
import hashlib
import hmac
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from bench.pipeline.generator import Outgoing, Sending, generator_for, poisson_offsets
from bench.pipeline.load import Payment
from tests.support.pipeline import eventually_true

SECRET = "whsec_test"
Answer = Callable[[bytes, bytes], Awaitable[int]]
"""From the signature's header and the body to the status."""


@asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[str]:
    """An HTTP server that answers each POST as it is told."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = dict(
                    line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line
                )
                body = await reader.readexactly(int(lines[b"content-length"]))
                status = await answer(lines[b"stripe-signature"], body)
                writer.write(b"HTTP/1.1 %d x\r\ncontent-length: 0\r\n\r\n" % status)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/webhooks/stripe"


def load(*, count: int, events: int = 1) -> list[Outgoing]:
    return [
        Outgoing(
            Payment(number, "B-1", number + 1),
            [b'{"number": %d, "event": %d}' % (number, event) for event in range(events)],
            events - 1,
        )
        for number in range(count)
    ]


async def yes(_signature: bytes, _body: bytes) -> int:
    return 200


class TestClosedLoop:
    async def test_sends_each_once_and_notes_when_it_was_accepted(self) -> None:
        seen: list[bytes] = []

        async def answer(_signature: bytes, body: bytes) -> int:
            seen.append(body)
            return 200

        async with server(answer) as url, generator_for(urls=[url], secret=SECRET) as generator:
            sending = await generator.as_fast_as_answered(load(count=50), concurrency=8)
        assert sorted(seen) == sorted(each.bodies[0] for each in load(count=50))
        assert set(sending.accepted_at) == set(range(50))
        assert len(sending.ack_seconds) == 50
        assert (sending.repeats, sending.given_up) == (0, 0)

    async def test_keeps_to_its_concurrency(self) -> None:
        under_way = most = 0

        async def answer(_signature: bytes, _body: bytes) -> int:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0.002)
            under_way -= 1
            return 200

        async with server(answer) as url, generator_for(urls=[url], secret=SECRET) as generator:
            await generator.as_fast_as_answered(load(count=40), concurrency=4)
        assert most == 4

    async def test_sends_the_events_of_a_payment_in_their_order(self) -> None:
        seen: list[bytes] = []

        async def answer(_signature: bytes, body: bytes) -> int:
            seen.append(body)
            return 200

        async with server(answer) as url, generator_for(urls=[url], secret=SECRET) as generator:
            await generator.as_fast_as_answered(load(count=1, events=4), concurrency=8)
        assert seen == load(count=1, events=4)[0].bodies

    async def test_shares_itself_out_among_several_addresses(self) -> None:
        counts = {"a": 0, "b": 0}

        def counting(name: str) -> Answer:
            async def answer(_signature: bytes, _body: bytes) -> int:
                counts[name] += 1
                return 200

            return answer

        async with (
            server(counting("a")) as first,
            server(counting("b")) as second,
            generator_for(urls=[first, second], secret=SECRET) as generator,
        ):
            await generator.as_fast_as_answered(load(count=20), concurrency=2)
        assert counts == {"a": 10, "b": 10}


class TestSigning:
    async def test_is_done_as_each_leaves(self) -> None:
        ages: list[float] = []

        async def answer(signature: bytes, body: bytes) -> int:
            parts = dict(part.split(b"=", 1) for part in signature.split(b","))
            wanted = hmac.new(SECRET.encode(), parts[b"t"] + b"." + body, hashlib.sha256)
            assert parts[b"v1"] == wanted.hexdigest().encode()
            ages.append(time.time() - int(parts[b"t"]))
            return 200

        async with server(answer) as url, generator_for(urls=[url], secret=SECRET) as generator:
            await generator.at_times(load(count=3), [0.0, 0.01, 0.02])
        assert len(ages) == 3
        assert all(-0.1 < age < 2 for age in ages)


class TestRepeating:
    async def test_goes_on_until_it_is_taken_and_counts_all_of_that_time(self) -> None:
        statuses = [503, 500, 200]

        async def answer(_signature: bytes, _body: bytes) -> int:
            return statuses.pop(0)

        async with server(answer) as url, generator_for(urls=[url], secret=SECRET) as generator:
            sending = await generator.as_fast_as_answered(load(count=1), concurrency=1)
        assert sending.repeats == 2
        assert set(sending.accepted_at) == {0}
        # Two pauses, of 0.1 and 0.2 s, lie between the three.
        assert sending.ack_seconds[0] >= 0.3


def all_left(sending: Sending) -> Callable[[], Awaitable[bool]]:
    async def holds() -> bool:
        return len(sending.payments) == 400

    return holds


class TestOpenModel:
    async def test_counts_from_when_an_event_was_to_leave(self) -> None:
        """A server that stands still for a while makes all late that were to leave meanwhile."""
        stands = asyncio.Event()

        async def answer(_signature: bytes, _body: bytes) -> int:
            await stands.wait()
            return 200

        async with server(answer) as url, generator_for(urls=[url], secret=SECRET) as generator:
            sending = Sending()
            sent = asyncio.create_task(
                generator.at_times(
                    load(count=400), [number / 2000 for number in range(400)], sending=sending
                )
            )
            # More are due than there are connections: those wait, and their wait counts.
            await eventually_true(all_left(sending), timeout_seconds=10, what="all have left")
            asyncio.get_running_loop().call_later(0.1, stands.set)
            await sent
        assert len(sending.ack_seconds) == 400
        assert min(sending.ack_seconds) >= 0.1
        assert max(sending.ack_seconds) >= 0.3

    async def test_sends_no_payment_before_its_time(self) -> None:
        async with server(yes) as url, generator_for(urls=[url], secret=SECRET) as generator:
            sending = await generator.at_times(load(count=2), [0.0, 0.25])
        assert sending.left_at[1] - sending.left_at[0] == pytest.approx(0.25, abs=0.01)
        assert sending.accepted_at[1] >= sending.left_at[1]


class TestArrivals:
    def test_are_so_many_a_second_on_average_and_each_in_its_time(self) -> None:
        offsets = poisson_offsets(per_second=500, seconds=20, seed=1)
        assert len(offsets) == pytest.approx(10_000, rel=0.05)
        assert offsets == sorted(offsets)
        assert 0 < offsets[0] < offsets[-1] < 20

    def test_come_in_bursts_as_strangers_do(self) -> None:
        offsets = poisson_offsets(per_second=100, seconds=100, seed=1)
        gaps = [late - early for early, late in itertools.pairwise(offsets)]
        # Of an exponential distribution, 1 - 1/e are shorter than the mean.
        assert sum(gap < 0.01 for gap in gaps) / len(gaps) == pytest.approx(0.632, abs=0.03)

    def test_are_the_same_of_the_same_seed(self) -> None:
        assert poisson_offsets(per_second=50, seconds=5, seed=7) == poisson_offsets(
            per_second=50, seconds=5, seed=7
        )


class TestLeavingOut:
    def test_keeps_the_answers_counted(self) -> None:
        sending = Sending(
            payments=[Payment(0, "B-1", 1), Payment(1, "B-2", 2)], ack_seconds=[0.1, 0.2]
        )
        kept = sending.without(numbers={1})
        assert [payment.number for payment in kept.payments] == [0]
        assert kept.ack_seconds == [0.1, 0.2]
