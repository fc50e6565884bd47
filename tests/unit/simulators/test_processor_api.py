"""The processor's API without HTTP: forms, tokens, parameters, keys, the ledger's invariants."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
import stripe
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from pydantic import TypeAdapter
from stripe._encode import _api_encode
from stripe.params import (
    PaymentIntentCancelParams,
    PaymentIntentConfirmParams,
    PaymentIntentCreateParams,
    PaymentIntentListParams,
    PaymentIntentModifyParams,
    RefundCreateParams,
)

from paypost.simulators.processor import operations
from paypost.simulators.processor.book import Entry
from paypost.simulators.processor.errors import ApiError
from paypost.simulators.processor.events import EventBuilder, Ids
from paypost.simulators.processor.forms import Parameters, parse_form
from paypost.simulators.processor.idempotency import IdempotencyKeys, fingerprint_of
from paypost.simulators.processor.ledger import Confirmation, Ledger
from paypost.simulators.processor.objects import Renderer
from paypost.simulators.processor.operations import ApiRequest, Operations
from paypost.simulators.processor.records import Announcement, Change, Intent, Refund
from paypost.simulators.processor.tokens import STRIPE_TOKENS, behaviour_of

NOW = datetime(2026, 11, 23, 9, tzinfo=UTC)
ENDIVE = "2026-10-28.endive"
DAHLIA = "2026-08-26.dahlia"

texts = st.text(min_size=1, max_size=8)
names = st.text(alphabet="abcdefgh_", min_size=1, max_size=6)
values = st.recursive(
    texts,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3)
        | st.dictionaries(names, inner, min_size=1, max_size=3)
    ),
    max_leaves=6,
)


def encoded(params: dict[str, Any]) -> bytes:
    """The body as the official SDK encodes it."""
    return urlencode(list(_api_encode(params))).encode()


class TestParseForm:
    @given(st.dictionaries(names, values, max_size=5))
    def test_reads_what_the_sdk_writes(self, params: dict[str, Any]) -> None:
        assert parse_form(encoded(params)) == params

    def test_reads_lists_of_either_form(self) -> None:
        assert parse_form(b"expand[]=a&expand[]=b") == {"expand": ["a", "b"]}
        assert parse_form(b"expand[1]=b&expand[0]=a") == {"expand": ["a", "b"]}

    @pytest.mark.parametrize(
        "body",
        [b"a=1&a[b]=2", b"a[b]=2&a=1", b"a[b]=1&a[b][c]=2", b"[a]=1", b"a[b=1", b"a=%ff"],
    )
    def test_refuses_what_means_two_things_or_none(self, body: bytes) -> None:
        with pytest.raises(ApiError) as raised:
            parse_form(body)
        assert raised.value.status == 400

    def test_bounds_depth_and_number(self) -> None:
        for body in (b"a[b][c][d][e][f][g]=1", b"&".join(b"a%d=1" % n for n in range(1_001))):
            with pytest.raises(ApiError):
                parse_form(body)


class TestParameters:
    def test_change_metadata_key_by_key(self) -> None:
        form = {"metadata": {"a": "", "b": "2"}}
        changed = Parameters(form, allowed={"metadata"}).metadata(held={"a": "1", "c": "3"})
        assert changed == {"b": "2", "c": "3"}
        unset = Parameters({"metadata": ""}, allowed={"metadata"}).metadata(held={"a": "1"})
        assert unset == {}

    @pytest.mark.parametrize(
        "metadata",
        [{"k" * 41: "v"}, {"k": "v" * 501}, {f"k{n}": "v" for n in range(51)}, {"k": {"n": "v"}}],
    )
    def test_bound_metadata_as_stripe_does(self, metadata: dict[str, Any]) -> None:
        with pytest.raises(ApiError):
            Parameters({"metadata": metadata}, allowed={"metadata"}).metadata(held={})

    @pytest.mark.parametrize(
        ("created", "within"),
        [
            ({"gte": "10", "lte": "20"}, (10, 20)),
            ({"gt": "10", "lt": "20"}, (11, 19)),
            ("15", (15, 15)),
        ],
    )
    def test_read_ranges_with_both_ends(self, created: Any, within: tuple[int, int]) -> None:
        assert Parameters({"created": created}, allowed={"created"}).range("created") == within


class TestKnownParameters:
    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            (operations.CREATE_PARAMETERS, PaymentIntentCreateParams),
            (operations.CONFIRM_PARAMETERS, PaymentIntentConfirmParams),
            (operations.MODIFY_PARAMETERS, PaymentIntentModifyParams),
            (operations.CANCEL_PARAMETERS, PaymentIntentCancelParams),
            (operations.LIST_PARAMETERS, PaymentIntentListParams),
            (operations.REFUND_PARAMETERS, RefundCreateParams),
        ],
    )
    def test_are_those_of_the_sdk(self, ours: frozenset[str], theirs: Any) -> None:
        of_the_call = set(theirs.__annotations__) - set(stripe.RequestOptions.__annotations__)
        # The API before 2026-09-30 has one that the SDK's own version has not.
        assert ours - {"payment_method_types"} == of_the_call

    def test_are_not_ignored_and_refused_at_once(self) -> None:
        assert not operations.IGNORED & operations.REFUSED


class TestBehaviourOf:
    @pytest.mark.parametrize(
        ("token", "attempts"),
        [
            ("pm_script_declined_lost_card", ["lost_card"] * 3),
            ("pm_script_declined_insufficient_funds_1", ["insufficient_funds", None, None]),
            ("pm_script_declined_try_again_later_2_ann", ["try_again_later"] * 2 + [None]),
            ("pm_script_ach_R01_2", ["R01", "R01", None]),
            ("pm_script_ach_R10", ["R10"] * 3),
            ("pm_script_ach_R02_0_ben7", [None] * 3),
            ("pm_1Nk8vQ2eZvKYlo2C1a2b3c4d", [None] * 3),
        ],
    )
    def test_follows_the_script(self, token: str, attempts: list[str | None]) -> None:
        behaviour = behaviour_of(token)
        assert behaviour is not None
        failures = [behaviour.failure_of(attempt=attempt) for attempt in (1, 2, 3)]
        by_bank = behaviour.method_type == "us_bank_account"
        assert by_bank == ("_ach_" in token)
        assert [
            failure and (failure.network_decline_code if by_bank else failure.decline_code)
            for failure in failures
        ] == attempts

    @pytest.mark.parametrize(
        "token",
        [
            "pm_script_missing",
            "pm_script_missing_ann",
            "pm_script_declined_no_such_code_1",
            "pm_script_ach_X01",
            "pm_script_acch_R01",
            "pm_",
            "tok_visa",
            "",
            "pm_visa 1",
        ],
    )
    def test_knows_nothing_of_what_is_misspelt(self, token: str) -> None:
        assert behaviour_of(token) is None

    def test_has_four_digits_for_each(self) -> None:
        for token in (*STRIPE_TOKENS, "pm_script_ach_R01", "pm_x"):
            behaviour = behaviour_of(token)
            assert behaviour is not None
            assert len(behaviour.last4) == 4


class TestVersions:
    @pytest.mark.parametrize(
        ("version", "params", "types"),
        [
            (ENDIVE, {}, ["card", "us_bank_account"]),
            (ENDIVE, {"allowed_payment_method_types": ["card"]}, ["card"]),
            (DAHLIA, {"payment_method_types": ["us_bank_account"]}, ["us_bank_account"]),
            ("2023-08-16", {}, ["card", "us_bank_account"]),
            ("2022-11-15", {}, ["card"]),
        ],
    )
    def test_decide_which_methods_an_intent_takes(
        self, version: str, params: dict[str, Any], types: list[str]
    ) -> None:
        made = perform({"amount": "900", "currency": "usd"} | params, version=version)
        assert list(made["payment_method_types"]) == types

    def test_refuse_what_was_removed(self) -> None:
        with pytest.raises(ApiError) as raised:
            perform({"amount": "900", "currency": "usd", "payment_method_types": ["card"]})
        assert raised.value.code == "payment_method_types_no_longer_supported"


def perform(form: dict[str, Any], *, version: str = ENDIVE) -> dict[str, Any]:
    api = Operations(ledger=new_ledger())
    renderer = Renderer(api_version=version)
    request = ApiRequest(method="POST", path="/v1/payment_intents", form=form, renderer=renderer)
    return api.perform(api.endpoint(request)[1], request).body


def new_ledger(*, clock: Any = lambda: NOW) -> Ledger:
    return Ledger(ids=Ids(chance=random.Random(1)), clock=clock)


class TestIdempotencyKeys:
    def test_are_the_same_for_the_same_parameters_in_any_order(self) -> None:
        one = fingerprint_of({"a": "1", "b": {"c": "2", "d": "3"}})
        assert one == fingerprint_of({"b": {"d": "3", "c": "2"}, "a": "1"})
        assert one != fingerprint_of({"a": "1", "b": {"c": "2", "d": "4"}})

    def test_hold_until_they_are_released_or_a_day_has_gone(self) -> None:
        keys = IdempotencyKeys()
        held = {"path": "/v1/refunds", "fingerprint": "f"}
        assert keys.begin("k", **held, now=NOW) is None
        with pytest.raises(ApiError) as raised:
            keys.begin("k", **held, now=NOW)
        assert raised.value.status == 409
        keys.release("k")
        assert keys.begin("k", **held, now=NOW) is None
        keys.keep("k", **held, status=200, body=b"{}", request_id="req_1", now=NOW)
        kept = keys.begin("k", **held, now=NOW + timedelta(hours=23, minutes=59))
        assert kept is not None
        assert (kept.status, kept.read_body(), kept.request_id) == (200, b"{}", "req_1")
        assert keys.begin("k", **held, now=NOW + timedelta(hours=24)) is None

    def test_have_a_longest_length(self) -> None:
        with pytest.raises(ApiError):
            IdempotencyKeys().begin("k" * 256, path="p", fingerprint="f", now=NOW)


class TestAnnouncements:
    def test_name_the_payment_and_what_is_to_be_posted(self) -> None:
        ledger = new_ledger()
        metadata = {"account_number": "A-1", "convenience_fee_cents": "195"}
        draft = an_intent(amount_cents=8_645, method="pm_card_visa", metadata=metadata)
        intent, change = ledger.create(draft, confirm=Confirmation())
        builder = EventBuilder(ids=Ids(chance=random.Random(2)), api_version=ENDIVE)
        for announcement in change.announcements:
            event = builder.announcement(announcement)
            assert (event.id, event.type) == (announcement.id, announcement.type)
            assert event.reference == intent.id
            assert (event.account, event.amount_cents, event.fee_cents) == ("A-1", 8_450, 195)
            stripe.Event.construct_from(TypeAdapter(dict).validate_json(event.body), "sk_test")


def an_intent(**members: Any) -> Intent:
    defaults: dict[str, Any] = {
        "id": "",
        "created": 0,
        "amount_cents": 8_450,
        "currency": "usd",
        "status": "",
        "method_types": ("card", "us_bank_account"),
        "customer": "cus_1",
    }
    return Intent(**defaults | members)


TOKENS = st.sampled_from(
    [
        "pm_card_visa",
        "pm_card_refundFail",
        "pm_script_declined_insufficient_funds_1",
        "pm_script_ach_R01_1",
        "pm_script_ach_cancellable",
        "pm_usBankAccount_success",
        "pm_card_authenticationRequired",
    ]
)


class LedgerUnderAnything(RuleBasedStateMachine):
    """Whatever is asked in whatever order: no money is taken twice, and the book tells all."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.ledger = new_ledger(clock=lambda: self.now)
        self.replica = new_ledger(clock=lambda: self.now)
        self.entries = TypeAdapter(Entry)
        self.told: list[Announcement] = []

    def record(self, change: Change) -> None:
        entry = Entry(at=self.now, moved_seconds=0, operation="x", change=change)
        read = self.entries.validate_json(self.entries.dump_json(entry))
        assert read == entry
        self.replica.apply(read.change)
        self.told += change.announcements

    @rule(token=st.none() | TOKENS, confirm=st.booleans(), off_session=st.booleans())
    def create(self, token: str | None, confirm: bool, off_session: bool) -> None:
        confirmation = Confirmation(off_session=off_session) if confirm and token else None
        self.record(self.ledger.create(an_intent(method=token), confirm=confirmation)[1])

    @rule(data=st.data(), token=TOKENS)
    def confirm(self, data: st.DataObject, token: str) -> None:
        self.attempt(data, lambda one: self.ledger.confirm(one, confirm=Confirmation(method=token)))

    @rule(data=st.data(), cents=st.integers(50, 9_000))
    def modify(self, data: st.DataObject, cents: int) -> None:
        self.attempt(data, lambda one: self.ledger.modify(one, changes={"amount_cents": cents}))

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.attempt(data, lambda one: self.ledger.cancel(one, reason=None))

    @rule(data=st.data(), cents=st.none() | st.integers(1, 9_000))
    def refund(self, data: st.DataObject, cents: int | None) -> None:
        def draft(intent: str) -> Refund:
            return Refund(
                id="", charge="", intent=intent, created=0, amount_cents=0, currency="", status=""
            )

        self.attempt(data, lambda one: self.ledger.refund_charge(draft(one), amount_cents=cents))

    @rule(days=st.integers(1, 5))
    def wait(self, days: int) -> None:
        self.now += timedelta(days=days)
        for change in self.ledger.settle_due():
            self.record(change)

    def attempt(self, data: st.DataObject, act: Any) -> None:
        if not self.ledger.intents:
            return
        intent = data.draw(st.sampled_from(sorted(self.ledger.intents)))
        try:
            self.record(act(intent)[1])
        except ApiError as error:
            assert error.status in {400, 404}

    @invariant()
    def takes_no_money_twice(self) -> None:
        live = Counter(
            charge.intent
            for charge in self.ledger.charges.values()
            if charge.status in {"succeeded", "pending"}
        )
        assert all(count == 1 for count in live.values())
        for intent in self.ledger.intents.values():
            paid = intent.status in {"succeeded", "processing"}
            assert live[intent.id] == (1 if paid else 0)

    @invariant()
    def gives_no_more_back_than_it_took(self) -> None:
        for charge in self.ledger.charges.values():
            refunds = self.ledger.refunds_of(charge.id)
            kept = sum(one.amount_cents for one in refunds if one.status != "failed")
            assert charge.refunded_cents == kept <= charge.amount_cents
            assert not refunds or charge.status == "succeeded"

    @invariant()
    def is_told_whole_by_its_book(self) -> None:
        assert self.replica.intents == self.ledger.intents
        assert self.replica.charges == self.ledger.charges
        assert self.replica.refunds == self.ledger.refunds
        assert self.replica.scheduled == self.ledger.scheduled

    @invariant()
    def announces_each_success_once(self) -> None:
        succeeded = Counter(
            one.intent.id
            for one in self.told
            if one.type == "payment_intent.succeeded" and one.intent is not None
        )
        statuses = {one.id for one in self.ledger.intents.values() if one.status == "succeeded"}
        assert succeeded == Counter(statuses)


TestLedgerUnderAnything = LedgerUnderAnything.TestCase
TestLedgerUnderAnything.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


class TestPages:
    @given(
        customers=st.lists(st.sampled_from(["cus_a", "cus_b"]), max_size=12),
        limit=st.integers(1, 5),
        customer=st.sampled_from(["cus_a", "cus_b", None]),
    )
    def test_hold_each_intent_once_newest_first(
        self, customers: list[str], limit: int, customer: str | None
    ) -> None:
        ledger = new_ledger()
        made = [ledger.create(an_intent(customer=one), confirm=None)[0] for one in customers]
        wanted = [one.id for one in made if customer in {None, one.customer}][::-1]
        seen: list[str] = []
        while True:
            page = ledger.page(
                customer=customer,
                created=(0, 2**62),
                limit=limit,
                starting_after=seen[-1] if seen else None,
                ending_before=None,
            )
            assert len(page.intents) <= limit
            seen += [intent.id for intent in page.intents]
            if not page.has_more:
                break
        assert seen == wanted
