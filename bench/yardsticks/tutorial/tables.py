"""The tutorial's tables and its session, as SQLAlchemy's and FastAPI's documentations have them."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import date, datetime
from typing import Any

from sqlalchemy import BigInteger, DateTime, Identity
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from bench.yardsticks.peer_steps import Paid, PeerSettings

PAYMENTS_TOPIC = "payments"
POSTINGS_TOPIC = "postings"

settings = PeerSettings.from_environment()
engine = create_async_engine(
    settings.database_dsn.replace("postgresql://", "postgresql+asyncpg://")
)
Session = async_sessionmaker(engine, expire_on_commit=False)


async def get_session() -> AsyncIterator[AsyncSession]:
    """One session per request."""
    async with Session() as session:
        yield session


class Base(DeclarativeBase):
    """All tables."""


class Customer(Base):
    """Whom a payment's mail goes to."""

    __tablename__ = "customers"

    account: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    email: Mapped[str | None]


class Event(Base):
    """Every webhook that was ever taken."""

    __tablename__ = "events"

    event_id: Mapped[str] = mapped_column(primary_key=True)
    event_type: Mapped[str]


class Payment(Base):
    """Every payment and how far it has come."""

    __tablename__ = "payments"

    payment_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    reference: Mapped[str]
    account: Mapped[str]
    amount_cents: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str]
    effective_date: Mapped[date]
    accepted_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    status: Mapped[str] = mapped_column(default="accepted")
    cis_reference: Mapped[str | None]

    @classmethod
    def of(cls, paid: Paid) -> Payment:
        """A new row."""
        return cls(
            **{
                **asdict(paid),
                "payment_id": uuid.UUID(paid.payment_id),
                "effective_date": date.fromisoformat(paid.effective_date),
                "accepted_at": datetime.fromisoformat(paid.accepted_at),
            }
        )


class Outbox(Base):
    """What is to be published."""

    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    topic: Mapped[str]
    key: Mapped[str]
    payload: Mapped[dict[str, Any]] = mapped_column(JSONB)
    published_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
