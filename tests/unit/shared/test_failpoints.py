"""Seams at which a process can be made to end: where they are, and what they cost."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

import autopay_scheduler.app
import autopay_scheduler.settings
import cis_poster.app
import cis_poster.settings
import notifier.app
import notifier.settings
import payment_intake.app
import payment_intake.settings
from cis_poster.domain import Answer, Outcome
from shared.failpoints import BadFailpointError, Failpoint, Seam, crashing, load_failpoint
from shared.runtime.command import ServiceCommand

COMMON: dict[str, Any] = {
    "environment": "local",
    "database_url": "postgresql+asyncpg://localhost/none",
    "kafka_bootstrap_servers": "localhost:1",
}
CIS_POSTER = cis_poster.settings.Settings(
    **COMMON, cis_base_url="http://localhost:1", cis_api_key="some-key"
)
BUILDS: dict[str, Callable[[Failpoint | None], Any]] = {
    "payment-intake": lambda failpoint: payment_intake.app.build_app(
        payment_intake.settings.Settings(**COMMON), failpoint=failpoint
    ),
    "cis-poster": lambda failpoint: cis_poster.app.build_app(CIS_POSTER, failpoint=failpoint),
    "autopay-scheduler": lambda failpoint: autopay_scheduler.app.build_app(
        autopay_scheduler.settings.Settings(**COMMON, portal_url="https://pay.example.org"),
        failpoint=failpoint,
    ),
    "notifier": lambda failpoint: notifier.app.build_app(
        notifier.settings.Settings(
            **COMMON,
            smtp_host="localhost",
            sender_address="city@example.org",
            sender_name="City",
            city_name="City",
            city_time_zone="America/Chicago",
            portal_url="https://pay.example.org",
            support_phone="555-0100",
        ),
        failpoint=failpoint,
    ),
}
EVERYWHERE = {Seam.COMMITTED, Seam.PUBLISHED, Seam.TAKEN}
SEAMS = {
    "payment-intake": EVERYWHERE,
    "cis-poster": EVERYWHERE | {Seam.POSTED},
    "autopay-scheduler": EVERYWHERE,
    "notifier": EVERYWHERE | {Seam.MAILED},
}


@dataclass
class Ledger:
    """A part with a method that works, and one beside it."""

    seen: list[str] = field(default_factory=list)

    async def post(self, keys: Sequence[str], *, outcome: Outcome) -> Sequence[Answer]:
        self.seen.extend(keys)
        return [Answer(outcome=outcome) for _ in keys]

    def count(self) -> int:
        return len(self.seen)


@dataclass
class End:
    """Notes what had happened when the process would have ended."""

    ledger: Ledger
    at: list[list[str]] = field(default_factory=list)

    def __call__(self) -> None:
        self.at.append(list(self.ledger.seen))


def armed(ledger: Ledger, seam: Seam, *, nth: int = 1) -> tuple[Ledger, End]:
    end = End(ledger)
    part = crashing(
        ledger,
        method="post",
        before=Seam.COMMITTED,
        after=Seam.POSTED,
        counts=lambda answers: any(each.outcome is Outcome.APPLIED for each in answers),
        failpoint=Failpoint(seam=seam, nth=nth, end=end),
    )
    return part, end


class TestCrashing:
    def test_installs_nothing_where_nothing_is_armed(self) -> None:
        ledger = Ledger()
        assert crashing(ledger, method="post", after=Seam.POSTED, failpoint=None) is ledger

    def test_installs_nothing_at_another_seam(self) -> None:
        ledger = Ledger()
        failpoint = Failpoint(seam=Seam.MAILED)
        assert crashing(ledger, method="post", after=Seam.POSTED, failpoint=failpoint) is ledger
        with pytest.raises(BadFailpointError, match="no such seam"):
            failpoint.assert_installed()

    async def test_ends_the_process_before_the_work(self) -> None:
        part, end = armed(Ledger(), Seam.COMMITTED)
        await part.post(["a"], outcome=Outcome.APPLIED)
        assert end.at == [[]]

    async def test_ends_the_process_after_the_work_and_once(self) -> None:
        part, end = armed(Ledger(), Seam.POSTED)
        await part.post(["a"], outcome=Outcome.APPLIED)
        await part.post(["b"], outcome=Outcome.APPLIED)
        assert end.at == [["a"]]

    async def test_counts_only_what_crosses_the_seam(self) -> None:
        part, end = armed(Ledger(), Seam.POSTED, nth=2)
        await part.post(["a"], outcome=Outcome.APPLIED)
        await part.post(["b"], outcome=Outcome.UNAVAILABLE)
        assert end.at == []
        await part.post(["c"], outcome=Outcome.APPLIED)
        assert end.at == [["a", "b", "c"]]

    async def test_leaves_the_rest_of_the_part_as_it_is(self) -> None:
        part, _ = armed(Ledger(), Seam.POSTED)
        assert await part.post(["a"], outcome=Outcome.APPLIED) == [Answer(outcome=Outcome.APPLIED)]
        assert part.count() == 1
        assert part.seen == ["a"]


class TestFailpoint:
    def test_ends_the_process_as_a_crash_does(self) -> None:
        program = (
            "import atexit; from shared.failpoints import *\n"
            "atexit.register(print, 'tidied up')\n"
            "Failpoint(seam=Seam.TAKEN, nth=1).cross()\n"
            "print('went on')"
        )
        ended = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=30
        )
        assert ended.returncode == -9
        assert "tidied up" not in ended.stdout
        assert "went on" not in ended.stdout
        assert "failpoint.crossed" in ended.stdout


class TestLoading:
    def test_arms_nothing_where_nothing_is_set(self) -> None:
        assert load_failpoint({}, environment="production") is None
        assert load_failpoint({"PAYPOST_FAILPOINT": ""}, environment="production") is None

    @pytest.mark.parametrize(
        ("value", "seam", "nth"), [("posted", Seam.POSTED, 1), ("taken:40", Seam.TAKEN, 40)]
    )
    def test_reads_the_seam_and_which_crossing_is_meant(
        self, value: str, seam: Seam, nth: int
    ) -> None:
        failpoint = load_failpoint({"PAYPOST_FAILPOINT": value}, environment="local")
        assert failpoint is not None
        assert (failpoint.seam, failpoint.nth) == (seam, nth)

    def test_refuses_any_outside_local_mode(self) -> None:
        with pytest.raises(BadFailpointError, match="local mode only"):
            load_failpoint({"PAYPOST_FAILPOINT": "posted"}, environment="production")

    @pytest.mark.parametrize(
        "value",
        ["posting", "posted:0", "posted:-1", "posted:x", "posted:1000001", ":3", "posted:²"],
    )
    def test_refuses_what_it_does_not_know(self, value: str) -> None:
        with pytest.raises(BadFailpointError):
            load_failpoint({"PAYPOST_FAILPOINT": value}, environment="local")


class TestServices:
    @pytest.mark.parametrize("service", sorted(BUILDS))
    @pytest.mark.parametrize("seam", list(Seam))
    def test_have_the_seams_of_what_they_do(self, service: str, seam: Seam) -> None:
        failpoint = Failpoint(seam=seam)
        BUILDS[service](failpoint)
        assert failpoint.installed == (seam in SEAMS[service])

    def test_refuse_to_run_with_a_seam_that_they_lack(self) -> None:
        command = ServiceCommand(
            package="cis_poster",
            settings_class=cis_poster.settings.Settings,
            composition="cis_poster.app",
            consumes=(),
            produces=(),
        )
        with pytest.raises(BadFailpointError, match="mailed:1: this service has no such seam"):
            command._build(CIS_POSTER, failpoint=Failpoint(seam=Seam.MAILED))

    def test_exit_for_good_where_they_are_told_nonsense(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("PAYPOST_FAILPOINT", "nowhere")
        monkeypatch.setattr(sys, "argv", ["cis_poster", "run"])
        for name, value in COMMON.items():
            monkeypatch.setenv(f"CIS_POSTER_{name.upper()}", value)
        monkeypatch.setenv("CIS_POSTER_CIS_BASE_URL", "http://localhost:1")
        monkeypatch.setenv("CIS_POSTER_CIS_API_KEY", "some-key")
        command = ServiceCommand(
            package="cis_poster",
            settings_class=cis_poster.settings.Settings,
            composition="cis_poster.app",
            consumes=(),
            produces=(),
        )
        with pytest.raises(SystemExit) as ended:
            command.run()
        assert ended.value.code == 78
        assert "PAYPOST_FAILPOINT=nowhere: there are committed" in capsys.readouterr().err
