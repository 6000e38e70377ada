"""What a run begins with in place of fresh parameters: agents that were trained before."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from purejaxppo.components import Components, make_components
from purejaxppo.config.schema import PPOConfig
from purejaxppo.errors import ConfigError, shown
from purejaxppo.ppo.normalize import with_fresh_returns
from purejaxppo.ppo.optimizer import begin, pack
from purejaxppo.run_folder import checkpoint
from purejaxppo.run_folder.begin import checkpoints_in
from purejaxppo.run_folder.paths import given_path
from purejaxppo.run_folder.read import read_run
from purejaxppo.runs.agents import Agents, read_agents, tell_of_unscored, with_seeds
from purejaxppo.runs.identity import describe_custom
from purejaxppo.runs.options import FitOptions
from purejaxppo.spaces import Box, without_mask
from purejaxppo.train import learner_of
from purejaxppo.types import LearnerState, Normalizers, Params, PyTree


class Trained(struct.PyTreeNode):
    """What a run can take over of another; named as in a `LearnerState`, for it is read from one.

    Attributes:
        params: the policy's parameters.
        normalizers: running statistics.
        opt_state: of the optimizer; None: it begins anew.
    """

    params: Params
    normalizers: Normalizers
    opt_state: PyTree = None


class Source(NamedTuple):
    """Where agents come from.

    Attributes:
        where: its name in messages.
        load: `(template of one agent) -> Trained` with a leading axis, compared with the template.
        steps: environment steps that each was trained; None: not known.
        config: of their training; None: not known.
        own: what was passed to it in place of what its configuration describes.
    """

    where: str
    load: Callable[[Trained], Trained]
    steps: int | None = None
    config: PPOConfig | None = None
    own: Mapping[str, str] = {}


class Beginning(NamedTuple):
    """Agents that a run begins with.

    Attributes:
        record: plain values that say which they are, for `run.json`.
        words: the same in a line.
        tree: what is taken over, an entry for each seed; None: a checkpoint takes its place.
    """

    record: dict[str, Any]
    words: str
    tree: Trained | None

    def put_into(self, state: LearnerState, placed: Trained) -> LearnerState:
        """Returns learners that have just begun, with the agents that are taken over.

        Args:
            state: the learners, with a leading axis of seeds.
            placed: `tree`, on the devices of the learners.
        """
        return state.replace(
            params=placed.params,
            normalizers=with_fresh_returns(placed.normalizers, state.normalizers),
            opt_state=placed.opt_state,
        )


def read_beginning(
    components: Components, options: FitOptions, given: Any = None, settings: int = 1
) -> Beginning | None:
    """Reads the agents that a run is to begin with, and compares them with what it trains.

    Args:
        components: of the run.
        options: say where they are, and which.
        given: the agents themselves, in place of a folder: what `fit` returned, a state of
            learners, or `Agents`.
        settings: that are trained with the same seeds each; `options.seeds` counts all agents.

    Returns:
        The beginning; None if the run begins with agents of its own.

    Raises:
        ConfigError: there are no such agents, or they do not fit; the first difference is named.
    """
    if options.init_from is None:
        return None
    record: dict[str, Any] = {
        "run": options.init_from,
        "weights": options.init_weights,
        "agent": options.init_agent,
        "optimizer": options.init_optimizer,
    }
    if options.resume and options.run_dir is not None and _has_checkpoint(options.run_dir):
        return Beginning(record, f"the last checkpoint, before it {options.init_from!r}", None)

    # the agents as this run would have them, but for their number
    state = jax.eval_shape(learner_of(components).init, jax.random.key(0))
    opt_state = state.opt_state if options.init_optimizer else None
    template = Trained(state.params, state.normalizers, opt_state)
    if options.init_optimizer and not jax.tree.leaves(opt_state):
        raise ConfigError("init_optimizer=True has no effect: this optimizer remembers nothing")
    source = _of_folder(options) if given is None else _of_object(options, given)
    _check_same_kind(source, components, options.init_optimizer)
    trained = source.load(template)
    count = len(jax.tree.leaves(trained)[0])
    chosen, who = _choose(options.init_agent, options.seeds // settings, source.where, count)
    chosen *= settings
    index = jnp.asarray(chosen)
    tree = jax.tree.map(lambda x: jnp.asarray(x)[index], trained)
    if not options.init_optimizer:
        hyper = components.hyperparams()

        def fresh(params):
            packed, _ = pack(components.optimizer, params)
            return begin(components.optimizer.make(hyper), packed)

        tree = tree.replace(opt_state=jax.jit(jax.vmap(fresh))(tree.params))
    steps = "" if source.steps is None else f", trained {source.steps:,} steps"
    moments = ", with the optimizer's moments" if options.init_optimizer else ""
    words = f"{who[0]} of {source.where} ({options.init_weights}{steps}){moments}{who[1]}"
    return Beginning({**record, "steps": source.steps}, words, tree)


def _has_checkpoint(run_dir: str) -> bool:
    with contextlib.suppress(OSError):  # whoever goes on from there says so
        return bool(checkpoints_in(Path(run_dir)))
    return False


def _choose(
    one: int | None, seeds: int, where: str, count: int
) -> tuple[list[int], tuple[str, str]]:
    """Chooses an agent for each seed; returns which, and the same in words around their place.

    Args:
        one: the agent that all begin with; None: each has one of its own.
        seeds: how many there are.
        where: the agents are, in words.
        count: of those.

    Raises:
        ConfigError: there is no such agent, or there are too few.
    """
    for_all = ", for all seeds" if seeds > 1 else ""
    if one is not None and one >= count:
        raise ConfigError(f"init_agent={one} must be one of the 0 .. {count - 1} of {where}: use 0")
    if one is not None or count == 1 or seeds == 1:
        return [one or 0] * seeds, (f"agent {one or 0}", for_all)
    if seeds > count:
        raise ConfigError(
            f"seeds={seeds} is more than the {count} agents of {where}: name one for all seeds, "
            "as init_agent=0"
        )
    return list(range(seeds)), ("the agents", ", each seed with that of its number")


def _of_folder(options: FitOptions) -> Source:
    """Finds the agents of a run folder."""
    assert options.init_from is not None
    folder, where = given_path(options.init_from, "init_from"), repr(options.init_from)
    config, run = read_run(folder)
    try:
        last = checkpoints_in(folder)[-1:]
    except OSError as error:
        raise ConfigError(f"checkpoints in {where} cannot be used ({error.strerror})") from error

    def load(template: Trained) -> Trained:
        # statistics of rewards are kept with what each environment has returned so far
        template = with_seeds(_with_envs(template, config.num_envs), run["seeds"])
        if not options.init_optimizer:
            like = Agents(params=template.params, normalizers=template.normalizers)
            agents = read_agents(folder, options.init_weights, like)
            return Trained(agents.params, agents.normalizers)
        # moments belong to the parameters that are beside them in a checkpoint
        if not last:
            raise ConfigError(
                f"{where} holds no checkpoint, where an optimizer's moments are: leave out "
                "init_optimizer"
            )
        try:
            return checkpoint.load(last[0], template, within="['state']")[0]
        except checkpoint.Damaged as error:
            raise ConfigError(f"{error}: leave out init_optimizer") from error
        except OSError as error:
            raise ConfigError(f"{str(last[0])!r} cannot be read: {error.strerror}") from error

    known = last and options.init_weights == "final"
    steps = int(last[0].stem) * config.batch_size if known else None
    return Source(where, load, steps, config, run.get("own", {}))


def _of_object(options: FitOptions, given: Any) -> Source:
    """Takes the agents out of what was passed."""
    where, best = f"the {type(given).__name__}", options.init_weights == "best"
    steps, config, own = None, None, {}
    # what `fit` has returned knows more than its agents
    if hasattr(given, "summary") and hasattr(given, "best"):
        config, own = given.config, given.summary.get("own", {})
        steps = None if best else given.summary["timesteps"]
        scored = np.isfinite(given.best.returns).tolist()
        if best and not any(scored):
            raise ConfigError(
                "init_weights='best' needs agents that were evaluated: train with eval_every, or "
                "use 'final'"
            )
        if best:
            tell_of_unscored(where, scored)
        given = given.best.agents if best else given.state
    elif best:
        raise ConfigError(f"init_weights='best' has no effect on {where}: leave it 'final'")
    if not isinstance(given, Agents | LearnerState):
        raise ConfigError(
            f"init_from={shown(given)} must be a run folder, what fit has returned, or the agents "
            "of load_agents: use init_from='my-run'"
        )
    moments = given.opt_state if isinstance(given, LearnerState) else None
    if options.init_optimizer and moments is None:
        raise ConfigError(
            f"init_optimizer=True: {where} has no moments of an optimizer: leave it out, or begin "
            "with a run folder"
        )

    def load(template: Trained) -> Trained:
        taken = moments if options.init_optimizer else None
        tree = Trained(given.params, given.normalizers, taken)
        # one agent alone may come without an axis
        leaves = (jax.tree.leaves(x.params)[:1] for x in (tree, template))
        if [x.ndim for x in next(leaves)] == [x.ndim for x in next(leaves)]:
            tree = jax.tree.map(lambda x: x[None], tree)
        if tree.normalizers.reward is not None:
            num_envs = tree.normalizers.reward.discounted_return.shape[1]
            template = _with_envs(template, num_envs)
        seeds = jax.tree.leaves(tree)[0].shape[0]
        words = checkpoint.first_difference(tree, with_seeds(template, seeds))
        if words is not None:
            raise ConfigError(f"{where} does not fit: it has {words}")
        return tree

    return Source(where, load, steps, config, own)


def _with_envs(template: Trained, num_envs: int) -> Trained:
    """Returns a template whose statistics of rewards are those of N environments."""
    reward = template.normalizers.reward
    if reward is None:
        return template
    last = reward.discounted_return
    reward = reward.replace(discounted_return=jax.ShapeDtypeStruct((num_envs,), last.dtype))
    return template.replace(normalizers=template.normalizers.replace(reward=reward))


SAME = (
    "activation", "squash_actions", "actor_observation", "critic_observation", "value_min",
    "value_max", "value_symlog",
)  # fmt: skip
"""Fields that make another policy of the same parameters."""


def _check_same_kind(source: Source, components: Components, optimizer: bool) -> None:
    """Refuses agents whose numbers may fit, but mean something else.

    Raises:
        ConfigError: they were trained with another optimizer, whose moments are asked for; with
            another network; or in other spaces.
    """
    ours, before = components.config, source.config
    if before is None:
        return
    own = describe_custom(components.custom)
    then, now = (texts.get("own optimizer", "Adam") for texts in (source.own, own))
    if optimizer and then != now:
        raise ConfigError(
            f"{source.where} was trained with optimizer {then}, and this run has {now}: leave out "
            "init_optimizer"
        )
    if "own policy" not in source.own and "own policy" not in own:
        # where bins are those of symlog, what they stand for depends on the width of targets
        for name in (*SAME, "value_sigma") if ours.value_symlog else SAME:
            if getattr(before, name) != getattr(ours, name):
                raise ConfigError(
                    f"{source.where} has {name}={getattr(before, name)!r}, and this run "
                    f"{getattr(ours, name)!r}: use {name}={getattr(before, name)!r}"
                )
    place = ("env", "env_options")
    if "own env" in source.own or all(getattr(before, n) == getattr(ours, n) for n in place):
        return
    try:
        there = ("env", "env_options", "actor_observation", "critic_observation")
        spec = make_components(PPOConfig(**{name: getattr(before, name) for name in there})).spec
    except ConfigError:  # its suite is not here: shapes are compared nonetheless
        return
    for name in ("observation", "action"):
        then, now = (_kinds(getattr(s, name)) for s in (spec, components.spec))
        if then != now:
            raise ConfigError(
                f"{source.where} does not fit: its {name}s are {', '.join(then)}, and those of "
                f"this run {', '.join(now)}"
            )


def _kinds(space: Any) -> list[str]:
    """Returns what spaces are like, whatever their bounds are."""
    parts = jax.tree_util.tree_leaves_with_path(without_mask(space))
    return [
        f"{jax.tree_util.keystr(where)} {type(x).__name__} {x.dtype.name}{list(x.shape)}"
        f"{'' if isinstance(x, Box) else f' {x}'}".strip()
        for where, x in parts
    ]
