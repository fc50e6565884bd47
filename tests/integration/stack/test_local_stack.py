import asyncio
import json
import os
import signal
import subprocess
import sys
import time

import asyncpg
import psutil
import pytest
import stripe
from tests.support.processes import OWNER, alive, eventually, mentioning, start_owner

from paypost.stack.local import LocalStack
from paypost.stack.state import (
    StackDirectory,
    StackNotRunningError,
    StackRunningError,
    StackState,
    stop_stack,
)
from paypost.stack.supervisor import accepts


@pytest.fixture
def state_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("PAYPOST_STATE_DIR", str(tmp_path))
    return tmp_path


def processes_of(owner: subprocess.Popen[str]) -> list[psutil.Process]:
    return [psutil.Process(owner.pid), *psutil.Process(owner.pid).children(recursive=True)]


def port_of(state: StackState) -> int:
    return int(state.kafka_bootstrap.partition(":")[2])


def processor_of(url: str, *, api_key: str) -> stripe.StripeClient:
    return stripe.StripeClient(api_key, base_addresses={"api": url}, max_network_retries=0)


class TestLocalStack:
    def test_leaves_nothing_behind_when_its_owner_is_killed_and_starts_again(self, state_dir):
        owner = start_owner(name="one", parts="kafka,postgres", state_dir=state_dir)
        state = StackState.load("one")
        started = processes_of(owner)
        assert len(started) > 6  # the owner, its watchdog, the broker, the server with its own

        owner.kill()
        owner.wait()
        eventually(lambda: not any(alive(process) for process in started))
        with pytest.raises(StackNotRunningError, match="was killed"):
            StackState.load("one")

        with LocalStack(name="one", parts={"kafka", "postgres"}) as stack:
            # The same addresses and secrets, so that what was written down still holds.
            assert stack.state.kafka_bootstrap == state.kafka_bootstrap
            assert stack.state.superuser_dsn == state.superuser_dsn

    def test_cleans_up_even_when_the_watchdog_died_too(self, state_dir):
        owner = start_owner(name="one", parts="postgres", state_dir=state_dir)
        state = StackState.load("one")
        started = processes_of(owner)
        for pid in (state.processes["watchdog"].pid, owner.pid):
            os.kill(pid, signal.SIGKILL)
        owner.wait()
        server = state.processes["postgres"]
        assert server.alive()

        with LocalStack(name="one", parts={"postgres"}) as stack:
            assert not server.alive()
            assert stack.postgres.running
        eventually(lambda: not any(alive(process) for process in started))

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_ends_in_order_when_its_owner_is_told_to(self, state_dir, number):
        owner = start_owner(name="one", parts="postgres", state_dir=state_dir)
        started = processes_of(owner)
        log = StackState.load("one").log_paths["postgres"]
        os.kill(owner.pid, number)
        assert owner.wait(timeout=20) in {-signal.SIGINT, 128 + number, 1}
        eventually(lambda: not any(alive(process) for process in started))
        assert "database system is shut down" in log.read_text()

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    def test_can_be_ended_while_it_starts(self, state_dir, number):
        owner = subprocess.Popen(
            [sys.executable, "-c", OWNER, "one", "kafka,postgres"], env=os.environ
        )
        eventually(lambda: len(mentioning(str(state_dir))) > 0)
        os.kill(owner.pid, number)
        owner.wait(timeout=20)
        eventually(lambda: mentioning(str(state_dir)) == [])
        with LocalStack(name="one", parts={"postgres"}) as stack:
            assert stack.postgres.running

    def test_is_stopped_from_outside(self, state_dir):
        owner = start_owner(name="one", parts="postgres", state_dir=state_dir)
        started = processes_of(owner)
        assert stop_stack(name="one") is True
        owner.wait(timeout=20)
        assert not any(alive(process) for process in started)
        assert stop_stack(name="one") is False

    def test_two_of_them_do_not_collide(self, state_dir):
        with (
            LocalStack(name="one", parts={"kafka", "postgres"}) as one,
            LocalStack(name="two", parts={"kafka", "postgres"}) as two,
        ):
            assert StackState.load("one") == one.state
            assert StackState.load("two") == two.state
            assert port_of(one.state) != port_of(two.state)
            for state in (one.state, two.state):
                assert accepts(port=port_of(state))
                assert accepts(port=state.postgres_port)
            with pytest.raises(StackRunningError):
                LocalStack(name="one", parts={"postgres"}).up()

    async def test_works_inside_an_event_loop_and_tells_its_steps(self, state_dir):
        events = []
        async with LocalStack(name="one", parts={"postgres"}, on_event=events.append) as stack:
            assert stack.state.ready
        assert [(one.part, one.phase) for one in events[:2]] == [
            ("postgres", "starting"),
            ("postgres", "ready"),
        ]

    async def test_takes_up_the_data_of_a_version_that_knew_one_service_less(self, state_dir):
        async with LocalStack(name="one", parts={"postgres"}) as stack:
            before = stack.state
            admin = await asyncpg.connect(before.superuser_dsn)
            await admin.execute("DROP SCHEMA autopay_scheduler")
            await admin.execute("DROP OWNED BY autopay_scheduler")
            await admin.execute("DROP ROLE autopay_scheduler")
            await admin.close()
        secrets_path = StackDirectory.of(name="one").secrets_path
        kept = json.loads(secrets_path.read_text())
        del kept["postgres_passwords"]["autopay_scheduler"]
        del kept["processor_api_key"]
        await asyncio.to_thread(secrets_path.write_text, json.dumps(kept))

        async with LocalStack(name="one", parts={"postgres"}) as stack:
            assert stack.state.superuser_dsn == before.superuser_dsn
            session = await asyncpg.connect(stack.state.dsns["autopay_scheduler"])
            assert await session.fetchval("SELECT current_schema") == "autopay_scheduler"
            await session.close()

    def test_s_processor_opens_to_intake_s_key_alone_and_keeps_its_charges(self, state_dir):
        with LocalStack(name="one", parts={"processor"}) as stack:
            url = stack.state.http_urls["processor"]
            intake = processor_of(url, api_key=stack.state.secrets.processor_api_key)
            made = intake.v1.payment_intents.create(
                {
                    "amount": 8450,
                    "currency": "usd",
                    "customer": "cus_1001",
                    "payment_method": "pm_card_visa",
                    "confirm": True,
                    "off_session": True,
                }
            )
            with pytest.raises(stripe.AuthenticationError):
                processor_of(url, api_key="sk_test_other").v1.payment_intents.retrieve(made.id)

            stack.supervisor.kill(name="processor")
            eventually(lambda: stack.supervisor.starts(name="processor") == 2)
            stack.supervisor.wait_ready(name="processor", timeout_seconds=20)
            found = intake.v1.payment_intents.retrieve(made.id)
            assert (found.status, found.amount_received) == ("succeeded", 8450)

    def test_starts_from_nothing_when_asked_to(self, state_dir):
        with LocalStack(name="one", parts={"postgres"}) as stack:
            first = stack.state.secrets
        with LocalStack(name="one", parts={"postgres"}, fresh=True) as stack:
            assert stack.state.secrets != first

    def test_stops_what_it_started_when_a_part_fails(self, state_dir, monkeypatch):
        stack = LocalStack(name="one", parts={"postgres", "mail"})
        monkeypatch.setattr(stack, "_start_process", lambda name: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            stack.up()
        eventually(lambda: mentioning(str(state_dir)) == [])
        time.sleep(0.2)
        assert mentioning(str(state_dir)) == []
        with pytest.raises(StackNotRunningError):
            StackState.load("one")
