import asyncio
import os
import signal
import socket

import pytest
import uvloop

from paypost.stack.supervisor import (
    ProcessIdentity,
    ProcessSpec,
    RestartPolicy,
    exit_on_signals,
    tail,
)


class TestRestartPolicy:
    def test_doubles_its_delay_up_to_the_limit(self):
        policy = RestartPolicy(delay_seconds=0.2, delay_seconds_max=1.0)
        delays = [policy.delay_after(failures=failures) for failures in (1, 2, 3, 4, 1000)]
        assert delays == [0.2, 0.4, 0.8, 1.0, 1.0]


class TestProcessSpec:
    def test_stays_down_when_its_settings_are_wrong(self):
        spec = ProcessSpec(name="x", command=("x",), env={})
        assert spec.gives_up(returncode=78)
        assert not spec.gives_up(returncode=1)
        assert not spec.gives_up(returncode=-9)

    def test_stays_down_when_nothing_says_to_restart_it(self):
        assert ProcessSpec(name="x", command=("x",), env={}, restart=None).gives_up(returncode=0)


class TestProcessIdentity:
    def test_knows_a_live_process(self):
        identity = ProcessIdentity.of(os.getpid())
        assert identity is not None
        assert identity.alive()

    def test_is_not_taken_in_by_a_later_process_with_its_number(self):
        stale = ProcessIdentity(pid=os.getpid(), started="long ago")
        assert not stale.alive()
        assert stale.kill_group() is False


class TestTail:
    def test_gives_the_last_lines(self, tmp_path):
        log = tmp_path / "log"
        log.write_text("".join(f"line {number}\n" for number in range(5000)))
        assert tail(path=log, lines=2) == "line 4998\nline 4999"

    def test_is_empty_where_there_is_no_log(self, tmp_path):
        assert tail(path=tmp_path / "none") == ""


class Ended(asyncio.Protocol):
    """Sends SIGTERM to its own process from inside a transport's callback."""

    def data_received(self, data):
        signal.raise_signal(signal.SIGTERM)


class TestExitOnSignals:
    def test_ends_what_runs_without_a_loop(self):
        with pytest.raises(SystemExit) as ended, exit_on_signals():
            signal.raise_signal(signal.SIGTERM)
        assert ended.value.code == 128 + signal.SIGTERM

    @pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
    def test_ends_a_loop_that_is_in_a_callback_of_a_transport(self, run):
        left = []

        async def main():
            ours, theirs = socket.socketpair()
            try:
                await asyncio.get_running_loop().create_connection(Ended, sock=ours)
                theirs.sendall(b"now")
                await asyncio.sleep(5)
                left.append("was not ended")
            finally:
                theirs.close()
                # What is left behind may need the loop once more.
                await asyncio.sleep(0)
                left.append("in order")

        with pytest.raises(SystemExit) as ended, exit_on_signals():
            run(main())
        assert ended.value.code == 128 + signal.SIGTERM
        assert left == ["in order"]
