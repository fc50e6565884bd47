"""Whatever is repeated, reordered, lost, killed or late: once, in order, to the cent, to its end.

Each mutant below has one promise taken out of it, and has to be caught: a machine that finds
nothing proves nothing.
"""

from collections.abc import Sequence
from dataclasses import replace
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from structlog.testing import capture_logs
from tests.support.chain import Chain
from tests.support.chain_machine import ChainMachine
from tests.support.examples import examples

from cis_poster.consumers import to_posting
from cis_poster.domain import Answer, Attempt
from cis_poster.usecases import Attempting
from payment_intake.usecases import FollowMovements, TakeEvents
from payment_intake.usecases.taking import Taking
from shared.contracts.wire import Received

SETTINGS = settings(
    max_examples=examples(40),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
UNTIL_CAUGHT = settings(
    SETTINGS,
    max_examples=400,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
)


def test_every_payment_ends_once_on_the_ledger_to_the_cent_and_is_told():
    with capture_logs():
        run_state_machine_as_test(ChainMachine, settings=SETTINGS)


class ForgetsKeys(Chain):
    """The key of a posting is new each time that its fact is read."""

    async def post(self, received: Sequence[Received]) -> None:
        postings = [replace(p, id=uuid4()) for each in received if (p := to_posting(each))]
        await self.poster.post_payments(postings)


class ForgetsWhatWasReversed(Chain):
    """Each event of a refund or dispute is taken for the first that says so."""

    class Forgetting(Taking):
        def _payment_of(self, event, observation):
            payment, observation = super()._payment_of(event, observation)
            book = replace(payment.book, reversed_cents={})
            return replace(payment, book=book), observation

    class Take(TakeEvents):
        async def __call__(self, events):
            async with self.store.transaction() as unit:
                taking = ForgetsWhatWasReversed.Forgetting(
                    unit=unit, policy=self.policy, new_id=self.new_id
                )
                return await taking.take(events)

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self.take = self.Take(**vars(self.take))


class NeverAsks(Chain):
    """What may have taken effect is sent again at once."""

    class Unasking(Attempting):
        async def _answers(self, attempts: Sequence[Attempt]) -> Sequence[Answer]:
            return await super()._answers([replace(each, ask_first=False) for each in attempts])

    def start_poster(self) -> None:
        super().start_poster()
        self.poster.lanes._act = self.Unasking(**vars(self.poster.attempting))


class ReversesAtOnce(Chain):
    """A reversal waits for no payment."""

    def start_poster(self) -> None:
        super().start_poster()
        self.poster.postings._is_posted = lambda _: True


class HearsNobody(Chain):
    """What customers were told ends no chain."""

    class Deaf(FollowMovements):
        async def tell(self, told) -> None:
            pass

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self.follow = self.Deaf(**vars(self.follow))


class AnnouncesOnce(Chain):
    """What a lost stream carried is not said again."""

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)

        async def never(**_: object) -> int:
            return 0

        self.announce_again = never


@pytest.mark.parametrize(
    ("mutant", "complaint"),
    [
        (ForgetsKeys, "a second payment"),
        (ForgetsWhatWasReversed, "is not what was said"),
        (NeverAsks, "sent again, and not asked"),
        (ReversesAtOnce, "before its payment"),
        (HearsNobody, "the chain does not end"),
        (AnnouncesOnce, "the chain does not end"),
    ],
)
def test_what_breaks_a_promise_is_caught(mutant, complaint):
    class Mutant(ChainMachine):
        CHAIN = mutant

    with capture_logs(), pytest.raises(AssertionError, match=complaint):
        run_state_machine_as_test(Mutant, settings=UNTIL_CAUGHT)
