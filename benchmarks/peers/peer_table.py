"""Which libraries are measured on which shapes, and what cannot be matched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Peer(NamedTuple):
    """A library.

    Attributes:
        module: makes its arm, in peers/.
        env: its virtual environment, a key of `peer_envs.PINS`; None: the one that runs this.
        updates: the shapes that it takes part in, with the updates of one call; None: as many as
            the shape has.
        differs: what it does otherwise on every shape.
        differs_on: the same, by shape.
    """

    module: str
    env: str | None
    updates: Mapping[str, int | None]
    differs: tuple[str, ...] = ()
    differs_on: Mapping[str, tuple[str, ...]] = {}

    def differences(self, shape: str) -> list[str]:
        """What it does otherwise on a shape."""
        return [*self.differs, *self.differs_on.get(shape, ())]


_ALL: dict[str, int | None] = dict.fromkeys(("a", "b", "c", "d", "e", "e64", "f"))
_FEW: dict[str, int | None] = {"a": 16, "b": 2, "e64": 2}
_LIMITS = "a time limit counts as an end: the value of the final observation is not used"
_JAX = ("compiled with jax's default options", "environments of gymnax 0.0.9")
_SB3 = (
    "environments of gymnasium, in Python, one after the other",
    "fewer updates in a call, and a call goes on training the same agent: its making is not timed",
)
_MOVING = "observations are normalized by statistics that move during the rollout"
_PENDULUM = (
    _MOVING,
    "its Brax environments are replaced by gymnax's Pendulum-v1, with actions of -1 .. 1",
)

PEERS = {
    "ours-again": Peer("arm_ours", None, _ALL, ("nothing: its spread is the noise",)),
    "rejax": Peer(
        "arm_rejax",
        "rejax",
        _ALL,
        (
            _LIMITS,
            *_JAX,
            "gradients are clipped element by element, not by their norm",
            "actor and critic have an optimizer each; Adam's epsilon is 1e-8",
            "initial weights are normal, not orthogonal",
            "no statistics of the training episodes; evaluation is switched off",
        ),
        dict.fromkeys(("e", "e64"), (_MOVING,)),
    ),
    "sbx": Peer(
        "arm_sb3",
        "sbx",
        _FEW,
        (*_SB3, "values are not clipped", "actor and critic have an optimizer each"),
        {"e64": (_MOVING,)},
    ),
    "sb3": Peer(
        "arm_sb3",
        "sbx",
        _FEW,
        (*_SB3, "the loss of the clipped value, not the larger of the clipped and the plain one"),
        {"e64": (_MOVING,)},
    ),
    "brax": Peer(
        "arm_brax",
        "brax",
        dict.fromkeys(("a", "b", "c", "e", "e64", "ant")),
        (
            "compiled with jax's default options",
            "jax.device_put_replicated, which jax 0.10 has removed, is put back by the worker",
            "a call goes on training the same agent: its making is not timed",
            "minibatches are whole rollouts of some environments, their advantages computed anew",
            "actions are continuous, squashed by tanh; on CartPole-v1 the sign is the action",
            "an environment is reset to its own first state",
            "steps that meet a time limit have no advantage, and are learned from all the same",
            "the learning rate is not annealed; Adam's epsilon is 1e-8",
            "initial weights are uniform, not orthogonal",
        ),
        dict.fromkeys(("e", "e64"), ("rewards are not normalized",)),
    ),
    "purejaxrl": Peer(
        "arm_purejaxrl",
        "purejaxrl",
        _ALL,
        (_LIMITS, *_JAX, "the modules brax and navix, which it imports, are empty"),
        {
            "e": _PENDULUM,
            "e64": (*_PENDULUM, "its layers of 256, fixed in its code, are replaced by 64"),
            "f": ("initial weights are normal: with its orthogonal ones a vmap can hang",),
        },
    ),
}
