"""The calculation of docs/scaling.md, by hand."""

import pytest
from bench.pipeline.goals import Trials
from bench.pipeline.sizing import CASES, Costs, processor, size, utility

COSTS = Costs(
    cpu_us={
        "payment-intake": 300.0,
        "cis-poster": 150.0,
        "autopay-scheduler": 50.0,
        "notifier": 200.0,
        "postgres": 400.0,
        "kafka": 200.0,
    },
    wal_bytes=8_000.0,
)


class TestPeaks:
    def test_of_a_utility_are_the_busiest_seconds_of_its_busiest_hour(self) -> None:
        # 5,000,000 × 0.1 = 500,000 on the day, × 0.2 = 100,000 in the hour, 27.8/s, × 5.
        case = utility(accounts=5_000_000)
        assert case.peak == pytest.approx(138.9, abs=0.1)
        assert case.year == 60_000_000

    def test_of_the_page_are_three(self) -> None:
        assert [round(case.peak, 1) for case in CASES] == [0.4, 138.9, 50_000.0]


class TestSizing:
    def test_of_a_small_utility_is_one_process_of_each(self) -> None:
        found = size(case=utility(accounts=14_000), costs=COSTS)
        assert set(found.processes.values()) == {1}
        assert (found.cells, found.partitions) == (1, 12)

    def test_of_a_processor_is_split_into_cells_by_what_they_write(self) -> None:
        found = size(case=processor(peak=50_000), costs=COSTS)
        # 50,000 × 300 µs = 15 cores, half busy: 30 processes. 50,000 × 8 kB = 400 MB/s: 4 cells.
        assert found.cores["payment-intake"] == pytest.approx(15.0)
        assert found.processes["payment-intake"] == 30
        assert found.processes["notifier"] == 20
        assert found.cells == 4
        assert found.partitions == 12

    def test_has_as_many_partitions_as_a_cell_has_processes_of_one_service(self) -> None:
        dear = Costs(cpu_us={**COSTS.cpu_us, "notifier": 900.0}, wal_bytes=1_000.0)
        found = size(case=processor(peak=50_000), costs=dear)
        assert (found.cells, found.processes["notifier"], found.partitions) == (1, 90, 90)


class TestCosts:
    def test_are_unknown_where_the_maximum_was_not_run(self) -> None:
        assert Costs.of(Trials([])) is None
