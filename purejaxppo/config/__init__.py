"""What to train: fields and their rules, presets, and the keys of other libraries."""

from purejaxppo.config.schema import Algorithm, PPOConfig, as_config

__all__ = ["Algorithm", "PPOConfig", "as_config"]
