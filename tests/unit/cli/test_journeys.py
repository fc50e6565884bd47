from datetime import UTC, datetime, timedelta
from uuid import UUID

from paypost.traffic.journeys import Journey, payments_per_second, spread

START = datetime(2025, 3, 14, 18, 0, tzinfo=UTC)


def journey(*, accepted: float, confirmed: float | None) -> Journey:
    at = START + timedelta(seconds=accepted)
    return Journey(
        payment_id=UUID(int=1),
        reference="pi_1",
        account_id="A-1",
        kind="payment",
        status="confirmed",
        accepted_at=at,
        posted_at=at + timedelta(milliseconds=20),
        confirmed_at=None if confirmed is None else START + timedelta(seconds=confirmed),
    )


class TestSpread:
    def test_takes_percentiles_by_nearest_rank(self):
        found = spread([each / 100 for each in range(1, 101)])
        assert found is not None
        assert (found.count, found.p50_seconds, found.p99_seconds, found.worst_seconds) == (
            100,
            0.50,
            0.99,
            1.00,
        )

    def test_of_one_is_that_one(self):
        found = spread([0.25])
        assert found is not None
        assert (found.p50_seconds, found.p99_seconds, found.worst_seconds) == (0.25, 0.25, 0.25)

    def test_leaves_out_what_is_not_known(self):
        found = spread([None, 0.1, None])
        assert found is not None
        assert found.count == 1
        assert spread([None]) is None


class TestPaymentsPerSecond:
    def test_counts_from_the_first_accepted_to_the_last_confirmed(self):
        journeys = [
            journey(accepted=0.0, confirmed=1.0),
            journey(accepted=1.0, confirmed=2.0),
            journey(accepted=1.5, confirmed=None),
        ]
        assert payments_per_second(journeys) == 1.0

    def test_is_unknown_while_nothing_is_confirmed(self):
        assert payments_per_second([journey(accepted=0, confirmed=None)]) is None


class TestJourney:
    def test_measures_from_acceptance(self):
        one = journey(accepted=1.0, confirmed=1.5)
        assert (one.posted_after_seconds, one.confirmed_after_seconds) == (0.02, 0.5)
