import pytest

from paypost.stack_status import backlog_of


class TestBacklogOf:
    @pytest.mark.parametrize(
        ("sample", "said"),
        [
            ('payment_intake_unfinished_movements{status="due"}', "due"),
            ('payment_intake_unsettled_charges{status="due"}', "charges due"),
            ('cis_poster_backlog_postings{status="due"}', "due"),
            ('autopay_scheduler_backlog{kind="retrying"}', "retrying"),
            ('notifier_backlog_notifications{status="due"}', "due"),
        ],
    )
    def test_says_what_waits_in_each_service(self, sample, said):
        assert backlog_of(metrics=f"{sample} 3.0\n") == {said: 3.0}

    def test_tells_charges_from_movements_of_one_status(self):
        metrics = (
            'payment_intake_unfinished_movements{status="unknown"} 1.0\n'
            'payment_intake_unsettled_charges{status="unknown"} 2.0\n'
        )
        assert backlog_of(metrics=metrics) == {"unknown": 1.0, "charges unknown": 2.0}

    def test_is_silent_about_what_is_empty_or_no_backlog(self):
        metrics = (
            'autopay_scheduler_backlog{kind="requested"} 0.0\n'
            "autopay_scheduler_outbox_rows 4.0\n"
            "process_cpu_seconds_total 7.0\n"
        )
        assert backlog_of(metrics=metrics) == {"in the outbox": 4.0}
