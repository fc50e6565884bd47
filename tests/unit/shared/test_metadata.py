"""How often a client asks for metadata that it cannot have."""

import asyncio

from aiokafka.client import AIOKafkaClient
from tests.support.reference_cis import free_port

from shared.messaging.metadata import pause_between_attempts

BACKOFF_SECONDS = 0.1


class TestPauseBetweenAttempts:
    async def test_lets_no_broker_that_is_away_keep_a_core_busy(self):
        pause_between_attempts()
        pause_between_attempts()
        client = AIOKafkaClient(
            bootstrap_servers=f"127.0.0.1:{free_port()}",
            retry_backoff_ms=round(BACKOFF_SECONDS * 1000),
        )
        asking = asyncio.create_task(client._md_synchronizer())
        attempts = 0

        async def ask_again_and_again() -> None:
            nonlocal attempts
            while not await client.force_metadata_update():
                attempts += 1

        hurrying = asyncio.create_task(ask_again_and_again())
        await asyncio.sleep(3.5 * BACKOFF_SECONDS)
        hurrying.cancel()
        asking.cancel()
        assert 1 <= attempts <= 4
