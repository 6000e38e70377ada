"""What decides which trials of a sweep go on: rungs, and populations that evolve."""
