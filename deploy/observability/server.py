"""A real Prometheus as a process: scrapes what it is given, with the project's own rules."""

import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import yaml
from deploy.observability.tools import Tools

from paypost.stack.ports import PortBlock
from paypost.stack.supervisor import ChildProcess, ProcessFailedError
from paypost.stack.watchdog import Watchdog

RULES = Path(__file__).parent / "prometheus" / "rules"
START_SECONDS_MAX = 30.0


class QueryRefusedError(Exception):
    """Prometheus does not take a query.

    Attributes:
        expr: the query.
        reason: in Prometheus' words.
    """

    def __init__(self, *, expr: str, reason: str) -> None:
        super().__init__(f"{reason}: {expr}")
        self.expr = expr
        self.reason = reason


class PrometheusServer:
    """One Prometheus on a loopback port, with its data in one folder; a context manager."""

    def __init__(
        self,
        *,
        tools: Tools,
        targets: Mapping[str, str],
        directory: Path,
        watchdog: Watchdog,
        scrape_seconds: float = 1.0,
        holds_divided_by: int = 1,
    ) -> None:
        """Starts nothing yet.

        Args:
            tools: where the program is.
            targets: `host:port` by job.
            directory: for configuration, data and log.
            watchdog: ends it with its owner.
            scrape_seconds: between two scrapes, and between two looks at the rules.
            holds_divided_by: `for` of each alert is cut by this: a test cannot wait for hours.
        """
        self._tools = tools
        self._targets = targets
        self._directory = directory
        self._watchdog = watchdog
        self._scrape_seconds = scrape_seconds
        self._holds_divided_by = holds_divided_by
        self._ports: PortBlock | None = None
        self._child: ChildProcess | None = None
        self.url = ""

    def __enter__(self) -> Self:
        self._ports = PortBlock.claim()
        self.url = f"http://127.0.0.1:{self._ports.port('prometheus')}"
        self._directory.mkdir(parents=True, exist_ok=True)
        self._write_files()
        log_path = self._directory / "prometheus.log"
        self._child = ChildProcess(
            name="prometheus",
            command=(
                str(self._tools.prometheus),
                f"--config.file={self._directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={self._directory / 'data'}",
                f"--web.listen-address={self.url.removeprefix('http://')}",
                "--enable-feature=exemplar-storage",
            ),
            log_path=log_path,
            watchdog=self._watchdog,
        )
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self._is_ready():
            if not self._child.running or time.monotonic() > deadline:
                self.__exit__()
                raise ProcessFailedError(
                    name="prometheus", reason="did not start", returncode=None, log_path=log_path
                )
            time.sleep(0.05)
        return self

    def __exit__(self, *_exc_info: object) -> None:
        if self._child is not None:
            self._child.terminate(drain_timeout_seconds=10)
        if self._ports is not None:
            self._ports.release()

    def query(self, expr: str, *, at: float | None = None) -> list[dict[str, Any]]:
        """Return the series of an instant query.

        Raises:
            QueryRefusedError: it does not parse, or cannot be carried out.
        """
        parameters = {"query": expr} | ({"time": str(at)} if at is not None else {})
        found: list[dict[str, Any]] = self._get("query", parameters)["result"]
        return found

    def query_range(
        self, expr: str, *, since: float, until: float, step_seconds: float
    ) -> list[dict[str, Any]]:
        """Return the series of a range query. Raises QueryRefusedError."""
        parameters = {
            "query": expr,
            "start": str(since),
            "end": str(until),
            "step": str(step_seconds),
        }
        found: list[dict[str, Any]] = self._get("query_range", parameters)["result"]
        return found

    def exemplars(self, expr: str, *, since: float, until: float) -> list[dict[str, Any]]:
        """Return the exemplars of a selector. Raises QueryRefusedError."""
        parameters = {"query": expr, "start": str(since), "end": str(until)}
        found: list[dict[str, Any]] = self._get("query_exemplars", parameters)
        return found

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire now."""
        alerts = self._get("alerts", {})["alerts"]
        return {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}

    def declared(self) -> set[str]:
        """Return the names of the metrics that some target declares, with samples or without."""
        return set(self._get("metadata", {}))

    def unhealthy_rules(self) -> list[str]:
        """Return what is wrong with rules that could not be evaluated."""
        groups = self._get("rules", {})["groups"]
        return [
            f"{rule['name']}: {rule.get('lastError')}"
            for group in groups
            for rule in group["rules"]
            if rule["health"] == "err"
        ]

    def _get(self, what: str, parameters: Mapping[str, str]) -> Any:
        url = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310 - loopback
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            told = json.load(error)
            raise QueryRefusedError(
                expr=parameters.get("query", what), reason=told.get("error", str(error))
            ) from None

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=2) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except OSError:
            return False

    def _write_files(self) -> None:
        rules = self._directory / "rules"
        rules.mkdir(exist_ok=True)
        for path in RULES.glob("*.yml"):
            (rules / path.name).write_text(self._with_short_holds(path.read_text()))
        every = f"{int(self._scrape_seconds * 1000)}ms"
        config = {
            "global": {"scrape_interval": every, "scrape_timeout": every}
            | {"evaluation_interval": every},
            "rule_files": [str(rules / "*.yml")],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": [target]}]}
                for job, target in self._targets.items()
            ],
        }
        (self._directory / "prometheus.yml").write_text(yaml.safe_dump(config))

    def _with_short_holds(self, text: str) -> str:
        if self._holds_divided_by == 1:
            return text
        factors = {"s": 1, "m": 60, "h": 3600}

        def shortened(match: re.Match[str]) -> str:
            seconds = int(match.group(2)) * factors[match.group(3)] / self._holds_divided_by
            return f"{match.group(1)}{max(1, round(seconds))}s"

        return re.sub(r"(\n +for: )(\d+)([smh])", shortened, text)
