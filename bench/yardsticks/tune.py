"""Tries settings of a peer: one trial of the first run for each, on fresh servers, in turn.

Usage: python -m bench.yardsticks.tune dbos worker_processes=1 worker_processes=2,concurrency=64

Each argument is one setting: differences to the peer's own best one. `=` alone is that. What the
READMEs of the peers say of settings that were tried comes from here.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

import uvloop
from rich.console import Console

from bench.pipeline.bed import Bed
from bench.pipeline.load import Events, Payments, account_names, customers_of
from bench.pipeline.runs import DRAIN_SECONDS_MAX, QUICK, load_size
from bench.pipeline.trial import NotProvenError, Trial
from bench.yardsticks.celery import CeleryRabbitmqYardstick, CeleryRedisYardstick
from bench.yardsticks.contract import Workload
from bench.yardsticks.dbos import DbosYardstick
from bench.yardsticks.peer import Peer
from bench.yardsticks.tutorial import TutorialYardstick
from paypost.stack.supervisor import ProcessFailedError, exit_on_signals

PEERS: tuple[type[Peer], ...] = (
    TutorialYardstick,
    DbosYardstick,
    CeleryRabbitmqYardstick,
    CeleryRedisYardstick,
)


async def measure(*, peer: Peer, say: Console) -> Trial:
    """One trial: closed loop, one CIS call per payment."""
    accounts = account_names()
    bed = Bed(
        yardstick=peer,
        workload=Workload(customers=customers_of(accounts=accounts), cis_calls="one"),
        payments=Payments(accounts=accounts),
        events=Events(seed=1),
        say=lambda text: say.print(f"[dim]{text}"),
    )
    async with bed:
        per_second = await bed.warm_up(seconds=QUICK.warm_up, count_max=4_000)
        load = bed.prepare(count=load_size(per_second=per_second, seconds=2 * QUICK.load))
        before = await bed.read()
        sending = await bed.send_closed(load)
        await bed.until_confirmed(timeout_seconds=DRAIN_SECONDS_MAX)
        memory = bed.memory()
        after = await bed.read_when_idle()
        return await bed.finish(
            run="tune", turn=1, sending=sending, before=before, after=after, memory=memory
        )


def setting_of(text: str) -> Mapping[str, str]:
    """`a=1,b=2` as a mapping; empty for `=`.

    Raises:
        ValueError: it is neither.
    """
    if text == "=":
        return {}
    return dict(part.split("=", 1) for part in text.split(","))


def line_of(*, trial: Trial) -> str:
    """A trial on one line."""
    cpu = " ".join(f"{name} {spent:.0f}" for name, spent in sorted(trial.cpu_us.items()))
    return (
        f"{trial.payments_per_second:.0f} payments/s of {trial.payments}; "
        f"{trial.acks_per_second:.0f} webhooks/s; CPU µs {sum(trial.cpu_us.values()):.0f}: {cpu}"
    )


def main() -> int:
    """Try them all; 1 when one of them failed."""
    console = Console(width=200)
    peers = {peer.name: peer for peer in PEERS}
    if len(sys.argv) < 3 or sys.argv[1] not in peers:
        console.print(__doc__)
        return 2
    failed = 0
    for text in sys.argv[2:]:
        peer = peers[sys.argv[1]](tuning=setting_of(text))
        try:
            with exit_on_signals():
                trial = uvloop.run(measure(peer=peer, say=console))
        except (NotProvenError, ProcessFailedError) as error:
            failed = 1
            console.print(f"{peer.name} {text}: {error}")
        else:
            console.print(f"[bold]{peer.name} {text}[/bold]: {line_of(trial=trial)}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
