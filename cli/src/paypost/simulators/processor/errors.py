"""Stripe's errors: their envelope, types and codes, so that its SDK raises what it should.

Sources: Stripe's API reference, "Errors" and "Error codes".
"""

from collections.abc import Mapping
from typing import Any

DOC_URL = "https://stripe.com/docs/error-codes/"

INVALID_REQUEST = "invalid_request_error"
CARD = "card_error"
API = "api_error"
IDEMPOTENCY = "idempotency_error"


class ApiError(Exception):
    """A request that is answered with an error.

    Attributes:
        status: of HTTP.
        executed: whether the endpoint had begun to work; only then is the answer kept under the
            request's idempotency key.
    """

    def __init__(
        self,
        *,
        status: int,
        message: str,
        type: str = INVALID_REQUEST,  # noqa: A002 — Stripe's own name of it
        code: str | None = None,
        param: str | None = None,
        executed: bool = False,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{status} {code or type}: {message}")
        self.status = status
        self.executed = executed
        self.message = message
        self.type = type
        self.code = code
        self.param = param
        self.more = more or {}

    def envelope(self) -> dict[str, Any]:
        """Return the body of the answer."""
        error: dict[str, Any] = {}
        if self.code is not None:
            error |= {"code": self.code, "doc_url": DOC_URL + self.code.replace("_", "-")}
        error["message"] = self.message
        if self.param is not None:
            error["param"] = self.param
        return {"error": error | {"type": self.type} | dict(self.more)}


def invalid(message: str, *, param: str | None, code: str | None = None) -> ApiError:
    """Return the error of a parameter that cannot be read: nothing was begun."""
    return ApiError(status=400, message=message, code=code, param=param)


def missing_parameter(param: str) -> ApiError:
    """Return the error of a required parameter that is absent."""
    return invalid(f"Missing required param: {param}.", param=param, code="parameter_missing")


def missing_resource(kind: str, identifier: str, *, param: str, in_path: bool = False) -> ApiError:
    """Return the error of an id that names nothing: 404 for the one in the address, 400 else."""
    return ApiError(
        status=404 if in_path else 400,
        message=f"No such {kind}: '{identifier}'",
        code="resource_missing",
        param=param,
        executed=True,
    )


def unexpected_state(message: str, *, intent: Mapping[str, Any]) -> ApiError:
    """Return the error of an intent whose status does not allow what was asked."""
    return ApiError(
        status=400,
        message=message,
        code="payment_intent_unexpected_state",
        executed=True,
        more={"payment_intent": intent},
    )
