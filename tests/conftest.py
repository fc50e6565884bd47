"""Wiring only: what tests share lives in `tests/support`."""

pytest_plugins = ["tests.support.backends", "tests.support.whole_stack"]
