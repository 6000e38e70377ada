"""A trained policy for who has NumPy and Gymnasium: observations in, actions out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.act import Trained, act_of, actor_of, as_declared, has_memory, spec_of_actor
from purejaxppo.bounds import check_value
from purejaxppo.components import Components
from purejaxppo.config.coerce import coerce
from purejaxppo.config.rules import SEED
from purejaxppo.envs.declared import forms_of
from purejaxppo.envs.host import HostEnvironment
from purejaxppo.errors import ConfigError, shown
from purejaxppo.spaces import Arrays, Discrete, EnvSpec, Space, fields, key_of
from purejaxppo.types import Action, Array, Carry, Obs, PyTree


class TrainedPolicy:
    """A trained policy, its statistics frozen: `load_policy` and `as_policy` make it.

    `predict` is for NumPy and Gymnasium: it takes one observation or a batch, keeps the memory
    where there is one, and draws from a stream of its own. Called as `act(key, obs)`, without a
    memory, it is a pure function of JAX, which `jit` and `vmap` take.

    Attributes:
        spec: what the policy sees and does; None in place of what its critic alone reads.
        deterministic: whether it takes the most probable action where `predict` is not asked for
            another.
    """

    def __init__(self, components: Components, agent: Trained, deterministic: bool, seed: int):
        """Prepares the programs, which are compiled when they are first used.

        Args:
            components: of the run.
            agent: parameters and statistics of one seed.
            deterministic: the most probable action rather than a sampled one.
            seed: of what `predict` draws.

        Raises:
            ConfigError: there is no such seed.
        """
        self.spec: EnvSpec = spec_of_actor(components)
        self.deterministic = deterministic
        self._parts = _parts_of(self.spec.observation)
        self._forms = jax.tree.leaves(action_forms(components))
        self._actions = jax.tree.structure(self.spec.action)
        # of Discrete a scalar, of anything else an array, as Gymnasium's spaces sample them
        kinds: list[Space] = jax.tree.leaves(self.spec.action)
        self._first = [0 if isinstance(kind, Discrete) else (0, ...) for kind in kinds]
        initial_carry = actor_of(components, agent, deterministic).initial_carry
        self._initial_carry = initial_carry if has_memory(components) else None
        self._act = None
        if self._initial_carry is None:
            self._act = jax.jit(act_of(components, agent, deterministic))
        # parameters are constants: as arguments they would take longer than what is computed
        self._step = {mode: jax.jit(_step_of(components, agent, mode)) for mode in (True, False)}
        self._carry: Carry = None
        self._size: int | None = None
        self.reset(coerce("seed", int, seed, 0))

    def __call__(self, key: Array, obs: Obs) -> Action:
        """Returns actions of JAX; the policy as a pure function, compiled.

        Args:
            key: consumed (and not used when deterministic).
            obs: [..., *O], as the environment gives them.

        Returns:
            [..., *A], within the action bounds.

        Raises:
            ConfigError: the policy has a memory, which `predict` keeps.
        """
        if self._act is None:
            raise ConfigError(
                "this policy has a memory: use predict, which keeps it, or make_actor, which "
                "passes it in and out"
            )
        return self._act(key, obs)

    def predict(
        self,
        obs: Obs,
        deterministic: bool | None = None,
        *,
        episode_start: Any = None,
    ) -> Any:
        """Returns the action for an observation, or actions for a batch, in NumPy.

        Batches are distinguished from single observations by the shapes of the observation space.
        For each size of batch a program is compiled once. A memory begins anew when that size
        changes.

        Args:
            obs: [*O] or [N, *O], arrays or what NumPy makes arrays of; dictionaries, tuples and
                records of them, in which more than the policy sees is passed over.
            deterministic: the most probable action rather than a sampled one; None: as the policy
                was loaded.
            episode_start: bool, [N] for a batch: whose memory is forgotten first, because a new
                episode begins; None: nobody's.

        Returns:
            [*A] or [N, *A], as the environment's action space has them: in its dtype, within its
            bounds; `env.step` takes it.

        Raises:
            ConfigError: the observation has another shape, dtype or structure than the policy
                sees, `episode_start` is not as long as the batch, or `deterministic` is no bool.
        """
        mode = self.deterministic if deterministic is None else deterministic
        if not isinstance(mode, bool | np.bool_):
            raise ConfigError(
                f"deterministic={shown(mode)} must be True or False: a memory is kept inside"
            )
        leaves, size = self._read(obs)
        begun = self._begun(size, episode_start)
        draw = None
        if not mode:
            draw = np.array([self._seed, self._drawn % 2**32], np.uint32)
            self._drawn += 1
        self._carry, actions = self._step[bool(mode)](self._carry, leaves, begun, draw)
        actions = [form(x) for form, x in zip(self._forms, actions, strict=True)]
        if size is None:
            actions = [x[place] for x, place in zip(actions, self._first, strict=True)]
        return self._actions.unflatten(actions)

    def reset(self, seed: int | None = None) -> None:
        """Forgets what is remembered: the next observation begins an episode.

        Args:
            seed: where the stream of what `predict` draws begins anew; None: it goes on.

        Raises:
            ConfigError: there is no such seed.
        """
        self._carry, self._size = (), None
        if seed is not None:
            seed = coerce("seed", int, seed, 0)
            check_value("seed", seed, SEED, 0)
            self._seed, self._drawn = seed, 0

    def _read(self, obs: Obs) -> tuple[list[np.ndarray], int | None]:
        """Returns the arrays of an observation with a leading axis, and the size of a batch."""
        leaves, sizes = [], []
        for part in self._parts:
            x = part.read(part.find(obs))
            single = x.ndim == len(part.space.shape)
            leaves.append(x[None] if single else x)
            sizes.append(None if single else len(x))
        if sizes.count(sizes[0]) < len(sizes):
            named = ", ".join(
                f"{part.where}: {'one' if size is None else size}"
                for part, size in zip(self._parts, sizes, strict=True)
            )
            raise ConfigError(
                f"the parts of the observation are of different numbers ({named}): pass one of "
                "each, or as many of each"
            )
        return leaves, sizes[0]

    def _begun(self, size: int | None, episode_start: Any) -> np.ndarray | None:
        """Returns where memory is forgotten, [N] bool; None without memory."""
        shape = () if size is None else (size,)
        if episode_start is not None:
            episode_start = np.asarray(episode_start)
            if episode_start.shape != shape and (size is not None or episode_start.shape != (1,)):
                raise ConfigError(
                    f"episode_start has shape {list(episode_start.shape)}: it must be "
                    f"{list(shape)}, a bool for each observation"
                )
        if self._initial_carry is None:
            return None
        lead = (1 if size is None else size,)
        if not jax.tree.leaves(self._carry) or size != self._size:
            self._carry, self._size = self._initial_carry(lead), size
            return np.ones(lead, bool)
        if episode_start is None:
            return np.zeros(lead, bool)
        return np.broadcast_to(episode_start.astype(bool), lead)


class _Part(NamedTuple):
    """One array of an observation."""

    space: Space
    names: tuple[Any, ...]  # from the outside in
    where: str  # for messages

    def find(self, obs: Obs) -> Any:
        """Returns what stands in this place of an observation."""
        for name in self.names:
            inside = obs if isinstance(obs, Mapping) else fields(obs)
            if not inside and isinstance(obs, tuple | list):
                inside = dict(enumerate(obs))
            if name not in inside:
                raise ConfigError(
                    f"{self.where} is missing: the policy sees {self.space} there, and was given "
                    f"{shown(obs)}"
                )
            obs = inside[name]
        return obs

    def read(self, given: Any) -> np.ndarray:
        """Returns what was given as an array of the space's dtype."""
        space = self.space
        try:
            x = np.asarray(given)
        except ValueError as error:  # lists of different lengths
            raise ConfigError(f"{self.where} is no array ({error}): {self._expected()}") from error
        if x.shape != space.shape and x.shape[1:] != space.shape:
            raise ConfigError(f"{self.where} has shape {list(x.shape)}: {self._expected()}")
        if x.dtype == space.dtype:
            return x

        # numbers of another kind have another meaning: pixels that were scaled, for example; but
        # zeros and ones are bits, whatever they are made of
        whole = not jnp.issubdtype(space.dtype, np.floating)
        bits = space.dtype == np.bool_ and np.isin(x, (0, 1)).all()
        real = jnp.issubdtype(x.dtype, np.floating)
        if x.dtype.kind not in "biu" and not (real and (bits or not whole)):
            raise ConfigError(f"{self.where} is of {x.dtype}: {self._expected()}")
        if whole and space.dtype != np.bool_ and x.size:
            info = np.iinfo(space.dtype)
            if x.min() < info.min or x.max() > info.max:
                raise ConfigError(
                    f"{self.where} has numbers from {x.min()} to {x.max()}: {self._expected()}"
                )
        with np.errstate(over="ignore"):  # what float32 does not have is infinite
            return x.astype(space.dtype)

    def _expected(self) -> str:
        shape, dtype = list(self.space.shape), self.space.dtype
        return f"pass {dtype} {shape}, or {['N', *shape]} for a batch".replace("'", "")


def _parts_of(spaces: PyTree) -> list[_Part]:
    """Returns the parts of observations, in the order of the pytree's leaves."""
    return [
        _Part(space, tuple(map(key_of, path)), "observation" + jax.tree_util.keystr(path))
        for path, space in jax.tree_util.tree_flatten_with_path(spaces)[0]
    ]


def action_forms(components: Components) -> Arrays:
    """Returns the form of each part of an action, Gymnasium's where the environment is in JAX.

    Args:
        components: of the run.
    """
    env = components.env
    if isinstance(env, HostEnvironment):
        return env.forms
    return forms_of(env.action_space(components.on_defaults().env_params), choices=np.int64)


def _step_of(
    components: Components, agent: Trained, deterministic: bool
) -> Callable[..., tuple[Carry, list[Array]]]:
    """Makes the pure function that `predict` calls.

    Args:
        components: of the run.
        agent: parameters and statistics of one seed.
        deterministic: the most probable action rather than a sampled one.

    Returns:
        `(carry, leaves of obs [N, *O], begun [N], draw) -> (carry, leaves of actions [N, *A])`;
        begun is None without memory, and draw (its seed and number) when deterministic.
    """
    observed = jax.tree.structure(spec_of_actor(components).observation)
    actor = as_declared(components, actor_of(components, agent, deterministic))

    def step(
        carry: Carry, leaves: list[Array], begun: Array | None, draw: Array | None
    ) -> tuple[Carry, list[Array]]:
        begun = jnp.ones(leaves[0].shape[:1], bool) if begun is None else begun
        seed, number = (0, 0) if draw is None else draw
        key = jax.random.fold_in(jax.random.key(seed), number)
        carry, action = actor.act(key, carry, observed.unflatten(leaves), begun)
        return carry, jax.tree.leaves(action)

    return step
