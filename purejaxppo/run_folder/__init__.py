"""The run folder: what is in it, how it is begun, and how it is read.

config.toml        every field of the configuration
run.json           seeds, versions and device it was begun with
metrics.jsonl      a row for each update and seed
evaluations.jsonl  a row for each evaluation and seed
checkpoints/       the last whole states, one file each, named by the updates done
agents.npz         parameters and statistics at the end; best.npz: the best by evaluation
curve.png          return against steps
summary.json       the results
.lock              empty; who trains here holds it, and it stays
"""
