"""Texts that say what is varied, right and wrong, for tests that try many."""

import dataclasses

from hypothesis import strategies as st

from purejaxppo import PPOConfig

NAMES = [
    *(field.name for field in dataclasses.fields(PPOConfig)), "lr", "LR", "gama", "", " ", "seed",
    "env_options.max_steps", "env_options.", "env_params.gravity", "env_params.", "é", "x" * 300,
]  # fmt: skip
ENDS = [
    "0", "1", "2", "8", "16", "64", "0.5", "0.99", "1e-4", "1e-2", "-1", "nan", "inf", "1e400",
    "1e-50", "9" * 5000, "1e39", "x", "", "None", "3.5", "2147483648", "٣", "_", "0x1",
]  # fmt: skip
CHOICES = [
    "8", "16", "none", "true", "false", "64x64", "8x", "x", "clip", "gae", "n_step", "gru", "", " ",
    "0.5", "1e-3", "nan", "a=1", "[" * 3000, "{[]: 1}", "é", "\udc80", "..", "log:", "1" * 5000,
]  # fmt: skip


def values():
    """What may stand behind the name: a range, choices, or neither."""
    end = st.sampled_from(ENDS)
    prefix = st.sampled_from(["", "", "", "log:", "int:", "log:int:", "lin:", "LOG:"])
    points = st.sampled_from(["", "", "", ":3", ":1", ":0", ":-2", ":x", ":", ":99999", ":1e3"])
    ranges = st.tuples(prefix, end, st.sampled_from(["..", "..", "...", "-"]), end, points)
    choices = st.lists(st.sampled_from(CHOICES), max_size=4).map(",".join)
    return st.one_of(ranges.map("".join), choices, st.text(max_size=5))


def varied():
    """`NAME=VALUES`, mostly."""
    equals = st.sampled_from(["=", "=", "=", "=", "", "=="])
    return st.tuples(st.sampled_from(NAMES), equals, values()).map("".join)
