"""The figures behind every verdict."""

import pytest
from bench.pipeline.statistics import Latencies, middle, percentile, ratio


class TestPercentile:
    def test_is_a_value_that_was_measured_by_nearest_rank(self) -> None:
        values = [float(number) for number in range(100, 0, -1)]
        assert percentile(values, share=0.5) == 50
        assert percentile(values, share=0.99) == 99
        assert percentile(values, share=1.0) == 100

    def test_of_one_value_is_that(self) -> None:
        assert percentile([7.0], share=0.01) == 7.0

    def test_of_few_values_never_hides_the_worst(self) -> None:
        assert percentile([1.0, 1.0, 1.0, 9.0], share=0.99) == 9.0

    def test_of_nothing_is_unknown(self) -> None:
        assert percentile([], share=0.5) is None

    @pytest.mark.parametrize("share", [0.0, -0.1, 1.01, 50])
    def test_refuses_what_is_no_share(self, share: float) -> None:
        with pytest.raises(ValueError, match="share"):
            percentile([1.0], share=share)


class TestMiddle:
    def test_is_the_median_with_the_least_and_the_greatest(self) -> None:
        found = middle([30.0, 10.0, 20.0])
        assert found is not None
        assert (found.median, found.least, found.greatest, found.rounds) == (20, 10, 30, 3)

    def test_passes_over_rounds_without_a_result_and_counts_the_others(self) -> None:
        found = middle([None, 4.0, 6.0])
        assert found is not None
        assert (found.median, found.rounds) == (5.0, 2)

    def test_of_no_result_is_unknown(self) -> None:
        assert middle([None, None]) is None


class TestRatio:
    def test_divides(self) -> None:
        assert ratio(856.0, 1000.0) == 0.856

    @pytest.mark.parametrize(("of", "to"), [(None, 1.0), (1.0, None), (1.0, 0.0)])
    def test_is_unknown_where_it_would_mean_nothing(
        self, of: float | None, to: float | None
    ) -> None:
        assert ratio(of, to) is None


class TestLatencies:
    def test_are_told_in_milliseconds(self) -> None:
        found = Latencies.of([0.001] * 98 + [0.5, 2.0])
        assert found is not None
        assert (found.count, found.p50_ms, found.p99_ms, found.worst_ms) == (100, 1.0, 500, 2000)

    def test_of_nothing_are_unknown(self) -> None:
        assert Latencies.of([]) is None
