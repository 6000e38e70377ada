"""What to train: fields and their rules, presets, and the keys of other libraries."""
