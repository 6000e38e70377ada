"""Policies: networks for actor and critic, with a memory or without, and action distributions."""

from purejaxppo.policies.cores import CORES, GRU, LSTM, GTrXL, LinearRecurrence, MinGRU
from purejaxppo.policies.distributions import (
    Bernoulli,
    Categorical,
    DiagGaussian,
    Joint,
    MultiCategorical,
    SquashedGaussian,
)
from purejaxppo.policies.heads import distribution
from purejaxppo.policies.networks import ActorCritic, make_policy
from purejaxppo.policies.torsos import (
    IMAGE_TORSOS,
    MLP,
    GridCNN,
    ImpalaCNN,
    NatureCNN,
    Torso,
)

__all__ = [
    "CORES",
    "GRU",
    "IMAGE_TORSOS",
    "LSTM",
    "MLP",
    "ActorCritic",
    "Bernoulli",
    "Categorical",
    "DiagGaussian",
    "GTrXL",
    "GridCNN",
    "ImpalaCNN",
    "Joint",
    "LinearRecurrence",
    "MinGRU",
    "MultiCategorical",
    "NatureCNN",
    "SquashedGaussian",
    "Torso",
    "distribution",
    "make_policy",
]
