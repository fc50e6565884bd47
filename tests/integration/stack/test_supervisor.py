import signal
import subprocess
import sys
import time

import pytest
from tests.support.processes import eventually, mentioning

from paypost.stack.supervisor import (
    ChildProcess,
    ProcessFailedError,
    ProcessSpec,
    RestartPolicy,
    Supervisor,
    UnknownProcessError,
)
from paypost.stack.watchdog import Watchdog

SOON = RestartPolicy(delay_seconds=0.05, delay_seconds_max=0.1)
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def sleeper(name: str, **overrides) -> ProcessSpec:
    return ProcessSpec(name=name, command=("sleep", "600"), env={}, restart=SOON, **overrides)


def python(name: str, code: str, **overrides) -> ProcessSpec:
    return ProcessSpec(
        name=name, command=(sys.executable, "-c", code), env={}, restart=SOON, **overrides
    )


@pytest.fixture
def supervisor(tmp_path, watchdog):
    supervisor = Supervisor(log_dir=tmp_path, watchdog=watchdog)
    yield supervisor
    supervisor.close()


class TestSupervisor:
    def test_restarts_what_was_killed(self, supervisor):
        supervisor.start(sleeper("one"))
        first = supervisor.pid(name="one")
        supervisor.kill(name="one")
        eventually(lambda: supervisor.pid(name="one") not in {None, first})
        assert supervisor.starts(name="one") == 2

    def test_leaves_down_what_was_stopped_until_it_is_resumed(self, supervisor):
        supervisor.start(sleeper("one"))
        assert supervisor.stop(name="one") == -signal.SIGTERM
        time.sleep(0.3)
        assert not supervisor.running(name="one")
        supervisor.resume(name="one")
        assert supervisor.running(name="one")

    def test_leaves_down_what_was_killed_for_good(self, supervisor):
        supervisor.start(sleeper("one"))
        supervisor.kill(name="one", restart=False)
        time.sleep(0.3)
        assert not supervisor.running(name="one")

    def test_kills_what_does_not_drain_in_time(self, supervisor):
        supervisor.start(python("one", STUBBORN, drain_timeout_seconds=0.3))
        time.sleep(0.2)
        assert supervisor.stop(name="one") == -signal.SIGKILL

    def test_tells_why_a_process_did_not_become_ready(self, supervisor):
        supervisor.start(
            python("one", "import sys; sys.exit('no such thing as a port')", ready_port=1)
        )
        with pytest.raises(ProcessFailedError) as caught:
            supervisor.wait_ready(name="one", timeout_seconds=10)
        assert caught.value.returncode == 1
        assert "no such thing as a port" in caught.value.log_tail

    def test_does_not_insist_when_the_settings_are_wrong(self, supervisor):
        supervisor.start(python("one", "import sys; sys.exit(78)", ready_port=1))
        with pytest.raises(ProcessFailedError, match="ended before it was ready"):
            supervisor.wait_ready(name="one", timeout_seconds=10)
        assert supervisor.starts(name="one") == 1

    def test_does_not_know_what_was_never_started(self, supervisor):
        supervisor.start(sleeper("one"))
        with pytest.raises(UnknownProcessError) as caught:
            supervisor.stop(name="two")
        assert caught.value.known == ("one",)


class TestChildProcess:
    def test_takes_its_own_children_with_it(self, tmp_path, watchdog):
        mark = "600.0417"
        child = ChildProcess(
            name="parent",
            command=("sh", "-c", f"sleep {mark} & wait"),
            log_path=tmp_path / "log",
            watchdog=watchdog,
        )
        eventually(lambda: any("sleep" in one.name() for one in mentioning(mark)))
        child.terminate(drain_timeout_seconds=5)
        eventually(lambda: mentioning(mark) == [])


class TestWatchdog:
    def test_ends_every_group_when_its_parent_is_killed(self, tmp_path):
        """Also one that ignores SIGTERM, and one in a user namespace's place: only -9 is sure."""
        code = f"""
import sys, time
from pathlib import Path
from paypost.stack.supervisor import ChildProcess
from paypost.stack.watchdog import Watchdog
watchdog = Watchdog()
for number in range(5):
    ChildProcess(name="x", command=("sh", "-c", "trap '' TERM; sleep 600.0523; true"),
                 log_path=Path({str(tmp_path)!r}) / "log", watchdog=watchdog)
print("up", flush=True)
time.sleep(600)
"""
        parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert parent.stdout.readline() == "up\n"
        eventually(lambda: len(mentioning("sleep 600.0523")) >= 10)
        parent.kill()
        parent.wait()
        eventually(lambda: mentioning("sleep 600.0523") == [])

    def test_starts_nothing_any_more_once_closed(self, tmp_path):
        watchdog = Watchdog()
        watchdog.close()
        with pytest.raises(RuntimeError, match="closed"):
            ChildProcess(
                name="late", command=("true",), log_path=tmp_path / "log", watchdog=watchdog
            )
