"""DBOS as a yardstick: its web process, its workers, one database."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from bench.yardsticks.peer import Peer, Stage


class DbosYardstick(Peer):
    """See README.md."""

    name = "dbos"
    libraries = ("dbos", "fastapi", "aiohttp", "aiosmtplib", "asyncpg", "psycopg")
    defaults: Mapping[str, str] = {
        "start": "direct",
        "workflow": "async",
        "intake_processes": "1",
        "worker_processes": "0",
        "concurrency": "64",
        "polling_seconds": "0.05",
        "pool_size": "20",
        "executor_threads": "64",
        "listen_notify": "true",
        "ledger_pool_size": "10",
    }

    def stages(self) -> Sequence[Stage]:
        package = "bench.yardsticks.dbos"
        port = self.settings.http_port
        return [
            *(
                Stage(
                    name=f"worker-{number}",
                    command=(sys.executable, "-m", f"{package}.worker"),
                    environment={"PEER_EXECUTOR": f"worker-{number}"},
                )
                for number in range(1, int(self.tuning["worker_processes"]) + 1)
            ),
            *(
                Stage(
                    name=f"intake-{number}",
                    command=(
                        *(sys.executable, "-m", "bench.yardsticks.peer_web"),
                        *(f"{package}.intake:app", str(port)),
                    ),
                    environment={"PEER_EXECUTOR": f"intake-{number}"},
                    takes_webhooks=True,
                )
                for number in range(1, int(self.tuning["intake_processes"]) + 1)
            ),
        ]
