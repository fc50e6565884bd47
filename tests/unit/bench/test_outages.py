"""What a minute without Kafka or the CIS did."""

import pytest
from bench.pipeline.outages import Outage, ack_p99_ms, backlog_at, drain_seconds

OUTAGE = Outage(began_at=10.0, ended_at=20.0)
ACCEPTED = [float(second) for second in range(40)]


class TestBacklog:
    def test_is_what_was_accepted_and_not_confirmed(self) -> None:
        assert backlog_at(accepted_at=[1, 2, 3], confirmed_at=[2.5], at=2.6) == 1
        assert backlog_at(accepted_at=[1, 2, 3], confirmed_at=[2.5], at=3.0) == 2


class TestDraining:
    def test_lasts_until_the_backlog_is_what_it_was_before(self) -> None:
        # Confirmed half a second later before and in the end; nothing is during the outage; then
        # two a second until all is through.
        before = [at + 0.5 for at in ACCEPTED if at < 10]
        waiting = [at for at in ACCEPTED if at >= 10]
        after, at = [], 20.5
        for accepted in waiting:
            at = max(at + 0.5, accepted + 0.5)
            after.append(at)
        found = drain_seconds(accepted_at=ACCEPTED, confirmed_at=before + after, outage=OUTAGE)
        # 10 to 20 were waiting; two a second are confirmed while one a second comes.
        assert found == pytest.approx(11.0, abs=1.0)

    def test_is_nothing_where_there_was_no_backlog(self) -> None:
        confirmed = [at + 0.1 for at in ACCEPTED]
        assert drain_seconds(accepted_at=ACCEPTED, confirmed_at=confirmed, outage=OUTAGE) == 0.0

    def test_that_never_ends_is_unknown(self) -> None:
        confirmed = [at + 0.5 for at in ACCEPTED if at < 10]
        assert drain_seconds(accepted_at=ACCEPTED, confirmed_at=confirmed, outage=OUTAGE) is None


class TestAcknowledgements:
    def test_are_those_that_were_given_between_two_times(self) -> None:
        found = ack_p99_ms(
            ack_seconds=[0.001, 0.5, 0.002, 9.0],
            ended_at=[5.0, 12.0, 13.0, 20.0],
            since=10.0,
            until=20.0,
        )
        assert found == 500.0

    def test_of_a_time_without_any_are_unknown(self) -> None:
        assert ack_p99_ms(ack_seconds=[1.0], ended_at=[1.0], since=2.0, until=3.0) is None
