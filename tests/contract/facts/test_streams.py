from shared.contracts.streams import STREAMS
from shared.contracts.topics import declared_topics

DAY_MS = 86_400_000


class TestStreams:
    def test_carry_these_facts(self):
        assert {name: sorted(stream.by_type) for name, stream in STREAMS.items()} == {
            "payments.v1": [
                "charge.declined",
                "charge.withdrawn",
                "mandate.withdrawn",
                "method.updated",
                "payment.accepted",
                "payment.delayed",
                "payment.pending",
                "payment.reinstated",
                "payment.reversed",
            ],
            "postings.v1": [
                "posting.deferred",
                "posting.posted",
                "posting.returned",
                "posting.reversed",
                "posting.suspended",
            ],
            "notifications.v1": [
                "notification.failed",
                "notification.sent",
                "notification.skipped",
            ],
            "portal.v1": [
                "autopay.cancelled",
                "autopay.changed",
                "autopay.enrolled",
                "autopay.invitation_declined",
                "autopay.paused",
                "autopay.resumed",
                "contact.changed",
                "customer.registered",
                "payment.captured",
                "payment.submitted",
            ],
            "autopay.v1": [
                "charge.announced",
                "charge.cancelled",
                "charge.closed",
                "charge.failed",
                "charge.held",
                "charge.requested",
                "enrolment.activated",
                "enrolment.invited",
                "enrolment.refused",
                "enrolment.stopped",
                "method.expiring",
            ],
            "bills.v1": [
                "bill.cancelled",
                "bill.changed",
                "bill.issued",
                "disconnect.scheduled",
            ],
        }

    def test_have_one_producer_each(self):
        assert {name: stream.producer for name, stream in STREAMS.items()} == {
            "payments.v1": "payment-intake",
            "postings.v1": "cis-poster",
            "notifications.v1": "notifier",
            "portal.v1": "portal",
            "autopay.v1": "autopay-scheduler",
            "bills.v1": "cis",
        }

    def test_name_each_type_once_in_the_whole_system(self):
        types = [fact.TYPE for stream in STREAMS.values() for fact in stream.facts]
        assert len(types) == len(set(types)) == 42


class TestTopics:
    def test_are_declared_with_partitions_and_retention(self):
        declared = {
            topic.name: (topic.num_partitions, int(topic.topic_configs["retention.ms"]) // DAY_MS)
            for topic in declared_topics(replication_factor=1)
        }
        assert declared == {
            "payments.v1": (12, 7),
            "payments.v1.dead": (1, 90),
            "postings.v1": (12, 7),
            "postings.v1.dead": (1, 90),
            "notifications.v1": (12, 7),
            "notifications.v1.dead": (1, 90),
            "portal.v1": (12, 7),
            "portal.v1.dead": (1, 90),
            "autopay.v1": (12, 7),
            "autopay.v1.dead": (1, 90),
            "bills.v1": (12, 7),
            "bills.v1.dead": (1, 90),
        }

    def test_survive_the_loss_of_one_of_three_brokers(self):
        for topic in declared_topics(replication_factor=3):
            assert topic.replication_factor == 3
            assert topic.topic_configs["min.insync.replicas"] == "2"
            assert topic.topic_configs["cleanup.policy"] == "delete"

    def test_work_on_a_single_broker(self):
        for topic in declared_topics(replication_factor=1):
            assert topic.topic_configs["min.insync.replicas"] == "1"

    def test_hold_a_dead_letter_that_is_larger_than_what_it_was(self):
        sizes = {
            topic.name: int(topic.topic_configs["max.message.bytes"])
            for topic in declared_topics(replication_factor=1)
        }
        assert sizes["payments.v1"] == 1024 * 1024
        assert sizes["payments.v1.dead"] == 2 * 1024 * 1024
