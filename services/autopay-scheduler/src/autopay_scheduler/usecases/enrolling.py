"""Taking the customers' words: enrolled, changed, paused, resumed, cancelled."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

import structlog

from autopay_scheduler.domain.city import City
from autopay_scheduler.domain.enrolments import ON, EnrolmentRecord
from autopay_scheduler.domain.words import Heard, Word, WordKind, hear
from autopay_scheduler.ports.store import Evidence, Store, UnitOfWork
from autopay_scheduler.usecases import facts
from autopay_scheduler.usecases.endings import stop
from shared.clock import Clock
from shared.contracts.fact import Fact

_log = structlog.get_logger(__name__)


class EnrollingMetrics(Protocol):
    """What is counted of enrolments."""

    def word(self, *, kind: str, outcome: str) -> None: ...
    def stopped(self, *, reason: str) -> None: ...


@dataclass(frozen=True, kw_only=True)
class TakeWords:
    """Takes a batch of words in one transaction: kept as evidence, understood, answered."""

    store: Store
    city: City
    clock: Clock
    metrics: EnrollingMetrics

    async def __call__(self, words: Sequence[tuple[Word, Evidence]]) -> None:
        """Take them in their order; a word that was heard before changes nothing.

        Raises:
            TransientError: nothing was kept; the whole batch may be taken again.
        """
        async with self.store.transaction() as unit:
            taking = _Taking(unit=unit, city=self.city, clock=self.clock)
            outcomes = await taking.take(words)
        for (word, _), outcome in zip(words, outcomes, strict=True):
            self.metrics.word(kind=word.kind, outcome=outcome)
            if outcome == "stopped":
                self.metrics.stopped(reason="cancelled")


class _Taking:
    """The taking of one batch."""

    def __init__(self, *, unit: UnitOfWork, city: City, clock: Clock) -> None:
        self._unit = unit
        self._city = city
        self._now = clock()
        self._by_reference: dict[str, EnrolmentRecord] = {}
        self._on: dict[str, EnrolmentRecord] = {}
        self._known: set[str] = set()
        self._changed: dict[UUID, EnrolmentRecord] = {}
        self._stated: list[Fact] = []

    async def take(self, words: Sequence[tuple[Word, Evidence]]) -> list[str]:
        accounts = sorted({word.account_id for word, _ in words})
        # First of all: whatever else is decided about these accounts waits for the end of this.
        self._known = await self._unit.lock_accounts(accounts)
        await self._unit.plan_accounts(sorted(self._known), at=self._now)
        are_new = await self._unit.keep_evidence([each for _, each in words], now=self._now)
        ids = sorted({each.enrolment_id for _, each in words}, key=str)
        for record in await self._unit.lock_enrolments(ids=ids, account_ids=accounts):
            self._hold(record)
        early = await self._early_words(words, accounts)
        outcomes = []
        for (word, _), is_new in zip(words, are_new, strict=True):
            is_unheard = word.reference not in self._by_reference
            outcomes.append(await self._take_one(word) if is_new else "duplicate")
            if is_unheard and word.reference in self._by_reference:
                for pause in early.get(word.reference, ()):
                    await self._take_one(pause)
        await self._flush()
        return outcomes

    async def _early_words(
        self, words: Sequence[tuple[Word, Evidence]], accounts: Sequence[str]
    ) -> dict[str, list[Word]]:
        """Return pauses and their ends that were heard before their enrolment, by its reference."""
        new = {
            word.reference: evidence.enrolment_id
            for word, evidence in words
            if word.enrolment is not None and word.reference not in self._by_reference
        }
        if not new:
            return {}
        found: dict[str, list[Word]] = {}
        for word in await self._unit.pauses_of(sorted(new.values(), key=str), accounts=accounts):
            found.setdefault(word.reference, []).append(word)
        return found

    async def _take_one(self, word: Word) -> str:
        known = self._by_reference.get(word.reference)
        other = self._on.get(word.account_id)
        heard = hear(
            word,
            known=known,
            other=other if other is not None and other.reference != word.reference else None,
            is_account_known=word.account_id in self._known,
            token_prefixes=self._city.token_prefixes,
            limit_cents=self._city.limit_cents,
            now=self._now,
        )
        if heard is None:
            return "ignored"
        if heard.is_stopped:
            # Its charges are looked up: what was decided so far is to be seen by that.
            await self._flush()
            for record in await stop(
                self._unit, [heard.record], reason="cancelled", said_at=word.at, now=self._now
            ):
                self._hold(record)
            return "stopped"
        self._changed[heard.record.id] = heard.record
        self._hold(heard.record)
        return self._answer(word, heard)

    def _answer(self, word: Word, heard: Heard) -> str:
        if heard.refusal is not None and word.enrolment is not None:
            self._stated.append(facts.refused(word.enrolment, heard.refusal, at=word.at))
            _log.warning(
                "enrolment.refused",
                enrolment_id=str(heard.record.id),
                reason=heard.refusal.reason,
                field=heard.refusal.field,
            )
            return "refused"
        if heard.is_activated and heard.record.enrolment is not None:
            self._stated.append(facts.activated(heard.record.enrolment, at=self._now))
            return "activated"
        return "stopped_before" if word.kind is WordKind.CANCELLED else "changed"

    def _hold(self, record: EnrolmentRecord) -> None:
        self._by_reference[record.reference] = record
        if record.status in ON:
            self._on[record.account_id] = record
        elif self._on.get(record.account_id, record).id == record.id:
            self._on.pop(record.account_id, None)

    async def _flush(self) -> None:
        if self._changed:
            await self._unit.save_enrolments(list(self._changed.values()))
            activated = [r.account_id for r in self._changed.values() if r.status in ON]
            await self._unit.mark_reenrolled(sorted(activated), at=self._now)
            self._changed = {}
        if self._stated:
            await self._unit.state([facts.recorded(fact) for fact in self._stated])
            self._stated = []
