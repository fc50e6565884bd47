"""How notifier listens: none of FastStream's defaults, which acknowledge before the work."""

import pytest
from faststream import AckPolicy
from tests.unit.notifier.test_settings import GIVEN

from notifier.app import build_app
from notifier.settings import Settings


@pytest.fixture(scope="module")
def subscribers():
    return build_app(Settings(**GIVEN)).broker.subscribers


class TestSubscribers:
    def test_listen_to_these_streams(self, subscribers):
        topics = sorted(topic.name for subscriber in subscribers for topic in subscriber.topics)
        assert topics == ["autopay.v1", "payments.v1", "portal.v1", "postings.v1"]

    def test_acknowledge_after_the_work(self, subscribers):
        assert {subscriber.ack_policy for subscriber in subscribers} == {AckPolicy.NACK_ON_ERROR}

    def test_start_at_the_beginning_as_one_group(self, subscribers):
        for subscriber in subscribers:
            assert subscriber._connection_args["auto_offset_reset"] == "earliest"
            assert subscriber.group_id == "notifier"
