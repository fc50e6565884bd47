import json
import os
import stat
from pathlib import Path

import pytest

from paypost.stack.local import WEBHOOK_SOURCES, describe
from paypost.stack.ports import PortBlock
from paypost.stack.postgres import ROLES
from paypost.stack.state import (
    StackDirectory,
    StackNotRunningError,
    StackRunningError,
    StackState,
    default_stack_name,
    state_root,
    stop_stack,
)
from paypost.stack.supervisor import ProcessIdentity


@pytest.fixture
def directory(tmp_path, monkeypatch) -> StackDirectory:
    monkeypatch.setenv("PAYPOST_STATE_DIR", str(tmp_path))
    return StackDirectory.of(name="tried")


def described(directory: StackDirectory, *, ready: bool = True) -> StackState:
    owner = ProcessIdentity.of(os.getpid())
    assert owner is not None
    with PortBlock.claim(
        seed="x", directory=directory.path / "ports", free=lambda _port: True
    ) as ports:
        state = describe(
            directory=directory,
            ports=ports,
            secrets=directory.secrets(sources=WEBHOOK_SOURCES, roles=ROLES),
            owner=owner,
        )
    return state.model_copy(update={"ready": ready})


class TestStackState:
    def test_is_read_as_it_was_written(self, directory):
        with directory.acquire():
            state = described(directory)
            state.save(path=directory.state_path)
            assert StackState.load("tried") == state

    def test_is_closed_to_other_users(self, directory):
        with directory.acquire():
            described(directory).save(path=directory.state_path)
        for path in (directory.state_path, directory.secrets_path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_keeps_its_secrets_out_of_its_repr(self, directory):
        with directory.acquire():
            state = described(directory)
        assert state.secrets.portal_api_key not in repr(state)
        assert state.secrets.postgres_superuser_password not in repr(state)
        assert state.secrets.processor_api_key not in repr(state)

    def test_is_not_there_where_no_stack_was_ever_up(self, directory):
        with pytest.raises(StackNotRunningError, match="nobody runs it") as caught:
            StackState.load("tried")
        assert caught.value.name == "tried"

    def test_of_a_killed_owner_counts_for_nothing(self, directory):
        with directory.acquire():
            described(directory).save(path=directory.state_path)
        with pytest.raises(StackNotRunningError, match="was killed"):
            StackState.load("tried")

    def test_of_a_starting_stack_is_given_only_to_who_asks_for_it(self, directory):
        with directory.acquire():
            described(directory, ready=False).save(path=directory.state_path)
            with pytest.raises(StackNotRunningError, match="still starting"):
                StackState.load("tried")
            assert not StackState.load("tried", require_ready=False).ready


class TestDescribe:
    def test_gives_every_process_an_address_of_its_own(self, directory):
        with directory.acquire():
            state = described(directory)
        services = {"payment-intake", "cis-poster", "autopay-scheduler", "notifier"}
        assert state.ops_urls.keys() == services
        assert state.http_urls.keys() == (services - {"notifier"}) | {"cis", "mail", "processor"}
        urls = [*state.http_urls.values(), *state.ops_urls.values()]
        ports = [int(url.removeprefix("http://127.0.0.1:")) for url in urls]
        ports += [state.postgres_port, state.smtp_port]
        assert len(set(ports)) == len(ports)

    def test_gives_every_role_a_way_into_the_database(self, directory):
        with directory.acquire():
            state = described(directory)
        roles = {"payment_intake", "cis_poster", "autopay_scheduler", "notifier", "reference_cis"}
        assert state.dsns.keys() == roles
        assert all(dsn.startswith(f"postgresql://{role}:") for role, dsn in state.dsns.items())


class TestStackDirectory:
    def test_has_one_owner_at_a_time(self, directory):
        with directory.acquire(), pytest.raises(StackRunningError) as caught:
            directory.acquire()
        assert caught.value.owner_pid == os.getpid()

    def test_keeps_its_secrets_until_wiped(self, directory):
        with directory.acquire():
            first = directory.secrets(sources=WEBHOOK_SOURCES, roles=ROLES)
            assert directory.secrets(sources=WEBHOOK_SOURCES, roles=ROLES) == first
            directory.wipe()
            assert directory.secrets(sources=WEBHOOK_SOURCES, roles=ROLES) != first

    def test_makes_up_what_kept_secrets_lack(self, directory):
        with directory.acquire():
            first = directory.secrets(sources=("portal",), roles=("notifier",))
            second = directory.secrets(sources=("portal", "kiosk"), roles=("notifier", "other"))
        assert second.standard_webhook_secrets.keys() == {"portal", "kiosk"}
        assert second.postgres_passwords["notifier"] == first.postgres_passwords["notifier"]

    def test_makes_up_a_secret_that_an_older_version_did_not_know(self, directory):
        with directory.acquire():
            first = directory.secrets(sources=WEBHOOK_SOURCES, roles=ROLES)
            kept = json.loads(directory.secrets_path.read_text())
            del kept["processor_api_key"]
            directory.secrets_path.write_text(json.dumps(kept))
            second = directory.secrets(sources=WEBHOOK_SOURCES, roles=ROLES)
            third = directory.secrets(sources=WEBHOOK_SOURCES, roles=ROLES)
        assert second.processor_api_key.startswith("sk_test_")
        assert second.processor_api_key != first.processor_api_key
        assert third == second
        # The data live on under the passwords that they were made with.
        assert second.postgres_superuser_password == first.postgres_superuser_password
        assert second.postgres_passwords == first.postgres_passwords
        assert second.stripe_webhook_secret == first.stripe_webhook_secret

    @pytest.mark.parametrize("kept", ["", "[]", '{"cis_api_key": 7}', '{"operator_key": {}}'])
    def test_makes_up_all_where_what_is_kept_are_no_secrets(self, directory, kept):
        with directory.acquire():
            directory.secrets_path.write_text(kept)
            made = directory.secrets(sources=WEBHOOK_SOURCES, roles=ROLES)
            assert made.cis_api_key.startswith("cis_")
            assert made.operator_key.startswith("operator_")
            assert directory.secrets(sources=WEBHOOK_SOURCES, roles=ROLES) == made

    def test_keeps_the_logs_of_the_run_before(self, directory):
        with directory.acquire():
            for run in ("first", "second", "third"):
                directory.turn_logs()
                (directory.logs / "kafka.log").write_text(run)
        assert (directory.logs / "kafka.log").read_text() == "third"
        assert (directory.path / "logs.previous" / "kafka.log").read_text() == "second"

    @pytest.mark.parametrize("name", ["../elsewhere", "a/b", ".hidden", "x" * 65])
    def test_refuses_names_that_lead_elsewhere(self, name):
        with pytest.raises(ValueError, match="plain name"):
            StackDirectory.of(name=name)

    def test_stopping_what_is_not_up_does_nothing(self, directory):
        assert stop_stack(name="tried") is False


class TestPlaces:
    def test_own_variable_wins_over_the_desktop_s(self):
        environ = {"PAYPOST_STATE_DIR": "/one", "XDG_STATE_HOME": "/two"}
        assert state_root(environ=environ) == Path("/one/paypost")
        assert state_root(environ={"XDG_STATE_HOME": "/two"}) == Path("/two/paypost")
        assert state_root(environ={}) == Path.home() / ".local" / "state" / "paypost"

    def test_each_checkout_has_a_name_of_its_own(self):
        assert default_stack_name(environ={"PAYPOST_STACK": "mine"}) == "mine"
        name = default_stack_name(environ={})
        assert StackDirectory.of(name=name).name == name
