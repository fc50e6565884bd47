import re

import pytest

from shared.runtime.tracing import trace_id, traceparent_or_new

GIVEN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class TestTraces:
    def test_go_on_from_a_well_formed_header(self):
        assert traceparent_or_new(GIVEN) == GIVEN

    @pytest.mark.parametrize(
        "header",
        [
            None,
            "",
            "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
            GIVEN.upper(),
            GIVEN + "-more",
            GIVEN + "\n",
            GIVEN[:-1],
            "01" + GIVEN[2:],
            "garbage",
        ],
    )
    def test_begin_anew_where_the_header_is_missing_or_malformed(self, header):
        begun = traceparent_or_new(header)
        assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", begun)
        assert begun != header

    def test_are_named_by_their_trace_id(self):
        assert trace_id(GIVEN) == "4bf92f3577b34da6a3ce929d0e0e4736"
        assert trace_id(None) is None
