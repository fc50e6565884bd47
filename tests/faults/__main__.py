"""`python -m tests.faults`: break the system in every way of the list, and prove what held."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from pathlib import Path

import uvloop
from tests.faults.command import Wanted, run_campaign

from paypost.stack.state import state_root
from paypost.stack.supervisor import exit_on_signals


def numbers_of(text: str) -> tuple[int, ...]:
    """Read `1,2,5-9`. Raises ValueError where it is none."""
    found: list[int] = []
    for part in text.replace(" ", "").split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


def share_of(text: str) -> tuple[int, int]:
    """Read `1/3`, a process's share of the mixes. Raises ValueError where it is none."""
    place, _, shares = text.partition("/")
    return int(place), int(shares)


def main() -> int:
    """Read what is wanted, run it; 0 if everything held, 1 if not, 2 if it could not be run."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--only", type=numbers_of, help="faults by number: 22 or 1,3,5-9")
    parser.add_argument("--seed", type=int, help="of what is left to chance; drawn when absent")
    parser.add_argument(
        "--mixes", type=int, help="how many random mixes; 3 when all is run, else 0"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, help="how many stacks the mixes are run on at once"
    )
    parser.add_argument("--share", type=share_of, help=argparse.SUPPRESS)
    parser.add_argument(
        "--folder",
        type=Path,
        default=state_root() / "campaign",
        help="where journals and logs are kept",
    )
    parser.add_argument("--soak-minutes", type=float, default=5.0, help="how long fault 32 lasts")
    options = parser.parse_args()
    whole = options.only is None and options.mixes is None
    wanted = Wanted(
        only=options.only if options.only is not None or whole else (),
        seed=options.seed if options.seed is not None else random.SystemRandom().randrange(10**6),
        mixes=3 if whole else options.mixes or 0,
        folder=options.folder.resolve(),
        soak_minutes=options.soak_minutes,
        jobs=max(1, options.jobs),
        share=options.share,
        report=whole,
    )
    with exit_on_signals():
        try:
            return uvloop.run(run_campaign(wanted))
        except (KeyboardInterrupt, asyncio.CancelledError):
            sys.stderr.write("\ninterrupted: everything was stopped, nothing was reported\n")
            return 130


if __name__ == "__main__":
    sys.exit(main())
