"""postgres_exporter as deploy/k8s runs it, under the role that the page has people make.

The program is Debian's, which is older than the image: the names that are asked are what both have.
"""

import asyncio
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import asyncpg
import pytest
from deploy.observability.exporters import postgres_exporter
from deploy.observability.queries import panel_queries, rule_queries, selectors
from deploy.observability.tools import ToolsUnavailableError
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from tests.support.backends import TestDatabase
from tests.support.kubernetes import ROOT, containers, manifests, of_kind
from tests.support.kubernetes_flows import EXPORTER
from tests.support.processes import eventually

from paypost.stack.ports import PortBlock
from paypost.stack.watchdog import Watchdog

ROLE = "postgres_exporter"
PASSWORD = "of-this-test@:/%"


async def execute(dsn: str, *statements: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


def statements_of_the_page(database: str) -> str:
    page = (ROOT / "docs" / "operating" / "kubernetes.md").read_text()
    [block] = re.findall(r"```sql\n(.+?)```", page, re.DOTALL)
    assert block.count("'…'") == 1
    assert block.count("DATABASE paypost ") == 1
    return block.replace("'…'", f"'{PASSWORD}'").replace(
        "DATABASE paypost ", f"DATABASE {database} "
    )


@pytest.fixture
def role(database: TestDatabase) -> Iterator[str]:
    """The address of the role that the page has people make, on this database."""
    asyncio.run(execute(database.superuser_dsn, statements_of_the_page(database.name)))
    yield f"{urlsplit(database.superuser_dsn).netloc.rpartition('@')[2]}/{database.name}"
    asyncio.run(execute(database.superuser_dsn, f"DROP OWNED BY {ROLE}", f"DROP ROLE {ROLE}"))


@pytest.fixture
def environment(role: str, tmp_path: Path) -> dict[str, str]:
    """What the Deployment tells it, with files and an address of this test."""
    content = {"username": ROLE, "password": PASSWORD}
    [its] = containers(of_kind(manifests("production"), "Deployment")[EXPORTER])
    told = {}
    for variable in its["env"]:
        name = Path(variable["value"]).name
        (tmp_path / name).write_text(content.pop(name))
        told[variable["name"]] = str(tmp_path / name)
    assert not content
    return told | {"DATA_SOURCE_URI": f"{role}?sslmode=disable"}


@pytest.fixture
def told(
    environment: dict[str, str], tmp_path: Path, watchdog: Watchdog, database: TestDatabase
) -> list[tuple[str, Sample]]:
    """What it says while a service has a transaction open, by the name that it says it under."""
    try:
        with PortBlock.claim() as ports:
            port = ports.port("postgres exporter")
            running = postgres_exporter(
                environment=environment, port=port, directory=tmp_path, watchdog=watchdog
            )
            with running:
                # As the probes ask it, which is not the database.
                eventually(lambda: bool(read(port, "/")))
                text = asyncio.run(during_a_transaction(database.dsns["cis_poster"], port))
    except ToolsUnavailableError as error:
        pytest.fail(f"NOT CHECKED: {error}", pytrace=False)
    # The parser ends the names of all counters alike; a family's own name is as it was told.
    return [
        (family.name, sample)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


class TestPostgresExporter:
    def test_tells_what_dashboards_and_alerts_ask(
        self, database: TestDatabase, told: list[tuple[str, Sample]]
    ) -> None:
        asked = {
            (selector.metric, selector.labels)
            for query in (*panel_queries(), *rule_queries("alert"), *rule_queries("record"))
            for selector in selectors(query.expr)
            if selector.metric.startswith("pg_")
        }
        assert ("pg_up", ()) in asked
        for metric, labels in sorted(asked):
            found = [
                sample
                for name, sample in told
                if name == metric
                and sample.labels.get("datname", database.name) == database.name
                and all(sample.labels.get(label) for label in labels)
            ]
            assert found, f"{metric} {labels} is asked, and not told"
        assert [sample.value for name, sample in told if name == "pg_up"] == [1]
        assert len(told) < sample_limit()

    def test_sees_the_sessions_of_others(
        self, database: TestDatabase, told: list[tuple[str, Sample]]
    ) -> None:
        """Which a role without pg_monitor does not: a transaction that is left open is an alert."""
        open_ones = {
            name: sample.value
            for name, sample in told
            if sample.labels.get("datname") == database.name
            and sample.labels.get("state") == "idle in transaction"
        }
        assert open_ones["pg_stat_activity_count"] == 1
        assert open_ones["pg_stat_activity_max_tx_duration"] > 0

    def test_reads_no_payment(self, database: TestDatabase, role: str) -> None:
        asyncio.run(
            execute(database.dsns["cis_poster"], "CREATE TABLE IF NOT EXISTS kept (id bigint)")
        )
        secret = quote(PASSWORD, safe="")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            asyncio.run(
                execute(f"postgresql://{ROLE}:{secret}@{role}", "SELECT * FROM cis_poster.kept")
            )


async def during_a_transaction(dsn: str, port: int) -> str:
    """What it says of the database while somebody else has a transaction open there."""
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            await connection.execute("SELECT 1")
            return await asyncio.to_thread(read, port, "/metrics")
    finally:
        await connection.close()


def read(port: int, path: str) -> str:
    """What it answers; nothing while it does not."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            text: str = answer.read().decode()
            return text
    except OSError:
        return ""


def sample_limit() -> int:
    """How many samples Prometheus takes of it before it refuses all of them."""
    limit: int = of_kind(manifests("production"), "ServiceMonitor")["postgres"]["spec"][
        "sampleLimit"
    ]
    return limit
