"""`python -m paypost.simulators.processor`: run the processor counterpart until told to stop."""

import argparse
import asyncio
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from paypost.simulators.processor.api import StripeApi
from paypost.simulators.processor.bank import BankBridge, MockBank
from paypost.simulators.processor.book import Book
from paypost.simulators.processor.connections import Connections
from paypost.simulators.processor.counterpart import Counterpart
from paypost.simulators.processor.delivery import DeliveryJournal, WebhookSender
from paypost.simulators.processor.events import (
    API_VERSION_NEW,
    API_VERSION_OLD,
    EventBuilder,
    Ids,
)
from paypost.simulators.processor.http import ProcessorApplication
from paypost.simulators.processor.ledger import Ledger
from paypost.simulators.processor.processor import MovableClock, Processor, real_time
from paypost.simulators.processor.server import build_resettable_server
from paypost.simulators.processor.switches import Switches

AGENDA_SECONDS = 1.0
BANK_SECONDS = 5.0
"""How often a bank is asked; each time may make a file, and of those a minute has 36 names."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the processor; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m paypost.simulators.processor", description=__doc__
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--target", required=True, help="the webhook endpoint's URL")
    parser.add_argument(
        "--secret",
        action="append",
        help="the endpoint's signing secret; several while it is rotated;"
        " from STRIPE_WEBHOOK_SECRET when absent",
    )
    parser.add_argument(
        "--api-version",
        default=API_VERSION_OLD,
        help=f"the shape of the events: {API_VERSION_OLD}, {API_VERSION_NEW}, …",
    )
    parser.add_argument("--journal", type=Path, help="where every attempt is recorded")
    parser.add_argument(
        "--book",
        type=Path,
        help="where every charge is recorded and found again; beside the journal when absent",
    )
    parser.add_argument(
        "--bank-url",
        help="a mock-bank that ACH debits are handed to, as NACHA files; else tokens decide",
    )
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--timeout-seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, help="of ids, amounts and disorder; random when absent")
    parser.epilog = "The API's secret key comes from PROCESSOR_API_KEY; without it any will do."
    options = parser.parse_args(arguments)
    options.secret = options.secret or [os.environ.get("STRIPE_WEBHOOK_SECRET", "")]
    if not all(options.secret):
        parser.error("--secret is needed, as an argument or in the environment")
    uvloop.run(run(options))
    return 0


async def run(options: argparse.Namespace) -> None:
    """Serve the API and its control until SIGTERM or SIGINT."""
    journal = DeliveryJournal(path=options.journal) if options.journal else None
    book_path = options.book or (beside(options.journal) if options.journal else None)
    book = Book(path=book_path)
    connections = Connections(
        url=options.target,
        connections_max=options.concurrency * 2,
        timeout_seconds=options.timeout_seconds,
    )
    counterpart = build(options, connections=connections, journal=journal, book=book)
    untold = (
        counterpart.restore(book_path=book_path, deliveries_path=options.journal)
        if book_path
        else []
    )
    application = ProcessorApplication(counterpart=counterpart)
    server = build_resettable_server(application, host=options.host, port=options.port)

    async def follow_agenda() -> None:
        counterpart.processor.run(counterpart.processor.announce_all(untold))
        while True:
            await asyncio.sleep(BANK_SECONDS if counterpart.bridge else AGENDA_SECONDS)
            await counterpart.glance_at_agenda()

    following = asyncio.create_task(follow_agenda())
    # Without its agenda no debit would ever settle, and nobody would be told why.
    following.add_done_callback(lambda _: setattr(server, "should_exit", True))
    try:
        await server.serve()
    finally:
        following.cancel()
        results = await asyncio.gather(following, return_exceptions=True)
        connections.close()
        await book.close()
        if journal is not None:
            await journal.close()
    if isinstance(results[0], Exception):
        raise results[0]


def build(
    options: argparse.Namespace,
    *,
    connections: Connections,
    journal: DeliveryJournal | None,
    book: Book,
) -> Counterpart:
    """Put the counterpart together."""
    # A seed that begins anew after a restart would give out the same ids a second time.
    seed = None if options.seed is None else f"{options.seed}:{book.size_bytes}"
    chance = random.Random(seed)  # noqa: S311 — ids of make-believe payments
    clock = MovableClock(real=real_time)
    ids = Ids(chance=chance)
    builder = EventBuilder(ids=ids, api_version=options.api_version)
    ledger = Ledger(ids=ids, clock=clock, bank_decides=options.bank_url is not None)
    processor = Processor(
        sender=WebhookSender(
            connections=connections,
            secrets=options.secret,
            clock=real_time,
            chance=chance,
            journal=journal,
        ),
        clock=clock,
        chance=chance,
        api_version=options.api_version,
        concurrency=options.concurrency,
    )
    api = StripeApi(
        ledger=ledger,
        book=book,
        switches=Switches(chance=chance),
        ids=ids,
        clock=clock,
        moved=lambda: clock.moved,
        announce=lambda announcements: processor.announce(
            [builder.announcement(one) for one in announcements]
        ),
        api_version=options.api_version,
        secret_key=os.environ.get("PROCESSOR_API_KEY") or None,
    )
    bridge = (
        BankBridge(ledger=ledger, bank=MockBank(url=options.bank_url), clock=clock)
        if options.bank_url
        else None
    )
    return Counterpart(
        processor=processor,
        api=api,
        ledger=ledger,
        builder=builder,
        clock=clock,
        bridge=bridge,
    )


def beside(journal: Path) -> Path:
    """Return where the book is unless it is said: beside the journal of deliveries."""
    return journal.with_name(f"{journal.stem}-book.jsonl")


if __name__ == "__main__":
    sys.exit(main())
