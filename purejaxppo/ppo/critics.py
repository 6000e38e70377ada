"""What the numbers of a value head stand for, and how they are learned: `make_critic`."""

from __future__ import annotations

from typing import Any

from purejaxppo.ppo.value_losses import VALUE_LOSSES
from purejaxppo.types import Critic


def make_critic(config: Any) -> Critic:
    """Makes the critic that a configuration describes.

    Args:
        config: the `PPOConfig`; its fields of the group `value` are read.

    Returns:
        The critic: one number for each state, which is V itself.
    """
    value_loss = VALUE_LOSSES[config.value_loss]
    return Critic(
        value=lambda output, stats: output,
        loss=lambda output, batch, hyper, stats: value_loss(output, batch, hyper),
    )
