"""The algorithm: pure functions over the records of `purejaxppo.types`.

Nothing here knows a simulator, a network or a file. `purejaxppo.train` puts the parts together.

## Advantages

With `delta_t = r_t + gamma (1 - terminated_t) V'_t - V_t`, where `V'_t` is the value of the
observation that the action led to, *before* any reset, and `done = terminated or truncated`:

| `advantage=` | equation | source |
|---|---|---|
| `gae` | `A_t = delta_t + gamma lambda (1 - done_t) A_{t+1}` | arXiv:1506.02438, eq. 16 |
| `n_step` | `A_t = r_t + ... + gamma^n V'_{t+n-1} - V_t`, less at a boundary | arXiv:1602.01783 |
| `monte_carlo` | `A_t = G_t - V_t`, `G_t` the discounted reward-to-go | Williams 1992 |
| `td` | `A_t = delta_t` | Sutton and Barto 2018, eq. 6.5 |
| `none` | `A_t = G_t`, no baseline | Williams 1992 |
| `vtrace` | `A_t = rho_t (delta_t + gamma lambda (1 - done_t) E_{t+1})` | arXiv:1802.01561 |

They are normalised per minibatch, per batch or not at all (`advantage_normalization`).

With `recompute_advantages=True` each epoch but the first begins with values, advantages and targets
under the parameters as they are then (arXiv:2006.05990, section 3.5), with any of these estimators:
for those who go over a rollout many times. The rollout keeps the observations that its actions led
to, and each epoch takes two passes of the critic more. Rewards, statistics, what values are clipped
to and what ratios are of stay those of the rollout; a memory goes on from what was stored at the
start of each sequence.

`vtrace` weighs by the ratios of the policy that is trained to that of the rollout, which are other
than 1 only then: `rho_t = min(vtrace_rho, ratio_t)`, `c_t = lambda min(vtrace_c, ratio_t)`, and
targets `V_t + E_t`, `E_t = rho_t delta_t + gamma c_t (1 - done_t) E_{t+1}`. With ratios of 1 it is
`gae`. An objective with a ratio weighs by it once more, as in PufferLib.

## Objectives

With `rho = pi(a) / pi_old(a)`, both given the state:

| `objective=` | minimised | source |
|---|---|---|
| `clip` | `-min(rho A, clip(rho, 1 - eps, 1 + eps) A)` | arXiv:1707.06347, eq. 7 |
| `kl_penalty` | `-rho A + beta KL(pi_old, pi)`, the exact divergence | eq. 8 |
| `adaptive_kl` | `beta` halves if KL < target / 1.5, doubles if KL > 1.5 target | section 4 |
| `unclipped` | `-rho A` | eq. 6 |
| `policy_gradient` | `-log pi(a) A` | Williams 1992 |

## Value losses

| `value_loss=` | with `e = V - target` | source |
|---|---|---|
| `squared` | `e^2 / 2` | arXiv:1602.01783 |
| `clipped` | `max(e^2, (V_old + clip(V - V_old, -eps, eps) - target)^2) / 2`, own `eps` | ppo2 |
| `huber` | `e^2 / 2` up to `delta`, `delta (abs(e) - delta / 2)` beyond | Huber 1964 |
| `categorical` | `-sum_i q_i log p_i`, see below | arXiv:2403.03950 |

A categorical critic (HL-Gauss) gives logits of K bins (`value_bins`), and `V = sum_i p_i v_i`. A
target becomes probabilities `q`: what a Gaussian around it, `value_sigma` bins wide, has in each.
Bins go from `value_min` to `value_max`, and **a target beyond them counts as the nearer end**;
within 4 `value_sigma` bins of an end it is drawn inwards. By default they are evenly spaced
in `symlog(V) = sign(V) log(1 + abs(V))` (arXiv:2301.04104), so that returns of 0.1 and of 10,000
need no other range; with `value_symlog=False` they are evenly spaced in V, and finer where the
range is known. Either way the mean of `q` is the target; near 0, where `symlog` turns, coarse bins
miss it by a part of their width (0.3 becomes 0.302 with 101 of them, and 0.36 with 21). Bins are
float32, and constants of the program.

`normalize_values` (PopArt, arXiv:1602.07714) lets the critic learn targets of mean 0 and variance
1, by running statistics of all that it was ever asked for, as with observations. In an update the
statistics see the targets first; then the value head is rescaled so that every V stays what it was,
to rounding; then come the gradient steps. The first targets alone leave the head as it is: V begins
at their mean. `value_clip_eps` and `huber_delta` are in the units of normalised targets then;
advantages, `value` of a rollout and `explained_variance` are in those of the rewards. It is refused
beside `categorical`, whose bins do not scale, and for networks of your own, unless a `Policy` says
with `rescale_value` where its head is. It suits returns that are large or far from 0; beside
`normalize_rewards`, which divides by a standard deviation but moves no mean, it changes little.

The critic may see more than the actor: `critic_observation` and `actor_observation` name what each
reads, and acting needs the actor's alone (Pinto et al., arXiv:1710.06542).

## Optimizers

Of the gradient `g`, scaled down to the global norm `max_grad_norm`, and the learning rate `alpha`:

| `optimizer=` | step | source |
|---|---|---|
| `adam` | `-alpha m / (sqrt(v) + eps)`, `adam_b1`, `adam_b2` and `adam_eps` | arXiv:1412.6980 |
| `adamw` | Adam's, and `-alpha weight_decay theta` | arXiv:1711.05101 |
| `muon` | matrices: `-alpha (sqrt(max(1, out / in)) O + weight_decay theta)` | Jordan 2024 |
| `rmsprop` | `-alpha g / sqrt(v + rms_eps)`, with `v` of `rms_decay` | arXiv:1602.01783 |
| `sgd` | `-alpha m`, with `m = momentum m + g` | Sutskever et al. 2013 |

`O` is the momentum (0.95 unless `momentum` says otherwise, with Nesterov's look ahead), made nearly
orthogonal by five Newton-Schulz steps. Kernels of convolutions count as matrices from all their
inputs to their outputs; all else, such as biases, goes under Adam with Nesterov's momentum at the
same `alpha`. Muon's rates are larger than Adam's, 2e-3 to 1e-1. `adam_b1`, `adam_b2` and `momentum`
are None unless they are set, and compiled in; only what is set can be varied.

## Schedules

With `p` the progress of a run, `w` the part of it that warms up (`*_warmup`), `q = (p - w) / (1 -
w)`, and `f` the fraction that is left (`*_final_scale`), each for `learning_rate`, `clip_eps` and
`entropy_coef`:

| `*_schedule=` | what is left | source |
|---|---|---|
| `linear` | `1 - q (1 - f)` | |
| `cosine` | `f + (1 - f) (1 + cos(pi q)) / 2` | arXiv:1608.03983, eq. 5 |
| `constant` | `1` | |
| `kl_adaptive` | of the learning rate: / 1.5 if KL > 2 target, x 1.5 if KL < target / 2 | rsl_rl |

The k-th of n updates that warm up, from 1, has k / n of the value: the first one learns too. Under
`kl_adaptive` the KL is the exact divergence from the rollout's policy, of the minibatch before its
gradient step, once a step was taken since the rollout; or with `adapt_learning_rate="update"` of
the whole rollout behind its update. The target is `desired_kl`, and the rate stays within
`learning_rate_min` and `learning_rate_max`. It is a state of each agent, `schedule_state`; a step
that is left out because something is not finite does not move it. `metrics.learning_rate` is that
of the last gradient step of an update. Beside `objective="adaptive_kl"` both adapt, each to its own
target. Beside an optimizer of yours it is `hyper.learning_rate`, whether that is read or not: a
rate that falls belongs into a schedule.

## Memories

A core stands between torso and heads. Of its input `x_t`, with gates `z_t`, `r_t`, `i_t`, `f_t` and
`o_t`, sigmoids of what they read:

| `core=` | equation | source |
|---|---|---|
| `gru` | `h_t = z_t h_{t-1} + (1 - z_t) tanh(W x_t + r_t U h_{t-1})` | arXiv:1406.1078 |
| `lstm` | `c_t = f_t c_{t-1} + i_t g_t`, `h_t = o_t tanh(c_t)` | Hochreiter and Schmidhuber 1997 |
| `linear` | `h_t = a_t h_{t-1} + sqrt(1 - a_t^2) i_t W x_t`, `a_t = a^(8 r_t)` | arXiv:2402.19427 |
| `mingru` | `h_t = (1 - z_t) h_{t-1} + z_t g(W x_t)`, beside a highway | arXiv:2410.01201 |
| `gtrxl` | attention to `core_window` steps, gates around each layer | arXiv:1910.06764 |

Gates of `linear` and `mingru` read `x_t` alone. A minibatch is of sequences of `sequence_length`
steps, each from the memory that it began with; gradients flow between its steps. All forget at an
episode's start.

## Exploration

`exploration="rnd"` pays a bonus for what is new beside the rewards: random network distillation,
arXiv:1810.12894. A network learns to predict what a random one, which never changes, makes of the
observation `x'` that an action led to, whitened by running statistics and cut off at -5 and 5:

| what | equation |
|---|---|
| bonus | `i_t = mean((f_learned(x') - f_random(x'))^2) / std(sum of gamma_i^k i_{t-k})` |
| advantage | `A_t = A_rewards + exploration_coef * A_bonuses` |
| losses | `mean((f_learned(x') - f_random(x'))^2) + (V_i - target)^2 / 2` |

`A_bonuses` come from the same estimator, with `exploration_gamma` and a value `V_i` of their own,
and as if no episode ever ended. Other than in the paper, `V_i` has a network of its own (the
policy, with a memory or one of yours, is what it is without a bonus), statistics are those of the
rollouts, the first one in place of steps of a random agent, and every transition is learned from.
Metrics: `intrinsic_reward`, `intrinsic_value_loss` and `novelty_loss`, in `metrics.extra`.

## Algorithms

| algorithm | is |
|---|---|
| `PPOConfig.ppo()` | `clip`, `gae`, 4 epochs of 4 minibatches |
| `PPOConfig.ppo_kl()` | `kl_penalty` (or `objective="adaptive_kl"`) in place of `clip` |
| `PPOConfig.a2c()` | `policy_gradient`, `n_step`, one gradient step per 5-step rollout |
| `PPOConfig.reinforce()` | `policy_gradient`, `monte_carlo`, one gradient step per rollout |
| `PPOConfig.preset("classic", "a2c")` | `a2c` with `rmsprop`, as in its paper |
| `PPOConfig.preset("classic")` | one environment, 2,048 steps, 10 epochs of minibatches of 32 |

The network of `classic` has two layers of 32 with ReLU. Beside the tables: an entropy bonus;
clipping of gradients by their global norm; `target_kl`, which skips the rest of an update; running
normalisation of rewards and of observations, part by part (images, bits and names are left out).

## What goes wrong elsewhere

| what goes wrong elsewhere | here |
|---|---|
| a time limit counts as failure | the value of the final observation is used, the trace is cut |
| observation statistics move between rollout and update | the same for both: the first ratio is 1 |
| a NaN ends everything | the step is left out and counted (`skipped_steps`); other seeds go on |
| an option that does nothing | rejected, with what would make it count |
| sizes that do not divide are rounded | rejected, with the sizes that work |

Right time limits cost about 4% of training speed on CartPole-v1: `benchmarks/README.md` has the
figures.

## Your own

An objective of yours is a function, or an `Objective` where it remembers something from one update
to the next; an estimator is a function of a rollout, whose arrays are [T, N]:

```python
import jax
import jax.numpy as jnp
from purejaxppo import Estimate, PPOConfig, make_train


def reverse_kl(dist, log_prob, batch, hyper, state):  # of each transition, [B]
    surrogate = jnp.exp(log_prob - batch.log_prob) * batch.advantage
    return dist.kl(batch.dist) - surrogate


def one_step(rollout, hyper, config):  # r + gamma V(s') - V(s), and no V(s') behind an end
    ahead = jnp.where(rollout.terminated, 0.0, rollout.next_value)
    target = rollout.reward + hyper.gamma * ahead
    return Estimate(target - rollout.value, target)


train = make_train(PPOConfig(env="CartPole-v1"), objective=reverse_kl, advantage=one_step)
print(jax.jit(train)(jax.random.key(0)).metrics.approx_kl)
```

So are an optimizer, a schedule, and hyperparameters beyond those of `Hyperparams`:

- `optimizer=`: `(hyper) -> optax.GradientTransformation`, the learning rate included. Gradients are
  still clipped to `max_grad_norm` before it; `optimizer="muon"`, `adam_eps` and other options of
  the named ones have no effect beside it and are refused. One that works element by element may say
  so, `Optimizer(make, elementwise=True)`: where there are few parameters, they are then stepped as
  one vector, which is faster. It is given gradients and parameters: optax's `reduce_on_plateau` and
  `lbfgs`, which need the loss too, cannot be used.
- `schedule=`: `(hyper, progress) -> hyper`, with progress from 0 to 1. It replaces those by name:
  options such as `*_final_scale` are refused beside it.
- `hyper.extra`: any pytree, traced, and vmapped with all other hyperparameters; `fit`, `sweep` and
  `make_population` take it as `extra=`, the same for all agents.
- An objective may return `(loss [B], {name: [B]})`: the means over each update are in
  `metrics.extra[name]`, and with `fit` in the columns of `metrics.jsonl` and in TensorBoard
  (`train/<name>`). It sees the `dist` of the policy: one of yours may hold more than a distribution
  needs, such as a prediction for an auxiliary loss.

```python
import jax
import jax.numpy as jnp
import optax
from purejaxppo import PPOConfig, fit, make_train


def soft_clip(dist, log_prob, batch, hyper, state):
    ratio = jnp.exp(log_prob - batch.log_prob)
    excess = jax.nn.relu(jnp.abs(ratio - 1) - hyper.clip_eps)
    return hyper.extra["tau"] * excess**2 - ratio * batch.advantage, {"excess": excess}


def lion(hyper):
    return optax.lion(hyper.learning_rate)


def halved(hyper, progress):  # four times in a run
    return hyper.replace(learning_rate=hyper.learning_rate * 0.5 ** jnp.floor(5 * progress))


config = PPOConfig(env="CartPole-v1", learning_rate=1e-4)
custom = {"objective": soft_clip, "optimizer": lion, "schedule": halved}
result = fit(config, **custom, extra={"tau": 0.5})
print(result.metrics.extra["excess"])  # [seeds, updates]


def with_tau(tau):
    return config.hyperparams().replace(extra={"tau": tau})


sweep = jax.vmap(make_train(config, **custom), (None, 0))  # five values of tau in one program
print(jax.jit(sweep)(jax.random.key(0), jax.vmap(with_tau)(jnp.logspace(-1, 1, 5))).metrics.extra)
```

## Names

| name | is | name | is |
|---|---|---|---|
| `num_envs` N | environments side by side | `terminated` | ended by the task |
| `num_steps` T | rollout length | `truncated` | cut off by a time limit |
| `num_epochs` E | passes over a rollout | `final_obs` | what the action led to |
| `num_minibatches` M | gradient steps per epoch | `next_value` | V(final_obs) |
| `sequence_length` L | a minibatch's steps in a row | `carry` | a memory's, `()` without one |
| `num_updates` U | rollouts in a run | `approx_kl` | mean of (rho - 1) - log rho |
| `progress` | 0 at the start of a run, 1 at its end | `clip_fraction` | of ratios clipped |
| `key` | consumed by what it is passed to | `hyper` | `Hyperparams` in force |
"""
