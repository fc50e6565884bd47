"""Journals of a run in which everything held, to be damaged one by one."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.faults.journals import (
    Attempt,
    Charged,
    DueCharge,
    Effect,
    Journals,
    Letter,
    Payment,
    Sample,
    Times,
)

START = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
BEGAN = START.timestamp()


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def attempt(reference: str, event: str, seconds: float, **changed: Any) -> Attempt:
    return replace(
        Attempt(
            event_id=f"evt_{reference}_{event}",
            type=event,
            reference=reference,
            account="R1-001",
            sent_at=at(seconds),
            latency_seconds=0.01,
            status=200,
        ),
        **changed,
    )


def effect(sequence: int, key: str, cents: int, **changed: Any) -> Effect:
    return replace(
        Effect(
            sequence=sequence,
            key=key,
            kind="payment",
            account="R1-001",
            amount_cents=cents,
            payment_key=key,
            posted_at=at(sequence),
        ),
        **changed,
    )


def letter(number: int, cents: int, seconds: float, **changed: Any) -> Letter:
    return replace(
        Letter(
            message_id=f"<{number}@city.example>",
            address="one@customers.example",
            kind="posted",
            amount_cents=cents,
            received_at=at(seconds),
        ),
        **changed,
    )


def payment(reference: str, cents: int, **changed: Any) -> Payment:
    return replace(
        Payment(
            reference=reference,
            account="R1-001",
            amount_cents=cents,
            scenario="card",
            movements=(("payment", cents),),
        ),
        **changed,
    )


def sample(seconds: float, **changed: Any) -> Sample:
    return replace(
        Sample(
            at=BEGAN + seconds,
            process="cis-poster",
            ready=True,
            starts=1,
            cpu_seconds=seconds * 0.2,
            commits=int(seconds * 100),
        ),
        **changed,
    )


def sound() -> Journals:
    """A card payment before the fault, a refunded one after it, a decline, and a due charge."""
    return Journals(
        accounts=frozenset({"R1-001", "R1-S001"}),
        addresses={"R1-001": "one@customers.example", "R1-S001": "auto@customers.example"},
        payments=(
            payment("pi_a", 1_000),
            payment(
                "pi_b",
                2_000,
                scenario="refund",
                movements=(("payment", 2_000), ("reversal", 2_000)),
            ),
            payment("pi_c", 3_000, scenario="decline", movements=(), declined=True),
        ),
        charges=(DueCharge(account="R1-S001", amount_cents=4_000),),
        attempts=(
            attempt("pi_a", "charge.succeeded", 1),
            attempt("pi_a", "payment_intent.succeeded", 1.1),
            attempt("pi_b", "charge.succeeded", 20),
            attempt("pi_b", "charge.refunded", 20.5),
            attempt("pi_c", "payment_intent.payment_failed", 21),
        ),
        effects=(
            effect(1, "key-a", 1_000),
            effect(2, "key-b", 2_000),
            effect(3, "key-b2", 2_000, kind="reversal", payment_key="key-b"),
            effect(4, "key-s", 4_000, account="R1-S001"),
        ),
        letters=(
            letter(1, 1_000, 2),
            letter(2, 2_000, 21),
            letter(3, 2_000, 22, kind="reversed"),
            letter(4, 3_000, 22, kind="declined"),
            letter(5, 4_000, 23, address="auto@customers.example"),
            letter(6, 0, 23, kind="other"),
        ),
        charged=(Charged(intent="pi_s", account="R1-S001", amount_cents=4_000),),
        times=Times(began=BEGAN, injected=BEGAN + 5, healed=BEGAN + 10, ended=BEGAN + 30),
        samples=tuple(sample(seconds / 2) for seconds in range(60)),
        counters={
            "cis-poster": {"posted": 4.0},
            "notifier": {"sent": 6.0},
            "payment-intake": {"events": 5.0},
        },
        dead={},
        stories={"pi_a": ()},
    )


def with_(**changed: Any) -> Journals:
    """The sound ones, with some of them exchanged."""
    return replace(sound(), **changed)
