"""What a change of the house must leave as it is: bits, helps, messages, files; kept beside this.

Bits are compared exactly on the kind of machine that recorded them, closely elsewhere. After
a change that is meant to alter them, `PUREJAXPPO_RECORD=1 pytest tests/golden` records them anew.
"""

import difflib
import json
import os
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces
from support.studies import write_study

import purejaxppo
from purejaxppo import PPOConfig, cli, fit, load_agents, load_policy, make_train
from purejaxppo.sweeps import outputs

FOLDER = Path(__file__).parent
RECORD = "PUREJAXPPO_RECORD" in os.environ
OLD_RUN = FOLDER / "old_run"


def machine():
    """What bits depend on: processor, jax and NumPy."""
    words = ("model name", "cpu family", "model", "stepping")
    found = {}
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in words:
                found.setdefault(name.strip(), value.strip())
    return found | {"jax": jax.__version__, "numpy": np.__version__}


def golden(name, value):
    """The value that was recorded under a name, after recording it anew if that was asked for."""
    path = FOLDER / name
    if RECORD:
        path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


class Gates:
    """Four doors, of which the observation's mask leaves two; the higher one pays."""

    default_params = {"scale": 1.0}  # noqa: RUF012

    def reset_env(self, key, params):
        state = {"key": key, "time": jnp.int32(0)}
        return self.observe(state), state

    def step_env(self, key, state, action, params):
        reward = params["scale"] * action
        state = {"key": key, "time": state["time"] + 1}
        return self.observe(state), state, reward, state["time"] >= 3, {}

    def is_truncated(self, state, params):
        return state["time"] >= 5

    def observe(self, state):
        shut = jax.random.permutation(state["key"], jnp.array([True, True, False, False]))
        return {"x": state["time"][None] / 5, "action_mask": ~shut}

    def observation_space(self, params):
        mask = spaces.Box(0, 1, (4,), jnp.bool_)
        return spaces.Dict({"x": spaces.Box(0, 1, (1,), jnp.float32), "action_mask": mask})

    def action_space(self, params):
        return spaces.Discrete(4)


SMALL = dict(num_envs=4, num_steps=16, num_minibatches=2, num_epochs=2, hidden_sizes=(8, 8))
CARTPOLE = PPOConfig(
    env="CartPole-v1", **SMALL, total_timesteps=128, learning_rate=2.5e-3,
    learning_rate_final_scale=0.0, gae_lambda=0.9,
)  # fmt: skip
CONFIGS = {
    "discrete": (CARTPOLE, {}),
    "continuous": (
        PPOConfig(
            env="Pendulum-v1", **SMALL, total_timesteps=128, normalize_observations=True,
            normalize_rewards=True, value_loss="clipped", learning_rate_final_scale=0.0,
            entropy_coef=0.01, entropy_coef_final_scale=0.5, clip_eps_final_scale=0.5,
            target_kl=0.05, advantage_normalization="batch", reset_batch=2,
        ),
        {},
    ),
    "gru": (CARTPOLE.replace(core="gru", core_size=8, sequence_length=8, chunk_size=8), {}),
    "cnn": (
        PPOConfig(
            env="Breakout-MinAtar", num_envs=2, num_steps=8, num_minibatches=2, num_epochs=1,
            total_timesteps=32, hidden_sizes=(8,), shared_torso=True, value_loss="huber",
        ),
        {},
    ),
    "masks": (PPOConfig(**SMALL, total_timesteps=128), {"env": Gates()}),
    "adaptive_kl": (PPOConfig.ppo_kl(**SMALL, total_timesteps=128, objective="adaptive_kl"), {}),
    "a2c": (PPOConfig.a2c(total_timesteps=160, hidden_sizes=(8, 8)), {}),
    "reinforce": (
        PPOConfig.reinforce(
            env="Acrobot-v1", num_envs=2, num_steps=8, total_timesteps=32, hidden_sizes=(8,)
        ),
        {},
    ),
    "seeds": (CARTPOLE, {}),
}  # fmt: skip


def outcome(name):
    """Parameters, statistics and metrics after two updates, by their paths."""
    config, own = CONFIGS[name]
    train, key = make_train(config, **own), jax.random.key(3)
    if name == "seeds":
        train, key = jax.vmap(train), jax.random.split(key, 3)
    out = jax.jit(train)(key)
    state = {"params": out.state.params, "normalizers": out.state.normalizers}
    state |= {"opt_state": out.state.opt_state, "key": jax.random.key_data(out.state.key)}
    tree = {"state": state, "metrics": out.metrics}
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_same(ours, recorded):
    """To the bit on the machine of the recording, to rounding elsewhere."""
    exact = golden("machine.json", machine()) == machine()
    for name, before in recorded.items():
        if exact:
            np.testing.assert_array_equal(ours[name], before, err_msg=name)
        else:
            np.testing.assert_allclose(ours[name], before, 1e-2, 1e-3, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_bits_are_those_of_before(name):
    ours, path = outcome(name), FOLDER / f"{name}.npz"
    if RECORD:
        np.savez_compressed(path, **ours)
    with np.load(path) as file:
        recorded = dict(file)
    assert ours.keys() == recorded.keys()
    assert_same(ours, recorded)


COMMANDS = ["", *cli.COMMANDS]


@pytest.mark.parametrize("command", COMMANDS)
def test_helps_are_those_of_before(command, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "argv", ["purejaxppo", *command.split(), "--help"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    text = capsys.readouterr().out
    before = golden(f"help_{command or 'all'}.json", text.splitlines())
    assert text.splitlines() == before, "\n".join(difflib.unified_diff(before, text.splitlines()))


MESSAGES = [
    "PPOConfig(num_envs=0)",
    "PPOConfig(num_envs=2.5)",
    "PPOConfig(num_steps='many')",
    "PPOConfig(learning_rate=0)",
    "PPOConfig(learning_rate=float('nan'))",
    "PPOConfig(gamma=1.5)",
    "PPOConfig(gae_lambda=-0.1)",
    "PPOConfig(entropy_coef=-1)",
    "PPOConfig(hidden_sizes=())",
    "PPOConfig(hidden_sizes=64)",
    "PPOConfig(num_minibatches=7)",
    "PPOConfig(total_timesteps=999)",
    "PPOConfig(chunk_size=3)",
    "PPOConfig(reset_batch=9)",
    "PPOConfig(advantage='gea')",
    "PPOConfig(objective='clipp')",
    "PPOConfig(value_loss='mse')",
    "PPOConfig(activation='sigmoid')",
    "PPOConfig(advantage='td', gae_lambda=0.5)",
    "PPOConfig(n_step=3)",
    "PPOConfig(advantage='n_step', n_step=500)",
    "PPOConfig(kl_coef=0.5)",
    "PPOConfig(objective='adaptive_kl', kl_coef=0)",
    "PPOConfig(value_clip_eps=0.1)",
    "PPOConfig(huber_delta=2.0)",
    "PPOConfig(entropy_coef_final_scale=0.5)",
    "PPOConfig(core_size=32)",
    "PPOConfig(core='gru', sequence_length=7)",
    "PPOConfig(core='gru', num_envs=2, num_minibatches=5)",
    "PPOConfig(num_epochs=1, num_minibatches=1, target_kl=0.1)",
    "PPOConfig(num_envs=1, num_steps=1, num_minibatches=1, total_timesteps=10)",
    "PPOConfig(shared_torso='yes')",
    "PPOConfig(env_options=3)",
    "PPOConfig(env_options=('max_steps',))",
    "PPOConfig.from_dict({'learning_rat': 1e-3})",
    "PPOConfig.from_dict({'NUM_ENV': 4})",
    "PPOConfig.from_dict({'LR': 1e-3, 'learning_rate': 1e-3})",
    "PPOConfig.preset('CartPole-v2')",
    "PPOConfig.preset('Pendulum-v1', 'a2c')",
    "make_train(3)",
    "make_train(PPOConfig(env='Cartpole-v1'))",
    "make_train(PPOConfig(env='bracks/ant'))",
    "make_train(PPOConfig(env_options={'nonsense': 1}))",
    "make_train(PPOConfig(env_options={'max_steps': 5}), env=Gates())",
    "make_train(PPOConfig(core='gru'), policy=nn.Dense(2))",
    "make_train(PPOConfig(), policy='mlp')",
    "make_train(PPOConfig(), objective='clip')",
    "make_train(PPOConfig(objective='unclipped'), objective=print)",
    "make_train(PPOConfig(squash_actions=True))",
    "make_train(PPOConfig(torso='cnn'))",
    "make_train(PPOConfig(sequence_length=5))",
    "fit(PPOConfig(), seeds=0)",
    "fit(PPOConfig(), seed=-1)",
    "fit(PPOConfig(), seeds='two')",
    "fit(PPOConfig(), resume=True)",
    "fit(PPOConfig(), eval_episodes=5)",
    "fit(PPOConfig(), about={'x': print}, seeds=1)",
    "load_agents('nowhere')",
    "load_agents('nowhere', 'middle')",
    "load_policy(OLD_RUN, agent=7)",
    "make_env('Pendulum-v11')",
]


def message_of(call):
    names = vars(purejaxppo) | {n: getattr(purejaxppo, n) for n in purejaxppo.__all__}
    from flax import linen

    with pytest.raises(purejaxppo.ConfigError) as error:
        eval(call, {**names, "Gates": Gates, "nn": linen, "OLD_RUN": str(OLD_RUN)})
    return str(error.value).replace(str(FOLDER), ".")


def test_messages_are_those_of_before(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    ours = {call: message_of(call) for call in MESSAGES}
    assert len(ours) >= 40
    assert ours == golden("messages.json", ours)


@pytest.mark.slow
def test_a_run_folder_holds_what_it_held(tmp_path, monkeypatch, capsys):
    words = (
        "train CartPole-v1 --preset none --seeds 2 --num-envs 2 --num-steps 10 --num-minibatches 1 "
        "--total-timesteps 100 --hidden-sizes 8 --run-dir run --eval-every 40 --eval-episodes 2 "
        "--checkpoint-every 40 --no-compilation-cache --quiet"
    )
    monkeypatch.chdir(tmp_path)
    assert cli.COMMANDS["train"](words.split()[1:]) == 0
    jax.config.update("jax_enable_compilation_cache", True)
    found = sorted(str(path.relative_to("run")) for path in Path("run").rglob("*"))
    assert found == golden("run_folder.json", found)
    run = json.loads(Path("run/run.json").read_text())
    rows = [json.loads(Path(f"run/{n}.jsonl").read_text().splitlines()[0]) for n in
            ("metrics", "evaluations")]  # fmt: skip
    summary = json.loads(Path("run/summary.json").read_text())
    keys = [list(x) for x in (run, *rows, summary)]
    assert keys == golden("run_keys.json", keys)


def test_a_study_folder_holds_what_it_held(tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "HAS_PARQUET", False)
    folder = Path(write_study(tmp_path / "study", trials=3))
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    assert found == golden("study_folder.json", found)
    study = json.loads((folder / "study.json").read_text())
    line = json.loads((folder / "trials.jsonl").read_text().splitlines()[0])
    head = (folder / "trials.csv").read_text().splitlines()[0].split(",")
    keys = [list(study), list(study["space"][0]), list(study["options"]), list(line), head]
    assert keys == golden("study_keys.json", keys)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the run was begun with")
def test_a_run_of_before_loads_and_goes_on(tmp_path):
    """Stopped by 0.1.0 in the middle; its end is what 0.1.0 came to, which rounded otherwise."""
    folder = shutil.copytree(OLD_RUN, tmp_path / "run")
    config, agents = load_agents(folder)
    with np.load(FOLDER / "old_run_loads.npz") as file:
        np.testing.assert_array_equal(jax.tree.leaves(agents)[1], file["kernel"])
    for weights in ("final", "best"):
        action = load_policy(folder, 1, weights)(jax.random.key(0), jnp.zeros((3, 4)))
        assert action.shape == (3,)
    options = {"checkpoint_every": 64, "eval_every": 128, "eval_episodes": 2}
    result = fit(config, seeds=2, run_dir=folder, resume=True, **options)
    assert 0 < result.resumed_at < 6
    assert result.metrics.episodes.shape == (2, 6)
    leaves = jax.tree_util.tree_leaves_with_path(result.state.params)
    ends = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    with np.load(FOLDER / "old_run_ends.npz") as file:
        for name, before in file.items():
            np.testing.assert_allclose(ends[name], before, 1e-2, 1e-3, err_msg=name)
