"""When fields have an effect: one that is set and would change nothing is refused."""

from __future__ import annotations

from typing import Any

from purejaxppo.config.rules import Effect

LAMBDA = Effect(lambda c: c.advantage in ("gae", "vtrace"), "advantage='gae'")
N_STEP = Effect(lambda c: c.advantage == "n_step", "advantage='n_step'")
VTRACE = Effect(lambda c: c.advantage == "vtrace", "advantage='vtrace'")
# the ratios of a rollout are 1 under its own policy, where V-trace is generalized advantages
RATIOS = Effect(
    lambda c: c.advantage != "vtrace" or c.recompute_advantages, "recompute_advantages=True"
)
# an update's first epoch finds the policy and the critic of the rollout
SEVERAL_EPOCHS = Effect(lambda c: c.num_epochs > 1, "more than one epoch (num_epochs=4)")
CLIP = Effect(lambda c: c.objective == "clip", "objective='clip'")
KL_PENALTY = Effect(
    lambda c: c.objective in ("kl_penalty", "adaptive_kl"), "objective='kl_penalty'"
)
ADAPTIVE_KL = Effect(lambda c: c.objective == "adaptive_kl", "objective='adaptive_kl'")
CRITIC = Effect(lambda c: c.value_coef > 0, "value_coef=0.5")
CLIPPED_VALUE = Effect(lambda c: c.value_loss == "clipped", "value_loss='clipped'")
CATEGORICAL = Effect(lambda c: c.value_loss == "categorical", "value_loss='categorical'")
ONE_NUMBER = Effect(lambda c: c.value_loss != "categorical", "value_loss='squared'")
HUBER = Effect(lambda c: c.value_loss == "huber", "value_loss='huber'")
ENTROPY = Effect(lambda c: c.entropy_coef > 0, "entropy_coef=0.01")
EXPLORES = Effect(lambda c: c.exploration != "none", "exploration='rnd'")
CORE = Effect(lambda c: c.core != "none", "core='gru'")
LAYERED = Effect(lambda c: c.core in ("gtrxl", "mingru"), "core='mingru'")
GTRXL = Effect(lambda c: c.core == "gtrxl", "core='gtrxl'")
APART = Effect(lambda c: not c.shared_torso, "shared_torso=False")
# at an update's first gradient step the ratio is 1, the divergence and its gradient are 0
SEVERAL_STEPS = Effect(
    lambda c: c.num_epochs * c.num_minibatches > 1,
    "more than one gradient step per update (num_epochs=4)",
)
ADAM = Effect(lambda c: c.optimizer in ("adam", "adamw", "muon"), "optimizer='adam'")
DECAYED = Effect(lambda c: c.optimizer in ("adamw", "muon"), "optimizer='adamw'")
MOMENTUM = Effect(lambda c: c.optimizer in ("muon", "rmsprop", "sgd"), "optimizer='muon'")
RMSPROP = Effect(lambda c: c.optimizer == "rmsprop", "optimizer='rmsprop'")
BY_KL = Effect(
    lambda c: c.learning_rate_schedule == "kl_adaptive", "learning_rate_schedule='kl_adaptive'"
)
NOT_BY_KL = Effect(lambda c: not BY_KL.applies(c), "learning_rate_schedule='linear'")
# before the first gradient step of an update there is no divergence that a rate could follow
MOVED = Effect(
    lambda c: not BY_KL.applies(c) or c.adapt_learning_rate == "update" or SEVERAL_STEPS.applies(c),
    f"{SEVERAL_STEPS.words} or adapt_learning_rate='update'",
)


def _annealed(name: str) -> tuple[Effect, Effect]:
    """Returns when it matters how far a value falls, and in which form it does."""

    def far(c: Any) -> bool:
        return getattr(c, f"{name}_schedule") in ("linear", "cosine")

    def form(c: Any) -> bool:
        return getattr(c, f"{name}_schedule") != "cosine" or getattr(c, f"{name}_final_scale") < 1

    return Effect(far, f"{name}_schedule='linear'"), Effect(form, f"{name}_final_scale=0.1")


LEARNING_RATE_FALLS, LEARNING_RATE_FORM = _annealed("learning_rate")
CLIP_EPS_FALLS, CLIP_EPS_FORM = _annealed("clip_eps")
ENTROPY_FALLS, ENTROPY_FORM = _annealed("entropy_coef")
