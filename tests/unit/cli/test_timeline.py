"""What a timeline says of the time between two services."""

from datetime import UTC, datetime, timedelta

from paypost.trace.timeline import on_its_way

ACCEPTED = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


class TestTheWayToThePoster:
    def test_is_not_spoken_of_where_it_was_short(self) -> None:
        taken = ACCEPTED + timedelta(milliseconds=990)
        assert on_its_way(accepted_at=ACCEPTED, taken_at=taken) == ""

    def test_is_explained_where_it_was_long(self) -> None:
        said = on_its_way(accepted_at=ACCEPTED, taken_at=ACCEPTED + timedelta(seconds=31.26))
        assert said == ("; 31.3 s on its way: Kafka was away, or a service on either side of it")
