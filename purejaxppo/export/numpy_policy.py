"""Runs a policy that purejaxppo exported for NumPy: the most probable action for one observation.

    policy = Policy("policy.npz")
    action = policy(obs)

    carry = policy.initial_carry  # with a memory: at the start of an episode
    carry, action = policy(carry, obs, episode_start)

An observation is an array, or a dictionary or tuple of them, as the environment gives it.
"""

import json
from functools import reduce
from operator import getitem

import numpy as np

CALLS: dict = {name: f for name, f in vars(np).items() if isinstance(f, np.ufunc)}
CALLS |= {f.__name__: f for f in (np.argmax, np.broadcast_to, np.reshape, np.transpose, np.where)}
CALLS |= {
    "astype": lambda x, dtype: np.asarray(x, dtype),
    "concatenate": lambda *parts_axis: np.concatenate(parts_axis[:-1], parts_axis[-1]),
    "einsum": lambda x, y, letters: np.einsum(letters, x, y, optimize=True),
    "reduce": lambda x, name, axes, dtype: CALLS[name].reduce(x, tuple(axes), dtype),
    "take": lambda x, places: np.append(x, x.dtype.type(0))[places],  # -1: the zero at the end
}


class Policy:
    """A trained policy: a list of NumPy calls, each of which names its result."""

    def __init__(self, path):
        with np.load(path) as file:
            self.constants = dict(file)
        self.program = json.loads(self.constants.pop("program").tobytes())
        self.initial_carry = build(self.program["initial_carry"], self.constants)

    @np.errstate(all="ignore")
    def __call__(self, *args):
        """Returns one action; with a memory, the carry before it."""
        inputs = {name: reduce(getitem, path, args) for name, path in self.program["inputs"]}
        values = self.constants | inputs
        for name, call, operands, options in self.program["calls"]:
            values[name] = CALLS[call](*(values[operand] for operand in operands), *options)
        return build(self.program["outputs"], values)


def build(names, values):
    """Puts values in place of their names, in the dictionaries and tuples that the names are in."""
    if isinstance(names, dict):
        return {key: build(part, values) for key, part in names.items()}
    return values[names] if isinstance(names, str) else tuple(build(n, values) for n in names)
