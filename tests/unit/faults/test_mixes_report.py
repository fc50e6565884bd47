"""What is said of mixes that other processes have run."""

from pathlib import Path

from tests.faults.campaign import Outcome
from tests.faults.report import Report, render_mixes
from tests.faults.shares import read_outcomes, write_outcomes
from tests.faults.violations import Violation

HELD = Outcome(
    name="mix 2",
    numbers=(6, 22),
    seed=7001,
    oracles="LDA",
    counts={"payments": 88, "charges": 5, "posted": 120, "lost": 0, "doubled": 0},
    seconds=26.4,
)
FAILED = Outcome(
    name="mix 1",
    numbers=(18, 22),
    seed=7000,
    oracles="LDA",
    violations=(Violation(oracle="L", what="pi_1 is not on the ledger"),),
    counts={"payments": 119, "charges": 5, "posted": 168, "lost": 1, "doubled": 0},
    seconds=20.0,
    folder=Path("kept"),
)
CALM = Outcome(name="calm", numbers=(), seed=7000, counts={"payments": 88, "lost": 0})


def test_comes_back_from_a_process_as_it_was(tmp_path: Path) -> None:
    write_outcomes([CALM, FAILED, HELD], folder=tmp_path)
    assert read_outcomes(folder=tmp_path) == [CALM, FAILED, HELD]


def test_is_reported_in_order_with_what_did_not_hold() -> None:
    report = Report(seed=7, outcomes=(CALM, HELD, FAILED), seconds=60.0, jobs=2)
    text = render_mixes(report, surroundings=[("commit", "abc")])
    assert "**1 of 2 mixes held; 1 lost, 0 doubled.**" in text
    rows = [line for line in text.splitlines() if line.startswith(("| 1 | 7", "| 2 | 7"))]
    assert rows == [
        "| 1 | 7000 | 18, 22 | 124 | 168 | 1 | 0 | **failed** (L) |",
        "| 2 | 7001 | 6, 22 | 93 | 120 | 0 | 0 | held |",
    ]
    assert "- **mix 1** (seed 7000)\n  - L: pi_1 is not on the ledger" in text
    [times] = [line for line in text.splitlines() if line.startswith("| 22 |")]
    assert times.endswith("| 2 |")
