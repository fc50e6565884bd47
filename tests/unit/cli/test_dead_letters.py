from dataclasses import replace
from datetime import UTC, datetime

from paypost.dead.letters import DeadLetter, once_each

LETTER = DeadLetter(
    id="portal.v1:0",
    stream="portal.v1",
    offset=0,
    at=datetime(2025, 3, 14, tzinfo=UTC),
    key=b"A-1",
    value=b"garbage",
    headers=(("ce_id", b"1"),),
    story={"consumer": "notifier", "partition": "6", "offset": "41"},
)


class TestOnceEach:
    def test_takes_one_copy_of_what_several_consumers_buried(self):
        by_intake = replace(
            LETTER, id="portal.v1:1", offset=1, story=LETTER.story | {"consumer": "payment-intake"}
        )
        assert once_each(letters=[LETTER, by_intake]) == [LETTER]

    def test_keeps_different_records(self):
        other = replace(LETTER, id="portal.v1:1", story=LETTER.story | {"offset": "42"})
        elsewhere = replace(LETTER, id="bills.v1:0", stream="bills.v1")
        found = once_each(letters=[LETTER, other, elsewhere])
        assert found == [LETTER, other, elsewhere]
