"""Wrappers: environments with something about them changed. Pure, and free to be combined.

The outermost acts last: `FrameStack(StickyActions(env), 4)` stacks what sticky actions led to.
Spaces follow: each wrapper declares what it shows.
"""

from purejaxppo.envs.wrappers.base import (
    ObservationWrapper,
    Remembered,
    RememberingWrapper,
    RewardWrapper,
    Wrapper,
)
from purejaxppo.envs.wrappers.episodes import EpisodeStatistics, TimeLimit
from purejaxppo.envs.wrappers.observations import (
    FlattenObservation,
    FrameStack,
    HideIndices,
    LastActionReward,
    NormalizeObservation,
)
from purejaxppo.envs.wrappers.steps import ActionRepeat, ClipReward, ScaleReward, StickyActions

__all__ = [
    "ActionRepeat",
    "ClipReward",
    "EpisodeStatistics",
    "FlattenObservation",
    "FrameStack",
    "HideIndices",
    "LastActionReward",
    "NormalizeObservation",
    "ObservationWrapper",
    "Remembered",
    "RememberingWrapper",
    "RewardWrapper",
    "ScaleReward",
    "StickyActions",
    "TimeLimit",
    "Wrapper",
]
