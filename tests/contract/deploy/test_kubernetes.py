"""deploy/k8s, held against Kubernetes' own schemas and against what the code asks for.

No API server runs here: `make k8s-check` has one, and the schemas of the custom resources.
"""

import ast
import base64
import functools
import importlib
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate
import pytest
import yaml
from deploy.observability.exporters import AGENT_RULES
from deploy.observability.queries import panel_queries, rule_queries, selectors
from prometheus_client import CollectorRegistry
from starlette.routing import Route
from tests.support.kubernetes import (
    NAMESPACE,
    OVERLAYS,
    ROOT,
    WORKLOADS,
    Manifest,
    containers,
    flows,
    manifests,
    of_kind,
    pods,
    selects,
)
from tests.support.kubernetes_flows import (
    EXPORTER,
    HTTP_PORTS,
    LISTENS,
    MIGRATIONS,
    NEIGHBOURS,
    OPERATED,
    OPS_PORT,
    PLACES,
    PORTS,
    REACHES,
    SAYS,
    SERVICES,
    STRAY,
    needed,
)

from autopay_scheduler.settings import Settings as AutopaySchedulerSettings
from cis_poster.settings import Settings as CisPosterSettings
from notifier.settings import Settings as NotifierSettings
from payment_intake.settings import Settings as PaymentIntakeSettings
from shared.contracts.streams import PARTITIONS, STREAMS
from shared.contracts.topics import declared_topics
from shared.runtime.ops import build_ops_app
from shared.runtime.settings import DatabaseSettings, ServiceSettings, database_settings

SCHEMAS = ("1.34", "1.37")
"""What `make k8s-check` runs, and the newest of which schemas are at hand."""
SETTINGS: dict[str, type[ServiceSettings]] = {
    "payment-intake": PaymentIntakeSettings,
    "cis-poster": CisPosterSettings,
    "autopay-scheduler": AutopaySchedulerSettings,
    "notifier": NotifierSettings,
}
CUSTOM = {
    "local": set(),
    "production": {
        ("kafka.strimzi.io/v1", "Kafka"),
        ("kafka.strimzi.io/v1", "KafkaNodePool"),
        ("kafka.strimzi.io/v1", "KafkaTopic"),
        ("kafka.strimzi.io/v1", "KafkaUser"),
        ("keda.sh/v1alpha1", "ScaledObject"),
        ("keda.sh/v1alpha1", "TriggerAuthentication"),
        ("monitoring.coreos.com/v1", "ServiceMonitor"),
        ("monitoring.coreos.com/v1", "PodMonitor"),
    },
}
CUSTOM["production-complete"] = CUSTOM["production"] | {
    ("postgresql.cnpg.io/v1", "Cluster"),
    ("postgresql.cnpg.io/v1", "Database"),
    ("external-secrets.io/v1", "ExternalSecret"),
}
RULES = ("monitoring.coreos.com/v1", "PrometheusRule")

READS = {
    "payment-intake": {"portal.v1", "autopay.v1", "postings.v1", "notifications.v1"},
    "cis-poster": {"payments.v1"},
    "autopay-scheduler": {
        *("portal.v1", "bills.v1", "postings.v1", "payments.v1", "notifications.v1")
    },
    "notifier": {"autopay.v1", "payments.v1", "portal.v1", "postings.v1"},
}
WRITES = {
    "payment-intake": {"payments.v1", "portal.v1"},
    "cis-poster": {"postings.v1"},
    "autopay-scheduler": {"autopay.v1"},
    "notifier": {"notifications.v1"},
}
CITY = {"portal": {"portal.v1"}, "cis-feed": {"bills.v1"}}
"""Whom of the city's own systems Kafka knows, and what each states."""

SECRETS = {
    "payment-intake": {
        "stripe-webhook-secrets": '["whsec_of-this-test"]',
        "standard-webhook-secrets": '{"portal": ["whsec_b2YtdGhpcy10ZXN0LWFuZC1ub3Qtb3RoZXI="]}',
        "portal-api-key-sha256s": f'["{"a" * 64}"]',
        "operator-key-sha256s": f'["{"b" * 64}"]',
        "stripe-api-key": "rk_test_of_this_test",
    },
    "cis-poster": {
        "cis-api-key": "of-this-test",
        "operator-key-sha256s": f'["{"b" * 64}"]',
    },
    "autopay-scheduler": {
        "portal-api-key-sha256s": f'["{"a" * 64}"]',
        "operator-key-sha256s": f'["{"b" * 64}"]',
    },
    "notifier": {"smtp-username": "paypost", "smtp-password": "of-this-test"},
}
"""What whoever runs production puts into each service's Secret, besides `database-url`."""


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def objects(overlay: str) -> list[Manifest]:
    return manifests(overlay)


def prefix(service: str) -> str:
    return f"{service.replace('-', '_').upper()}_"


def deployment(objects: list[Manifest], service: str) -> Manifest:
    return of_kind(objects, "Deployment")[service]


def container(workload: Manifest, name: str) -> Manifest:
    [found] = [each for each in containers(workload) if each["name"] == name]
    return found


def told(objects: list[Manifest], service: str) -> dict[str, str]:
    """The environment of a service's container."""
    its = container(deployment(objects, service), "service")
    [source] = its["envFrom"]
    assert "env" not in its
    data: dict[str, str] = of_kind(objects, "ConfigMap")[source["configMapRef"]["name"]]["data"]
    return data


def mounted(workload: Manifest, name: str) -> dict[str, tuple[str, str | None]]:
    """The files that a container finds, by folder: of which Secret, and which key; None: all."""
    spec = workload["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    found: dict[str, tuple[str, str | None]] = {}
    for mount in container(workload, name)["volumeMounts"]:
        volume = volumes[mount["name"]]
        sources = []
        if "secret" in volume:
            sources = [(volume["secret"]["secretName"], volume["secret"].get("items"))]
        if "projected" in volume:
            sources = [
                (source["secret"]["name"], source["secret"]["items"])
                for source in volume["projected"]["sources"]
            ]
        for secret, items in sources:
            if items is None:
                found[mount["mountPath"]] = (secret, None)
            for item in items or ():
                found[f"{mount['mountPath']}/{item['path']}"] = (secret, item["key"])
    return found


def provided(workload: Manifest, name: str, path: str) -> tuple[str, str]:
    """The Secret and the key behind a path that a container reads."""
    files = mounted(workload, name)
    folder, _, file = path.rpartition("/")
    secret, key = files.get(path) or files[folder]
    return secret, key or file


def made_elsewhere(service: str, secret: str, key: str) -> bool:
    """Whether an operator, or whoever runs the system, makes this key of this Secret."""
    by_hand = {"database-url", *SECRETS[service]}
    return (secret == f"{service}-secrets" and key in by_hand) or (secret, key) in {
        (service, "password"),
        ("paypost-cluster-ca-cert", "ca.crt"),
        ("database-ca", "ca.crt"),
        ("paypost-database-ca", "ca.crt"),
    }


@functools.cache
def validate(manifest: str) -> None:
    """Hold an object to each schema; what several overlays share is looked at once."""
    for version in SCHEMAS:
        kubernetes_validate.validate(json.loads(manifest), version, strict=True)


class TestOverlay:
    def test_is_of_kubernetes_schemas_and_of_the_custom_kinds_it_says(
        self, overlay: str, objects: list[Manifest]
    ) -> None:
        custom = set()
        for each in objects:
            if "." in each["apiVersion"].partition("/")[0].replace(".k8s.io", ""):
                custom.add((each["apiVersion"], each["kind"]))
                continue
            validate(json.dumps(each))
        assert custom - {RULES} == CUSTOM[overlay]

    def test_would_be_refused_with_an_unknown_field(self, objects: list[Manifest]) -> None:
        wrong = deployment(objects, "notifier")
        wrong["spec"]["replica"] = 2
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(wrong, SCHEMAS[0], strict=True)

    def test_stays_in_its_namespace_and_names_each_object_once(
        self, objects: list[Manifest]
    ) -> None:
        names = set()
        for each in objects:
            name = (each["kind"], each["metadata"]["name"])
            assert name not in names
            names.add(name)
            assert each["metadata"]["labels"]["app.kubernetes.io/part-of"] == "paypost", name
            if each["kind"] != "Namespace":
                assert each["metadata"]["namespace"] == NAMESPACE, name

    def test_holds_its_namespace_to_the_restricted_standard(self, objects: list[Manifest]) -> None:
        labels = of_kind(objects, "Namespace")[NAMESPACE]["metadata"]["labels"]
        for mode in ("enforce", "audit", "warn"):
            assert labels[f"pod-security.kubernetes.io/{mode}"] == "restricted"

    def test_keeps_the_restricted_standard(self, objects: list[Manifest]) -> None:
        workloads = of_kind(objects, *WORKLOADS)
        assert {*SERVICES} <= workloads.keys()
        for name, workload in workloads.items():
            spec = workload["spec"]["template"]["spec"]
            security = spec["securityContext"]
            assert security["runAsNonRoot"] is True, name
            assert security["runAsUser"] > 0, name
            assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
            assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), name
            assert spec["automountServiceAccountToken"] is False, name
            assert spec["enableServiceLinks"] is False, name
            for volume in spec.get("volumes", ()):
                assert volume.keys() - {"name"} <= {"secret", "configMap", "emptyDir", "projected"}
            for each in containers(workload):
                own = each["securityContext"]
                assert own["allowPrivilegeEscalation"] is False, name
                assert own["capabilities"] == {"drop": ["ALL"]}, name
                # Kafka's image writes its settings into its own folders.
                assert own["readOnlyRootFilesystem"] is (each["name"] != "kafka"), name
                assert not own.keys() & {"privileged", "runAsUser", "runAsNonRoot", "procMount"}
                assert all("hostPort" not in port for port in each.get("ports", ()))
                resources = each["resources"]
                assert resources["requests"].keys() == {"cpu", "memory"}, name
                assert "memory" in resources["limits"], name

    def test_selects_with_each_selector_the_one_that_it_names(
        self, objects: list[Manifest]
    ) -> None:
        labels = {end.name: end.labels for end in pods(objects)}

        def selected(selector: dict[str, Any]) -> list[str]:
            return [name for name, its in labels.items() if selects(selector, its)]

        for kind in ("Deployment", "StatefulSet", "PodDisruptionBudget"):
            for name, each in of_kind(objects, kind).items():
                assert selected(each["spec"]["selector"]) == [name], (kind, name)
        ports = {end.name: end.ports for end in pods(objects)}
        for name, each in of_kind(objects, "Service").items():
            assert selected({"matchLabels": each["spec"]["selector"]}) == [name]
            for port in each["spec"]["ports"]:
                assert ports[name][port["targetPort"]] == port["port"], name

    def test_makes_no_migration_run_twice_under_one_name(
        self, overlay: str, objects: list[Manifest]
    ) -> None:
        """A Job cannot be changed: its name says whose release it is."""
        jobs = of_kind(objects, "Job")
        assert {name.partition("-migrate-")[0] for name in jobs} >= {*SERVICES}
        for name, job in jobs.items():
            image = containers(job)[0]["image"]
            assert name.partition("-migrate-")[2] == image.rpartition(":")[2].replace(".", "-")
            source = json.dumps(job)
            assert "-settings" not in source, "a change of settings would be one of the Job"

    def test_runs_the_images_that_the_dockerfile_builds(
        self, overlay: str, objects: list[Manifest]
    ) -> None:
        allowed = re.search(
            r"^ +(payment-intake \|[a-z| -]+)\) roots=",
            (ROOT / "Dockerfile").read_text(),
            re.MULTILINE,
        )
        assert allowed is not None
        images = {
            each["image"]
            for workload in of_kind(objects, *WORKLOADS).values()
            for each in containers(workload)
        }
        ours = {
            image.partition(":")[0].rpartition("/")[2] for image in images if "paypost/" in image
        }
        counterparts = {"reference-cis"} if overlay == "local" else set()
        assert ours == {*allowed[1].split(" | ")} | counterparts
        compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
        foreign = {image for image in images if "paypost/" not in image}
        theirs = ("kafka", "postgres", "mail") if overlay == "local" else (EXPORTER,)
        assert foreign == {compose[name]["image"] for name in theirs}
        assert len({image.rpartition(":")[2] for image in images - foreign}) == 1, "one release"


class TestNetworkPolicies:
    def test_deny_what_no_one_has_asked_for(self, objects: list[Manifest]) -> None:
        spec = of_kind(objects, "NetworkPolicy")["default-deny"]["spec"]
        assert spec == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}

    def test_let_through_every_flow_that_is_needed_and_no_other(
        self, overlay: str, objects: list[Manifest]
    ) -> None:
        inside = [*pods(objects), *OPERATED[overlay], STRAY]
        found = flows(
            list(of_kind(objects, "NetworkPolicy").values()), [*inside, *NEIGHBOURS], PORTS
        )
        expected = needed(overlay, tuple(end.name for end in inside))
        assert not expected - found, "needed, and held back"
        assert not found - expected, "let through, and not needed"

    @pytest.mark.parametrize("service", SERVICES)
    def test_know_every_setting_that_names_something_to_connect_to(self, service: str) -> None:
        """A new setting of this kind is a new flow, and has to be in the table."""
        names = {
            name
            for name in SETTINGS[service].model_fields
            if re.search(r"_(url|urls|servers|host|base|endpoint|address)$", name)
        }
        assert names - LISTENS - SAYS - {"sender_address"} == REACHES[service].keys()
        for overlay in OVERLAYS:
            told_of = {
                key.removeprefix(prefix(service)).removesuffix("_FILE").lower()
                for key in told(manifests(overlay), service)
            }
            nowhere = {
                name for name, what in REACHES[service].items() if what not in PLACES[overlay]
            }
            assert not told_of & nowhere, "told of what it may not reach"

    @pytest.mark.parametrize("service", SERVICES)
    def test_know_the_ports_that_a_service_listens_on(self, service: str) -> None:
        fields = SETTINGS[service].model_fields
        listening = {
            name: field.default for name, field in fields.items() if name.endswith("_port")
        }
        expected = {"ops_port": OPS_PORT}
        if service in HTTP_PORTS:
            expected["http_port"] = HTTP_PORTS[service]
        assert {k: v for k, v in listening.items() if k != "smtp_port"} == expected
        its = container(deployment(manifests("production"), service), "service")
        named = {f"{port['name']}_port": port["containerPort"] for port in its["ports"]}
        assert named == expected

    @pytest.mark.parametrize("service", SERVICES)
    def test_lead_to_where_the_settings_say(
        self, overlay: str, objects: list[Manifest], service: str
    ) -> None:
        settings = told(objects, service)
        for name, what in REACHES[service].items():
            if what not in PLACES[overlay]:
                continue
            place, port = PLACES[overlay][what]
            key = f"{prefix(service)}{name.upper()}"
            if f"{key}_FILE" in settings:
                continue  # A Secret's content: see TestSettings for those that are here.
            value = settings.get(key, SETTINGS[service].model_fields[name].default)
            address = re.fullmatch(
                r"(?:(https?)://)?([a-z0-9.-]+)(?::(\d+))?(?:/[a-z0-9/]*)?", value
            )
            assert address is not None, (name, value)
            scheme, host, said = address.groups()
            default = {"https": 443, "http": 80}.get(scheme or "") or settings.get(
                f"{prefix(service)}SMTP_PORT"
            )
            assert int(said or default or 0) == port, name
            if what == "collector":
                assert host in {
                    f"{place}.{end.namespace}.svc" for end in NEIGHBOURS if end.name == place
                }
            elif overlay == "local" or what == "kafka":
                assert host == (f"{place}-bootstrap" if overlay != "local" else place)

    def test_of_kafka_are_what_strimzi_is_told_to_let_in(
        self, overlay: str, objects: list[Manifest]
    ) -> None:
        if overlay == "local":
            return
        [listener] = of_kind(objects, "Kafka")["paypost"]["spec"]["kafka"]["listeners"]
        [rule] = of_kind(objects, "NetworkPolicy")["kafka-clients"]["spec"]["ingress"]
        assert listener["networkPolicyPeers"] == rule["from"]
        assert [port["port"] for port in rule["ports"]] == [listener["port"]]
        assert listener["tls"] is True
        assert listener["authentication"] == {"type": "scram-sha-512"}


@pytest.mark.parametrize("service", SERVICES)
class TestSettings:
    def test_are_every_required_one_and_none_that_does_not_exist(
        self, objects: list[Manifest], service: str
    ) -> None:
        fields = SETTINGS[service].model_fields
        names = {key.removesuffix("_FILE") for key in told(objects, service) if key.isupper()}
        # A setting's own name may end in _FILE.
        names |= {key for key in told(objects, service) if key.endswith("_TLS_CA_FILE")}
        known = {f"{prefix(service)}{name.upper()}" for name in fields}
        required = {
            f"{prefix(service)}{name.upper()}" for name, f in fields.items() if f.is_required()
        }
        assert required <= names
        assert {name for name in names if not name.endswith("_TLS_CA")} <= known

    def test_name_files_that_are_there(
        self, overlay: str, objects: list[Manifest], service: str
    ) -> None:
        secrets = of_kind(objects, "Secret")
        workload = deployment(objects, service)
        for key, path in told(objects, service).items():
            if not key.endswith("_FILE"):
                continue
            secret, file = provided(workload, "service", path)
            if overlay == "local":
                assert file in secrets[secret]["data"], key
            else:
                assert made_elsewhere(service, secret, file), (key, secret, file)
                assert secret not in secrets, "production's secrets are not in the manifests"

    def test_are_understood(
        self,
        overlay: str,
        objects: list[Manifest],
        service: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        secrets = of_kind(objects, "Secret")
        workload = deployment(objects, service)
        role = service.replace("-", "_")
        for key, value in told(objects, service).items():
            if key.endswith("_FILE") and not key.endswith("_TLS_CA_FILE"):
                secret, name = provided(workload, "service", value)
                if secret in secrets:
                    content = base64.b64decode(secrets[secret]["data"][name]).decode()
                elif name == "database-url":
                    content = f"postgresql+asyncpg://{role}:of-this-test@db.example:5432/paypost"
                else:
                    content = SECRETS[service].get(name, "of-this-test")
                (tmp_path / name).write_text(content)
                monkeypatch.setenv(key, str(tmp_path / name))
            else:
                monkeypatch.setenv(key, value)
        settings = SETTINGS[service]()
        assert settings.environment == ("local" if overlay == "local" else "production")
        address = settings.database_url.get_secret_value()
        assert address.startswith(f"postgresql+asyncpg://{role}:")
        if overlay == "local":
            assert address.endswith("@postgres:5432/paypost")
            assert settings.kafka_security_protocol == "PLAINTEXT"
        else:
            assert settings.kafka_security_protocol == "SASL_SSL"
            assert settings.kafka_sasl_username == service
            assert settings.kafka_tls_ca_file is not None
            assert settings.database_tls_ca_file is not None
            for file in (settings.kafka_tls_ca_file, settings.database_tls_ca_file):
                assert provided(workload, "service", str(file))[1] == "ca.crt"
        assert settings.kafka_group_instance_id is None, "a Deployment's pods have no lasting names"

    def test_are_of_the_database_alone_in_a_migration(
        self, overlay: str, objects: list[Manifest], service: str
    ) -> None:
        [job] = [
            job for name, job in of_kind(objects, "Job").items() if name.startswith(f"{service}-m")
        ]
        [its] = containers(job)
        known = {f"{prefix(service)}{name.upper()}" for name in DatabaseSettings.model_fields}
        names = {variable["name"]: variable["value"] for variable in its["env"]}
        for name, path in names.items():
            if name.endswith("_FILE"):
                assert {name, name.removesuffix("_FILE")} & known
                secret, _ = provided(job, "migrate", path)
                assert secret in {f"{service}-secrets", "database-ca", "paypost-database-ca"}
        assert f"{prefix(service)}DATABASE_URL_FILE" in names
        has_authority = f"{prefix(service)}DATABASE_TLS_CA_FILE" in names
        assert has_authority == (overlay != "local")
        assert {key for _, key in mounted(job, "migrate").values()} <= {"database-url", "ca.crt"}
        assert database_settings(SETTINGS[service]).model_fields.keys() == (
            DatabaseSettings.model_fields.keys()
        )


@pytest.mark.parametrize("service", SERVICES)
class TestServices:
    def test_run_and_wait_and_migrate_as_modules_that_exist(
        self, objects: list[Manifest], service: str
    ) -> None:
        module = service.replace("-", "_")
        assert importlib.util.find_spec(module) is not None
        workload = deployment(objects, service)
        assert container(workload, "service")["args"] == [module, "run"]
        assert container(workload, "schema")["args"] == [module, "await-schema"]
        assert (
            container(workload, "schema") in workload["spec"]["template"]["spec"]["initContainers"]
        )
        [job] = [
            job for name, job in of_kind(objects, "Job").items() if name.startswith(f"{service}-m")
        ]
        assert container(job, "migrate")["args"] == [module, "migrate"]

    def test_can_be_applied_alone(self, objects: list[Manifest], service: str) -> None:
        """By the label of their name: with all that their pods refer to and is made here."""
        label = "app.kubernetes.io/name"
        own = [each for each in objects if each["metadata"]["labels"].get(label) == service]
        kinds = sorted({each["kind"] for each in own} - {"Secret"})
        assert kinds == [
            *("ConfigMap", "Deployment", "Job", "NetworkPolicy"),
            *("PodDisruptionBudget", "Service", "ServiceAccount"),
        ]

    def test_are_asked_where_they_answer(self, objects: list[Manifest], service: str) -> None:
        routes = build_ops_app(registry=CollectorRegistry(), live={}, ready={}).routes
        paths = {route.path for route in routes if isinstance(route, Route)}
        its = container(deployment(objects, service), "service")
        named = {port["name"]: port["containerPort"] for port in its["ports"]}
        for probe, path in (
            ("startupProbe", "/livez"),
            ("livenessProbe", "/livez"),
            ("readinessProbe", "/readyz"),
        ):
            asked = its[probe]["httpGet"]
            assert asked == {"path": path, "port": "ops"}
            assert path in paths
            assert named[asked["port"]] == SETTINGS[service].model_fields["ops_port"].default
            # Longer than the database is given to answer.
            assert its[probe]["timeoutSeconds"] > 2

    def test_have_time_to_drain(self, objects: list[Manifest], service: str) -> None:
        spec = deployment(objects, service)["spec"]["template"]["spec"]
        its = container(deployment(objects, service), "service")
        pause = its.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        assert bool(pause) == (service in HTTP_PORTS), "doors that others hold open"
        drain_seconds = SETTINGS[service].model_fields["drain_seconds"].default
        assert spec["terminationGracePeriodSeconds"] >= pause + drain_seconds + 10

    def test_are_spread_and_replaced_without_a_gap(
        self, objects: list[Manifest], service: str
    ) -> None:
        workload = deployment(objects, service)
        assert workload["spec"]["strategy"] == {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
        }
        template = workload["spec"]["template"]
        spread = template["spec"]["topologySpreadConstraints"]
        assert [each["topologyKey"] for each in spread] == [
            "topology.kubernetes.io/zone",
            "kubernetes.io/hostname",
        ]
        for each in spread:
            assert selects(each["labelSelector"], template["metadata"]["labels"])
            assert "app.kubernetes.io/name" in each["matchLabelKeys"]
        budget = of_kind(objects, "PodDisruptionBudget")[service]["spec"]
        assert budget["maxUnavailable"] == 1


@pytest.fixture(params=[name for name in OVERLAYS if name != "local"])
def production(request: pytest.FixtureRequest) -> list[Manifest]:
    return manifests(request.param)


class TestKafka:
    def test_has_the_topics_of_the_contracts(self, production: list[Manifest]) -> None:
        found = {
            name: (
                topic["spec"]["partitions"],
                topic["spec"]["replicas"],
                {key: str(value) for key, value in topic["spec"]["config"].items()},
            )
            for name, topic in of_kind(production, "KafkaTopic").items()
        }
        assert found == {
            topic.name: (topic.num_partitions, topic.replication_factor, topic.topic_configs)
            for topic in declared_topics(replication_factor=3)
        }

    def test_and_its_users_are_of_the_one_cluster(self, production: list[Manifest]) -> None:
        [cluster] = of_kind(production, "Kafka")
        for each in of_kind(production, "KafkaTopic", "KafkaUser", "KafkaNodePool").values():
            assert each["metadata"]["labels"]["strimzi.io/cluster"] == cluster

    @pytest.mark.parametrize("service", SERVICES)
    def test_table_is_what_the_service_says_of_itself(self, service: str) -> None:
        module = service.replace("-", "_")
        place = ROOT / "services" / service / "src" / module
        said = {
            keyword.arg: ast.literal_eval(keyword.value)
            for node in ast.walk(ast.parse((place / "__main__.py").read_text()))
            if isinstance(node, ast.Call)
            for keyword in node.keywords
            if keyword.arg in {"consumes", "produces"}
        }
        assert set(said["consumes"]) == READS[service]
        assert set(said["produces"]) == WRITES[service]
        assert f'GROUP_ID = "{service}"' in (place / "consumers.py").read_text().splitlines()

    def test_table_has_every_stream_and_its_producer(self) -> None:
        for stream in STREAMS.values():
            producer = {"cis": "cis-feed"}.get(stream.producer, stream.producer)
            assert stream.name in ({**WRITES, **CITY})[producer]

    def test_lets_each_user_do_what_it_does_and_nothing_else(
        self, production: list[Manifest]
    ) -> None:
        found = {
            name: {
                (acl["resource"]["type"], acl["resource"]["name"], operation)
                for acl in user["spec"]["authorization"]["acls"]
                for operation in acl["operations"]
            }
            for name, user in of_kind(production, "KafkaUser").items()
        }
        expected = {
            service: {("topic", stream, "Read") for stream in READS[service]}
            | {("topic", stream, "Write") for stream in WRITES[service]}
            | {("topic", f"{stream}.dead", "Write") for stream in READS[service]}
            | {("group", service, "Read")}
            for service in SERVICES
        }
        expected |= {
            name: {("topic", stream, "Write") for stream in streams}
            for name, streams in CITY.items()
        }
        expected["scaler"] = {("topic", stream, "Describe") for stream in STREAMS} | {
            ("group", service, "Describe") for service in SERVICES
        }
        assert found == expected

    def test_takes_patterns_literally_and_knows_users_by_scram(
        self, production: list[Manifest]
    ) -> None:
        for user in of_kind(production, "KafkaUser").values():
            assert user["spec"]["authentication"] == {"type": "scram-sha-512"}
            for acl in user["spec"]["authorization"]["acls"]:
                assert acl["resource"]["patternType"] == "literal"


class TestScaling:
    def test_is_bounded_by_the_partitions(self, production: list[Manifest]) -> None:
        scaled = of_kind(production, "ScaledObject")
        assert scaled.keys() == {*SERVICES}
        for service, each in scaled.items():
            spec = each["spec"]
            assert spec["scaleTargetRef"]["name"] == service
            assert spec["maxReplicaCount"] == PARTITIONS
            assert spec["minReplicaCount"] == 2
            assert spec["fallback"]["replicas"] >= spec["minReplicaCount"]

    def test_goes_by_every_stream_of_the_service(self, production: list[Manifest]) -> None:
        [cluster] = of_kind(production, "Kafka")
        for service, each in of_kind(production, "ScaledObject").items():
            triggers = [t["metadata"] for t in each["spec"]["triggers"] if t["type"] == "kafka"]
            assert {trigger["topic"] for trigger in triggers} == READS[service]
            assert len(triggers) == len(READS[service])
            for trigger in triggers:
                assert trigger["consumerGroup"] == service
                # KEDA asks from a namespace of its own.
                assert (
                    trigger["bootstrapServers"] == f"{cluster}-kafka-bootstrap.{NAMESPACE}.svc:9093"
                )
                assert trigger["sasl"] == "scram_sha512"
                assert trigger["tls"] == "enable"

    def test_is_not_set_back_by_an_apply(self, production: list[Manifest]) -> None:
        for service in SERVICES:
            assert "replicas" not in deployment(production, service)["spec"]

    def test_does_not_ask_for_more_sessions_than_the_database_has(self) -> None:
        database = of_kind(manifests("production-complete"), "Cluster")["paypost-database"]["spec"]
        sessions = sum(
            settings.model_fields["database_pool_size"].default * PARTITIONS
            for settings in SETTINGS.values()
        )
        assert int(database["postgresql"]["parameters"]["max_connections"]) > sessions + 20


class TestDatabase:
    objects = manifests("production-complete")

    def test_has_a_role_and_a_schema_for_each_service(self) -> None:
        roles = {service.replace("-", "_") for service in SERVICES}
        cluster = of_kind(self.objects, "Cluster")["paypost-database"]["spec"]
        found = {role["name"]: role for role in cluster["managed"]["roles"]}
        assert found.keys() == roles | {"postgres_exporter"}
        for name, role in found.items():
            assert role["passwordSecret"]["name"] == f"{name.replace('_', '-')}-database"
            assert role["login"] is True
            assert role.get("inRoles") == (["pg_monitor"] if name not in roles else None)
            assert not role.keys() & {"superuser", "createrole", "createdb", "replication"}
        schemas = of_kind(self.objects, "Database")["paypost"]["spec"]["schemas"]
        assert {each["name"]: each["owner"] for each in schemas} == {role: role for role in roles}

    def test_loses_no_commit_with_its_primary(self) -> None:
        postgresql = of_kind(self.objects, "Cluster")["paypost-database"]["spec"]["postgresql"]
        assert postgresql["synchronous"]["dataDurability"] == "required"
        assert postgresql["synchronous"]["number"] >= 1
        assert not {"fsync", "synchronous_commit"} & postgresql["parameters"].keys()

    def test_secrets_come_out_of_the_store_with_every_key_that_is_read(self) -> None:
        external = of_kind(self.objects, "ExternalSecret")
        for service in SERVICES:
            spec = external[f"{service}-secrets"]["spec"]
            assert spec["target"]["name"] == f"{service}-secrets"
            assert {each["secretKey"] for each in spec["data"]} == {
                "database-url",
                *SECRETS[service],
            }
        for role in (*SERVICES, EXPORTER):
            login = external[f"{role}-database"]["spec"]["target"]["template"]
            assert login["type"] == "kubernetes.io/basic-auth"
            assert login["data"]["username"] == role.replace("-", "_")


class TestMonitoring:
    def test_scrapes_every_service_where_it_answers(self, production: list[Manifest]) -> None:
        monitors = of_kind(production, "ServiceMonitor")
        assert monitors.keys() == {"paypost", "postgres"}
        assert _scraped(production, monitors["paypost"]) == {*SERVICES}
        assert _scraped(production, monitors["postgres"]) == {EXPORTER}

    def test_scrapes_what_operators_run_where_they_let_it_answer(
        self, production: list[Manifest]
    ) -> None:
        """By the labels and the ports that Strimzi and CloudNativePG give their pods."""
        ports = {"kafka": ("tcp-prometheus", 9404), "database": ("metrics", 9187)}
        operated = {"kafka": "paypost-kafka", "database": "paypost-database"}
        monitors = of_kind(production, "PodMonitor")
        assert monitors.keys() == ports.keys()
        for name, monitor in monitors.items():
            [endpoint] = monitor["spec"]["podMetricsEndpoints"]
            assert endpoint["path"] == "/metrics"
            port, number = ports[name]
            assert endpoint["port"] == port
            selector = monitor["spec"]["selector"]
            ends = OPERATED["production-complete"]
            chosen = {end.name for end in ends if selects(selector, end.labels)}
            assert chosen == {operated[name]}
            flow = ("prometheus", operated[name], number, "TCP")
            assert flow in needed("production-complete", ())

    def test_calls_jobs_as_deploy_observability_does(self, production: list[Manifest]) -> None:
        file = ROOT / "deploy" / "observability" / "prometheus" / "prometheus.yml"
        known = {job["job_name"] for job in yaml.safe_load(file.read_text())["scrape_configs"]}
        monitors = of_kind(production, "ServiceMonitor")
        label = monitors["paypost"]["spec"]["jobLabel"]
        services = of_kind(production, "Service")
        jobs = {services[name]["metadata"]["labels"][label] for name in SERVICES}
        [endpoint] = monitors["postgres"]["spec"]["endpoints"]
        jobs |= {each["replacement"] for each in endpoint["relabelings"]}
        assert [each["targetLabel"] for each in endpoint["relabelings"]] == ["job"]
        assert jobs == known

    def test_has_kafka_tell_what_dashboards_and_alerts_ask(
        self, production: list[Manifest]
    ) -> None:
        """By the same rules as the broker that `make sre-check` asks."""
        told_by = of_kind(production, "Kafka")["paypost"]["spec"]["kafka"]["metricsConfig"]
        assert told_by["type"] == "jmxPrometheusExporter"
        reference = told_by["valueFrom"]["configMapKeyRef"]
        text = of_kind(production, "ConfigMap")[reference["name"]]["data"][reference["key"]]
        assert text == AGENT_RULES.read_text()
        names = {rule["name"] for rule in yaml.safe_load(text)["rules"]}
        asked = {
            selector.metric
            for query in (*panel_queries(), *rule_queries("alert"), *rule_queries("record"))
            for selector in selectors(query.expr)
            if selector.metric.startswith("kafka_")
        }
        assert asked == names

    def test_follows_the_rules_of_deploy_observability(self, production: list[Manifest]) -> None:
        """Where this fails: `make docs` writes them anew."""
        files = (ROOT / "deploy" / "observability" / "prometheus" / "rules").glob("*.yml")
        found = of_kind(production, "PrometheusRule")
        assert {name: rule["spec"] for name, rule in found.items()} == {
            file.stem.replace(".", "-"): yaml.safe_load(file.read_text()) for file in files
        }


class TestExporter:
    """What asks PostgreSQL for the dashboards: tests/integration/stack runs it."""

    def test_finds_its_login_and_its_authority(self, production: list[Manifest]) -> None:
        workload = deployment(production, EXPORTER)
        its = container(workload, "exporter")
        told_by = {each["name"]: each["value"] for each in its["env"]}
        assert told_by.keys() == {"DATA_SOURCE_USER_FILE", "DATA_SOURCE_PASS_FILE"}
        login = f"{EXPORTER}-database"
        user = provided(workload, "exporter", told_by["DATA_SOURCE_USER_FILE"])
        password = provided(workload, "exporter", told_by["DATA_SOURCE_PASS_FILE"])
        assert (user, password) == ((login, "username"), (login, "password"))
        assert login not in of_kind(production, "Secret")

    @pytest.mark.parametrize(
        ("overlay", "host", "authority"),
        [
            ("production", "database.city.example", "database-ca"),
            ("production-complete", "paypost-database-rw", "paypost-database-ca"),
        ],
    )
    def test_asks_one_server_whose_certificate_it_holds_against_its_authority(
        self, overlay: str, host: str, authority: str
    ) -> None:
        objects = manifests(overlay)
        workload = deployment(objects, EXPORTER)
        [source] = container(workload, "exporter")["envFrom"]
        settings = of_kind(objects, "ConfigMap")[source["configMapRef"]["name"]]["data"]
        assert settings.keys() == {"DATA_SOURCE_URI"}
        address = urlsplit(f"postgresql://{settings['DATA_SOURCE_URI']}")
        assert (address.hostname, address.port, address.path) == (host, 5432, "/paypost")
        query = parse_qs(address.query)
        assert query["sslmode"] == ["verify-full"]
        assert provided(workload, "exporter", query["sslrootcert"][0]) == (authority, "ca.crt")

    def test_is_never_there_twice(self, production: list[Manifest]) -> None:
        """Panels add up what they get."""
        spec = deployment(production, EXPORTER)["spec"]
        assert spec["replicas"] == 1
        assert spec["strategy"] == {"type": "Recreate"}


class TestTracing:
    @pytest.mark.parametrize("service", SERVICES)
    def test_is_on_where_a_collector_may_be_reached_and_only_there(self, service: str) -> None:
        for overlay in OVERLAYS:
            endpoint = told(manifests(overlay), service).get(
                f"{prefix(service)}TRACES_OTLP_ENDPOINT"
            )
            if "collector" in PLACES[overlay]:
                assert endpoint is not None
                assert urlsplit(endpoint).path == "/v1/traces"
            else:
                assert endpoint is None

    def test_samples_at_the_door_alone(self) -> None:
        told_of = {
            service: told(manifests("production-complete"), service).get(
                f"{prefix(service)}TRACES_SAMPLED_RATIO"
            )
            for service in SERVICES
        }
        assert told_of.pop("payment-intake") == "0.01"
        assert set(told_of.values()) == {None}


class TestMigrations:
    def test_are_named_as_the_flows_have_them(self) -> None:
        ends = {end.name for end in pods(manifests("production"))}
        assert ends == {*SERVICES, *MIGRATIONS, EXPORTER}


def _scraped(objects: list[Manifest], monitor: Manifest) -> set[str]:
    """The Services that a ServiceMonitor finds, of those that have the port it asks."""
    [endpoint] = monitor["spec"]["endpoints"]
    assert endpoint["path"] == "/metrics"
    return {
        name
        for name, service in of_kind(objects, "Service").items()
        if selects(monitor["spec"]["selector"], service["metadata"]["labels"])
        and endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    }
