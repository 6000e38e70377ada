"""How much is fuzzed: a little with every run of the tests, more when it is asked for."""

import os

from hypothesis import HealthCheck, settings

LONG = "PUREJAXPPO_FUZZ"
"""Set by `pytest --long-fuzz`, so that processes of the tests know it too."""


def examples(few, many):
    """Settings of a property test: equal examples in every run, of `--long-fuzz` many others.

    Args:
        few: examples in every run of the tests.
        many: examples of `pytest tests/fuzz --long-fuzz`.
    """
    long = LONG in os.environ
    return settings(
        max_examples=many if long else few,
        deadline=None,
        derandomize=not long,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
