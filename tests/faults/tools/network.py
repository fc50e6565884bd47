"""Networks of one run: a namespace for each process, a pair of virtual cards, filters of its own.

The host's own filters and routes stay as they are. All rules live in the namespaces and go with
them; however this process ends, the namespaces are deleted.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from tests.faults.tools.machine import (
    CommandFailedError,
    UnavailableError,
    Undo,
    need_program,
    need_root,
    run,
    unpacked,
)

from paypost.stack.watchdog import Watchdog

TOOL = "network namespaces"
DEBIAN_PACKAGES = (
    *("iptables", "libip4tc2", "libip6tc2", "libxtables12", "libmnl0", "libnftnl11"),
    *("libnetfilter-conntrack3", "libnfnetlink0"),
)
MEMBERS_MAX = 200

Way = Literal["in", "out", "both"]


@dataclass(frozen=True, kw_only=True)
class Member:
    """One process's own network.

    Attributes:
        namespace: its name.
        address: how the host reaches it.
    """

    namespace: str
    address: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """What runs a command inside it."""
        return ("nsenter", f"--net=/run/netns/{self.namespace}", "--")


@dataclass
class Networks:
    """The namespaces of one run and the host's end of them; a context manager.

    Attributes:
        names: of the members.
        watchdog: deletes them when this process dies.
        log_path: where what it says of that goes.
    """

    names: Iterable[str]
    watchdog: Watchdog
    log_path: Path
    members: dict[str, Member] = field(default_factory=dict, init=False)
    _undo: Undo | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Raises UnavailableError where it cannot be done."""
        self._ip, self._iptables = self.probe()
        # Of 10.192.0.0/10, by chance: two runs at once do not meet.
        chance = random.SystemRandom()
        self._net = f"10.{chance.randrange(192, 256)}.{chance.randrange(256)}"
        self._run_id = f"{os.getpid() % 46656:03x}{chance.randrange(4096):03x}"

    @staticmethod
    def probe() -> tuple[str, tuple[str, ...]]:
        """Try all of it out in a namespace that is deleted again; how `ip` and `iptables` are run.

        Raises:
            UnavailableError: something is missing or not allowed; says what.
        """
        need_root(tool=TOOL)
        ip = str(need_program("ip", tool=TOOL))
        need_program("nsenter", tool=TOOL)
        iptables = _iptables()
        name = f"pp-probe-{os.getpid()}-{random.SystemRandom().randrange(10**6)}"
        inside = (ip, "netns", "exec", name, *iptables)
        try:
            run(ip, "netns", "add", name)
            try:
                run(*inside, "-A", "INPUT", *_lossy(0.3), "-j", "DROP")
                run(*inside, "-A", "OUTPUT", "-p", "tcp", "--dport", "1", "-j", "DROP")
                run(ip, "-n", name, "link", "add", "pp0", "type", "veth", "peer", "name", "pp1")
            finally:
                run(ip, "netns", "del", name)
        except CommandFailedError as error:
            raise UnavailableError(tool=TOOL, reason=str(error)) from error
        return ip, iptables

    @property
    def host(self) -> str:
        """The address of the host, the same for every member."""
        return f"{self._net}.1"

    def __enter__(self) -> Self:
        wanted = list(self.names)
        assert len(wanted) <= MEMBERS_MAX
        for number, name in enumerate(wanted, start=2):
            namespace = f"pp-{self._run_id}-{number}"
            self.members[name] = Member(namespace=namespace, address=f"{self._net}.{number}")
        self._undo = Undo(
            *([self._ip, "netns", "del", each.namespace] for each in self.members.values()),
            watchdog=self.watchdog,
            log_path=self.log_path,
        )
        try:
            for number, member in enumerate(self.members.values(), start=2):
                self._join(member, card=f"pp{self._run_id}{number:x}")
        except CommandFailedError:
            self.close()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Delete them; the cards go with them."""
        existing = run(self._ip, "netns", "list").split()
        for member in self.members.values():
            if member.namespace in existing:
                run(self._ip, "netns", "del", member.namespace)
        if self._undo is not None:
            self._undo.cancel()
            self._undo = None

    def cut(self, name: str, *, way: Way = "both", port: int | None = None) -> None:
        """Drop what goes into a member, or out of it; what is open stays open, and hears nothing.

        Args:
            name: the member.
            way: `in` is what the others say to it, `out` what it says to them.
            port: the others' port; by default all of them.
        """
        self._drop(name, way=way, port=port, match=())

    def lose(self, name: str, *, share: float, way: Way = "both", port: int | None = None) -> None:
        """Drop this share of the packets, each by chance; arguments as of `cut`."""
        self._drop(name, way=way, port=port, match=_lossy(share))

    def heal(self, name: str | None = None) -> None:
        """Let everything through again, at one member or at all."""
        for each in [self.members[name]] if name else self.members.values():
            self._filter(each.namespace, "-F")

    def dropped(self, name: str) -> int:
        """How many packets of a member the rules there are now have dropped."""
        said = self._filter(self.members[name].namespace, "-nvxL")
        lines = [line.split() for line in said.splitlines()]
        return sum(int(words[0]) for words in lines if len(words) > 2 and words[2] == "DROP")

    def _drop(self, name: str, *, way: Way, port: int | None, match: tuple[str, ...]) -> None:
        namespace = self.members[name].namespace
        inward = ("-p", "tcp", "--sport", str(port)) if port else ()
        outward = ("-p", "tcp", "--dport", str(port)) if port else ()
        if way in ("in", "both"):
            # Never what the process says to itself.
            self._filter(namespace, "-A", "INPUT", "!", "-i", "lo", *inward, *match, "-j", "DROP")
        if way in ("out", "both"):
            self._filter(namespace, "-A", "OUTPUT", "!", "-o", "lo", *outward, *match, "-j", "DROP")

    def _join(self, member: Member, *, card: str) -> None:
        inside = (self._ip, "-n", member.namespace)
        run(self._ip, "netns", "add", member.namespace)
        run(
            *(self._ip, "link", "add", card, "type", "veth"),
            *("peer", "name", "eth0", "netns", member.namespace),
        )
        # The same address of the host towards every member: servers have one address for all.
        run(self._ip, "addr", "add", f"{self.host}/32", "peer", f"{member.address}/32", "dev", card)
        run(self._ip, "link", "set", card, "up")
        run(
            *inside, "addr", "add", f"{member.address}/32", "peer", f"{self.host}/32", "dev", "eth0"
        )
        run(*inside, "link", "set", "eth0", "up")
        run(*inside, "link", "set", "lo", "up")

    def _filter(self, namespace: str, *arguments: str) -> str:
        return run(self._ip, "netns", "exec", namespace, *self._iptables, *arguments)


def _lossy(share: float) -> tuple[str, ...]:
    return ("-m", "statistic", "--mode", "random", "--probability", f"{share:.4f}")


def _iptables() -> tuple[str, ...]:
    try:
        return (str(need_program("iptables", tool=TOOL)), "--wait")
    except UnavailableError:
        folder = unpacked(*DEBIAN_PACKAGES, tool=TOOL)
    [libraries] = folder.glob("usr/lib/*-linux-gnu")
    return (
        *("env", f"LD_LIBRARY_PATH={libraries}", f"XTABLES_LIBDIR={libraries / 'xtables'}"),
        *(str(folder / "usr/sbin/xtables-legacy-multi"), "iptables", "--wait"),
    )
