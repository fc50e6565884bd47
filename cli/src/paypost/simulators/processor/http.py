"""The HTTP of the processor counterpart: its control, its switches, and Stripe's API under /v1."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from paypost.simulators.asgi import (
    ASGIScope,
    HttpProblemError,
    Receive,
    Send,
    answer_lifespan,
    read_json,
    read_query,
    send_json,
    send_problem,
)
from paypost.simulators.faults import MalformedSwitchError
from paypost.simulators.processor.counterpart import Counterpart
from paypost.simulators.processor.delivery import Delivery, Disorder
from paypost.simulators.processor.errors import ApiError
from paypost.simulators.processor.processor import (
    Order,
    UnknownScenarioError,
    expand_accounts,
)

BODY_BYTES_MAX = 1024 * 1024
COUNT_MAX = 50_000
LIMIT_MAX = 10_000


class ProcessorApplication:
    """The ASGI application of the processor counterpart."""

    def __init__(self, *, counterpart: Counterpart) -> None:
        self._counterpart = counterpart
        self._processor = counterpart.processor
        self._switches = counterpart.api.switches

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await answer_lifespan(receive, send)
            return
        if scope["path"].startswith("/v1/"):
            await self._counterpart.api(scope, receive, send)
            return
        try:
            await self._route(scope, receive, send)
        except HttpProblemError as problem:
            await send_problem(send, problem)
        except (ApiError, MalformedSwitchError, UnknownScenarioError, ValueError) as error:
            await send_problem(
                send,
                HttpProblemError(status=400, title="The request is malformed", detail=str(error)),
            )

    async def _route(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        match (scope["method"], scope["path"]):
            case ("POST", "/trigger"):
                await self._trigger(await read_json(receive, limit_bytes=BODY_BYTES_MAX), send)
            case ("GET", "/deliveries"):
                await self._send_deliveries(read_query(scope), send)
            case ("POST", "/settle"):
                await self._processor.settle()
                await send_json(send, self._state())
            case ("POST", "/clock/advance"):
                body = await read_json(receive, limit_bytes=BODY_BYTES_MAX)
                deliveries = await self._counterpart.advance(parse_advance(body))
                await send_json(
                    send, self._state() | {"deliveries": [describe(one) for one in deliveries]}
                )
            case ("POST", "/mandates/withdraw" | "/payment_methods/renew"):
                body = await read_json(receive, limit_bytes=BODY_BYTES_MAX)
                await self._happen(scope["path"], body, send)
            case ("GET", "/_charges"):
                await send_json(
                    send, await self._counterpart.api.describe_charges(read_query(scope))
                )
            case ("GET", "/_switches"):
                await send_json(send, self._switches.describe())
            case ("PUT", "/_switches"):
                self._switches.change(await read_json(receive, limit_bytes=BODY_BYTES_MAX))
                await send_json(send, self._switches.describe())
            case ("POST", "/_switches/reset"):
                self._switches.reset()
                await send_json(send, self._switches.describe())
            case ("GET", "/livez" | "/readyz"):
                await send_json(send, {"status": "ready"})
            case _:
                raise HttpProblemError(status=404, title="There is nothing at this address")

    async def _trigger(self, body: object, send: Send) -> None:
        order, disorder = parse_trigger(body)
        trains = list(self._processor.prepare(order))
        self._processor.start(trains, disorder=disorder)
        await send_json(
            send,
            {
                "scenario": order.scenario,
                "references": [train.reference for train in trains],
                "payments": [
                    {
                        "reference": train.reference,
                        "account": train.purchase.account,
                        "amount_cents": train.purchase.amount_cents,
                        "fee_cents": train.purchase.fee_cents,
                    }
                    for train in trains
                ],
            },
            status=202,
        )

    async def _happen(self, path: str, body: object, send: Send) -> None:
        """Let something happen at a customer's bank that nobody has asked the API for."""
        if not isinstance(body, Mapping):
            raise ValueError("the body must be an object")
        method = _text(body, "payment_method")
        ledger = self._counterpart.ledger
        if path == "/mandates/withdraw":
            change = ledger.withdraw_mandate(_text(body, "mandate"), method=method)
        else:
            month = _whole(body, "exp_month", default=12, most=12)
            if month == 0:
                raise ValueError("exp_month is a month from 1 on")
            change = ledger.renew_card(
                method,
                last4=_text(body, "last4"),
                month=month,
                year=_whole(body, "exp_year", default=2034, most=9_999),
            )
        announcements = await self._counterpart.api.record_at_bank([change])
        await self._processor.announce_all(self._counterpart.trains(announcements))
        await send_json(send, {"events": [one.id for one in announcements]})

    async def _send_deliveries(self, query: dict[str, str], send: Send) -> None:
        limit = query.get("limit", "1000")
        if not limit.isdecimal() or int(limit) > LIMIT_MAX:
            raise ValueError(f"limit is a whole number of at most {LIMIT_MAX}")
        reference = query.get("reference")
        wanted = [
            describe(delivery)
            for delivery in self._processor.deliveries
            if reference is None or delivery.reference == reference
        ]
        newest = wanted[-int(limit) :] if int(limit) else []
        await send_json(send, self._state() | {"deliveries": newest})

    def _state(self) -> dict[str, Any]:
        processor = self._processor
        return {
            "delivered": len(processor.deliveries),
            "not_taken": sum(not delivery.taken for delivery in processor.deliveries),
            "under_way": processor.under_way,
            "scheduled": processor.scheduled + self._counterpart.ledger.scheduled,
        }


def parse_trigger(body: object) -> tuple[Order, Disorder]:
    """Read what is to be triggered. Raises ValueError naming what is wrong."""
    if not isinstance(body, Mapping):
        raise ValueError("the body must be an object")
    count = _whole(body, "count", default=1, most=COUNT_MAX)
    amount_cents = body.get("amount_cents")
    order = Order(
        scenario=_text(body, "scenario"),
        accounts=_accounts(body),
        amount_cents=None if amount_cents is None else _whole(body, "amount_cents", default=0),
        fee_cents=_whole(body, "fee_cents", default=0),
        count=count,
        bill_reference=None
        if body.get("bill_reference") is None
        else _text(body, "bill_reference"),
    )
    duplicate = body.get("duplicate", False)
    if not isinstance(duplicate, bool | int):
        raise ValueError("duplicate must be true, false or the number of extra copies")
    disorder = Disorder(duplicates=int(duplicate), reorder=body.get("reorder", False) is True)
    return order, disorder


def parse_advance(body: object) -> timedelta:
    """Read by how much the clock is to be moved: days, hours, seconds. Raises ValueError."""
    if not isinstance(body, Mapping) or not set(body) <= {"days", "hours", "seconds"} or not body:
        raise ValueError("give days, hours or seconds")
    return timedelta(**{unit: _whole(body, unit, default=0, most=10**7) for unit in body})


def describe(delivery: Delivery) -> dict[str, Any]:
    """Return a delivery as JSON."""
    return {
        "event_id": delivery.event_id,
        "type": delivery.type,
        "reference": delivery.reference,
        "account": delivery.account,
        "attempts": delivery.attempts,
        "status": delivery.status,
        "taken": delivery.taken,
        "sent_at": delivery.sent_at,
        "latency_ms": round(delivery.latency_seconds * 1000, 3),
    }


def _accounts(body: Mapping[str, Any]) -> list[str]:
    accounts = body.get("accounts", body.get("account"))
    if isinstance(accounts, str) and accounts:
        pattern_count = _whole(body, "accounts_count", default=1, most=1_000_000)
        return expand_accounts(accounts, count=pattern_count)
    if isinstance(accounts, list) and accounts and all(isinstance(a, str) for a in accounts):
        return accounts
    raise ValueError("account must be a text, accounts a list of texts or a pattern such as A-####")


def _text(body: Mapping[str, Any], name: str) -> str:
    text = body.get(name)
    if not isinstance(text, str) or not 0 < len(text) <= 200:
        raise ValueError(f"{name} must be a text")
    return text


def _whole(body: Mapping[str, Any], name: str, *, default: int, most: int = 10**9) -> int:
    number = body.get(name, default)
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= most:
        raise ValueError(f"{name} must be a whole number of 0 to {most}")
    return number
