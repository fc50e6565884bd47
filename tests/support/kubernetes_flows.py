"""Who needs to reach whom in each overlay, written by hand: no more and no less is let through."""

from tests.support.kubernetes import NAMESPACE, End

SERVICES = ("payment-intake", "cis-poster", "autopay-scheduler", "notifier")
MIGRATIONS = tuple(f"{name}-migrate" for name in SERVICES)
HTTP_PORTS = {"payment-intake": 8080, "cis-poster": 8081, "autopay-scheduler": 8082}
OPS_PORT = 9000
EXPORTER = "postgres-exporter"

REACHES = {
    "payment-intake": {
        "database_url": "database",
        "kafka_bootstrap_servers": "kafka",
        "stripe_api_base": "processor",
        "traces_otlp_endpoint": "collector",
    },
    "cis-poster": {
        "database_url": "database",
        "kafka_bootstrap_servers": "kafka",
        "cis_base_url": "cis",
        "traces_otlp_endpoint": "collector",
    },
    "autopay-scheduler": {
        "database_url": "database",
        "kafka_bootstrap_servers": "kafka",
        "traces_otlp_endpoint": "collector",
    },
    "notifier": {
        "database_url": "database",
        "kafka_bootstrap_servers": "kafka",
        "smtp_host": "mail",
        "traces_otlp_endpoint": "collector",
    },
}
"""The settings of a service that name what it connects to, and what that is."""
LISTENS = {"http_host", "ops_host"}
"""Settings that name where a service listens."""
SAYS = {"portal_url"}
"""Settings that are told to customers, and never connected to."""

OUTSIDE = {
    "cis": "192.0.2.10",
    "mail": "192.0.2.20",
    "database": "192.0.2.30",
    "processor": "203.0.113.10",
}
"""What lies outside of the cluster in production; Stripe's is any address of the internet."""
PLACES = {
    "local": {
        "kafka": ("kafka", 9092),
        "database": ("postgres", 5432),
        "cis": ("cis", 8090),
        "processor": ("processor", 8091),
        "mail": ("mail", 1025),
    },
    "production": {
        "kafka": ("paypost-kafka", 9093),
        "database": ("database", 5432),
        "cis": ("cis", 443),
        "processor": ("processor", 443),
        "mail": ("mail", 587),
    },
    "production-complete": {
        "kafka": ("paypost-kafka", 9093),
        "database": ("paypost-database", 5432),
        "cis": ("cis", 443),
        "processor": ("processor", 443),
        "mail": ("mail", 587),
        "collector": ("otel-collector", 4318),
    },
}
"""What stands for what in each overlay, and its port; what has no place there is not reached."""

NEIGHBOURS = (
    End(name="dns", namespace="kube-system", labels={"k8s-app": "kube-dns"}),
    End(name="kube-system", namespace="kube-system"),
    End(name="ingress", namespace="ingress-nginx"),
    End(name="prometheus", namespace="monitoring"),
    End(name="keda", namespace="keda"),
    End(name="city", namespace="city"),
    End(
        name="otel-collector",
        namespace="observability",
        labels={"app.kubernetes.io/name": "otel-collector"},
    ),
    End(name="observability", namespace="observability"),
    End(name="cnpg-operator", namespace="cnpg-system"),
    End(name="stranger", namespace="default", labels={"app.kubernetes.io/part-of": "paypost"}),
    End(name="node", address="10.0.0.5"),
    End(name="metadata", address="169.254.169.254"),
    *(End(name=name, address=address) for name, address in OUTSIDE.items()),
)
"""Pods of other namespaces, and addresses: those that are to be reached and some that are not."""
STRAY = End(name="stray", namespace=NAMESPACE, labels={"app": "stray"})
"""A pod in the namespace that no one has made a policy for."""

KAFKA = (
    End(name="paypost-kafka", namespace=NAMESPACE, labels={"strimzi.io/name": "paypost-kafka"}),
    End(
        name="paypost-entity-operator",
        namespace=NAMESPACE,
        labels={"strimzi.io/name": "paypost-entity-operator"},
    ),
)
"""Strimzi's pods, by the label that it gives them."""
DATABASE = (
    End(
        name="paypost-database",
        namespace=NAMESPACE,
        labels={"cnpg.io/cluster": "paypost-database"},
    ),
)
"""CloudNativePG's pods, by the label that it gives them."""
OPERATED = {"local": (), "production": KAFKA, "production-complete": (*KAFKA, *DATABASE)}

PORTS = (
    *((port, "TCP") for port in (22, 25, 53, 80, 443, 587, 1025, 5432, 6443, 8000, 8025, 8080)),
    *((port, "TCP") for port in (8081, 8082, 8090, 8091, 9000, 9090, 9091, 9092, 9093, 9187)),
    *((port, "TCP") for port in (4317, 4318, 9404)),
    *((port, "UDP") for port in (53, 443)),
)
"""The ports that are tried: all that anything here listens on, and some that nothing does."""

Flow = tuple[str, str, int, str]


def needed(overlay: str, pods: tuple[str, ...]) -> set[Flow]:
    """Every connection that an overlay needs; `pods` are the names of all in the namespace."""
    places = PLACES[overlay]
    found = {(pod, "dns", 53, protocol) for pod in pods for protocol in ("TCP", "UDP")}
    for service, reached in REACHES.items():
        found |= {(service, *places[what], "TCP") for what in reached.values() if what in places}
        found.add((f"{service}-migrate", *places["database"], "TCP"))
        found.add(("prometheus", service, OPS_PORT, "TCP"))
    found |= {("ingress", service, port, "TCP") for service, port in HTTP_PORTS.items()}
    if overlay != "local":
        found.add((EXPORTER, *places["database"], "TCP"))
    return found | _OF_ITS_OWN[overlay]


def _to_the_api_server(pod: str) -> set[Flow]:
    # Its address is the cluster's own affair: the ports alone hold it, outside of the namespace.
    return {(pod, end.name, port, "TCP") for end in NEIGHBOURS for port in (443, 6443)}


_LOCAL: set[Flow] = {
    ("topics-migrate", "kafka", 9092, "TCP"),
    ("cis", "postgres", 5432, "TCP"),
    ("processor", "payment-intake", 8080, "TCP"),
}
_PRODUCTION: set[Flow] = {
    ("keda", "paypost-kafka", 9093, "TCP"),
    ("city", "paypost-kafka", 9093, "TCP"),
    ("paypost-kafka", "paypost-kafka", 9090, "TCP"),
    ("paypost-kafka", "paypost-kafka", 9091, "TCP"),
    ("paypost-entity-operator", "paypost-kafka", 9091, "TCP"),
    ("prometheus", "paypost-kafka", 9404, "TCP"),
    ("prometheus", EXPORTER, 9187, "TCP"),
    *_to_the_api_server("paypost-entity-operator"),
}
_DATABASE: set[Flow] = {
    ("paypost-database", "paypost-database", 5432, "TCP"),
    ("paypost-database", "paypost-database", 8000, "TCP"),
    ("cnpg-operator", "paypost-database", 5432, "TCP"),
    ("cnpg-operator", "paypost-database", 8000, "TCP"),
    ("prometheus", "paypost-database", 9187, "TCP"),
    *_to_the_api_server("paypost-database"),
}
_OF_ITS_OWN: dict[str, set[Flow]] = {
    "local": _LOCAL,
    "production": _PRODUCTION,
    "production-complete": _PRODUCTION | _DATABASE,
}
