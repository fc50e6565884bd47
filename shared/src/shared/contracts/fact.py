"""The base of every fact: frozen, explicit type literal, a deterministic id."""

from datetime import datetime
from typing import Annotated, ClassVar
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from shared.ids import fact_id

AccountId = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\x21-\x7e]+$")]
"""The CIS account number as the utility prints it: visible ASCII, no spaces."""

Instant = AwareDatetime

NO_CONTROL_CHARACTERS = r"^[^\x00-\x1f\x7f]*$"
"""For free text: nothing that a database refuses, or that could begin a header or a log line."""


class Fact(BaseModel):
    """Something that has happened, stated once by the service that knows it.

    Unknown fields are ignored, so that a producer may add one without asking its consumers; a
    breaking change is a new stream (`.v2`), never a changed meaning.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    TYPE: ClassVar[str]
    """The CloudEvents type, an explicit literal: never derived from the class's name."""

    def key(self) -> str:
        """Return what this fact is about: the same key means the same fact, whoever restates it."""
        raise NotImplementedError

    def partition_key(self) -> str:
        """Return the account, so that all facts of an account stay in order on one stream."""
        raise NotImplementedError

    def happened_at(self) -> datetime:
        """Return when it happened, for `ce_time`."""
        raise NotImplementedError

    def id(self) -> UUID:
        """Return the fact's id: UUIDv5 of its type and key."""
        return fact_id(fact_type=self.TYPE, key=self.key())
