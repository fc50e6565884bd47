"""What is decided: take, follow, say again; and the charges that autopay asks for."""

from payment_intake.usecases.charging import (
    ChargeDue,
    ChargeMetrics,
    Charging,
    SettleCharges,
    Settlement,
    TakeCharges,
    TurnSwitch,
    WithdrawExpired,
)
from payment_intake.usecases.facts import movement_fact, pending_fact, primary_reference
from payment_intake.usecases.following import (
    AnnounceAgain,
    CatchingUp,
    FollowMovements,
    StateDelays,
)
from payment_intake.usecases.taking import ConcurrentTakeError, IntakeMetrics, TakeEvents

__all__ = [
    "AnnounceAgain",
    "CatchingUp",
    "ChargeDue",
    "ChargeMetrics",
    "Charging",
    "ConcurrentTakeError",
    "FollowMovements",
    "IntakeMetrics",
    "SettleCharges",
    "Settlement",
    "StateDelays",
    "TakeCharges",
    "TakeEvents",
    "TurnSwitch",
    "WithdrawExpired",
    "movement_fact",
    "pending_fact",
    "primary_reference",
]
