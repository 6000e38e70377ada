"""Parts of the algorithm, put together as a configuration says."""

from types import SimpleNamespace

import numpy as np

from purejaxppo.components import make_components
from purejaxppo.ppo import minibatches, optimizer, update
from purejaxppo.ppo.critics import make_critic
from purejaxppo.ppo.minibatches import Minibatches
from purejaxppo.ppo.optimizer import OPTIMIZERS
from purejaxppo.ppo.schedules import SCHEDULED, named_schedules
from purejaxppo.train import loss_of, minibatches_of


def build(config, env=None, **custom):
    """Components, and their environments as many as the configuration says."""
    components = make_components(config, env=env, **custom)
    vec_env = components.vectorize(config.num_envs)
    return SimpleNamespace(**components._asdict(), vec_env=vec_env)


def parts(config, policy=None, objective=None):
    """What of the components the gradient steps read; no environment is made."""
    names = {name: getattr(config, f"{name}_schedule") for name in SCHEDULED}
    return SimpleNamespace(
        config=config,
        policy=policy,
        critic=make_critic(config),
        objective=objective,
        schedule=named_schedules(names, config.adapt_learning_rate),
    )


def loss(params, batch, policy, objective, config, hyper, objective_state):
    """The loss of a minibatch, with the value loss that a configuration names."""
    f = loss_of(parts(config, policy, objective), hyper, objective_state)
    total, found = f(params, batch)
    assert found.pop("extra") == {}
    return total, found


def take(batch, rows, config):
    """A minibatch."""
    standardize = config.advantage_normalization == "minibatch"
    plan = Minibatches(config.num_epochs, config.num_minibatches, 1, standardize)
    (advantage,) = minibatches.deal_advantages(batch.advantage, rows[None], plan)
    return minibatches.take(batch, rows, advantage)


def pack(params):
    """Parameters as Adam holds them."""
    return optimizer.pack(OPTIMIZERS["adam"], params)


def optimize(
    policy, objective, config, hyper, params, opt_state, objective_state, batch, key, axis=None,
    estimate=None,
):  # fmt: skip
    """All gradient steps of an update, with the optimizer that a configuration names."""
    of = parts(config, policy, objective)
    f, plan = loss_of(of, hyper, objective_state), minibatches_of(of, params, batch)
    named, adapt = OPTIMIZERS[config.optimizer], of.schedule.adapt_step
    given = params, opt_state, batch, key, axis, adapt, estimate
    *after, learned = update.optimize(f, named, hyper, plan, *given)
    assert learned.pop("extra") == {}
    return *after, learned


def seen(state, obs):
    """Brought to mean 0 and variance 1 by the statistics, in NumPy."""
    stats = state.normalizers.obs
    z = (np.asarray(obs) - np.asarray(stats.mean)) / np.sqrt(np.asarray(stats.var) + 1e-8)
    return np.clip(z, -10, 10).astype(np.float32)
