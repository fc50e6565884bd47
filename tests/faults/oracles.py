"""What must hold after every fault: pure functions over the journals of a run.

Each returns what does not hold, with the names to look for. None asks the system under test;
`metrics` and `timelines` hold what it says of itself against what the others wrote.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

from tests.faults.journals import (
    OTHER,
    TOLD_AS,
    Attempt,
    Effect,
    Journals,
    Payment,
    Sample,
)
from tests.faults.violations import Violation

CREDITING = frozenset({"charge.succeeded", "payment_intent.succeeded"})
"""Either of these events alone makes a payment money."""

CONFIRM_SECONDS_MAX = 5.0
"""The goal, accepted to confirmed, p99 outside of a fault; on two cores shared with the servers."""

CPU_SHARE_MAX = 0.9
"""Of one core, by one service, on average over a fault that keeps it from working."""
COMMITS_PER_SECOND_MAX = 500.0
"""Of the whole server: a hot loop of claims would make thousands."""

NOTIFICATION_ID = re.compile(r"-([58])([0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12})@")
"""Version and hash of a notification's id: a UUIDv8 or, before decision 0052, a UUIDv5."""

Oracle = Callable[[Journals], list[Violation]]


def lost(journals: Journals) -> list[Violation]:
    """L: each payment answered 2xx, and each due charge, has exactly one posting."""
    effects = _payments_by_name(journals.effects)
    refused = _never_taken(journals)
    violations = [
        Violation(
            oracle="L",
            what=f"{payment.reference} ({payment.scenario}) of {payment.account}, "
            f"{payment.amount_cents} cents, was accepted and is not on the ledger",
        )
        for payment in journals.payments
        if _is_owed(payment)
        and payment.reference not in refused
        and not effects[payment.account, payment.amount_cents]
    ]
    violations += [
        Violation(
            oracle="L",
            what=f"the charge of {charge.account}, {charge.amount_cents} cents, is due and is not "
            "on the ledger",
        )
        for charge in journals.charges
        if not effects[charge.account, charge.amount_cents]
    ]
    return violations + _lost_movements(journals)


def _lost_movements(journals: Journals) -> list[Violation]:
    """Of each payment that is on the ledger: whether what came after it is there as well."""
    repeated = {each.reference for each in journals.attempts if each.attempt > 1}
    refused = _never_taken(journals)
    by_payment: dict[str, list[Effect]] = defaultdict(list)
    for effect in journals.effects:
        by_payment[effect.payment_key].append(effect)
    names = _payments_by_name(journals.effects)
    violations = []
    for payment in journals.payments:
        found = names[payment.account, payment.amount_cents]
        if not found or payment.reference in refused:
            continue
        there = Counter((each.kind, each.amount_cents) for each in by_payment[found[0].key])
        wanted = Counter(payment.movements)
        # Events that were repeated may overtake one another, and two refunds then come as one:
        # what they sum up to is the same.
        disordered = payment.reference in repeated or not payment.in_order
        holds = _net(there) == _net(wanted) if disordered else there == wanted
        if not holds:
            violations.append(
                Violation(
                    oracle="L",
                    what=f"{payment.reference} ({payment.scenario}) of {payment.account}: the "
                    f"ledger has {dict(there)}, and should have {dict(wanted)}",
                )
            )
    return violations


def doubled(journals: Journals) -> list[Violation]:
    """D: no key has two effects, no payment two keys, no charge was taken twice."""
    violations = [
        Violation(oracle="D", what=f"the key {key} took effect {count} times")
        for key, count in Counter(each.key for each in journals.effects).items()
        if count > 1
    ]
    violations += [
        Violation(
            oracle="D",
            what=f"{account} has {len(found)} payments of {cents} cents: "
            f"{', '.join(each.key for each in found)}",
        )
        for (account, cents), found in _payments_by_name(journals.effects).items()
        if len({each.key for each in found}) > 1
    ]
    taken = Counter((each.account, each.amount_cents) for each in journals.charged)
    violations += [
        Violation(oracle="D", what=f"{account} was charged {cents} cents {count} times")
        for (account, cents), count in taken.items()
        if count > 1
    ]
    return violations


def invented(journals: Journals) -> list[Violation]:
    """A: no effect without an accepted input behind it."""
    known = {(each.account, each.amount_cents) for each in journals.payments if _is_owed(each)} | {
        (each.account, each.amount_cents) for each in journals.charges
    }
    keys = {each.key for each in journals.effects if each.kind == "payment"}
    violations = [
        Violation(
            oracle="A",
            what=f"{each.kind} {each.key} of {each.amount_cents} cents on {each.account}: "
            "nothing was sent that it could come from",
        )
        for each in journals.effects
        if (each.kind == "payment" and (each.account, each.amount_cents) not in known)
        or (each.kind != "payment" and each.payment_key not in keys)
    ]
    violations += [
        Violation(oracle="A", what=f"{each.kind} {each.key} on {each.account}, nobody's account")
        for each in journals.strangers
    ]
    return violations


def told(journals: Journals, *, repeats_allowed: bool) -> list[Violation]:
    """N: for each effect one confirmation; the same one again only where that is allowed."""
    accounts = {address: account for account, address in journals.addresses.items()}
    notifications = _notifications(journals)
    letters: dict[tuple[str, str, int], set[str]] = defaultdict(set)
    for letter in journals.letters:
        if letter.kind == OTHER:
            continue
        name = (accounts.get(letter.address, letter.address), letter.kind, letter.amount_cents)
        letters[name].add(notifications[letter.message_id])
    wanted = Counter(
        (each.account, TOLD_AS[each.kind], each.amount_cents)
        for each in {each.key: each for each in journals.effects}.values()
    )
    for each in journals.payments:
        if not each.told:
            wanted[each.account, "posted", each.amount_cents] = 0
    wanted.update(
        (each.account, "declined", each.amount_cents)
        for each in journals.payments
        if each.declined and each.reference not in _never_taken(journals)
    )
    violations = [
        Violation(
            oracle="N",
            what=f"{account} should be told {kind!r} of {cents} cents {wanted[name]} times, and "
            f"was told {len(letters[name])} times",
        )
        for name in sorted({*wanted, *letters})
        for account, kind, cents in [name]
        if wanted[name] != len(letters[name])
    ]
    if not repeats_allowed:
        sent = Counter(notifications[each.message_id] for each in journals.letters)
        violations += [
            Violation(oracle="N", what=f"{notification} was sent {count} times")
            for notification, count in sent.items()
            if count > 1
        ]
    return violations


def _notifications(journals: Journals) -> Mapping[str, str]:
    """Which notification each Message-ID stands for: itself, but for an id of before decision 0052.

    That has the same hash as the newer id of the same notification, which a newer notifier beside
    the older one may have told again (fault 30).
    """
    ids = {each.message_id for each in journals.letters}
    found = {each: match for each in ids if (match := NOTIFICATION_ID.search(each))}
    newer = {match[2]: each for each, match in found.items() if match[1] == "8"}
    older = {each: newer.get(match[2], each) for each, match in found.items() if match[1] == "5"}
    return {each: older.get(each, each) for each in ids}


def repeats(journals: Journals) -> int:
    """How many mails came again of what had been told before."""
    return len(journals.letters) - len(set(_notifications(journals).values()))


def prompt(journals: Journals, *, recovery_seconds_max: float) -> list[Violation]:
    """N: confirmed within the goal before the fault, and again once it has been healed so long."""
    times = journals.times
    calm, after = [], []
    for payment, accepted, confirmed in _confirmations(journals):
        if confirmed < times.injected:
            calm.append((confirmed - accepted, payment))
        elif accepted >= times.healed:
            late = max(accepted, times.healed + recovery_seconds_max)
            after.append((max(0.0, confirmed - late), payment))
    violations = []
    for when, spans in (("before the fault", calm), ("after healing", after)):
        spans.sort(key=lambda span: span[0])
        if not spans:
            continue
        # With a hundred of them the one that is worst of all is beyond the 99th of a hundred.
        seconds, payment = spans[min(len(spans) - 1, int(len(spans) * 0.99))]
        if seconds > CONFIRM_SECONDS_MAX:
            violations.append(
                Violation(
                    oracle="N",
                    what=f"{when} {payment.reference} was confirmed {seconds:.1f} s after its "
                    f"acceptance, the goal is {CONFIRM_SECONDS_MAX:g} s",
                )
            )
    return violations


def recovery_seconds(journals: Journals) -> float:
    """From healing until the last payment accepted before it was confirmed."""
    healed = journals.times.healed
    late = [
        confirmed - healed
        for _, accepted, confirmed in _confirmations(journals)
        if accepted < healed
    ]
    return max(0.0, *late) if late else 0.0


def reversed_in_order(journals: Journals) -> list[Violation]:
    """O: no reversal before its payment, no reinstatement before its reversal."""
    rank = {"payment": 0, "reversal": 1, "reinstatement": 2}
    first: dict[tuple[str, int], int] = {}
    for effect in sorted(journals.effects, key=lambda each: each.sequence):
        first.setdefault((effect.payment_key, rank[effect.kind]), effect.sequence)
    return [
        Violation(
            oracle="O",
            what=f"number {sequence} of payment {key} came before number "
            f"{first.get((key, step - 1), 'none')}, which it takes back",
        )
        for (key, step), sequence in first.items()
        if step > 0 and first.get((key, step - 1), sequence + 1) > sequence
    ]


def in_order_of_acceptance(journals: Journals) -> list[Violation]:
    """O: of one account, what was accepted before the other was even sent is posted before it."""
    spans = _acceptances(journals.attempts)
    sequences = {
        (each.account, each.amount_cents): each.sequence
        for each in journals.effects
        if each.kind == "payment"
    }
    by_account: dict[str, list[tuple[float, float, int, Payment]]] = defaultdict(list)
    for payment in journals.payments:
        span = spans.get(payment.reference)
        sequence = sequences.get((payment.account, payment.amount_cents))
        if span is not None and sequence is not None:
            by_account[payment.account].append((*span, sequence, payment))
    violations = []
    for account, payments in by_account.items():
        payments.sort(key=lambda each: each[2])
        for number, (sent, _, _, first) in enumerate(payments):
            for _, accepted, _, second in payments[number + 1 :]:
                if accepted < sent:
                    violations.append(
                        Violation(
                            oracle="O",
                            what=f"on {account} {first.reference} was posted before "
                            f"{second.reference}, which had been accepted {sent - accepted:.3f} s "
                            "before the other was sent",
                        )
                    )
    return violations


def unwell(
    journals: Journals, *, processes: Sequence[str], within_seconds: float
) -> list[Violation]:
    """H: each of these said within the time that it could not work, or ended and was started."""
    times = journals.times
    violations = []
    for process in processes:
        samples = [
            each
            for each in journals.samples
            if each.process == process and times.injected <= each.at <= times.healed
        ]
        if not samples:
            violations.append(Violation(oracle="H", what=f"nobody looked at {process}"))
            continue
        said = [
            each.at - times.injected
            for each in samples
            if not each.ready or each.starts > samples[0].starts
        ]
        if not said or said[0] > within_seconds:
            heard = f"only after {said[0]:.1f} s" if said else "not at all"
            violations.append(
                Violation(oracle="H", what=f"{process} said that it could not work {heard}")
            )
    return violations


def no_hot_loop(journals: Journals, *, seconds_min: float = 2.0) -> list[Violation]:
    """H: during the fault no service computes without end, and the database is not hammered."""
    times = journals.times
    by_process: dict[str, list[Sample]] = defaultdict(list)
    for sample in journals.samples:
        if times.injected <= sample.at <= times.healed:
            by_process[sample.process].append(sample)
    violations = []
    for process, samples in by_process.items():
        seconds = samples[-1].at - samples[0].at
        if seconds < seconds_min:
            continue
        busy = sum(
            max(0.0, later.cpu_seconds - earlier.cpu_seconds)
            for earlier, later in pairwise(samples)
            if later.starts == earlier.starts
        )
        if busy / seconds > CPU_SHARE_MAX:
            violations.append(
                Violation(
                    oracle="H",
                    what=f"{process} used {busy:.1f} s of CPU in {seconds:.1f} s of the fault",
                )
            )
        known = [each for each in samples if each.commits is not None]
        if len(known) > 1:
            first, last = known[0], known[-1]
            assert first.commits is not None
            assert last.commits is not None
            rate = (last.commits - first.commits) / max(last.at - first.at, 1e-9)
            if last.at - first.at >= seconds_min and rate > COMMITS_PER_SECOND_MAX:
                violations.append(
                    Violation(oracle="H", what=f"{rate:.0f} commits a second during the fault")
                )
                break
    return violations


NO_POISON: Mapping[str, Sequence[bytes]] = {}


def buried(
    journals: Journals,
    *,
    poison: Mapping[str, Sequence[bytes]],
    earlier: Mapping[str, Sequence[bytes]] = NO_POISON,
) -> list[Violation]:
    """Q: the dead-letter streams hold what was poisoned, byte for byte, and nothing else.

    Poison of an `earlier` run on the stack may come again, where a stream is read again.
    """
    violations = []
    for stream in sorted({*poison, *journals.dead}):
        wanted = Counter(poison.get(stream, ()))
        found = Counter(journals.dead.get(stream, ()))
        # Every group that reads a stream buries what it cannot read, so one record may stand
        # there once for each.
        missing = [each for each in wanted if not found[each]]
        known = {*wanted, *earlier.get(stream, ())}
        strange = [each for each in found if each not in known]
        violations += [
            Violation(oracle="Q", what=f"{stream} lacks {each[:80]!r}") for each in missing
        ]
        violations += [
            Violation(oracle="Q", what=f"{stream} holds {each[:80]!r}, which was no poison")
            for each in strange
        ]
    return violations


def metrics(journals: Journals) -> list[Violation]:
    """M: what the services counted equals what the journals hold; of those never restarted."""
    effects = {each.key for each in journals.effects}
    expected = {
        ("cis-poster", "posted"): len(effects),
        ("notifier", "sent"): len({each.message_id for each in journals.letters}),
        ("payment-intake", "events"): len(
            {each.event_id for each in (*journals.attempts, *journals.deliveries) if each.taken}
        ),
    }
    return [
        Violation(
            oracle="M",
            what=f"{service} counted {journals.counters[service][name]:g} {name}, the journals "
            f"hold {wanted}",
        )
        for (service, name), wanted in expected.items()
        if service in journals.counters and journals.counters[service].get(name) != wanted
    ]


def timelines(journals: Journals) -> list[Violation]:
    """T: every payment's timeline has each step, and says why it waited."""
    return [
        Violation(oracle="T", what=f"the timeline of {reference}: {lack}")
        for reference, lacks in journals.stories.items()
        for lack in lacks
    ]


def equal_ledgers(broken: Journals, calm: Journals) -> list[Violation]:
    """The same plan with and without faults ends in the same ledger, but for names and order."""
    ours, theirs = (_ledger(each) for each in (broken, calm))
    return [
        Violation(
            oracle="calm",
            what=f"account {number}, payment of {paid} cents: {ours.get((number, paid))} with the "
            f"fault, {theirs.get((number, paid))} without",
        )
        for number, paid in sorted({*ours, *theirs})
        if ours.get((number, paid)) != theirs.get((number, paid))
    ]


def _ledger(journals: Journals) -> dict[tuple[str, int], int]:
    """By account, without the run's prefix, and payment: what is left of it."""
    names = _payments_by_name(journals.effects)
    sums: Counter[str] = Counter()
    for effect in {each.key: each for each in journals.effects}.values():
        sums[effect.payment_key] += _signed(effect.kind, effect.amount_cents)
    planned = [(each.account, each.amount_cents) for each in journals.payments if each.planned]
    planned += [(each.account, each.amount_cents) for each in journals.charges if each.planned]
    return {
        (account.partition("-")[2], cents): sums[found.key]
        for account, cents in planned
        for found in names[account, cents]
    }


def _confirmations(journals: Journals) -> Iterator[tuple[Payment, float, float]]:
    """Of each payment that was confirmed: itself, when it was accepted, and when confirmed."""
    spans = _acceptances(journals.attempts)
    arrived: dict[tuple[str, int], float] = {}
    for letter in journals.letters:
        if letter.kind == "posted":
            name = (letter.address, letter.amount_cents)
            at = letter.received_at.timestamp()
            arrived[name] = min(at, arrived.get(name, at))
    for payment in journals.payments:
        span = spans.get(payment.reference)
        at_last = arrived.get((journals.addresses[payment.account], payment.amount_cents))
        if span is not None and at_last is not None:
            yield payment, span[1], at_last


def _acceptances(attempts: Sequence[Attempt]) -> dict[str, tuple[float, float]]:
    """By payment: when the first event that makes it money was sent, and when one was taken."""
    sent: dict[str, float] = {}
    taken: dict[str, float] = {}
    for attempt in attempts:
        if attempt.type in CREDITING:
            at = attempt.sent_at.timestamp()
            sent[attempt.reference] = min(at, sent.get(attempt.reference, at))
            if attempt.taken:
                taken[attempt.reference] = min(
                    attempt.answered_at, taken.get(attempt.reference, attempt.answered_at)
                )
    return {reference: (sent[reference], at) for reference, at in taken.items()}


def _never_taken(journals: Journals) -> frozenset[str]:
    """Payments with an event that was given up: whether it counts is not known."""
    taken = {each.event_id for each in journals.attempts if each.taken}
    return frozenset(each.reference for each in journals.attempts if each.event_id not in taken)


def _is_owed(payment: Payment) -> bool:
    return any(kind == "payment" for kind, _ in payment.movements)


def _payments_by_name(effects: Sequence[Effect]) -> dict[tuple[str, int], list[Effect]]:
    found: dict[tuple[str, int], list[Effect]] = defaultdict(list)
    for each in effects:
        if each.kind == "payment":
            found[each.account, each.amount_cents].append(each)
    return found


def _net(movements: Counter[tuple[str, int]]) -> int:
    return sum(_signed(kind, cents) * count for (kind, cents), count in movements.items())


def _signed(kind: str, cents: int) -> int:
    return -cents if kind == "reversal" else cents
