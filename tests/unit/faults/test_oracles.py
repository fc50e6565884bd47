"""Each oracle holds on sound journals, and fails on those that are damaged in its way."""

from dataclasses import replace

import pytest
from tests.faults import oracles
from tests.faults.journals import Charged, Journals, Letter
from tests.faults.violations import Violation
from tests.unit.faults.journals import (
    BEGAN,
    attempt,
    effect,
    letter,
    payment,
    sample,
    sound,
    with_,
)

SOUND = sound()


def letters_of(violations: list[Violation]) -> list[str]:
    return [each.oracle for each in violations]


class TestSoundJournals:
    def test_hold_before_every_oracle(self) -> None:
        found = [
            *oracles.lost(SOUND),
            *oracles.doubled(SOUND),
            *oracles.invented(SOUND),
            *oracles.told(SOUND, repeats_allowed=False),
            *oracles.prompt(SOUND, recovery_seconds_max=0.0),
            *oracles.reversed_in_order(SOUND),
            *oracles.in_order_of_acceptance(SOUND),
            *oracles.no_hot_loop(SOUND),
            *oracles.buried(SOUND, poison={}),
            *oracles.metrics(SOUND),
            *oracles.timelines(SOUND),
            *oracles.equal_ledgers(SOUND, SOUND),
        ]
        assert found == []


class TestLost:
    def test_finds_an_accepted_payment_that_is_not_on_the_ledger(self) -> None:
        (found,) = oracles.lost(with_(effects=SOUND.effects[1:]))
        assert (found.oracle, "pi_a" in found.what) == ("L", True)

    def test_finds_a_due_charge_that_is_not_on_the_ledger(self) -> None:
        (found,) = oracles.lost(with_(effects=SOUND.effects[:3]))
        assert "the charge of R1-S001" in found.what

    def test_finds_a_refund_that_is_not_on_the_ledger(self) -> None:
        (found,) = oracles.lost(with_(effects=(*SOUND.effects[:2], SOUND.effects[3])))
        assert "pi_b" in found.what

    def test_finds_a_refund_of_another_amount(self) -> None:
        effects = list(SOUND.effects)
        effects[2] = replace(effects[2], amount_cents=1_999)
        assert letters_of(oracles.lost(with_(effects=effects))) == ["L"]

    def test_does_not_count_a_payment_that_was_never_answered_2xx(self) -> None:
        refused = [
            replace(each, status=None) if each.reference == "pi_a" else each
            for each in SOUND.attempts
        ]
        assert oracles.lost(with_(effects=SOUND.effects[1:], attempts=refused)) == []

    def test_counts_one_whose_second_attempt_was_answered(self) -> None:
        first = attempt("pi_a", "charge.succeeded", 0.5, status=None)
        found = oracles.lost(with_(effects=SOUND.effects[1:], attempts=(first, *SOUND.attempts)))
        assert letters_of(found) == ["L"]

    def test_takes_two_refunds_as_one_only_where_events_were_not_in_order(self) -> None:
        halves = (("payment", 2_000), ("reversal", 500), ("reversal", 1_500))
        split = payment("pi_b", 2_000, scenario="refund", movements=halves)
        payments = (SOUND.payments[0], split, SOUND.payments[2])
        assert letters_of(oracles.lost(with_(payments=payments))) == ["L"]
        payments = (SOUND.payments[0], replace(split, in_order=False), SOUND.payments[2])
        assert oracles.lost(with_(payments=payments)) == []


class TestDoubled:
    def test_finds_a_key_with_two_effects(self) -> None:
        again = effect(5, "key-a", 1_000)
        assert "D" in letters_of(oracles.doubled(with_(effects=(*SOUND.effects, again))))

    def test_finds_a_payment_under_two_keys(self) -> None:
        again = effect(5, "key-other", 1_000)
        (found,) = oracles.doubled(with_(effects=(*SOUND.effects, again)))
        assert "key-a, key-other" in found.what

    def test_finds_a_customer_who_was_charged_twice(self) -> None:
        again = Charged(intent="pi_t", account="R1-S001", amount_cents=4_000)
        (found,) = oracles.doubled(with_(charged=(*SOUND.charged, again)))
        assert "charged 4000 cents 2 times" in found.what


class TestInvented:
    def test_finds_a_posting_that_nothing_was_sent_for(self) -> None:
        ghost = effect(5, "key-ghost", 9_999)
        (found,) = oracles.invented(with_(effects=(*SOUND.effects, ghost)))
        assert (found.oracle, "key-ghost" in found.what) == ("A", True)

    def test_finds_a_posting_of_a_declined_payment(self) -> None:
        ghost = effect(5, "key-c", 3_000)
        assert letters_of(oracles.invented(with_(effects=(*SOUND.effects, ghost)))) == ["A"]

    def test_finds_a_reversal_of_no_payment(self) -> None:
        ghost = effect(5, "key-x", 10, kind="reversal", payment_key="key-nobody")
        assert letters_of(oracles.invented(with_(effects=(*SOUND.effects, ghost)))) == ["A"]

    def test_finds_a_posting_on_an_account_of_nobody(self) -> None:
        ghost = effect(5, "key-x", 10, account="STRANGER")
        assert letters_of(oracles.invented(with_(strangers=(ghost,)))) == ["A"]


def told_by(*letters: Letter) -> Journals:
    """The sound journals, with these in place of the first letter."""
    return with_(letters=(*letters, *SOUND.letters[1:]))


class TestTold:
    def test_finds_a_posting_that_nobody_was_told_of(self) -> None:
        (found,) = oracles.told(with_(letters=SOUND.letters[1:]), repeats_allowed=True)
        assert "1000 cents 1 times, and was told 0 times" in found.what

    def test_finds_a_second_confirmation_of_one_posting(self) -> None:
        again = letter(9, 1_000, 3)
        found = oracles.told(with_(letters=(*SOUND.letters, again)), repeats_allowed=True)
        assert letters_of(found) == ["N"]

    def test_finds_a_confirmation_of_no_posting(self) -> None:
        ghost = letter(9, 7_777, 3)
        found = oracles.told(with_(letters=(*SOUND.letters, ghost)), repeats_allowed=True)
        assert letters_of(found) == ["N"]

    def test_finds_a_decline_that_was_not_told(self) -> None:
        kept = [each for each in SOUND.letters if each.kind != "declined"]
        assert letters_of(oracles.told(with_(letters=kept), repeats_allowed=True)) == ["N"]

    def test_takes_a_repeated_message_only_where_that_is_allowed(self) -> None:
        repeated = with_(letters=(*SOUND.letters, SOUND.letters[0]))
        assert oracles.told(repeated, repeats_allowed=True) == []
        assert letters_of(oracles.told(repeated, repeats_allowed=False)) == ["N"]
        assert oracles.repeats(repeated) == 1

    def test_takes_what_two_versions_told_for_told_again(self) -> None:
        # As seen in fault 30, of one posting: notifier before and after decision 0052.
        older = letter(
            1, 1_000, 2, message_id="<8a6af33f-7b66-5060-a296-b143a99f30f6@city.example>"
        )
        newer = letter(
            1, 1_000, 3, message_id="<01a22a21-279c-8060-a296-b143a99f30f6@city.example>"
        )
        other = letter(
            1, 1_000, 3, message_id="<01a22a21-279c-8061-a296-b143a99f30f6@city.example>"
        )
        later = letter(
            1, 1_000, 3, message_id="<01a22a21-279d-8060-a296-b143a99f30f6@city.example>"
        )
        assert letters_of(oracles.told(told_by(newer, later), repeats_allowed=True)) == ["N"]
        assert oracles.told(told_by(older, newer), repeats_allowed=True) == []
        assert oracles.repeats(told_by(older, newer)) == 1
        assert letters_of(oracles.told(told_by(older, newer), repeats_allowed=False)) == ["N"]
        assert letters_of(oracles.told(told_by(older, other), repeats_allowed=True)) == ["N"]


class TestPrompt:
    def test_finds_a_slow_confirmation_before_the_fault(self) -> None:
        early = replace(SOUND.times, injected=BEGAN + 19)
        late = (letter(1, 1_000, 18), *SOUND.letters[1:])
        (found,) = oracles.prompt(with_(letters=late, times=early), recovery_seconds_max=0)
        assert "before the fault pi_a" in found.what

    def test_finds_one_that_is_slow_long_after_healing(self) -> None:
        late = (SOUND.letters[0], letter(2, 2_000, 60), *SOUND.letters[2:])
        (found,) = oracles.prompt(with_(letters=late), recovery_seconds_max=30)
        assert "after healing pi_b" in found.what

    def test_gives_the_backlog_its_time(self) -> None:
        late = (SOUND.letters[0], letter(2, 2_000, 38), *SOUND.letters[2:])
        assert oracles.prompt(with_(letters=late), recovery_seconds_max=30) == []

    def test_tells_how_long_recovery_took(self) -> None:
        late = (letter(1, 1_000, 17), *SOUND.letters[1:])
        assert oracles.recovery_seconds(with_(letters=late)) == pytest.approx(7.0)


class TestOrder:
    def test_finds_a_reversal_before_its_payment(self) -> None:
        effects = list(SOUND.effects)
        effects[1], effects[2] = (
            replace(effects[1], sequence=3),
            replace(effects[2], sequence=2),
        )
        assert letters_of(oracles.reversed_in_order(with_(effects=effects))) == ["O"]

    def test_finds_a_reversal_whose_payment_never_came(self) -> None:
        effects = [each for each in SOUND.effects if each.key != "key-b"]
        assert letters_of(oracles.reversed_in_order(with_(effects=effects))) == ["O"]

    def test_finds_a_payment_that_overtook_one_accepted_before_it_was_sent(self) -> None:
        effects = (
            replace(SOUND.effects[0], sequence=9),
            *SOUND.effects[1:],
        )
        (found,) = oracles.in_order_of_acceptance(with_(effects=effects))
        assert "pi_b was posted before pi_a" in found.what

    def test_does_not_mind_the_order_of_what_was_under_way_at_once(self) -> None:
        effects = (replace(SOUND.effects[0], sequence=9), *SOUND.effects[1:])
        attempts = (
            attempt("pi_b", "charge.succeeded", 1.005, latency_seconds=0.02),
            *(each for each in SOUND.attempts if each.type != "charge.succeeded"),
            attempt("pi_a", "charge.succeeded", 1.0, latency_seconds=0.02),
        )
        assert oracles.in_order_of_acceptance(with_(effects=effects, attempts=attempts)) == []


class TestHealth:
    def test_finds_a_process_that_never_said_that_it_could_not_work(self) -> None:
        found = oracles.unwell(SOUND, processes=["cis-poster"], within_seconds=2)
        assert letters_of(found) == ["H"]

    def test_takes_unreadiness_in_time(self) -> None:
        samples = [sample(seconds, ready=seconds < 6) for seconds in range(5, 10)]
        said = with_(samples=samples)
        assert oracles.unwell(said, processes=["cis-poster"], within_seconds=2) == []
        assert oracles.unwell(said, processes=["cis-poster"], within_seconds=0.5) != []

    def test_takes_a_restart(self) -> None:
        samples = [sample(seconds, starts=1 + (seconds > 6)) for seconds in range(5, 10)]
        said = with_(samples=samples)
        assert oracles.unwell(said, processes=["cis-poster"], within_seconds=3) == []

    def test_finds_a_process_that_nobody_looked_at(self) -> None:
        assert oracles.unwell(SOUND, processes=["notifier"], within_seconds=9) != []

    def test_finds_a_service_that_computes_without_end(self) -> None:
        samples = [sample(seconds, cpu_seconds=seconds * 0.99) for seconds in range(5, 11)]
        (found,) = oracles.no_hot_loop(with_(samples=samples))
        assert "cis-poster used" in found.what

    def test_finds_a_database_that_is_hammered(self) -> None:
        samples = [sample(seconds, commits=seconds * 5_000) for seconds in range(5, 11)]
        (found,) = oracles.no_hot_loop(with_(samples=samples))
        assert "5000 commits a second" in found.what


class TestBuried:
    def test_finds_poison_that_was_not_buried(self) -> None:
        found = oracles.buried(SOUND, poison={"payments.v1.dead": [b"poison"]})
        assert letters_of(found) == ["Q"]

    def test_finds_a_sound_record_that_was_buried(self) -> None:
        assert letters_of(oracles.buried(with_(dead={"s.dead": [b"sound"]}), poison={})) == ["Q"]

    def test_takes_one_record_that_several_groups_have_buried(self) -> None:
        dead = with_(dead={"s.dead": [b"poison", b"poison"]})
        assert oracles.buried(dead, poison={"s.dead": [b"poison"]}) == []

    def test_finds_poison_whose_bytes_were_changed(self) -> None:
        dead = with_(dead={"s.dead": [b"poison "]})
        assert len(oracles.buried(dead, poison={"s.dead": [b"poison"]})) == 2


class TestMetrics:
    @pytest.mark.parametrize(
        ("service", "name"),
        [("cis-poster", "posted"), ("notifier", "sent"), ("payment-intake", "events")],
    )
    def test_that_count_one_too_many_are_found(self, service: str, name: str) -> None:
        counters = {**SOUND.counters, service: {name: SOUND.counters[service][name] + 1}}
        (found,) = oracles.metrics(with_(counters=counters))
        assert service in found.what

    def test_of_a_restarted_service_are_not_compared(self) -> None:
        assert oracles.metrics(with_(counters={})) == []


class TestTimelines:
    def test_that_lack_a_step_are_found(self) -> None:
        (found,) = oracles.timelines(with_(stories={"pi_a": ["no mail"]}))
        assert "the timeline of pi_a: no mail" in found.what


class TestEqualLedgers:
    def other(self) -> Journals:
        """The same plan in another run: other keys, another prefix."""
        return with_(
            accounts=frozenset({"R9-001", "R9-S001"}),
            payments=tuple(replace(each, account="R9-001") for each in SOUND.payments),
            charges=tuple(replace(each, account="R9-S001") for each in SOUND.charges),
            effects=tuple(
                replace(
                    each,
                    account=each.account.replace("R1", "R9"),
                    key=f"other-{each.key}",
                    payment_key=f"other-{each.payment_key}",
                )
                for each in SOUND.effects
            ),
        )

    def test_do_not_depend_on_names(self) -> None:
        assert oracles.equal_ledgers(SOUND, self.other()) == []

    def test_that_differ_by_a_cent_are_found(self) -> None:
        other = self.other()
        changed = replace(other.effects[2], amount_cents=1_999)
        other = replace(other, effects=(*other.effects[:2], changed, other.effects[3]))
        assert letters_of(oracles.equal_ledgers(SOUND, other)) == ["calm"]

    def test_that_lack_a_payment_are_found(self) -> None:
        other = replace(self.other(), effects=self.other().effects[1:])
        assert letters_of(oracles.equal_ledgers(SOUND, other)) == ["calm"]
