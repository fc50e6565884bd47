"""The tools that break: each does what it says on this machine, and undoes it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from tests.faults.tools.burner import CpuBurner
from tests.faults.tools.cgroups import CpuLimited, Frozen, MemoryLimited
from tests.faults.tools.clocks import MovedClock
from tests.faults.tools.disk import SmallDisk
from tests.faults.tools.machine import UnavailableError, need_program
from tests.faults.tools.network import Networks
from tests.faults.tools.signals import stopped
from tests.faults.tools.toxiproxy import TOXIPROXY, Toxiproxy, black_hole, latency
from tests.support.processes import eventually

from paypost.stack.kafka import cache_dir
from paypost.stack.watchdog import Watchdog

COUNTER = "import time\nwhile True:\n    print(time.time(), flush=True)\n    time.sleep(0.01)"
GREEDY = "import time\nkept = bytearray(200 * 1024 * 1024)\ntime.sleep(60)"
BUSY = "while True: pass"


def or_skip(probe: Callable[[], object]) -> None:
    try:
        probe()
    except UnavailableError as error:
        pytest.skip(f"not on this machine: {error}")


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []

    def start(program: str) -> subprocess.Popen[bytes]:
        with (tmp_path / f"out-{len(processes)}").open("wb") as output:
            processes.append(subprocess.Popen([sys.executable, "-c", program], stdout=output))
        return processes[-1]

    yield start
    for each in processes:
        each.kill()
        each.wait()


def grows(path: Path) -> bool:
    size = path.stat().st_size
    time.sleep(0.3)
    return path.stat().st_size > size


class TestSignals:
    def test_stop_a_process_and_let_it_go_on(self, started, tmp_path: Path) -> None:
        pid = started(COUNTER).pid
        eventually(lambda: grows(tmp_path / "out-0"))
        with stopped(pid):
            assert not grows(tmp_path / "out-0")
        assert grows(tmp_path / "out-0")


class TestControlGroups:
    def test_freeze_everything_in_them(self, started, watchdog: Watchdog, tmp_path: Path) -> None:
        or_skip(Frozen.probe)
        pid = started(COUNTER).pid
        eventually(lambda: grows(tmp_path / "out-0"))
        with Frozen(pids=[pid], watchdog=watchdog, log_path=tmp_path / "log") as group:
            assert group.members == (pid,)
            assert not grows(tmp_path / "out-0")
        assert grows(tmp_path / "out-0")

    def test_end_who_uses_too_much_memory(
        self, started, watchdog: Watchdog, tmp_path: Path
    ) -> None:
        or_skip(MemoryLimited.probe)
        process = started("import time, sys\ntime.sleep(1)\n" + GREEDY)
        limit = 64 * 1024 * 1024
        with MemoryLimited(
            pids=[process.pid], watchdog=watchdog, log_path=tmp_path / "log", bytes_max=limit
        ) as group:
            assert process.wait(timeout=20) == -signal.SIGKILL
            assert group.kills >= 1
            assert group.usage_bytes_max <= limit

    def test_leave_so_much_of_a_core(self, started, watchdog: Watchdog, tmp_path: Path) -> None:
        or_skip(CpuLimited.probe)
        process = psutil.Process(started(BUSY).pid)
        with CpuLimited(
            pids=[process.pid], watchdog=watchdog, log_path=tmp_path / "log", cores=0.1
        ) as group:
            before = sum(process.cpu_times()[:2])
            time.sleep(1.0)
            assert sum(process.cpu_times()[:2]) - before < 0.3
            assert group.throttled_seconds > 0.1


class TestSmallDisk:
    def test_is_full_and_then_not_and_gone_in_the_end(
        self, watchdog: Watchdog, tmp_path: Path
    ) -> None:
        or_skip(SmallDisk.probe)
        folder = tmp_path / "data"
        folder.mkdir(mode=0o700)
        (folder / "kept").write_text("kept")
        disk = SmallDisk(folder=folder, free_mib=2, watchdog=watchdog, log_path=tmp_path / "log")
        disk.take_over()
        try:
            assert disk.mounted
            assert (folder / "kept").read_text() == "kept"
            assert folder.stat().st_mode & 0o777 == 0o700
            assert disk.fill() > 1024 * 1024
            with pytest.raises(OSError, match="No space left"):
                (folder / "more").write_bytes(b"x" * 4096)
            disk.free()
            (folder / "more").write_bytes(b"x" * 4096)
        finally:
            disk.drop()
        assert not disk.mounted
        assert not list(folder.iterdir())


class TestMovedClock:
    def test_moves_a_running_process_s_time_of_day_and_no_other_clock(self, tmp_path: Path) -> None:
        or_skip(MovedClock.probe)
        clock = MovedClock(path=tmp_path / "offset")
        program = (
            "import select, time\nwhile True:\n"
            "    print(time.time(), time.monotonic(), flush=True)\n"
            "    select.select([], [], [], 0.05)"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program],
            env=os.environ | clock.environment,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            lines = iter(process.stdout)

            def ahead_seconds() -> float:
                told, steady = map(float, next(lines).split())
                assert abs(steady - time.monotonic()) < 5
                return told - time.time()

            try:
                assert abs(ahead_seconds()) < 5
                clock.move(timedelta(minutes=10))
                eventually(lambda: abs(ahead_seconds() - 600) < 5)
                clock.move(timedelta(minutes=-10))
                eventually(lambda: abs(ahead_seconds() + 600) < 5)
            finally:
                process.kill()


class TestNetworks:
    def test_cut_one_way_lose_packets_and_are_gone_afterwards(
        self, watchdog: Watchdog, tmp_path: Path
    ) -> None:
        or_skip(Networks.probe)
        ip = str(need_program("ip", tool="the test"))
        with Networks(names=["one", "two"], watchdog=watchdog, log_path=tmp_path / "log") as nets:
            with closing(socket.create_server((nets.host, 0))) as server:
                port = server.getsockname()[1]
                caller = (
                    f"import socket; socket.create_connection(('{nets.host}', {port}), timeout=2)"
                )

                def connects(name: str) -> bool:
                    command = [*nets.members[name].prefix, sys.executable, "-c", caller]
                    done = subprocess.run(command, capture_output=True, check=False, timeout=20)
                    return done.returncode == 0

                assert connects("one")
                nets.cut("one", way="in", port=port)
                assert not connects("one")
                assert nets.dropped("one") > 0
                assert connects("two")
                nets.heal("one")
                nets.cut("one", way="out", port=port)
                assert not connects("one")
                nets.heal()
                nets.lose("one", share=0.3)
                assert any(connects("one") for _ in range(8))
                nets.heal()
            namespaces = [each.namespace for each in nets.members.values()]
        left = subprocess.run([ip, "netns", "list"], capture_output=True, text=True, check=True)
        assert not set(namespaces) & set(left.stdout.split())


class TestToxiproxy:
    def test_makes_a_way_slow_silent_and_good_again(
        self, watchdog: Watchdog, tmp_path: Path
    ) -> None:
        if not (cache_dir() / "tools" / f"{TOXIPROXY.name}-{TOXIPROXY.version}").exists():
            pytest.skip("toxiproxy is built by `make faults`, and was not yet on this machine")
        with (
            Toxiproxy(watchdog=watchdog, log_path=tmp_path / "log") as proxies,
            closing(socket.create_server(("127.0.0.1", 0))) as server,
        ):
            server.settimeout(5)
            where = proxies.proxy("way", upstream=f"127.0.0.1:{server.getsockname()[1]}")
            host, _, port = where.rpartition(":")

            def answered_after() -> float | None:
                with (
                    closing(socket.create_connection((host, int(port)), timeout=1)) as asking,
                    closing(server.accept()[0]) as answering,
                ):
                    began = time.monotonic()
                    answering.sendall(b"x")
                    with suppress(TimeoutError):
                        asking.recv(1)
                        return time.monotonic() - began
                return None

            quick = answered_after()
            assert quick is not None
            assert quick < 0.2
            proxies.poison("way", latency(milliseconds=400))
            slow = answered_after()
            assert slow is not None
            assert slow > 0.35
            proxies.heal()
            proxies.poison("way", black_hole())
            assert answered_after() is None
            proxies.heal()
            proxies.cut("way")
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((host, int(port)), timeout=1)
            proxies.heal()
            assert answered_after() is not None


class TestCpuBurner:
    def test_uses_what_there_is_and_is_gone_afterwards(
        self, watchdog: Watchdog, tmp_path: Path
    ) -> None:
        with CpuBurner(watchdog=watchdog, log_path=tmp_path / "log", processes=1) as burner:
            [pid] = [child.pid for child in burner._children]
            process = psutil.Process(pid)
            eventually(lambda: sum(process.cpu_times()[:2]) > 0.2)
        assert not psutil.pid_exists(pid) or process.status() == psutil.STATUS_ZOMBIE


class TestUndo:
    def test_runs_when_its_owner_is_killed_and_not_when_it_is_cancelled(
        self, tmp_path: Path
    ) -> None:
        program = (
            "import os, signal, sys\nfrom pathlib import Path\n"
            "from tests.faults.tools.machine import Undo\n"
            "from paypost.stack.watchdog import Watchdog\n"
            "folder, watchdog = Path(sys.argv[1]), Watchdog()\n"
            "for name in ('undone', 'cancelled'):\n"
            "    undo = Undo(['touch', str(folder / name)], watchdog=watchdog,"
            " log_path=folder / 'log')\n"
            "undo.cancel()\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        root = Path(__file__).parents[3]
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)],
            check=False,
            timeout=30,
            env=os.environ | {"PYTHONPATH": str(root)},
        )
        assert done.returncode == -signal.SIGKILL
        eventually((tmp_path / "undone").exists)
        assert not (tmp_path / "cancelled").exists()
