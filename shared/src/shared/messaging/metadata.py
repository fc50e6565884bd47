"""A pause between attempts at Kafka's metadata, which aiokafka has not.

Where the leader of a partition is unknown, its fetcher and its sender ask for metadata in a loop,
one attempt after the other. An attempt at a broker that is away fails at once, and so does the next
(aiokafka 0.14: `Fetcher._fetch_requests_routine`, `Sender._sender_routine`, whose comment speaks of
a time to wait that nobody waits). Measured: up to 0.75 of a core of a service while its broker was
away, cores on which webhooks wait (docs/decisions/0029).
"""

import asyncio
from typing import Any

from aiokafka.client import AIOKafkaClient

_update = AIOKafkaClient._metadata_update


async def _update_unhurried(client: AIOKafkaClient, *of_what: Any) -> bool:
    is_updated = bool(await _update(client, *of_what))
    if not is_updated:
        await asyncio.sleep(client._retry_backoff)
    return is_updated


def pause_between_attempts() -> None:
    """Have every client of this process wait its `retry_backoff_ms` after an attempt in vain."""
    AIOKafkaClient._metadata_update = _update_unhurried
