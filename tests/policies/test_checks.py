"""Policies of a user's: what is refused before anything is compiled, and what is taken."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import ConfigError, Policy, PPOConfig, make_act, make_actor
from purejaxppo.policies import Categorical, DiagGaussian, Joint
from purejaxppo.policies.checks import check_policy
from purejaxppo.spaces import Box, Discrete, EnvSpec
from purejaxppo.types import Normalizers

BOX = Box(-np.ones(4), np.ones(4), (4,), np.dtype("float32"))
ARM = Box(-np.ones(2), np.ones(2), (2,), np.dtype("float32"))


def policy_of(actor=None, value=None, memory=(), more=None, returned=lambda *x: x):
    """A policy of obs [N, 4] for two choices, with something about it changed."""

    def init(key):
        return {"actor": jnp.ones((4, 2)), "critic": jnp.ones(4)} | (more(key) if more else {})

    def apply(params, carry, obs, episode_start):
        assert obs.ndim == 2 and obs.shape[:1] == episode_start.shape
        logits = obs @ params["actor"]
        dist = Categorical(logits) if actor is None else actor(logits)
        v = obs @ params["critic"]
        after = jax.tree.map(lambda x: x + 1, carry)
        return returned(after, dist, v if value is None else value(v))

    return Policy(init, lambda shape: jax.tree.map(lambda x: jnp.zeros(shape, x), memory), apply)


def three(logits):
    return Categorical(jnp.zeros((2, 3)))


BAD = {
    "choices": (dict(actor=three), r"logits have shape \[2, 3\] .* Discrete\(n=2\) must be \[2, 2"),
    "value": (dict(value=lambda v: v[:, None]), r"value has shape \[2, 1\] .* must be \[2\]"),
    "logits": (dict(actor=lambda x: x), r"distribution, of type array, has no sample: return"),
    "two": (dict(returned=lambda *x: x[1:]), r"returns \(Categorical.*: return \(carry, dist"),
    "gaussian": (
        dict(actor=lambda x: DiagGaussian(x, x, 1)),
        r"action for 2 observations has shape \[2, 2\]: it must be \[2\]",
    ),
    "carry": (
        dict(memory=jnp.int32, returned=lambda c, *x: (c.astype(float), *x)),
        r"carry for 2 observations is float32\[2\]: it must be int32\[2\]",
    ),
    "key": (dict(more=lambda key: {"key": key}), r"parameters\['key'\] are key.*no gradient"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_policy_that_returns_something_else_is_refused(name):
    changes, words = BAD[name]
    with pytest.raises(ConfigError, match=words):
        check_policy(policy_of(**changes), EnvSpec(BOX, Discrete(2)), None)


@pytest.mark.parametrize("count", [2, 3])
def test_choices_are_counted_in_every_part_of_an_action(count):
    spec = EnvSpec(BOX, {"arm": ARM, "hand": Discrete(count)})
    policy = policy_of(lambda x: Joint({"arm": DiagGaussian(x, x, 1), "hand": three(x)}))
    if count == 3:
        check_policy(policy, spec, None)
        return
    with pytest.raises(ConfigError, match=r"logits have shape \[2, 3\] .* Discrete\(n=2\)"):
        check_policy(policy, spec, None)


class Agent(NamedTuple):
    """What acting needs."""

    params: Any
    normalizers: Normalizers = Normalizers(None, None)


@pytest.mark.parametrize("lead", [(), (4,), (3, 4)])
def test_observations_of_any_leading_axes_are_steps(lead):
    """A policy is written for [N]; what it is played with may have other leading axes."""
    policy = policy_of()
    agent = Agent(policy.init(jax.random.key(0)))
    act = make_act(PPOConfig(), agent, True, policy=policy)
    assert act(jax.random.key(0), jnp.ones((*lead, 4))).shape == lead


def test_a_memory_of_one_agent_has_no_leading_axis():
    policy = policy_of(memory=jnp.int32)
    agent = Agent(policy.init(jax.random.key(0)))
    actor = make_actor(PPOConfig(), agent, policy=policy)
    carry = actor.initial_carry(())
    for steps in (1, 2):
        carry, action = actor.act(jax.random.key(0), carry, jnp.ones(4), jnp.bool_(False))
        assert carry.shape == action.shape == () and int(carry) == steps


def test_a_state_of_several_seeds_is_refused_in_words():
    policy = policy_of()
    params = jax.vmap(policy.init)(jax.random.split(jax.random.key(0), 3))
    with pytest.raises(ConfigError, match=r"leading axes \[3\], .* x: x\[0\], state"):
        make_act(PPOConfig(), Agent(params), policy=policy)
    twice = jax.tree.map(lambda x: jnp.stack([x, x]), params)
    with pytest.raises(ConfigError, match=r"leading axes \[2, 3\], .* x: x\[0, 0\], state"):
        make_act(PPOConfig(), Agent(twice), policy=policy)
    with pytest.raises(ConfigError, match=r"state=5 is no state of a learner: use output.state"):
        make_act(PPOConfig(), 5, policy=policy)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(eq=False)
class Memory:
    """A carry that is equal to nothing but itself."""

    steps: Any


def test_what_is_unusual_and_right_is_taken():
    """Frozen integers, a memory without equality, a distribution that only learns."""

    class Plain:
        def __init__(self, dist):
            self.sample, self.log_prob, self.entropy = dist.sample, dist.log_prob, dist.entropy

    policy = policy_of(
        actor=lambda x: Plain(Categorical(x)), more=lambda key: {"n": jnp.arange(3)},
        memory=Memory(jnp.int32),
    )  # fmt: skip
    check_policy(policy, EnvSpec(BOX, Discrete(2)), None)
