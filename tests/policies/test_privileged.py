"""Actors and critics that read entries of their own: what each sees, learns, and needs to act."""

import io
from importlib.util import find_spec
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from purejaxppo import (
    ConfigError,
    HostEnvironment,
    PPOConfig,
    as_policy,
    check_env,
    fit,
    load_policy,
    make_act,
    make_actor,
    make_learner,
    make_train,
)
from purejaxppo.act import actor_of
from purejaxppo.cli.starts import parse_train
from purejaxppo.components import make_components
from purejaxppo.export import numpy_policy
from purejaxppo.export.export_policy import export_policy
from purejaxppo.policies.networks import make_policy
from purejaxppo.rendering.playback import play
from purejaxppo.spaces import Box, Discrete, EnvSpec

KEY = jax.random.key(0)
ACTOR, CRITIC = ("pose/arm", "look"), ("pose", "secret")
READ = dict(actor_observation=ACTOR, critic_observation=CRITIC)
TINY = PPOConfig(
    num_envs=4, num_steps=8, num_minibatches=2, num_epochs=2, total_timesteps=64,
    hidden_sizes=(8,), normalize_observations=True, normalize_rewards=True,
)  # fmt: skip
ASYMMETRIC = TINY.replace(**READ)
MEMORY = ASYMMETRIC.replace(core="gru", core_size=4)


class Pose(NamedTuple):
    leg: Any
    arm: Any


class Seen(NamedTuple):
    """What is shown, as a record whose fields are not in the order of their names."""

    secret: Any
    pose: Any
    look: Any
    action_mask: Any
    noise: Any


@struct.dataclass
class State:
    bit: Any
    arm: Any
    time: Any


def box(*shape):
    return Box(np.full(shape, -9), np.full(shape, 9), shape, np.dtype(np.float32))


def as_dictionary(seen):
    return seen._asdict() | {"pose": seen.pose._asdict()}


class Guess:
    """Pays a bit that is shown as `secret`, whatever is done; the last of 3 actions is forbidden.

    An episode has 4 steps, and a bit in each.
    """

    default_params = ()

    def __init__(self, form=as_dictionary):
        self.form = form

    def show(self, state):
        noise = jnp.full((7, 11), state.bit)
        mask = jnp.array([True, True, False])
        pose = Pose(state.arm[None] / 2, jnp.stack([state.arm, 1.0]))
        return self.form(Seen(state.bit[None], pose, state.time, mask, noise))

    def draw(self, key, time):
        key_bit, key_arm = jax.random.split(key)
        bit = jax.random.rademacher(key_bit, (), jnp.float32)
        return State(bit, jax.random.normal(key_arm), time)

    def reset_env(self, key, params):
        state = self.draw(key, jnp.int32(0))
        return self.show(state), state

    def step_env(self, key, state, action, params):
        after = self.draw(key, state.time + 1)
        reward = jnp.where(action == 2, -100.0, state.bit)
        return self.show(after), after, reward, after.time == 4, {}

    def is_truncated(self, state, params):
        return jnp.bool_(False)

    def observation_space(self, params):
        mask = Box(np.zeros(3), np.ones(3), (3,), np.dtype(bool))
        return self.form(Seen(box(1), Pose(box(1), box(2)), Discrete(5), mask, box(7, 11)))

    def action_space(self, params):
        return Discrete(3)


def drawn(seed, lead, env=None):
    """Observations of the environment, at random, in the form of it."""
    rng = np.random.default_rng(seed)
    spaces = (env or Guess()).observation_space(())

    def draw(space):
        if isinstance(space, Discrete):
            return jnp.asarray(rng.integers(0, space.n, lead), jnp.int32)
        if space.dtype == bool:
            return jnp.broadcast_to(jnp.array([True, True, False]), (*lead, 3))
        return jnp.asarray(rng.normal(size=(*lead, *space.shape)), jnp.float32)

    return jax.tree.map(draw, spaces)


def acted_on(obs):
    """The actor's entries alone, with another one that nobody knows."""
    pose = {"arm": obs["pose"]["arm"]}
    return {"look": obs["look"], "pose": pose, "action_mask": obs["action_mask"], "new": None}


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def policy_of(**changes):
    spec = EnvSpec(Guess().observation_space(()), Discrete(3))
    policy = make_policy(PPOConfig(hidden_sizes=(8,), **READ, **changes), spec)
    return policy, jax.jit(policy.init)(KEY)


@pytest.fixture(scope="module")
def trained():
    return jax.jit(make_train(ASYMMETRIC, env=Guess()))(KEY)


@pytest.fixture(scope="module")
def remembering():
    return jax.jit(make_train(MEMORY, env=Guess()))(KEY)


# -- what each reads ------------------------------------------------------------------------------


def test_each_torso_is_as_wide_as_its_entries():
    """The actor's: an arm of 2 numbers and 5 names; the critic's: both poses, 3, and the bit."""
    _, params = policy_of()
    shapes = [params[name]["MLP_0"]["Dense_0"]["kernel"].shape for name in ("actor", "critic")]
    assert shapes == [(7, 8), (4, 8)]


CHANGED = {
    "secret": ("critic",), "leg": ("critic",), "arm": ("actor", "critic"), "look": ("actor",),
    "noise": (),
}  # fmt: skip


@pytest.mark.parametrize("core", ["none", "gru"])
def test_entries_change_what_reads_them_and_nothing_else(core):
    policy, params = policy_of(core=core)
    apply = jax.jit(policy.apply)
    obs, other = drawn(0, (6,)), drawn(1, (6,))
    obs["look"], other["look"] = jnp.full(6, 1), jnp.full(6, 2)
    carry, starts = policy.initial_carry((6,)), jnp.zeros(6, bool)

    def outcome(obs):
        after, dist, value = apply(params, carry, obs, starts)
        memory = {f"{name}'s memory": x for name, x in after.items()} if after else {}
        return {"actor": dist.logits[:, :2], "critic": value} | memory

    before = outcome(obs)
    for entry, readers in CHANGED.items():
        new = dict(obs)
        if entry in ("leg", "arm"):
            new["pose"] = obs["pose"] | {entry: other["pose"][entry]}
        else:
            new[entry] = other[entry]
        for name, after in outcome(new).items():
            differs = np.any(np.asarray(after != before[name]), -1)
            assert np.all(differs) == np.any(differs) == (name.split("'")[0] in readers), (
                entry, name,
            )  # fmt: skip


def test_gradients_of_actor_and_critic_do_not_meet():
    policy, params = policy_of()
    obs, starts = drawn(0, (6,)), jnp.zeros(6, bool)

    def outputs(params):
        _, dist, value = policy.apply(params, (), obs, starts)
        return dist.log_prob(jnp.zeros(6, jnp.int32)).sum(), jnp.square(value).sum()

    slopes = jax.jit(jax.jacrev(outputs))(params)
    for slope, own in zip(slopes, (("actor", "action"), ("critic", "value")), strict=True):
        for name, part in slope.items():
            moved = any(np.any(np.asarray(x) != 0) for x in jax.tree.leaves(part))
            assert moved == (name in own), name


@pytest.mark.slow
def test_the_mask_is_obeyed_without_being_named(trained):
    """What is forbidden pays -100, which no return has."""
    ended = np.asarray(trained.metrics.episodes) > 0
    assert ended.any() and (trained.metrics.episode_return[ended] >= -4).all()


# -- runs -----------------------------------------------------------------------------------------


WHOLE = ("noise", "look", "pose/arm", "secret", "pose/leg")
EVERYTHING = dict(actor_observation=WHOLE, critic_observation=("pose", *WHOLE[:2], "secret"))


@pytest.mark.parametrize("form", [as_dictionary, Seen._make])
def test_naming_all_entries_is_the_program_of_naming_none(form):
    """In whatever order they are named, and stand in a record."""

    def program(config):
        learner = make_learner(config, env=Guess(form))
        state = jax.eval_shape(learner.init, KEY)
        return f"{jax.make_jaxpr(learner.init)(KEY)} {jax.make_jaxpr(learner.update)(state)}"

    named, alike = program(TINY.replace(**EVERYTHING)), program(TINY)
    assert len(named) > 10_000 and named == alike


@pytest.mark.slow
def test_naming_all_entries_gives_the_bits_of_naming_none():
    named, alike = (
        jax.jit(make_train(config, env=Guess(Seen._make)))(KEY)
        for config in (TINY.replace(**EVERYTHING), TINY)
    )
    same(named.state.replace(key=()), alike.state.replace(key=()))
    same(named.metrics, alike.metrics)


@pytest.mark.slow
def test_a_critic_learns_what_the_actor_cannot_see():
    """V is the bit, +1 or -1, where it is seen, and 0, which explains nothing, where it is not."""
    config = PPOConfig(
        num_envs=16, num_steps=16, num_minibatches=4, total_timesteps=256 * 40, hidden_sizes=(16,),
        learning_rate=1e-2, gamma=0.0, advantage="td", actor_observation=ACTOR,
    )  # fmt: skip

    def explained(entries):
        train = jax.vmap(make_train(config.replace(critic_observation=entries), env=Guess()))
        metrics = jax.jit(train)(jax.random.split(KEY, 2)).metrics
        return np.asarray(metrics.explained_variance)[:, -5:]

    assert (explained(CRITIC) > 0.9).all()
    assert (explained(("pose",)) < 0.2).all()


def test_entries_that_neither_reads_are_nowhere(trained):
    obs, stats = trained.state.obs, trained.state.normalizers.obs
    assert obs["noise"] is None and stats["noise"] is None
    measured = (obs["secret"], obs["pose"]["leg"], obs["pose"]["arm"])
    assert [x.shape for x in measured] == [(4, 1), (4, 1), (4, 2)]
    # privileged entries have statistics, names have none
    assert stats["secret"].count == 64 and stats["look"] is None

    components = make_components(ASYMMETRIC, env=Guess())
    vec_env = components.vectorize(4)
    assert components.spec == vec_env.spec and components.spec.observation["noise"] is None
    state = jax.eval_shape(make_learner(ASYMMETRIC, env=Guess()).init, KEY)

    def step(env_state, action, key):
        return vec_env.step(vec_env.draw(key, ()), env_state, action, ())

    action = jax.ShapeDtypeStruct((4,), jnp.int32)
    program = jax.jit(step).lower(state.env_state, action, state.key).compile().as_text()
    assert "7,11" not in program

    # one of them that one of both reads is there: the critic reads all
    config = TINY.replace(actor_observation=ACTOR)
    state = jax.eval_shape(make_learner(config, env=Guess()).init, KEY)
    assert state.obs["noise"].shape == (4, 7, 11)


# -- acting ---------------------------------------------------------------------------------------


def without_privileges(state):
    """A state whose statistics of what the critic alone reads are spoilt."""
    stats = state.normalizers.obs
    spoilt = {"secret": jax.tree.map(lambda x: x * jnp.nan, stats["secret"])}
    return state.replace(normalizers=state.normalizers.replace(obs=stats | spoilt))


@pytest.mark.slow
def test_acting_needs_the_entries_of_the_actor_alone(trained):
    obs = drawn(3, (5,))
    _, dist, _ = make_components(ASYMMETRIC, env=Guess()).policy.apply(
        trained.state.params, (), normalized(trained.state, obs), jnp.ones(5, bool)
    )
    state = without_privileges(trained.state)
    act = jax.jit(make_act(ASYMMETRIC, state, deterministic=True, env=Guess()))
    policy = as_policy(ASYMMETRIC, state, env=Guess())
    assert policy.spec.observation["secret"] is None
    for given in (obs, acted_on(obs), obs | {"secret": jnp.zeros(3)}):
        same(act(KEY, given), dist.mode())
        same(policy.predict(given), dist.mode())
        same(policy(KEY, {k: x for k, x in given.items() if k != "secret"}), dist.mode())
    one = jax.tree.map(lambda x: np.asarray(x[0]).tolist(), acted_on(obs))
    assert policy.predict(one) == dist.mode()[0]

    del one["pose"]
    for call in (policy.predict, lambda one: act(KEY, one)):
        with pytest.raises(ConfigError, match=r"observation\['pose'\]\['arm'\] is missing"):
            call(one)


def normalized(state, obs):
    """(x - mean) / sd, cut off at 10, of the parts that have statistics."""
    stats = state.normalizers.obs
    new = dict(obs, pose=dict(obs["pose"]))
    places = [(new, stats, "secret"), *((new["pose"], stats["pose"], n) for n in Pose._fields)]
    for at, by, name in places:
        x, mean, var = map(np.asarray, (at[name], by[name].mean, by[name].var))
        at[name] = jnp.asarray(np.clip((x - mean) / np.sqrt(var + 1e-8), -10, 10))
    return new


@pytest.mark.slow
def test_acting_carries_the_memory_of_the_actor_alone(remembering):
    """Over an episode, against the policy that is applied to everything."""
    obs = drawn(4, (3, 6))
    state, policy = remembering.state, make_components(MEMORY, env=Guess()).policy
    actor = make_actor(MEMORY, without_privileges(state), deterministic=True, env=Guess())
    predictor = as_policy(MEMORY, without_privileges(state), env=Guess())
    carry, whole = actor.initial_carry((6,)), policy.initial_carry((6,))
    assert set(carry) == {"actor"} and set(whole) == {"actor", "critic"}
    apply, act = jax.jit(policy.apply), jax.jit(actor.act)
    for t in range(3):
        now, start = jax.tree.map(lambda x: x[t], obs), jnp.full(6, t == 0)  # noqa: B023
        whole, dist, _ = apply(state.params, whole, normalized(state, now), start)
        given = {name: x for name, x in acted_on(now).items() if x is not None}
        carry, action = act(KEY, carry, given, start)
        same(action, dist.mode())
        same(predictor.predict(given), dist.mode())
        np.testing.assert_allclose(carry["actor"], whole["actor"], rtol=1e-5, atol=1e-6)


def test_an_episode_is_played_of_what_the_environment_shows(trained):
    components = make_components(ASYMMETRIC, env=Guess())
    actor = actor_of(components, without_privileges(trained.state), deterministic=True)
    episode = play(actor, Guess(), (), KEY, 10)
    assert episode.over and len(episode.returns) == 5 and abs(episode.returns[-1]) <= 4


@pytest.mark.slow
def test_check_env_takes_such_an_environment():
    assert check_env(Guess(), num_steps=8).observation["noise"].shape == (7, 11)


# -- runs in folders ------------------------------------------------------------------------------


LONGER = MEMORY.replace(total_timesteps=128)


def stop(step, row):
    if step >= 96:
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of two seeds, with a memory and evaluations."""
    path = tmp_path_factory.mktemp("privileged") / "run"
    result = fit(LONGER, seeds=2, eval_every=64, eval_episodes=2, env=Guess(), run_dir=path)
    return result, path


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_bit(folder, tmp_path):
    options = dict(seeds=2, eval_every=64, eval_episodes=2, env=Guess(), run_dir=tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        fit(LONGER, checkpoint_every=32, callbacks=stop, **options)
    result = fit(LONGER, checkpoint_every=32, resume=True, **options)
    assert 0 < result.resumed_at < 4
    same(result.metrics.policy_loss, folder[0].metrics.policy_loss)
    same(result.state.replace(key=()), folder[0].state.replace(key=()))


def weights_of(agent, *names):
    """Kernels in the parameters, as bytes."""
    return {
        jax.tree_util.keystr(path): np.asarray(x)
        for path, x in jax.tree_util.tree_leaves_with_path({n: agent[n] for n in names})
        if x.ndim == 2 and x.size > 8
    }


FORMATS = [
    "npz", "stablehlo",
    pytest.param("onnx", marks=[
        pytest.mark.slow, pytest.mark.skipif(find_spec("jax2onnx") is None, reason="needs [onnx]"),
    ]),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_an_exported_file_knows_nothing_of_the_critic(format, folder, tmp_path):
    """Its inputs are the actor's entries and memory, its numbers the actor's parameters."""
    result, run = folder
    file = export_policy(run, format, out=tmp_path / f"policy.{format}", env=Guess())
    content = file.read_bytes()
    agent = jax.tree.map(lambda x: x[0], result.state.params)
    obs = {"look": np.int32([1, 4]), "pose": {"arm": np.float32([[0.5, 1], [-2, 1]])}}
    obs["action_mask"] = np.array([[True, True, False]] * 2)
    carry, starts = {"actor": np.zeros((2, 4), np.float32)}, np.ones(2, bool)
    if format == "npz":
        after, action = numpy_policy.Policy(io.BytesIO(content))(carry, obs, starts)
        with np.load(io.BytesIO(content)) as arrays:
            content = b"".join(x.tobytes() for x in arrays.values())
    elif format == "stablehlo":
        after, action = jax.export.deserialize(content).call(carry, obs, starts)
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession(content)
        given = {
            "carry.actor": carry["actor"], "obs.look": obs["look"], "obs.pose.arm":
            obs["pose"]["arm"], "obs.action_mask": obs["action_mask"], "episode_start": starts,
        }  # fmt: skip
        assert {x.name for x in session.get_inputs()} == {*given}
        memory, action = session.run(None, given)
        after = {"actor": memory}
    policy = load_policy(run, env=Guess())
    same(action, policy.predict(obs))
    np.testing.assert_allclose(after["actor"], policy._carry["actor"], rtol=1e-4, atol=1e-5)

    # the weights as they are, or turned, as a format likes them
    def inside(x):
        return x.tobytes() in content or x.T.tobytes() in content

    found = {name: inside(x) for name, x in weights_of(agent, "actor", "actor_core").items()}
    assert len(found) >= 3 and all(found.values())
    others = weights_of(agent, "critic", "critic_core")
    assert len(others) >= 3 and not any(map(inside, others.values()))


# -- environments on the host ---------------------------------------------------------------------


class Hosted(gymnasium.Env):
    """Gymnasium's form of it: the bit is the reward, and shown to the critic."""

    observation_space = gymnasium.spaces.Dict(
        {
            "look": gymnasium.spaces.Discrete(5),
            "secret": gymnasium.spaces.Box(-1, 1, (1,)),
            "noise": gymnasium.spaces.Box(-1, 1, (7, 11)),
        }
    )
    action_space = gymnasium.spaces.Discrete(2)

    def show(self):
        self.bit = np.float32(self.np_random.integers(2) * 2 - 1)
        noise = np.full((7, 11), self.bit)
        return {"look": self.time, "secret": np.array([self.bit]), "noise": noise}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.show(), {}

    def step(self, action):
        paid, self.time = float(self.bit), self.time + 1
        return self.show(), paid, self.time == 4, False, {}


def hosted():
    return HostEnvironment(
        lambda n: SyncVectorEnv([Hosted] * n, autoreset_mode=AutoresetMode.DISABLED)
    )


@pytest.mark.slow
def test_environments_on_the_host_hand_over_what_is_read():
    config = TINY.replace(actor_observation=("look",), critic_observation=("secret",))
    out = jax.jit(make_train(config, env=hosted()))(KEY)
    assert out.state.obs["noise"] is None
    assert out.state.obs["secret"].shape == (4, 1) and out.state.obs["look"].shape == (4,)
    assert out.metrics.episodes.sum() == 16
    # Gymnasium's own observations have more than the policy needs
    policy = as_policy(config, out, env=hosted())
    obs, _ = Hosted().reset(seed=0)
    assert policy.predict(obs) == policy.predict({"look": 0}) in (0, 1)


# -- what is refused ------------------------------------------------------------------------------

REFUSED = {
    "unknown": (dict(actor_observation=("secrets",)), "actor_observation", "did you mean secret"),
    "inside": (dict(critic_observation=("pose/head",)), "'pose/head'", "did you mean pose/leg"),
    "far": (dict(critic_observation=("xyz",)), "known: look, noise, pose, pose/arm"),
    "part": (dict(actor_observation=("pose", "pose/arm")), "'pose/arm' is in another", "leave it"),
    "mask": (dict(actor_observation=("look", "action_mask")), "read in any case: leave it out"),
    "twice": (dict(actor_observation=("look", "look")), "different names"),
    "shared": (dict(READ, shared_torso=True), "use shared_torso=False"),
    "one": (dict(actor_observation=ACTOR, shared_torso=True), "use shared_torso=False"),
    "untrained": (dict(critic_observation=CRITIC, value_coef=0.0), "value_coef=0.5"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_entries_that_are_refused(name):
    changes, *words = REFUSED[name]
    with pytest.raises(ConfigError) as caught:
        make_components(TINY.replace(**changes), env=Guess())
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


def test_observations_without_names_are_refused():
    with pytest.raises(ConfigError, match=r"names entries of a dictionary.*leave it at \(\)"):
        make_components(TINY.replace(env="CartPole-v1", actor_observation=("x",)))


def test_a_network_of_your_own_reads_what_it_likes():
    import flax.linen as nn

    class Network(nn.Module):
        @nn.compact
        def __call__(self, obs):
            return nn.Dense(3)(obs["pose"]["arm"]), nn.Dense(1)(obs["secret"])[:, 0]

    with pytest.raises(ConfigError, match="no effect on a policy of your own"):
        make_components(ASYMMETRIC, env=Guess(), policy=Network())


def test_a_shared_torso_may_read_a_part():
    both = dict.fromkeys(READ, ("pose",))
    state = jax.eval_shape(
        make_learner(TINY.replace(shared_torso=True, **both), env=Guess()).init, KEY
    )
    assert state.params["both"]["MLP_0"]["Dense_0"]["kernel"].shape == (3, 8)


@pytest.mark.slow
def test_agents_that_read_something_else_are_no_beginning(folder):
    config = LONGER.replace(critic_observation=("secret", "pose/arm"))
    with pytest.raises(ConfigError, match="critic_observation"):
        fit(config, env=Guess(), init_from=folder[1])


# -- words ----------------------------------------------------------------------------------------


def test_entries_on_the_command_line_and_in_a_file(tmp_path):
    words = "train CartPole-v1 --actor-observation pose/arm look --critic-observation pose secret"
    _, config = parse_train(words.split()[1:])
    assert (config.actor_observation, config.critic_observation) == (ACTOR, CRITIC)
    config.to_toml(tmp_path / "config.toml")
    assert PPOConfig.from_toml(tmp_path / "config.toml") == config
    assert 'critic_observation = [\n    "pose",' in (tmp_path / "config.toml").read_text()
