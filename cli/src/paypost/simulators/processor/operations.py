"""Stripe's endpoints, as far as they are served: parameters in, records changed, objects out.

Every parameter of Stripe's own reference is known here: it is used, or ignored where it moves no
money (IGNORED), or refused where leaving it out would move money otherwise than asked (REFUSED).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from paypost.simulators.processor.errors import CARD, ApiError, invalid, missing_parameter
from paypost.simulators.processor.forms import Parameters, Value
from paypost.simulators.processor.ledger import (
    CANCELLATION_REASONS,
    METHOD_TYPES,
    REFUND_REASONS,
    Confirmation,
    Ledger,
)
from paypost.simulators.processor.objects import (
    API_VERSION_OF_LATEST_CHARGE,
    Json,
    Renderer,
    failure_members,
    payment_method,
)
from paypost.simulators.processor.records import Change, Charge, Customer, Intent, Refund
from paypost.simulators.processor.switches import (
    CANCEL,
    CONFIRM,
    CREATE,
    MODIFY,
    READ,
    REFUND,
    SETUP,
)
from paypost.simulators.processor.tokens import BANK_METHOD, CARD_METHOD

AMOUNT_MAX = 99_999_999
SMALLEST_AMOUNTS = {"usd": 50, "cad": 50, "eur": 50, "gbp": 30}
PAGE_MAX = 100

VERSION_OF_AUTOMATIC_METHODS = "2023-08-16"
VERSION_WITHOUT_METHOD_TYPES = "2026-09-30"

OTHER_METHOD_TYPES = frozenset({"acss_debit", "amazon_pay", "cashapp", "klarna", "link", "paypal"})
"""Types that an intent may allow; nobody pays by them here."""

IGNORED = frozenset(
    {
        "amount_details",
        "excluded_payment_method_types",
        "hooks",
        "mandate_data",
        "payment_details",
        "payment_method_configuration",
        "payment_method_options",
        "radar_options",
        "return_url",
        "shipping",
        "use_stripe_sdk",
    }
)
REFUSED = frozenset(
    {
        "amount_to_confirm",
        "application_fee_amount",
        "confirmation_token",
        "customer_account",
        "instructions_email",
        "on_behalf_of",
        "origin",
        "payment_method_data",
        "refund_application_fee",
        "reverse_transfer",
        "transfer_data",
        "transfer_group",
    }
)

_SHARED = frozenset(
    {
        "allowed_payment_method_types",
        "amount_details",
        "capture_method",
        "excluded_payment_method_types",
        "expand",
        "hooks",
        "payment_details",
        "payment_method",
        "payment_method_data",
        "payment_method_options",
        "payment_method_types",
        "receipt_email",
        "setup_future_usage",
        "shipping",
    }
)
_CONFIRMING = frozenset(
    {
        "confirmation_token",
        "error_on_requires_action",
        "mandate",
        "mandate_data",
        "off_session",
        "radar_options",
        "return_url",
        "use_stripe_sdk",
    }
)
_MONEY = frozenset(
    {
        "amount",
        "application_fee_amount",
        "currency",
        "customer",
        "customer_account",
        "description",
        "metadata",
        "payment_method_configuration",
        "statement_descriptor",
        "statement_descriptor_suffix",
        "transfer_data",
        "transfer_group",
    }
)
CREATE_PARAMETERS = (
    _SHARED
    | _CONFIRMING
    | _MONEY
    | {"automatic_payment_methods", "confirm", "confirmation_method", "on_behalf_of"}
)
CONFIRM_PARAMETERS = _SHARED | _CONFIRMING | {"amount_to_confirm"}
MODIFY_PARAMETERS = _SHARED | _MONEY
CANCEL_PARAMETERS = frozenset({"cancellation_reason", "expand"})
LIST_PARAMETERS = frozenset(
    {
        "created",
        "customer",
        "customer_account",
        "ending_before",
        "expand",
        "limit",
        "starting_after",
    }
)
REFUND_PARAMETERS = frozenset(
    {
        "amount",
        "charge",
        "currency",
        "customer",
        "expand",
        "instructions_email",
        "metadata",
        "origin",
        "payment_intent",
        "reason",
        "refund_application_fee",
        "reverse_transfer",
    }
)
REFUND_LIST_PARAMETERS = frozenset({"charge", "expand", "limit", "payment_intent"})
CUSTOMER_PARAMETERS = frozenset({"description", "email", "expand", "metadata", "name"})
METHOD_PARAMETERS = frozenset(
    {"billing_details", "card", "expand", "metadata", "type", "us_bank_account"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiRequest:
    """One request, read."""

    method: str
    path: str
    form: Mapping[str, Value]
    renderer: Renderer
    key: str | None = None

    @property
    def steps(self) -> list[str]:
        """Return the parts of the address behind `/v1/`."""
        return self.path.removeprefix("/v1/").split("/")

    def parameters(self, allowed: frozenset[str]) -> Parameters:
        """Return the parameters, if they are among these. Raises ApiError."""
        parameters = Parameters(self.form, allowed=allowed)
        for name in sorted(REFUSED & set(self.form)):
            raise invalid(f"{name} is not supported by this counterpart.", param=name)
        return parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiOutcome:
    """What came of a request."""

    body: Json
    status: int = 200
    change: Change = field(default_factory=Change)


Endpoint = Callable[["Operations", ApiRequest], ApiOutcome]


class Operations:
    """The endpoints on one ledger."""

    def __init__(self, *, ledger: Ledger) -> None:
        self._ledger = ledger

    def endpoint(self, request: ApiRequest) -> tuple[str, Endpoint]:
        """Return which endpoint is addressed, and as which operation. Raises ApiError 404."""
        match (request.method, request.steps):
            case (_, steps) if not all(steps):
                pass
            case (method, [collection]) if (method, collection) in _COLLECTIONS:
                return _COLLECTIONS[method, collection]
            case (method, [collection, _]) if (method, collection) in _OBJECTS:
                return _OBJECTS[method, collection]
            case ("POST", [collection, _, verb]) if (collection, verb) in _VERBS:
                return _VERBS[collection, verb]
        raise ApiError(
            status=404,
            message=f"Unrecognized request URL ({request.method}: {request.path}). Please see"
            " https://stripe.com/docs or we can help at https://support.stripe.com/.",
        )

    def perform(self, endpoint: Endpoint, request: ApiRequest) -> ApiOutcome:
        """Do it; a decline is an outcome. Raises ApiError."""
        places = Parameters(request.form, allowed=request.form).texts("expand")
        for place in places:
            _check_expandable(place, request)
        outcome = endpoint(self, request)
        if outcome.status == 200:
            for place in places:
                self._expand(outcome.body, place.split("."), request.renderer)
        return outcome

    def subjects(self, request: ApiRequest) -> set[str]:
        """Return the names by which a switch may know this request."""
        names = {request.form.get(name) for name in ("customer", "payment_method")}
        identifier = request.form.get("payment_intent")
        if request.steps[0] == "payment_intents" and len(request.steps) > 1:
            identifier = request.steps[1]
        held = self._ledger.intents.get(identifier) if isinstance(identifier, str) else None
        metadata = request.form.get("metadata")
        for values in (metadata, held.metadata if held else None):
            if isinstance(values, Mapping):
                names |= {value for value in values.values() if isinstance(value, str)}
        if held is not None:
            names |= {held.id, held.customer}
        return {name for name in names if isinstance(name, str)}

    # PaymentIntents

    def create_intent(self, request: ApiRequest) -> ApiOutcome:
        """POST /v1/payment_intents."""
        given = request.parameters(CREATE_PARAMETERS)
        confirming = given.boolean("confirm") or False
        if not confirming:
            for name in sorted(_CONFIRMING - {"radar_options", "use_stripe_sdk"}):
                if name in given:
                    raise invalid(f"{name} can only be used with confirm=true.", param=name)
        currency = _currency(given)
        method_types, automatic = _method_types(given, request.renderer.api_version)
        draft = Intent(
            id="",
            created=0,
            amount_cents=_amount(given, currency=currency),
            currency=currency,
            status="",
            method_types=method_types,
            automatic=automatic,
            customer=given.text("customer"),
            method=given.text("payment_method"),
            metadata=given.metadata(held={}),
            **_texts(given),
        )
        confirm = _confirmation(given, request) if confirming else None
        intent, change = self._ledger.create(draft, confirm=confirm)
        return self._answer(intent, change, request)

    def confirm_intent(self, request: ApiRequest) -> ApiOutcome:
        """POST /v1/payment_intents/{id}/confirm."""
        given = request.parameters(CONFIRM_PARAMETERS)
        types, _ = _method_types(given, request.renderer.api_version)
        changes = _texts(given)
        if "payment_method_types" in given or "allowed_payment_method_types" in given:
            changes["method_types"] = types
        confirm = replace(_confirmation(given, request), changes=changes)
        intent, change = self._ledger.confirm(request.steps[1], confirm=confirm)
        return self._answer(intent, change, request)

    def modify_intent(self, request: ApiRequest) -> ApiOutcome:
        """POST /v1/payment_intents/{id}."""
        given = request.parameters(MODIFY_PARAMETERS)
        _refuse_manual_capture(given)
        held = self._ledger.intent(request.steps[1])
        changes: dict[str, Any] = {
            name: value for name, value in _texts(given).items() if name in given
        }
        if "currency" in given:
            changes["currency"] = _currency(given)
        if "amount" in given or "currency" in given:
            currency = changes.get("currency", held.currency)
            amount_cents = given.integer("amount")
            changes["amount_cents"] = _check_amount(
                held.amount_cents if amount_cents is None else amount_cents, currency=currency
            )
        if "customer" in given:
            changes["customer"] = given.text("customer")
        if "payment_method" in given:
            changes["method"] = given.text("payment_method")
        if "metadata" in given:
            changes["metadata"] = given.metadata(held=held.metadata)
        if "payment_method_types" in given or "allowed_payment_method_types" in given:
            changes["method_types"] = _method_types(given, request.renderer.api_version)[0]
        intent, change = self._ledger.modify(held.id, changes=changes)
        return ApiOutcome(body=self._ledger.render(request.renderer, intent), change=change)

    def cancel_intent(self, request: ApiRequest) -> ApiOutcome:
        """POST /v1/payment_intents/{id}/cancel."""
        given = request.parameters(CANCEL_PARAMETERS)
        reason = _one_of(given, "cancellation_reason", CANCELLATION_REASONS)
        intent, change = self._ledger.cancel(request.steps[1], reason=reason)
        return ApiOutcome(body=self._ledger.render(request.renderer, intent), change=change)

    def read_intent(self, request: ApiRequest) -> ApiOutcome:
        """GET /v1/payment_intents/{id}."""
        request.parameters(frozenset({"client_secret", "expand"}))
        intent = self._ledger.intent(request.steps[1])
        return ApiOutcome(body=self._ledger.render(request.renderer, intent))

    def list_intents(self, request: ApiRequest) -> ApiOutcome:
        """GET /v1/payment_intents."""
        given = request.parameters(LIST_PARAMETERS)
        page = self._ledger.page(
            customer=given.text("customer"),
            created=given.range("created"),
            limit=_limit(given),
            starting_after=given.text("starting_after"),
            ending_before=given.text("ending_before"),
        )
        rendered = [self._ledger.render(request.renderer, intent) for intent in page.intents]
        return ApiOutcome(body=_list(request, rendered, has_more=page.has_more))

    def _answer(self, intent: Intent, change: Change, request: ApiRequest) -> ApiOutcome:
        body = self._ledger.render(request.renderer, intent)
        if intent.error is None:
            return ApiOutcome(body=body, change=change)
        failure = intent.error.failure
        error = failure_members(failure) | {
            "payment_intent": body,
            "payment_method": payment_method(intent.error.method),
        }
        if intent.error.charge is not None:
            error["charge"] = intent.error.charge
        status = 402 if failure.type == CARD else 400
        return ApiOutcome(body={"error": error}, status=status, change=change)

    # Charges and refunds

    def read_charge(self, request: ApiRequest) -> ApiOutcome:
        """GET /v1/charges/{id}."""
        request.parameters(frozenset({"expand"}))
        return ApiOutcome(body=self._charge(self._ledger.charge(request.steps[1]), request))

    def create_refund(self, request: ApiRequest) -> ApiOutcome:
        """POST /v1/refunds."""
        given = request.parameters(REFUND_PARAMETERS)
        charge, intent = given.text("charge"), given.text("payment_intent")
        if charge is None and intent is None:
            raise missing_parameter("payment_intent")
        amount_cents = given.integer("amount")
        if amount_cents is not None and amount_cents < 1:
            raise _too_small("amount")
        draft = Refund(
            id="",
            charge=charge or "",
            intent=intent or "",
            created=0,
            amount_cents=0,
            currency="",
            status="",
            reason=_one_of(given, "reason", REFUND_REASONS),
            metadata=given.metadata(held={}),
            key=request.key,
        )
        refund, change = self._ledger.refund_charge(draft, amount_cents=amount_cents)
        return ApiOutcome(body=request.renderer.refund(refund), change=change)

    def read_refund(self, request: ApiRequest) -> ApiOutcome:
        """GET /v1/refunds/{id}."""
        request.parameters(frozenset({"expand"}))
        return ApiOutcome(body=request.renderer.refund(self._ledger.refund(request.steps[1])))

    def list_refunds(self, request: ApiRequest) -> ApiOutcome:
        """GET /v1/refunds, of one charge or intent."""
        given = request.parameters(REFUND_LIST_PARAMETERS)
        charge, intent = given.text("charge"), given.text("payment_intent")
        if charge is None:
            if intent is None:
                raise missing_parameter("payment_intent")
            charge = self._ledger.intent(intent, in_path=False).latest_charge
        newest_first = self._ledger.refunds_of(charge)[::-1]
        limit = _limit(given)
        rendered = [request.renderer.refund(refund) for refund in newest_first[:limit]]
        return ApiOutcome(body=_list(request, rendered, has_more=len(newest_first) > limit))

    # Customers and payment methods

    def create_customer(self, request: ApiRequest) -> ApiOutcome:
        """POST /v1/customers."""
        given = request.parameters(CUSTOMER_PARAMETERS)
        draft = Customer(
            id="",
            created=0,
            email=given.unsettable_text("email"),
            name=given.unsettable_text("name"),
            description=given.unsettable_text("description"),
            metadata=given.metadata(held={}),
        )
        customer, change = self._ledger.create_customer(draft)
        return ApiOutcome(body=request.renderer.customer(customer), change=change)

    def read_customer(self, request: ApiRequest) -> ApiOutcome:
        """GET /v1/customers/{id}."""
        request.parameters(frozenset({"expand"}))
        customer = self._ledger.customer(request.steps[1], in_path=True)
        return ApiOutcome(body=request.renderer.customer(customer))

    def create_method(self, request: ApiRequest) -> ApiOutcome:
        """POST /v1/payment_methods: of a card's test token, or of a test bank account's number."""
        given = request.parameters(METHOD_PARAMETERS)
        method_type = given.required_text("type")
        if method_type == CARD_METHOD:
            card = given.object("card", allowed=("token",))
            if card is None or not isinstance(card.get("token"), str):
                raise missing_parameter("card[token]")
            token, last4 = card["token"].replace("tok_", "pm_card_", 1), None
        elif method_type == BANK_METHOD:
            token, last4 = _bank_token(given)
        else:
            raise invalid(f"Invalid type: must be one of {', '.join(METHOD_TYPES)}", param="type")
        method, change = self._ledger.create_method(
            token=token, method_type=method_type, last4=last4, metadata=given.metadata(held={})
        )
        return ApiOutcome(body=request.renderer.method(method), change=change)

    def attach_method(self, request: ApiRequest) -> ApiOutcome:
        """POST /v1/payment_methods/{id}/attach."""
        given = request.parameters(frozenset({"customer", "expand"}))
        customer = given.required_text("customer")
        method, change = self._ledger.attach_method(request.steps[1], customer=customer)
        return ApiOutcome(body=request.renderer.method(method), change=change)

    def read_method(self, request: ApiRequest) -> ApiOutcome:
        """GET /v1/payment_methods/{id}."""
        request.parameters(frozenset({"expand"}))
        method = self._ledger.method(request.steps[1], in_path=True)
        return ApiOutcome(body=request.renderer.method(method))

    # Expansion

    def _charge(self, charge: Charge, request: ApiRequest) -> Json:
        return request.renderer.charge(charge, refunds=self._ledger.refunds_of(charge.id))

    def _expand(self, body: Json, steps: Sequence[str], renderer: Renderer) -> None:
        name, *further = steps
        value = body[name]
        if isinstance(value, str):
            value = body[name] = self._resolve(name, value, renderer)
        if further and value is not None:
            for one in value if isinstance(value, list) else [value]:
                self._expand(one, further, renderer)

    def _resolve(self, name: str, identifier: str, renderer: Renderer) -> Json:
        ledger = self._ledger
        if name == "payment_intent":
            return ledger.render(renderer, ledger.intent(identifier))
        if name == "payment_method":
            return renderer.method(ledger.method(identifier))
        if name == "customer":
            return renderer.customer(ledger.customer(identifier))
        charge = ledger.charge(identifier)
        return renderer.charge(charge, refunds=ledger.refunds_of(charge.id))


# What of an object can be expanded, and to what.
_EXPANDABLE = {
    "payment_intents": {
        "customer": "customers",
        "latest_charge": "charges",
        "payment_method": "payment_methods",
    },
    "charges": {"customer": "customers", "payment_intent": "payment_intents"},
    "refunds": {"charge": "charges", "payment_intent": "payment_intents"},
    "payment_methods": {"customer": "customers"},
    "customers": {},
}


def _check_expandable(place: str, request: ApiRequest) -> None:
    kind: str | None = request.steps[0]
    steps = place.split(".")
    if request.method == "GET" and len(request.steps) == 1:
        # Of a list only what is in its members.
        kind = kind if steps.pop(0) == "data" else None
    old = request.renderer.api_version < API_VERSION_OF_LATEST_CHARGE
    for step in steps:
        kind = _EXPANDABLE[kind].get(step) if kind else None
        if kind is None or (old and step == "latest_charge"):
            raise _not_expandable(place)
    if not steps or kind is None:
        raise _not_expandable(place)


def _amount(given: Parameters, *, currency: str) -> int:
    amount_cents = given.integer("amount")
    if amount_cents is None:
        raise missing_parameter("amount")
    return _check_amount(amount_cents, currency=currency)


def _check_amount(amount_cents: int, *, currency: str) -> int:
    if amount_cents < 1:
        raise _too_small("amount")
    smallest_cents = SMALLEST_AMOUNTS[currency]
    if amount_cents < smallest_cents:
        raise invalid(
            f"Amount must be at least {smallest_cents / 100:.2f} {currency}",
            param="amount",
            code="amount_too_small",
        )
    if amount_cents > AMOUNT_MAX:
        raise invalid(
            f"Amount must be no more than {AMOUNT_MAX / 100:,.2f} {currency}",
            param="amount",
            code="amount_too_large",
        )
    return amount_cents


def _too_small(param: str) -> ApiError:
    return invalid(
        "This value must be greater than or equal to 1.",
        param=param,
        code="parameter_invalid_integer",
    )


def _currency(given: Parameters) -> str:
    currency = given.required_text("currency").lower()
    if currency not in SMALLEST_AMOUNTS:
        raise invalid(
            f"Invalid currency: {currency}. Stripe currently supports these currencies here:"
            f" {', '.join(SMALLEST_AMOUNTS)}",
            param="currency",
        )
    return currency


def _method_types(given: Parameters, api_version: str) -> tuple[tuple[str, ...], bool]:
    """Return the types that an intent allows, and whether Stripe chose them."""
    _refuse_method_types(given, api_version)
    _refuse_manual_capture(given)
    if given.text("confirmation_method") == "manual":
        raise invalid("confirmation_method=manual is not supported.", param="confirmation_method")
    chosen = [
        name
        for name in (
            "automatic_payment_methods",
            "payment_method_types",
            "allowed_payment_method_types",
        )
        if name in given
    ]
    if len(chosen) > 1:
        raise invalid(
            f"You may only specify one of these parameters: {', '.join(chosen)}.", param=chosen[0]
        )
    if not chosen:
        automatic = api_version >= VERSION_OF_AUTOMATIC_METHODS
        return (METHOD_TYPES, True) if automatic else ((CARD_METHOD,), False)
    if chosen == ["automatic_payment_methods"]:
        settings = given.object(chosen[0], allowed=("allow_redirects", "enabled")) or {}
        if settings.get("enabled") == "true":
            return METHOD_TYPES, True
        return (CARD_METHOD,), False
    types = given.texts(chosen[0])
    for one in types:
        if one not in METHOD_TYPES and one not in OTHER_METHOD_TYPES:
            raise invalid(f"The payment method type provided: {one} is invalid.", param=chosen[0])
    return types or (CARD_METHOD,), False


def _refuse_method_types(given: Parameters, api_version: str) -> None:
    if "payment_method_types" in given and api_version >= VERSION_WITHOUT_METHOD_TYPES:
        raise invalid(
            "payment_method_types is no longer supported from API version 2026-09-30 on. Use"
            " allowed_payment_method_types instead.",
            param="payment_method_types",
            code="payment_method_types_no_longer_supported",
        )


def _refuse_manual_capture(given: Parameters) -> None:
    if given.text("capture_method") not in {None, "automatic", "automatic_async"}:
        raise invalid("Only automatic capture is supported.", param="capture_method")


def _texts(given: Parameters) -> dict[str, Any]:
    return {
        name: given.unsettable_text(name)
        for name in (
            "description",
            "receipt_email",
            "setup_future_usage",
            "statement_descriptor",
            "statement_descriptor_suffix",
        )
        if name in given
    }


def _confirmation(given: Parameters, request: ApiRequest) -> Confirmation:
    off_session = given.text("off_session")
    if off_session not in {None, "true", "false", "one_off", "recurring"}:
        raise invalid(f"Invalid off_session: {off_session}", param="off_session")
    return Confirmation(
        method=given.text("payment_method"),
        off_session=off_session not in {None, "false"},
        error_on_requires_action=given.boolean("error_on_requires_action") or False,
        mandate=given.text("mandate"),
        key=request.key,
    )


def _one_of(given: Parameters, name: str, allowed: frozenset[str]) -> str | None:
    value = given.text(name)
    if value is not None and value not in allowed:
        raise invalid(f"Invalid {name}: must be one of {', '.join(sorted(allowed))}", param=name)
    return value


def _limit(given: Parameters) -> int:
    limit = given.integer("limit")
    if limit is not None and not 1 <= limit <= PAGE_MAX:
        raise invalid(
            f"This value must be between 1 and {PAGE_MAX}.",
            param="limit",
            code="parameter_invalid_integer",
        )
    return limit or 10


# Stripe's "Testing": the numbers of bank accounts that stand for what happens to them.
_TEST_ACCOUNTS = {
    "000123456789": "pm_usBankAccount_success",
    "000111111113": "pm_usBankAccount_accountClosed",
    "000111111116": "pm_usBankAccount_noAccount",
    "000222222227": "pm_usBankAccount_insufficientFunds",
    "000333333335": "pm_usBankAccount_debitNotAuthorized",
}


def _bank_token(given: Parameters) -> tuple[str, str]:
    allowed = ("account_holder_type", "account_number", "account_type", "routing_number")
    account = given.object(BANK_METHOD, allowed=allowed) or {}
    for name in ("account_number", "routing_number"):
        if not isinstance(account.get(name), str):
            raise missing_parameter(f"us_bank_account[{name}]")
    number = account["account_number"]
    if number not in _TEST_ACCOUNTS:
        raise invalid(
            "You must use a test bank account number in test mode.",
            param="us_bank_account[account_number]",
        )
    return _TEST_ACCOUNTS[number], number[-4:]


def _list(request: ApiRequest, data: list[Json], *, has_more: bool) -> Json:
    return {"object": "list", "data": data, "has_more": has_more, "url": request.path}


def _not_expandable(place: str) -> ApiError:
    return invalid(f"This property cannot be expanded ({place}).", param="expand")


_COLLECTIONS: dict[tuple[str, str], tuple[str, Endpoint]] = {
    ("POST", "payment_intents"): (CREATE, Operations.create_intent),
    ("GET", "payment_intents"): (READ, Operations.list_intents),
    ("POST", "refunds"): (REFUND, Operations.create_refund),
    ("GET", "refunds"): (READ, Operations.list_refunds),
    ("POST", "customers"): (SETUP, Operations.create_customer),
    ("POST", "payment_methods"): (SETUP, Operations.create_method),
}
_OBJECTS: dict[tuple[str, str], tuple[str, Endpoint]] = {
    ("GET", "payment_intents"): (READ, Operations.read_intent),
    ("POST", "payment_intents"): (MODIFY, Operations.modify_intent),
    ("GET", "refunds"): (READ, Operations.read_refund),
    ("GET", "charges"): (READ, Operations.read_charge),
    ("GET", "customers"): (READ, Operations.read_customer),
    ("GET", "payment_methods"): (READ, Operations.read_method),
}
_VERBS: dict[tuple[str, str], tuple[str, Endpoint]] = {
    ("payment_intents", "confirm"): (CONFIRM, Operations.confirm_intent),
    ("payment_intents", "cancel"): (CANCEL, Operations.cancel_intent),
    ("payment_methods", "attach"): (SETUP, Operations.attach_method),
}
