"""What curves are drawn against; without jax, for a command line that starts fast."""

from __future__ import annotations

from typing import Literal

Axis = Literal["steps", "updates", "episodes", "seconds"]
"""What curves are drawn against; all of one agent."""

AXES: dict[Axis, str] = {
    "steps": "environment steps",
    "updates": "updates",
    "episodes": "episodes that have ended, mean over seeds",
    "seconds": "seconds of training, at the run's mean speed",
}
"""What they are called in pictures."""
