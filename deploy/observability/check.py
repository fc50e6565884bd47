"""Runs the product under the demo's load, a real Prometheus beside it, and asks it everything.

Usage: python -m deploy.observability.check [--short] [--render FOLDER]

Prints what was checked, and exits 1 where a panel is empty, a metric misspelt, a scrape slow, or
an alert silent that should fire. `--short` leaves out what takes minutes: the exporters of Kafka
and PostgreSQL, the outages, the alerts fired by them.
"""
# ruff: noqa: T201 - it tells people what it has checked

import asyncio
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
from deploy.observability.asking import ask_everything, scrapes
from deploy.observability.collector import Collector, collecting
from deploy.observability.exporters import kafka_agent, postgres_exporter
from deploy.observability.oddities import play_oddities
from deploy.observability.outages import play_outages
from deploy.observability.render import render_dashboards
from deploy.observability.server import PrometheusServer
from deploy.observability.tools import Tools, ToolsUnavailableError, find_tools

from paypost.demo.autopay import CLOCK_AHEAD
from paypost.demo.scenario import ENVIRONMENTS, play
from paypost.stack.local import SERVICES, LocalStack
from paypost.stack.ports import PortBlock
from paypost.stack.supervisor import ChildProcess, exit_on_signals
from paypost.stack.watchdog import Watchdog

SCRAPE_SECONDS_MAX = 0.020
SAMPLES_MAX = 2000
HOLDS_DIVIDED_BY = 60
"""`for: 5m` is 5 s here: the outages are real, and minutes long only in the rules."""


@dataclass(kw_only=True)
class Checked:
    """What was found, for people and for the exit code."""

    lines: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def say(self, line: str) -> None:
        """Keep a line and show it at once."""
        self.lines.append(line)
        print(f"sre-check: {line}", flush=True)


def check(*, tools: Tools, directory: Path, is_short: bool, render: Path | None) -> Checked:
    """Run all of it.

    Args:
        tools: where Prometheus is.
        directory: for the stack's state and Prometheus' data.
        is_short: see the module.
        render: a folder for pictures of the dashboards; none without one.
    """
    checked = Checked()
    began = time.monotonic()
    with ExitStack() as resources:
        watchdog = Watchdog()
        resources.callback(watchdog.close)
        ports = resources.enter_context(PortBlock.claim())
        if not is_short:
            resources.enter_context(kafka_agent(port=ports.port("kafka agent"), checked=checked))
        collector = resources.enter_context(collecting())
        stack = LocalStack(name="sre-check", fresh=True, environments=_environments(collector.url))
        resources.enter_context(stack)
        targets = {
            service: stack.state.ops_urls[service].removeprefix("http://") for service in SERVICES
        }
        targets["verify"] = f"127.0.0.1:{ports.port('verify')}"
        if not is_short:
            targets["kafka"] = f"127.0.0.1:{ports.port('kafka agent')}"
            exporter = postgres_exporter(
                environment={"DATA_SOURCE_NAME": f"{stack.state.superuser_dsn}?sslmode=disable"},
                port=ports.port("postgres exporter"),
                directory=directory,
                watchdog=watchdog,
            )
            resources.enter_context(exporter)
            targets["postgres"] = f"127.0.0.1:{ports.port('postgres exporter')}"
        prometheus = PrometheusServer(
            tools=tools,
            targets=targets,
            directory=directory / "prometheus",
            watchdog=watchdog,
            holds_divided_by=HOLDS_DIVIDED_BY,
        )
        resources.enter_context(prometheus)
        since = time.time()
        checked.say(f"the product and Prometheus run after {time.monotonic() - began:.0f} s")
        with verifying(ports.port("verify"), directory=directory, watchdog=watchdog):
            asyncio.run(_load(stack))
            checked.say(f"the demo's load is through after {time.monotonic() - began:.0f} s")
            # The last numbers of the load, and the rules that read them.
            time.sleep(6)
            until = time.time()
            asked = ask_everything(prometheus=prometheus, has_exporters=not is_short)
        checked.say(asked.told())
        if asked.left_out:
            checked.say(f"left out without exporters: {', '.join(sorted(set(asked.left_out)))}")
        checked.wrong += asked.wrong
        _check_scrapes(prometheus, checked, is_timed=not is_short)
        _check_exemplars(prometheus, since, until, checked)
        _check_traces(collector, checked)
        asyncio.run(_check_statements(stack.state.superuser_dsn, checked))
        if render is not None:
            written = render_dashboards(
                prometheus=prometheus, since=since, until=until, folder=render
            )
            checked.say(f"{len(written)} dashboards rendered into {render.name}/")
        if not is_short:
            asyncio.run(play_outages(stack=stack, prometheus=prometheus, checked=checked))
    checked.say(f"took {time.monotonic() - began:.0f} s; {len(checked.wrong)} things wrong")
    return checked


def _environments(collector_url: str) -> dict[str, dict[str, str]]:
    """The demo's, with every payment traced: no ratio is to hide a gap."""
    return {
        service: dict(ENVIRONMENTS.get(service, {}))
        | {
            f"{service.replace('-', '_').upper()}_TRACES_OTLP_ENDPOINT": collector_url,
            f"{service.replace('-', '_').upper()}_TRACES_SAMPLED_RATIO": "1",
        }
        for service in SERVICES
    }


async def _load(stack: LocalStack) -> None:
    await play(stack=stack, tell=lambda what: print(f"  demo: {what}", flush=True))
    await play_oddities(stack.state)


@contextmanager
def verifying(port: int, *, directory: Path, watchdog: Watchdog) -> Iterator[None]:
    """Run `paypost verify --serve` beside the stack, as an installation would."""
    child = ChildProcess(
        name="verify",
        command=(
            *(sys.executable, "-m", "paypost", "verify", "--serve", str(port)),
            *("--every", "5", "--days-ahead", str(CLOCK_AHEAD.days), "--stack", "sre-check"),
        ),
        log_path=directory / "verify.log",
        watchdog=watchdog,
    )
    try:
        yield
    finally:
        child.terminate(drain_timeout_seconds=5)


def _check_scrapes(prometheus: PrometheusServer, checked: Checked, *, is_timed: bool) -> None:
    for job, (quartile, median, longest, samples) in scrapes(prometheus).items():
        times = ", ".join(f"{each * 1000:.0f}" for each in (quartile, median, longest))
        checked.say(
            f"scrape of {job}: {times} ms (first quartile, median, longest; beside the load),"
            f" {samples:.0f} series"
        )
        if is_timed and quartile >= SCRAPE_SECONDS_MAX:
            checked.wrong.append(f"a scrape of {job} takes {quartile * 1000:.1f} ms")
        if samples >= SAMPLES_MAX:
            checked.wrong.append(f"{job} has {samples:.0f} series")


def _check_exemplars(
    prometheus: PrometheusServer, since: float, until: float, checked: Checked
) -> None:
    for metric in (
        "payment_intake_accepted_to_posted_seconds_bucket",
        "payment_intake_accepted_to_confirmed_seconds_bucket",
        "cis_poster_accepted_to_posted_seconds_bucket",
        "notifier_accepted_to_confirmed_seconds_bucket",
    ):
        found = prometheus.exemplars(metric, since=since, until=until)
        ids = {each["labels"].get("trace_id") for series in found for each in series["exemplars"]}
        if not ids or None in ids:
            checked.wrong.append(f"no exemplar with a trace id at {metric}")
        else:
            checked.say(f"{metric}: exemplars of {len(ids)} traces")


RUNBOOKS = Path(__file__).parents[2] / "docs" / "operating" / "runbooks"


async def _check_statements(dsn: str, checked: Checked) -> None:
    """Run every query that a runbook has somebody type."""
    connection = await asyncpg.connect(dsn)
    count = 0
    try:
        for path in sorted(RUNBOOKS.glob("*.md")):
            for statement in re.findall(r"`(SELECT [^`]+)`", path.read_text()):
                if "PID" in statement:
                    continue
                count += 1
                try:
                    await connection.fetch(" ".join(statement.split()))
                except asyncpg.PostgresError as error:
                    checked.wrong.append(f"{path.name}: {error}: {statement}")
    finally:
        await connection.close()
    checked.say(f"{count} queries of the runbooks run")


WHOLE_WAY = frozenset(
    {
        ("payment-intake", "POST /webhooks/stripe"),
        ("payment-intake", "keep events"),
        ("payment-intake", "publish payments.v1"),
        ("cis-poster", "process payments.v1"),
        ("cis-poster", "post to the CIS"),
        ("cis-poster", "publish postings.v1"),
        ("notifier", "process postings.v1"),
        ("notifier", "mail the customer"),
        ("notifier", "publish notifications.v1"),
        ("payment-intake", "process notifications.v1"),
    }
)
"""What a card payment leaves in its trace, whatever goes wrong on its way."""
WHOLE_TRACES_MIN = 100
"""Of the demo's 300 card payments; others begin at the portal, or end elsewhere.

A hundred of them come after cis-poster was killed. Of those before, the kill takes along whatever
spans it had not sent yet: five seconds of them, which on a fast machine are most.
"""


def _check_traces(collector: Collector, checked: Checked) -> None:
    traces = collector.traces()
    whole = [
        spans
        for spans in traces.values()
        if {(span.service, span.name) for span in spans} >= WHOLE_WAY
    ]
    linked = [span for span in collector.taken if span.name.endswith("(batch)") and span.links]
    checked.say(
        f"{len(whole)} traces lead from the webhook to the mail, through three services and"
        f" Kafka; {len(collector.taken)} spans in all, {len(linked)} batches linked"
    )
    if len(whole) < WHOLE_TRACES_MIN:
        checked.wrong.append(f"{len(whole)} whole traces, not {WHOLE_TRACES_MIN}")
    if not linked:
        checked.wrong.append("no batch is linked with what joined it")


def main() -> int:
    """Read the command line, find Prometheus, check."""
    arguments = sys.argv[1:]
    is_short = "--short" in arguments
    render = Path(arguments[arguments.index("--render") + 1]) if "--render" in arguments else None
    try:
        tools = find_tools()
    except ToolsUnavailableError as error:
        print(f"sre-check: NOT CHECKED: {error}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="sre-check-") as work, exit_on_signals():
        os.environ["PAYPOST_STATE_DIR"] = work
        checked = check(tools=tools, directory=Path(work), is_short=is_short, render=render)
    for line in checked.wrong:
        print(f"sre-check: WRONG: {line}", file=sys.stderr)
    print(f"sre-check: {'DOES NOT HOLD' if checked.wrong else 'holds'}")
    return int(bool(checked.wrong))


if __name__ == "__main__":
    sys.exit(main())
