"""Runs a policy that purejaxppo exported for NumPy: the most probable actions.

    policy = Policy("policy.npz")
    action = policy(obs)

    carry = policy.initial_carry  # with a memory: at the start of an episode
    carry, action = policy(carry, obs, episode_start)

An observation is an array, or a dictionary, tuple or record of them, as the environment gives it. A
batch has a leading axis more in every array; actions and memory then have it too.
"""

import json
from functools import reduce

import numpy as np


def part(tree, name):
    """Returns a part of a dictionary, of a tuple, or of a record, which has it as an attribute."""
    return tree[name] if isinstance(name, int) or hasattr(tree, "keys") else getattr(tree, name)


def concatenate(*parts_axis):
    """Joins arrays, some of which may be the same for all observations."""
    *parts, axis = parts_axis
    lead = np.broadcast_shapes(*(part.shape[:1] for part in parts))
    return np.concatenate([np.broadcast_to(p, lead + p.shape[1:]) for p in parts], axis)


def take(x, places):
    """Returns elements by their places; -1: the zero at the end."""
    return np.pad(x.reshape(len(x), int(np.prod(x.shape[1:]))), ((0, 0), (0, 1)))[:, places]


# every array has a leading axis: of observations, or 1
CALLS: dict = {name: f for name, f in vars(np).items() if isinstance(f, np.ufunc)}
CALLS |= {f.__name__: f for f in (np.argmax, np.transpose, np.where, concatenate, take)}
CALLS |= {
    "astype": lambda x, dtype: np.asarray(x, dtype),
    "broadcast_to": lambda x, shape: np.broadcast_to(x, (len(x), *shape)),
    "einsum": lambda x, y, letters: np.einsum(letters, x, y, optimize=True),
    "reduce": lambda x, name, axes, dtype: CALLS[name].reduce(x, tuple(axes), dtype),
    "reshape": lambda x, shape: np.reshape(x, (len(x), *shape)),
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
        """Returns one action, or actions for a batch; with a memory, the carry before them."""
        values, leads = dict(self.constants), []
        for name, path, shape in self.program["inputs"]:
            x = np.asarray(reduce(part, path, args))
            lead = x.shape[: x.ndim - len(shape)]
            if [*lead, *shape] != [*x.shape] or len(lead) > 1:
                raise ValueError(f"{name} has shape {[*x.shape]}: pass {shape}, or more of them")
            values[name] = x if lead else x[None]
            leads.append(lead)
        for name, call, operands, options in self.program["calls"]:
            values[name] = CALLS[call](*(values[operand] for operand in operands), *options)
        lead = np.broadcast_shapes(*leads)
        return build(
            self.program["outputs"], values,
            lambda x: np.broadcast_to(x, lead + x.shape[1:]).copy() if lead else x[0],
        )  # fmt: skip


def build(names, values, row=lambda x: x):
    """Puts values in place of their names, in the dictionaries and tuples that the names are in."""
    if isinstance(names, dict):
        return {key: build(part, values, row) for key, part in names.items()}
    if isinstance(names, str):
        return row(values[names])
    return tuple(build(part, values, row) for part in names)
