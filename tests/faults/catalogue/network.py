"""Faults of the ways between the services and what they talk to."""

from __future__ import annotations

import asyncio

from tests.faults.registry import Environments, Fault, Needs, fault
from tests.faults.run import Run
from tests.faults.tools.machine import reason_against
from tests.faults.tools.network import Networks
from tests.faults.tools.stacks import WAYS, ProxiedStack, SeparatedStack
from tests.faults.tools.toxiproxy import (
    Toxic,
    Toxiproxy,
    bandwidth,
    black_hole,
    latency,
    resets,
    slow_close,
)


def _proxied(name: str, environments: Environments) -> ProxiedStack:
    return ProxiedStack(name=name, environments=environments)


def _separated(name: str, environments: Environments) -> SeparatedStack:
    return SeparatedStack(name=name, environments=environments)


TOXICS: dict[str, tuple[Toxic, ...]] = {
    "latency": (latency(milliseconds=200, jitter_milliseconds=150),),
    "bandwidth": (
        bandwidth(kilobytes_per_second=20),
        bandwidth(kilobytes_per_second=20, direction="upstream"),
    ),
    "resets": (resets(after_milliseconds=300),),
    "slow close": (slow_close(milliseconds=2_000),),
    "black hole": (black_hole(),),
}


@fault(
    11,
    title="latency, little bandwidth, resets, slow close, black hole on every way",
    how="toxiproxy on the ways to Kafka, PostgreSQL, the CIS and the mail server: 200 ± 150 ms, "
    "20 kB/s, resets after 300 ms, close told 2 s late, silence; 3 s of each on all ways at once",
    oracles="LDANH",
    touches=("network", "kafka", "postgres", "cis", "mail"),
    repeats_mails=True,
    mixes=False,
)
class BadWays(Fault):
    needs = Needs(key="proxied", open=_proxied)
    hold_seconds = 0.0
    breaking_seconds = 19.0

    def unavailable(self) -> str | None:
        return reason_against(Toxiproxy.probe)

    async def inject(self, run: Run) -> None:
        proxies = _stack(run).proxies
        for toxics in TOXICS.values():
            for way in WAYS:
                await run.blocking(proxies.poison, way, *toxics)
            await asyncio.sleep(3.0)
            await run.blocking(proxies.heal)
            # Long enough for what hangs on the old state to notice the new one.
            await asyncio.sleep(0.5)
        for way in WAYS:
            await run.blocking(proxies.cut, way)
        await asyncio.sleep(1.0)
        run.note(toxics=len(TOXICS), ways=len(WAYS))

    async def heal(self, run: Run) -> None:
        await run.blocking(_stack(run).proxies.heal)
        await run.controls.until_ready()


@fault(
    12,
    title="one-way partitions and 30 % packet loss",
    how="each service in a network namespace of its own; iptables drop what it says to Kafka, then "
    "what PostgreSQL, the CIS and the mail server say to it, 7 s each; then 30 % of all packets",
    oracles="LDAH",
    touches=("network", "kafka", "postgres", "cis", "mail"),
    repeats_mails=True,
    mixes=False,
)
class LostPackets(Fault):
    """A session lasts 6 s here: who is not heard for 7 loses its partitions and hears it later."""

    needs = Needs(key="separated", open=_separated)
    hold_seconds = 6.0
    breaking_seconds = 17.0
    unwell = ("payment-intake",)
    unwell_within_seconds = 15.0
    """Its database is cut off from it after nine of them; Kafka, which comes first, it can miss."""

    def unavailable(self) -> str | None:
        return reason_against(Networks.probe, Toxiproxy.probe)

    async def inject(self, run: Run) -> None:
        stack = _separated_stack(run)
        networks, port = stack.networks, stack.proxies.port
        dropped = 0
        for name in networks.members:
            await run.blocking(networks.cut, name, way="out", port=port("kafka"))
        await asyncio.sleep(7.0)
        dropped += sum([networks.dropped(name) for name in networks.members])
        await run.blocking(networks.heal)
        await asyncio.sleep(2.0)
        for name in networks.members:
            for way in ("postgres", "cis", "smtp"):
                await run.blocking(networks.cut, name, way="in", port=port(way))
        await asyncio.sleep(7.0)
        dropped += sum([networks.dropped(name) for name in networks.members])
        await run.blocking(networks.heal)
        for name in networks.members:
            await run.blocking(networks.lose, name, share=0.3)
        run.note(packets_cut=dropped)

    async def heal(self, run: Run) -> None:
        networks = _separated_stack(run).networks
        run.note(packets_lost=sum([networks.dropped(name) for name in networks.members]))
        await run.blocking(networks.heal)
        await run.controls.until_ready()


def _stack(run: Run) -> ProxiedStack:
    assert isinstance(run.stack, ProxiedStack)
    return run.stack


def _separated_stack(run: Run) -> SeparatedStack:
    assert isinstance(run.stack, SeparatedStack)
    return run.stack
