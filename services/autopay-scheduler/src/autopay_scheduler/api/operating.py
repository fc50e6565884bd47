"""What operators may do: pause and resume all charges, stop an enrolment."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from autopay_scheduler.api.accounts import EnrolmentState, enrolment_state
from autopay_scheduler.usecases.operating import Operate, UnknownEnrolmentError
from autopay_scheduler.usecases.viewing import ViewAutopay
from shared.contracts.fact import NO_CONTROL_CHARACTERS
from shared.runtime.problems import BearerKeys, Problem


class Act(BaseModel):
    """Who does it, and why; kept in the audit trail."""

    operator: Annotated[str, Field(min_length=1, max_length=64, pattern=NO_CONTROL_CHARACTERS)]
    note: Annotated[str, Field(min_length=1, max_length=500, pattern=NO_CONTROL_CHARACTERS)]


class SwitchState(BaseModel):
    """Whether charges are asked for."""

    is_paused: bool
    changed_at: datetime | None = None


def build_operating_router(*, operate: Operate, view: ViewAutopay, keys: BearerKeys) -> APIRouter:
    """Return the operators' routes."""
    router = APIRouter(
        tags=["operators"],
        dependencies=[Depends(keys)],
        responses={401: {"model": Problem}, 422: {"model": Problem}},
    )

    @router.get("/autopay/switch")
    async def get_switch() -> SwitchState:
        """Say whether charges are asked for."""
        switch = await view.switch()
        return SwitchState(is_paused=switch.is_paused, changed_at=switch.changed_at)

    @router.post("/autopay/pause")
    async def pause(body: Act) -> SwitchState:
        """Ask for no charge from now on; what intake was asked for is paused there."""
        at = await operate.pause(is_paused=True, operator=body.operator, note=body.note)
        return SwitchState(is_paused=True, changed_at=at)

    @router.post("/autopay/resume")
    async def resume(body: Act) -> SwitchState:
        """Ask for charges again; what is past its grace by then is missed, and told."""
        at = await operate.pause(is_paused=False, operator=body.operator, note=body.note)
        return SwitchState(is_paused=False, changed_at=at)

    @router.post("/enrolments/{enrolment_id}/stop", responses={404: {"model": Problem}})
    async def stop(enrolment_id: UUID, body: Act) -> EnrolmentState:
        """Stop an enrolment for good, as after a call by the customer; the customer is told."""
        try:
            record = await operate.stop(
                enrolment_id=enrolment_id, operator=body.operator, note=body.note
            )
        except UnknownEnrolmentError:
            raise HTTPException(404, "No such enrolment") from None
        return enrolment_state(record)

    return router
