"""HTTP in: what the portal and operators may read and do; translation only."""

from fastapi import APIRouter, FastAPI

from autopay_scheduler.api.accounts import build_reading_router
from autopay_scheduler.api.operating import build_operating_router
from autopay_scheduler.usecases.operating import Operate
from autopay_scheduler.usecases.viewing import ViewAutopay
from shared.runtime.problems import BearerKeys, install_problems


def build_api(
    *,
    view: ViewAutopay,
    operate: Operate,
    reenrolment: APIRouter,
    reader_keys: BearerKeys,
    operator_keys: BearerKeys,
) -> FastAPI:
    """Return the API: the portal's keys may read, the operators' may do everything."""
    app = FastAPI(
        title="autopay-scheduler",
        version="1.0.0",
        description="Who is charged how much on which day, why not, and the move to it.",
        docs_url=None,
        redoc_url=None,
    )
    install_problems(app)
    app.include_router(build_reading_router(view=view, keys=reader_keys))
    app.include_router(build_operating_router(operate=operate, view=view, keys=operator_keys))
    app.include_router(reenrolment)
    return app
