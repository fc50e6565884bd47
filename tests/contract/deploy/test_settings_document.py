"""docs/settings.md, held against the settings that it describes."""

import re
from pathlib import Path

import pytest

from autopay_scheduler.settings import Settings as AutopaySchedulerSettings
from cis_poster.settings import Settings as CisPosterSettings
from notifier.settings import Settings as NotifierSettings
from payment_intake.settings import Settings as PaymentIntakeSettings
from shared.runtime.settings import ServiceSettings

DOCUMENT = Path(__file__).parents[3] / "docs" / "settings.md"
SETTINGS: dict[str, type[ServiceSettings]] = {
    "payment-intake": PaymentIntakeSettings,
    "cis-poster": CisPosterSettings,
    "autopay-scheduler": AutopaySchedulerSettings,
    "notifier": NotifierSettings,
}


def told_of(heading: str) -> dict[str, str]:
    """Each setting in the table under a heading, with the default that stands beside it."""
    section = DOCUMENT.read_text().split(f"\n## {heading}", 1)[1].split("\n## ", 1)[0]
    found: dict[str, str] = {}
    for names, defaults in re.findall(r"^\| (`[A-Z].*?) \| (.*?) \|", section, re.MULTILINE):
        keys = re.findall(r"`([A-Z0-9_]+)`", names)
        values = defaults.split(", ") if len(keys) > 1 else [defaults]
        # One default may stand for all that share a row.
        values = values * len(keys) if len(values) == 1 else values
        found |= dict(zip(keys, values, strict=True))
    return found


class TestDocument:
    def test_tells_of_what_every_service_is_told(self) -> None:
        names = {name.upper() for name in ServiceSettings.model_fields}
        assert told_of("Every service").keys() == names

    @pytest.mark.parametrize("service", sorted(SETTINGS))
    def test_tells_of_every_setting_of_a_service_and_of_no_other(self, service: str) -> None:
        own = SETTINGS[service].model_fields.keys() - ServiceSettings.model_fields.keys()
        assert told_of(f"{service} (").keys() == {name.upper() for name in own}

    @pytest.mark.parametrize("service", sorted(SETTINGS))
    def test_says_which_settings_are_required(self, service: str) -> None:
        for name, default in told_of(f"{service} (").items():
            field = SETTINGS[service].model_fields[name.lower()]
            assert (default == "**required**") == field.is_required(), name

    @pytest.mark.parametrize("service", sorted(SETTINGS))
    def test_says_the_numbers_that_hold(self, service: str) -> None:
        for name, default in told_of(f"{service} (").items():
            field = SETTINGS[service].model_fields[name.lower()]
            value = field.get_default(call_default_factory=True)
            if isinstance(value, int | float) and not isinstance(value, bool):
                assert float(default) == value, name
