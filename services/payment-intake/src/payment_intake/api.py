"""HTTP in: the portal's read API; translation only."""

from collections.abc import Callable
from datetime import date, datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, FastAPI, Path, Query
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from payment_intake.domain import MovementKind, MovementStatus
from payment_intake.ports import OwnedMovement, PaymentView, Store
from payment_intake.usecases import primary_reference
from shared.contracts.fact import NO_CONTROL_CHARACTERS
from shared.runtime.problems import BearerKeys, Problem, install_problems


class Step(BaseModel):
    """One thing that has happened, and when."""

    step: str
    at: datetime
    detail: str | None = None


class MovementState(BaseModel):
    """How far one movement of a payment has come."""

    id: UUID
    kind: str
    amount_cents: int
    effective_date: date
    status: str
    reason: str | None
    reason_code: str | None
    cis_reference: str | None
    balance_after_cents: int | None
    waiting_for: str | None
    """What comes next; None when the chain has ended."""
    waiting_because: str | None
    """Why it has not come yet, where it is known."""
    steps: list[Step]


class PaymentState(BaseModel):
    """A payment, live."""

    id: UUID
    processor: str
    reference: str
    account_id: str | None
    status: str
    amount_cents: int | None
    fee_cents: int
    currency: str | None
    method: str | None
    bill_reference: str | None
    steps: list[Step]
    movements: list[MovementState]


class PaymentList(BaseModel):
    """A page of payments, newest first."""

    payments: list[PaymentState]
    next_before: UUID | None
    """Pass it as `before` for the next page; None on the last one."""


class RejectionState(BaseModel):
    """A verified event that could not be understood."""

    id: UUID
    source: str
    reason: str
    field: str | None
    received_at: datetime
    body: str


def build_api(*, store: Store, keys: BearerKeys, webhooks: Callable[[], dict[str, Any]]) -> FastAPI:
    """Return the portal's API; `webhooks` describes the doors beside it for the document."""
    app = FastAPI(
        title="payment-intake",
        version="1.0.0",
        description="Webhooks in, and the live state of payments out.",
        docs_url=None,
        redoc_url=None,
    )
    install_problems(app)
    problems: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem} for status in (401, 404, 422, 503)
    }
    router = APIRouter(tags=["payments"], dependencies=[Depends(keys)], responses=problems)

    @router.get("/payments/{payment_id}")
    async def get_payment(payment_id: UUID) -> PaymentState:
        """Return one payment by Paypost's id."""
        return _found(await store.payment(payment_id))

    @router.get("/payments")
    async def find_payment(
        processor: Annotated[
            str, Query(min_length=1, max_length=32, pattern=NO_CONTROL_CHARACTERS)
        ],
        reference: Annotated[
            str, Query(min_length=1, max_length=255, pattern=NO_CONTROL_CHARACTERS)
        ],
    ) -> PaymentState:
        """Return one payment by the processor's reference."""
        return _found(await store.payment_by_reference(processor=processor, reference=reference))

    @router.get("/accounts/{account_id}/payments")
    async def list_payments(
        account_id: Annotated[str, Path(max_length=64, pattern=NO_CONTROL_CHARACTERS)],
        before: UUID | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> PaymentList:
        """List an account's payments, newest first."""
        views = await store.payments_of_account(account_id=account_id, before=before, limit=limit)
        full = len(views) == limit
        return PaymentList(
            payments=[payment_state(view) for view in views],
            next_before=views[-1].payment.id if full else None,
        )

    @router.get("/rejections")
    async def list_rejections(
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> list[RejectionState]:
        """List verified events that could not be understood, newest first; cards are masked."""
        return [
            RejectionState(
                id=each.id,
                source=each.source,
                reason=each.reason,
                field=each.field,
                received_at=each.received_at,
                body=each.body.decode(errors="replace"),
            )
            for each in await store.rejections(limit=limit)
        ]

    app.include_router(router)
    generate = app.openapi

    def documented() -> dict[str, Any]:
        document = generate()
        document["paths"] = {**webhooks(), **document["paths"]}
        return document

    app.openapi = documented  # type: ignore[method-assign]
    return app


def _found(view: PaymentView | None) -> PaymentState:
    if view is None:
        raise HTTPException(404, "No such payment")
    return payment_state(view)


def payment_state(view: PaymentView) -> PaymentState:
    """Return a payment as the API shows it."""
    payment = view.payment
    moments = (
        ("submitted", payment.submitted_at),
        ("pending", payment.pending_at),
        ("captured", payment.captured_at),
        ("failed", payment.failed_at),
    )
    return PaymentState(
        id=payment.id,
        processor=payment.processor,
        reference=primary_reference(payment),
        account_id=payment.account_id,
        status=payment.status,
        amount_cents=payment.amount_cents,
        fee_cents=payment.fee_cents,
        currency=payment.currency,
        method=payment.method,
        bill_reference=payment.bill_reference,
        steps=sorted(
            (Step(step=name, at=at) for name, at in moments if at is not None),
            key=lambda step: step.at,
        ),
        movements=[_movement_state(owned) for owned in view.movements],
    )


def _movement_state(owned: OwnedMovement) -> MovementState:
    movement = owned.movement
    moments = (
        ("accepted", movement.accepted_at, None),
        ("delayed", owned.delayed_at, owned.wait_reason),
        ("posted", owned.posted_at, owned.cis_reference),
        ("told", owned.confirmed_at, owned.notification),
    )
    return MovementState(
        id=movement.id,
        kind=movement.kind,
        amount_cents=movement.amount_cents,
        effective_date=movement.effective_date,
        status=owned.status,
        reason=movement.reason,
        reason_code=movement.reason_code,
        cis_reference=owned.cis_reference,
        balance_after_cents=owned.balance_after_cents,
        waiting_for=_waiting_for(owned),
        waiting_because=owned.wait_reason,
        steps=[Step(step=name, at=at, detail=why) for name, at, why in moments if at is not None],
    )


def _waiting_for(owned: OwnedMovement) -> str | None:
    match owned.status:
        case MovementStatus.ANNOUNCED if owned.movement.kind is MovementKind.DECLINE:
            return "notification"
        case MovementStatus.ANNOUNCED:
            return "posting"
        case MovementStatus.SUSPENDED:
            return "operator"
        case MovementStatus.POSTED:
            return "notification"
        case _:
            return None
