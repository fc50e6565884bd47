"""HTTP in: the operator's API of cis-poster; translation only."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from cis_poster.usecases import ManageSuspense, SuspenseNotFoundError
from shared.contracts.fact import AccountId
from shared.runtime.problems import BearerKeys, Problem, install_problems

Operator = Annotated[str, Field(min_length=1, max_length=64)]
Note = Annotated[str, Field(min_length=1, max_length=500)]


class SuspendedPosting(BaseModel):
    """A posting that waits for an operator."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    payment_id: UUID
    kind: str
    account_id: str | None
    amount_cents: int
    currency: str
    status: str
    reason: str | None
    processor: str
    reference: str
    accepted_at: datetime
    suspended_at: datetime


class Release(BaseModel):
    """Send a suspended posting again."""

    to_account: AccountId | None = None
    """Another account than the one refused; required where the payment named none."""
    operator: Operator
    note: Note


class Return(BaseModel):
    """Close a suspended posting: the payer gets the money back at the processor."""

    operator: Operator
    note: Note


def build_api(*, suspense: ManageSuspense, keys: BearerKeys) -> FastAPI:
    """Return the operator's API."""
    app = FastAPI(
        title="cis-poster: the operator's API",
        version="1.0.0",
        description="What an operator may do with postings that the CIS would not take.",
        docs_url=None,
        redoc_url=None,
    )
    install_problems(app)
    router = APIRouter(
        prefix="/suspense",
        tags=["suspense"],
        dependencies=[Depends(keys)],
        responses={401: {"model": Problem}, 422: {"model": Problem}},
    )

    @router.get("")
    async def list_suspense(
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> list[SuspendedPosting]:
        """List what waits in suspense, oldest first."""
        found = await suspense.list(limit=limit)
        return [SuspendedPosting.model_validate(each) for each in found]

    @router.post("/{posting_id}/release", status_code=202, responses={404: {"model": Problem}})
    async def release(posting_id: UUID, body: Release) -> dict[str, str]:
        """Post it again, to another account where one is given."""
        await suspense.release(
            posting_id=posting_id,
            to_account=body.to_account,
            operator=body.operator,
            note=body.note,
        )
        return {"status": "due"}

    @router.post("/{posting_id}/return", status_code=202, responses={404: {"model": Problem}})
    async def give_back(posting_id: UUID, body: Return) -> dict[str, str]:
        """Close it for good."""
        await suspense.give_back(posting_id=posting_id, operator=body.operator, note=body.note)
        return {"status": "returned"}

    app.include_router(router)

    @app.exception_handler(SuspenseNotFoundError)
    async def not_found(_: Request, error: SuspenseNotFoundError) -> JSONResponse:
        return Problem(
            status=404, title="Not in suspense, or no account to release to", detail=str(error)
        ).response()

    return app
