from uuid import UUID

from shared.ids import derived_id, fact_id, uuid7
from shared.money import format_amount


class TestRowIds:
    def test_are_version_7(self):
        made = uuid7()
        assert made.version == 7
        assert made.variant == "specified in RFC 4122"

    def test_carry_the_millisecond_they_were_made_in(self, monkeypatch):
        monkeypatch.setattr("shared.ids.time.time_ns", lambda: 1_700_000_000_123_456_789)
        assert uuid7().int >> 80 == 1_700_000_000_123

    def test_are_ordered_by_time(self, monkeypatch):
        made = []
        for millisecond in range(1_700_000_000_000, 1_700_000_000_200):
            monkeypatch.setattr("shared.ids.time.time_ns", lambda at=millisecond: at * 1_000_000)
            made.append(uuid7())
        assert made == sorted(made)

    def test_never_repeat_within_a_millisecond(self, monkeypatch):
        monkeypatch.setattr("shared.ids.time.time_ns", lambda: 1_700_000_000_000_000_000)
        assert len({uuid7() for _ in range(10_000)}) == 10_000


class TestFactIds:
    def test_are_the_same_for_ever(self):
        # SHA-1 by hand, outside of this code; a change breaks every running system.
        assert fact_id(fact_type="payment.accepted", key="k1") == UUID(
            "32bd321f-7a3b-53e3-8ac2-035d1d4b8ff0"
        )
        assert fact_id(fact_type="posting.posted", key="k1") == UUID(
            "db7cac03-f30d-52e5-a4c5-689d194ad4f1"
        )

    def test_tell_types_and_keys_apart(self):
        ids = {fact_id(fact_type=t, key=k) for t in ("a.b", "a.c") for k in ("1", "2")}
        assert len(ids) == 4


class TestDerivedIds:
    SOURCE = UUID("0198c5b1-5e2a-7000-8000-000000000001")

    def test_are_the_same_for_ever(self):
        # SHA-1 by hand, outside of this code; a change tells every customer a second time.
        assert derived_id(name="notification:posted", source=self.SOURCE) == UUID(
            "0198c5b1-5e2a-8d39-a5e4-0783bfbc4589"
        )

    def test_begin_with_the_time_of_what_they_follow_from(self):
        made = derived_id(name="a", source=self.SOURCE)
        assert made.int >> 80 == self.SOURCE.int >> 80
        assert (made.version, made.variant) == (8, self.SOURCE.variant)

    def test_tell_names_and_sources_apart(self):
        sources = [UUID(int=self.SOURCE.int + each) for each in range(100)]
        assert len({derived_id(name=n, source=s) for n in ("a", "b") for s in sources}) == 200


class TestFormattedAmounts:
    def test_read_as_clerks_write_them(self):
        assert format_amount(amount_cents=123_456, currency="USD") == "USD 1,234.56"
        assert format_amount(amount_cents=5, currency="USD") == "USD 0.05"

    def test_carry_the_sign_before_the_whole(self):
        assert format_amount(amount_cents=-123_456, currency="USD") == "USD -1,234.56"
        assert format_amount(amount_cents=-5, currency="USD") == "USD -0.05"
