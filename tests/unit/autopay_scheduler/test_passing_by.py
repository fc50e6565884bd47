from tests.contract.facts.examples import EXAMPLES

from autopay_scheduler.consumers import (
    is_of_no_announcement,
    is_of_no_charge,
    to_method_news,
    to_noticed,
    to_outcome,
)
from shared.contracts.streams import NOTIFICATIONS, PAYMENTS
from shared.contracts.wire import Received, encode


def received(fact) -> Received:
    return Received(
        fact=fact, event_id="1", event_type=fact.TYPE, source="", time=None, traceparent=None
    )


def examples(stream):
    return [fact for fact in EXAMPLES if type(fact) in stream.facts]


class TestPaymentsThatPassBy:
    def test_are_none_that_autopay_has_asked_for(self):
        for fact in examples(PAYMENTS):
            record = encode(fact, stream=PAYMENTS)
            wanted = to_outcome(received(fact)) or to_method_news(received(fact))
            assert not (wanted and is_of_no_charge(record)), fact.TYPE

    def test_are_all_payments_that_it_has_not_asked_for(self):
        ordinary = [
            fact.model_copy(update={"charge_id": None})
            for fact in examples(PAYMENTS)
            if "charge_id" in type(fact).model_fields and fact.TYPE != "charge.withdrawn"
        ]
        assert ordinary
        assert all(is_of_no_charge(encode(fact, stream=PAYMENTS)) for fact in ordinary)


class TestNotificationsThatPassBy:
    def test_are_none_about_an_announcement(self):
        for fact in examples(NOTIFICATIONS):
            told = fact.model_copy(update={"kind": "charge_announced"})
            assert to_noticed(received(told)) is not None
            assert not is_of_no_announcement(encode(told, stream=NOTIFICATIONS))

    def test_are_the_confirmations_of_postings(self):
        for fact in examples(NOTIFICATIONS):
            told = fact.model_copy(update={"kind": "posted"})
            assert is_of_no_announcement(encode(told, stream=NOTIFICATIONS))
