"""One trial's bed: fresh servers, one yardstick on them, a load, and the proof of what came of it.

Nothing of a bed outlives it, whatever happens: on the way out the yardstick is stopped, then the
servers, then their data are deleted. Only the logs of a failed trial are kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import asyncpg

from bench.pipeline.books import Books, LineCounter, match, read_books
from bench.pipeline.generator import Generator, Outgoing, Sending, generator_for
from bench.pipeline.load import Events, Payment, Payments
from bench.pipeline.readings import Memory, Reading, cpu_seconds, read_all, read_memory
from bench.pipeline.trial import NotProvenError, Trial, make_trial, prove
from bench.yardsticks.contract import (
    Surroundings,
    Workload,
    Yardstick,
    YardstickUnavailableError,
)
from bench.yardsticks.paypost import PaypostYardstick
from paypost.remote import Remote
from paypost.simulators.mail.store import FILE_NAME
from paypost.stack.local import COUNTERPARTS, SERVERS, LocalStack
from paypost.stack.ports import PortBlock
from paypost.stack.state import StackDirectory, StackState, default_stack_name
from paypost.traffic.customers import open_accounts
from paypost.verify.report import Places, verify

PARTS = frozenset({*SERVERS, *COUNTERPARTS} - {"processor"})
SPARE_PORTS = 20
POLL_SECONDS = 0.02
CONCURRENCY = 128
"""Webhooks in flight in a closed loop."""
WARM_UP_FIRST = 40
IDLE_CORE_SHARE = 0.15
IDLE_WAIT_SECONDS_MAX = 4.0
VERIFY_WAIT_SECONDS = 60.0


def bed_directory() -> StackDirectory:
    """Where beds live: one for each checkout, so that two benchmarks of one do not meet unseen."""
    return StackDirectory.of(name=f"{default_stack_name()}-bench")


class NotStartedError(Exception):
    """A yardstick did not start; its logs are kept.

    Attributes:
        yardstick: which.
        reason: what it said.
    """

    def __init__(self, *, yardstick: str, reason: str) -> None:
        super().__init__(f"{yardstick} did not start: {reason}; logs in {bed_directory().path}")
        self.yardstick = yardstick
        self.reason = reason


class Bed:
    """See the module; an async context manager."""

    def __init__(
        self,
        *,
        yardstick: Yardstick,
        workload: Workload,
        payments: Payments,
        events: Events,
        say: Callable[[str], None] = lambda _text: None,
    ) -> None:
        """Args:
        yardstick: not started.
        workload: what it is told of the load.
        payments: deals out the load.
        events: tells of the payments.
        say: hears what is being done, as short lines.
        """
        self.yardstick = yardstick
        self.workload = workload
        self.sent: list[Payment] = []
        self.sendings: list[Sending] = []
        self._payments = payments
        self._events = events
        self._say = say
        self._addresses = {
            customer.email: account
            for account, customer in workload.customers.items()
            if customer.email is not None
        }
        self._spare: PortBlock | None = None
        self._stack: LocalStack | None = None
        self._connection: asyncpg.Connection[Any] | None = None
        self._generator: Any = None
        self._send: Generator | None = None
        self._journal: LineCounter | None = None
        self._mails: LineCounter | None = None

    @property
    def stack(self) -> LocalStack:
        """The servers and counterparts."""
        assert self._stack is not None
        return self._stack

    @property
    def state(self) -> StackState:
        """Where they are."""
        return self.stack.state

    @property
    def connection(self) -> asyncpg.Connection[Any]:
        """To PostgreSQL, as superuser."""
        assert self._connection is not None
        return self._connection

    async def __aenter__(self) -> Self:
        try:
            await self._make()
        except BaseException:
            await self._clear(failed=True)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._clear(failed=kind is not None)

    async def _make(self) -> None:
        self._say("starting servers")
        self._spare = PortBlock.claim()
        stack = LocalStack(name=bed_directory().name, parts=PARTS, fresh=True)
        # Blocking, on purpose: an interruption is heard when this is through, and cleans up.
        stack.up()
        # From here on the folder is ours to delete; before, it may be that of another benchmark.
        self._stack = stack
        state = self.state
        self._connection = await asyncpg.connect(state.superuser_dsn)
        await open_accounts(state=state, customers=tuple(self.workload.customers.values()))
        work_dir = bed_directory().path / "yardstick"
        shutil.rmtree(work_dir, ignore_errors=True)
        work_dir.mkdir()
        self._say(f"starting {self.yardstick.name}")
        await self.yardstick.start(
            surroundings=self._surroundings(work_dir), workload=self.workload
        )
        urls = (
            self.yardstick.webhook_urls
            if isinstance(self.yardstick, PaypostYardstick)
            else (self.yardstick.webhook_url,)
        )
        self._generator = generator_for(urls=urls, secret=state.secrets.stripe_webhook_secret)
        self._send = await self._generator.__aenter__()
        self._journal = LineCounter(path=state.cis_journal_path)
        self._mails = LineCounter(path=self._mail_path)

    async def _start_yardstick(self, surroundings: Surroundings) -> None:
        try:
            await self.yardstick.start(surroundings=surroundings, workload=self.workload)
        except YardstickUnavailableError:
            raise
        except Exception as error:
            # Whatever a yardstick raises in place of being there.
            raise NotStartedError(yardstick=self.yardstick.name, reason=str(error)) from error

    def _surroundings(self, work_dir: Path) -> Surroundings:
        assert self._spare is not None
        state = self.state
        return Surroundings(
            stack_name=state.name,
            kafka_bootstrap=state.kafka_bootstrap,
            postgres_superuser_dsn=state.superuser_dsn,
            cis_url=state.http_urls["cis"],
            cis_api_key=state.secrets.cis_api_key,
            smtp_host=state.smtp_host,
            smtp_port=state.smtp_port,
            stripe_webhook_secret=state.secrets.stripe_webhook_secret,
            work_dir=work_dir,
            http_port=int(state.http_urls["payment-intake"].rpartition(":")[2]),
            spare_ports=tuple(self._spare.port(f"spare {n}") for n in range(SPARE_PORTS)),
        )

    async def _clear(self, *, failed: bool) -> None:
        self._say("stopping")
        try:
            if self._generator is not None and self._send is not None:
                await self._generator.__aexit__(None, None, None)
            await self.yardstick.stop()
        finally:
            self._clear_servers(failed=failed)

    def _clear_servers(self, *, failed: bool) -> None:
        if self._connection is not None:
            # A loop that is being torn down has closed it already, and says so.
            with contextlib.suppress(RuntimeError):
                self._connection.terminate()
        if self._spare is not None:
            self._spare.release()
        if self._stack is not None:
            self._stack.down()
            # What a failed trial leaves are its logs.
            path = bed_directory().data if failed else bed_directory().path
            shutil.rmtree(path, ignore_errors=True)
            self._stack = None

    @property
    def _mail_path(self) -> Path:
        return self.state.mail_store_path / FILE_NAME

    # What a run does with it.

    def prepare(self, *, count: int) -> list[Outgoing]:
        """The next payments with their events, made now."""
        return list(self.make(count=count))

    def make(self, *, count: int) -> Iterator[Outgoing]:
        """The same, each made when it is asked for: for loads that would fill the memory."""
        accepting = self._events.accepting
        for payment in self._payments.take(count=count):
            bodies = self._events.bodies(payment, at=datetime.now(UTC))
            yield Outgoing(payment, bodies, accepting)

    async def send_closed(
        self, load: Iterable[Outgoing], *, concurrency: int = CONCURRENCY
    ) -> Sending:
        """Send as fast as it is answered."""
        with self._noting() as sending:
            assert self._send is not None
            return await self._send.as_fast_as_answered(
                load, concurrency=concurrency, sending=sending
            )

    async def send_open(
        self, load: Iterable[Outgoing], offsets_seconds: Sequence[float]
    ) -> Sending:
        """Send each at its time."""
        with self._noting() as sending:
            assert self._send is not None
            return await self._send.at_times(load, offsets_seconds, sending=sending)

    @contextmanager
    def _noting(self) -> Iterator[Sending]:
        """While a load is being sent, what has left counts as sent, also when it is broken off."""
        sending = Sending()
        self.sendings.append(sending)
        # Tens of thousands of bodies: walking them again and again is not the work.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        try:
            yield sending
        finally:
            gc.unfreeze()
            self.sent.extend(sending.payments)

    async def warm_up(self, *, seconds: float, count_max: int) -> float:
        """Load it for about so long, ever more at a time; the highest rate of any of these loads.

        Starts small, because some take a second for what others do in a hundredth. What is warmed
        up is above all Kafka, whose compiler works for the first thousands of records. The last
        load is often a small one, whose rate is that of one payment's way and not of the whole.
        """
        self._say("warming up")
        began, per_second, count, sent = time.monotonic(), 0.0, WARM_UP_FIRST, 0
        while True:
            sending = await self.send_closed(self.prepare(count=count))
            await self.until_confirmed(timeout_seconds=30 + 10 * seconds)
            took_seconds = max(time.time() - sending.started_at, 1e-3)
            per_second = max(per_second, count / took_seconds)
            sent += count
            left_seconds = began + seconds - time.monotonic()
            if left_seconds < 0.2 or sent >= count_max:
                return per_second
            # At most doubled: the rate is not yet what it will be.
            wanted = min(2 * count, round(per_second * left_seconds), count_max - sent)
            count = max(WARM_UP_FIRST, wanted)

    async def until_confirmed(
        self,
        *,
        timeout_seconds: float,
        without: Collection[int] = frozenset(),
    ) -> Books:
        """Wait until everything that was sent is posted and mailed; what the books then hold.

        Args:
            timeout_seconds: how long at most.
            without: payments, by their numbers, that are not waited for.

        Raises:
            NotProvenError: it is not in time.
        """
        wanted = sum(payment.number not in without for payment in self.sent)
        deadline = time.monotonic() + timeout_seconds
        assert self._journal is not None
        assert self._mails is not None
        while True:
            while self._mails.look() < wanted or self._journal.look() < wanted:
                if time.monotonic() > deadline:
                    break
                await asyncio.sleep(POLL_SECONDS)
            books = self.read_books()
            found = match(payments=self.sent, books=books, without=without)
            if not found.unposted and not found.unmailed:
                return books
            if time.monotonic() > deadline:
                raise NotProvenError(
                    why=f"after {timeout_seconds:.0f} s {found.unposted} of {wanted} are not "
                    f"posted and {found.unmailed} are not mailed"
                )
            await asyncio.sleep(0.1)

    def read_books(self) -> Books:
        """What the CIS and the mail sink hold now."""
        return read_books(
            journal_path=self.state.cis_journal_path,
            mail_path=self._mail_path,
            accounts=self._addresses,
        )

    def processes(self) -> dict[str, int]:
        """Every process of the bed by name, the yardstick's and the servers'."""
        servers = {
            name: identity.pid for name, identity in self.state.processes.items() if name in PARTS
        }
        return {**servers, **self.yardstick.processes()}

    async def read(self) -> Reading:
        """CPU and WAL, now."""
        return await read_all(processes=self.processes(), connection=self.connection)

    async def read_when_idle(self) -> Reading:
        """The same once what follows the last mail is done, or after a few seconds."""
        deadline = time.monotonic() + IDLE_WAIT_SECONDS_MAX
        reading = await self.read()
        while time.monotonic() < deadline:
            await asyncio.sleep(0.4)
            before, reading = reading, await self.read()
            used = cpu_seconds(before=before, after=reading)
            if sum(used.values()) < 0.4 * IDLE_CORE_SHARE:
                break
        return reading

    def memory(self) -> Mapping[str, Memory]:
        """Of every process, now."""
        return read_memory(processes=self.processes())

    async def switch_cis(self, switches: Mapping[str, object]) -> None:
        """Tell the CIS how to behave."""
        async with Remote(base_url=self.state.http_urls["cis"]) as cis:
            await cis.put("/_switches", dict(switches))

    async def prove(
        self, *, without: Collection[int] = frozenset(), by_product: bool = True
    ) -> Books:
        """Hold everything against everything; what the books hold.

        The books of CIS and mail sink for every yardstick; for the product `paypost verify` too.

        Args:
            without: payments, by their numbers, that are to be in no book.
            by_product: False leaves `paypost verify` out, where its tables hold what was never
                sent.

        Raises:
            NotProvenError: something does not hold.
        """
        self._say("verifying")
        if by_product and self.yardstick.name == PaypostYardstick.name:
            report = await verify(
                places=Places.of(state=self.state), wait_seconds=VERIFY_WAIT_SECONDS
            )
            if not report.holds:
                raise NotProvenError(
                    why="paypost verify: "
                    + ", ".join(f"{count} {fault}" for fault, count in report.counts.items())
                )
        books = self.read_books()
        prove(found=match(payments=self.sent, books=books, without=without))
        return books

    async def finish(
        self,
        *,
        run: str,
        turn: int,
        sending: Sending,
        before: Reading,
        after: Reading,
        memory: Mapping[str, Memory],
        without: Collection[int] = frozenset(),
        extra: Mapping[str, float] | None = None,
    ) -> Trial:
        """Prove the trial and work it out.

        Raises:
            NotProvenError: something does not hold.
        """
        books = await self.prove(without=without)
        return make_trial(
            run=run,
            yardstick=self.yardstick.name,
            turn=turn,
            sending=sending,
            books=books,
            before=before,
            after=after,
            memory=memory,
            extra=extra,
        )
