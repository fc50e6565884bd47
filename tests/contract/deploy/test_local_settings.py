"""What the local stack tells its processes, held against what they understand."""

import importlib
import os
import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from autopay_scheduler.settings import Settings as AutopaySchedulerSettings
from cis_poster.settings import Settings as CisPosterSettings
from notifier.settings import Settings as NotifierSettings
from payment_intake.settings import Settings as PaymentIntakeSettings
from paypost.stack.local import (
    COUNTERPARTS,
    SERVICES,
    WEBHOOK_SOURCES,
    counterpart_arguments,
    describe,
    service_environment,
)
from paypost.stack.ports import PortBlock
from paypost.stack.postgres import ROLES
from paypost.stack.state import StackDirectory, StackSecrets, StackState
from paypost.stack.supervisor import ProcessIdentity
from shared.runtime.settings import ServiceSettings

SETTINGS: dict[str, type[ServiceSettings]] = {
    "payment-intake": PaymentIntakeSettings,
    "cis-poster": CisPosterSettings,
    "autopay-scheduler": AutopaySchedulerSettings,
    "notifier": NotifierSettings,
}


@pytest.fixture
def state(tmp_path: Path) -> StackState:
    owner = ProcessIdentity.of(os.getpid())
    assert owner is not None
    with PortBlock.claim(directory=tmp_path / "ports", free=lambda _port: True) as ports:
        return describe(
            directory=StackDirectory(name="tried", path=tmp_path),
            ports=ports,
            secrets=StackSecrets.generate(sources=WEBHOOK_SOURCES, roles=ROLES),
            owner=owner,
        )


def port_of(url: str) -> int:
    return int(url.removeprefix("http://127.0.0.1:"))


def told(service: str, state: StackState, patch: pytest.MonkeyPatch) -> ServiceSettings:
    for key, value in service_environment(service=service, state=state).items():
        patch.setenv(key, value)
    return SETTINGS[service]()


class TestLocalStack:
    def test_is_of_every_service(self) -> None:
        assert set(SERVICES) == set(SETTINGS)

    @pytest.mark.parametrize("service", sorted(SETTINGS))
    def test_names_only_settings_that_exist(self, state: StackState, service: str) -> None:
        prefix = f"{service.replace('-', '_').upper()}_"
        known = {f"{prefix}{name.upper()}" for name in SETTINGS[service].model_fields}
        assert set(service_environment(service=service, state=state)) <= known

    @pytest.mark.parametrize("service", sorted(SETTINGS))
    def test_is_understood(
        self, state: StackState, service: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = told(service, state, monkeypatch)
        assert settings.environment == "local"
        assert settings.ops_port == port_of(state.ops_urls[service])
        if service in state.http_urls:
            assert getattr(settings, "http_port", None) == port_of(state.http_urls[service])

    @pytest.mark.parametrize("counterpart", COUNTERPARTS)
    def test_names_only_arguments_that_a_counterpart_has(
        self, state: StackState, counterpart: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        module = importlib.import_module(f"paypost.simulators.{counterpart}.__main__")
        with pytest.raises(SystemExit):
            module.main(["--help"])
        known = set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))
        arguments = counterpart_arguments(counterpart=counterpart, state=state)
        assert set(arguments[::2]) <= known

    def test_charges_at_its_own_processor_only(
        self, state: StackState, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = told("payment-intake", state, monkeypatch)
        assert isinstance(settings, PaymentIntakeSettings)
        assert str(settings.stripe_api_base).rstrip("/") == state.http_urls["processor"]
        assert isinstance(settings.stripe_api_key, SecretStr)
        assert settings.stripe_api_key.get_secret_value() == state.secrets.processor_api_key
