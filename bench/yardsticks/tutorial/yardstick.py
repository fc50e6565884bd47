"""The tutorial as a yardstick: four processes on the run's Kafka and PostgreSQL."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import for_code

from bench.yardsticks.contract import Surroundings
from bench.yardsticks.peer import Peer, Stage, uvicorn_stage
from bench.yardsticks.peer_steps import SCHEMA

TOPICS = ("payments", "postings")
PARTITIONS = 6

OUTBOX_SCHEMA = """
CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL,
    key text NOT NULL,
    payload jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz
);
CREATE INDEX outbox_unpublished ON outbox (id) WHERE published_at IS NULL;
"""


class TutorialYardstick(Peer):
    """See README.md."""

    name = "tutorial"
    libraries = ("fastapi", "sqlalchemy", "faststream", "httpx", "aiosmtplib", "stripe")
    schema = SCHEMA + OUTBOX_SCHEMA

    def stages(self) -> Sequence[Stage]:
        package = "bench.yardsticks.tutorial"
        return [
            uvicorn_stage(
                name="intake", application=f"{package}.intake:app", port=self.settings.http_port
            ),
            *(
                Stage(name=name, command=(sys.executable, "-m", f"{package}.{name}"))
                for name in ("relay", "poster", "notifier")
            ),
        ]

    async def prepare(self, *, surroundings: Surroundings) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=surroundings.kafka_bootstrap)
        await admin.start()
        try:
            made = await admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in TOPICS])
        finally:
            await admin.close()
        for _, code, *_rest in made.topic_errors:
            if code:
                raise for_code(code)
