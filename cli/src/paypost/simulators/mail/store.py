"""The messages that the sink took, kept as JSON lines and readable without it.

Invariant: a message is on disk before it is acknowledged, whole, once, in the order of arrival.
The raw bytes stand in the line as Latin-1 text, which maps every byte to one character and back.
"""

import email
import email.policy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from paypost.simulators.append_log import AppendLog

FILE_NAME = "messages.jsonl"


@dataclass(frozen=True)
class StoredMessage:
    """One message with its envelope; `id` counts from 1 in the order of arrival."""

    id: int
    received_at: datetime
    sender: str
    recipients: tuple[str, ...]
    raw: bytes

    @cached_property
    def parsed(self) -> EmailMessage:
        """Return the message parsed, under the modern policy."""
        message = email.message_from_bytes(self.raw, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        return message

    @property
    def message_id(self) -> str:
        """Return the Message-ID header, or an empty text."""
        return str(self.parsed.get("Message-ID", "")).strip()

    @property
    def subject(self) -> str:
        """Return the Subject header decoded, or an empty text."""
        return str(self.parsed.get("Subject", ""))

    def body(self, *, subtype: str) -> str | None:
        """Return the body of this text subtype (`plain`, `html`) with plain newlines, or None."""
        part = self.parsed.get_body(preferencelist=(subtype,))
        return None if part is None else str(part.get_content()).replace("\r\n", "\n")


class MessageStore:
    """The store's writer and index; exactly one may exist for a folder at a time."""

    def __init__(self, *, directory: Path) -> None:
        self.path = directory / FILE_NAME
        self._log = AppendLog(path=self.path)
        # Per message its place in the file and its recipients: about 200 bytes each, no content.
        self._places: list[tuple[int, int]] = []
        self._recipients: list[tuple[str, ...]] = []
        self._end_bytes = 0

    def open(self) -> None:
        """Open the file and index what a previous run left. Raises OSError, ValueError."""
        self._log.open()
        with self.path.open("rb") as file:
            for line in file:
                self._index(size_bytes=len(line), recipients=tuple(orjson.loads(line)["to"]))

    async def add(
        self, *, received_at: datetime, sender: str, recipients: Sequence[str], raw: bytes
    ) -> int:
        """Keep a message; return its id when it is on disk."""
        number = len(self._places) + 1
        line = orjson.dumps(
            {
                "id": number,
                "received_at": received_at,
                "from": sender,
                "to": recipients,
                "raw": raw.decode("latin-1"),
            },
            option=orjson.OPT_APPEND_NEWLINE,
        )
        self._index(size_bytes=len(line), recipients=tuple(recipients))
        await self._log.append(line)
        return number

    @property
    def count(self) -> int:
        """Return how many messages there are."""
        return len(self._places)

    def count_to(self, address: str) -> int:
        """Return how many messages went to an address."""
        return sum(address in recipients for recipients in self._recipients)

    def get(self, number: int) -> StoredMessage | None:
        """Return the message of this id, None when there is none on disk."""
        if not 1 <= number <= len(self._places):
            return None
        offset, size_bytes = self._places[number - 1]
        if offset + size_bytes > self._log.size_bytes:
            return None
        with self.path.open("rb") as file:
            file.seek(offset)
            return message_of(orjson.loads(file.read(size_bytes)))

    def list(self, *, to: str | None, after: int, limit: int) -> list[StoredMessage]:
        """Return messages with an id above `after`, oldest first; `to` keeps one recipient's."""
        found: list[StoredMessage] = []
        for number in range(after + 1, len(self._places) + 1):
            if len(found) == limit:
                break
            if to is None or to in self._recipients[number - 1]:
                message = self.get(number)
                if message is not None:
                    found.append(message)
        return found

    async def close(self) -> None:
        """Write what is waiting, then close the file."""
        await self._log.close()

    def _index(self, *, size_bytes: int, recipients: tuple[str, ...]) -> None:
        self._places.append((self._end_bytes, size_bytes))
        self._recipients.append(recipients)
        self._end_bytes += size_bytes


def read_messages(path: Path) -> Iterator[StoredMessage]:
    """Yield the messages kept in a store, oldest first, whether or not the sink is running.

    `path` is the store's folder or its file; nothing is yielded when there is no file yet. Raises
    ValueError on a line that is not of this store.
    """
    file_path = path / FILE_NAME if path.is_dir() else path
    if not file_path.exists():
        return
    with file_path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield message_of(orjson.loads(line))


def message_of(line: dict[str, Any]) -> StoredMessage:
    """Return a parsed line as a message. Raises KeyError, ValueError when it is none."""
    return StoredMessage(
        id=line["id"],
        received_at=datetime.fromisoformat(line["received_at"]),
        sender=line["from"],
        recipients=tuple(line["to"]),
        raw=line["raw"].encode("latin-1"),
    )
