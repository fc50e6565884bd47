from pathlib import Path

from notifier.settings import Settings
from shared.runtime.settings import settings_table

README = Path(__file__).parents[3] / "services" / "notifier" / "README.md"


class TestReadme:
    def test_shows_the_settings_as_they_are(self):
        assert settings_table(Settings) in README.read_text(encoding="utf-8")
