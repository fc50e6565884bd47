"""HTTP in: the portal's read API and the operator's switch of charges; translation only."""

from collections.abc import Callable
from datetime import date, datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, FastAPI, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from payment_intake.domain import MovementKind, MovementStatus
from payment_intake.ports import ChargeView, OwnedMovement, PaymentView, Store, Switch
from payment_intake.usecases import TurnSwitch, primary_reference
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


class CallState(BaseModel):
    """One call of the processor about a charge."""

    model_config = ConfigDict(from_attributes=True)

    attempt: int
    operation: str
    outcome: str
    reason: str | None
    reference: str | None
    request_id: str | None
    at: datetime
    duration_ms: int


class ChargeState(BaseModel):
    """A charge that autopay asked for, live; never the tokens it is made with."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    account_id: str
    enrolment_id: UUID
    due_date: date
    bill_reference: str
    amount_cents: int
    currency: str
    method_kind: str
    processor: str | None
    reference: str | None
    attempt: int
    status: str
    reason: str | None
    category: str | None
    requested_at: datetime | None
    valid_until: datetime | None
    answered_at: datetime | None
    cancelled_at: datetime | None
    ended_at: datetime | None
    payment_id: UUID | None = None
    calls: list[CallState] = Field(default_factory=list)


class SwitchState(BaseModel):
    """Whether charges are made, and who said so."""

    is_paused: bool
    operator: str | None
    note: str | None
    changed_at: datetime | None
    can_charge: bool
    """False without a key for the processor: charges wait and expire."""


class Turn(BaseModel):
    """Who turns the switch, and why; kept."""

    operator: Annotated[str, Field(min_length=1, max_length=64, pattern=NO_CONTROL_CHARACTERS)]
    note: Annotated[str, Field(min_length=1, max_length=500, pattern=NO_CONTROL_CHARACTERS)]


def build_api(
    *,
    store: Store,
    keys: BearerKeys,
    switch: TurnSwitch,
    operator_keys: BearerKeys,
    can_charge: bool,
    webhooks: Callable[[], dict[str, Any]],
) -> FastAPI:
    """Return the API; `webhooks` describes the doors beside it for the document."""
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

    @router.get("/charges/{charge_id}")
    async def get_charge(charge_id: UUID) -> ChargeState:
        """Return a charge of autopay by its id, with every call that was made for it."""
        view = await store.charge(charge_id)
        if view is None:
            raise HTTPException(404, "No such charge")
        return charge_state(view)

    # First the switch: its path would be read as a charge's id.
    app.include_router(_switch_routes(switch, operator_keys, can_charge=can_charge))
    app.include_router(router)
    generate = app.openapi

    def documented() -> dict[str, Any]:
        document = generate()
        document["paths"] = {**webhooks(), **document["paths"]}
        return document

    app.openapi = documented  # type: ignore[method-assign]
    return app


def _switch_routes(switch: TurnSwitch, operator_keys: BearerKeys, *, can_charge: bool) -> APIRouter:
    router = APIRouter(
        prefix="/charges",
        tags=["charges"],
        dependencies=[Depends(operator_keys)],
        responses={status: {"model": Problem} for status in (401, 422, 503)},
    )

    def state(found: Switch) -> SwitchState:
        return SwitchState(
            is_paused=found.is_paused,
            operator=found.operator,
            note=found.note,
            changed_at=found.changed_at,
            can_charge=can_charge,
        )

    @router.get("/switch")
    async def get_switch() -> SwitchState:
        """Return whether charges are made."""
        return state(await switch.read())

    @router.post("/pause")
    async def pause(body: Turn) -> SwitchState:
        """Charge nothing more from now on; what was asked for waits, and expires in its time.

        What is being given back goes back, and what may have been charged is asked about.
        """
        turned = await switch.turn(is_paused=True, operator=body.operator, note=body.note)
        return state(turned)

    @router.post("/resume")
    async def resume(body: Turn) -> SwitchState:
        """Charge again what still may be."""
        turned = await switch.turn(is_paused=False, operator=body.operator, note=body.note)
        return state(turned)

    return router


def charge_state(view: ChargeView) -> ChargeState:
    """Return a charge as the API shows it."""
    return ChargeState.model_validate(view.charge).model_copy(
        update={
            "payment_id": view.payment_id,
            "calls": [CallState.model_validate(call) for call in view.calls],
        }
    )


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
