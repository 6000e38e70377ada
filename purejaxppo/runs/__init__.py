"""Training from the host, run folders, checkpoints, evaluation; it prints and parses nothing."""
