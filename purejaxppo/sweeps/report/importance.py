"""How much of the differences between scores comes from each of what was varied.

The importance of a dimension is the share of the variance of scores that it explains by itself,

    S_i = Var(E[score | x_i]) / Var(score),

the first-order index of Sobol' (doi:10.1016/S0378-4754(00)00270-6), and the first-order term of a
functional analysis of variance (Hutter, Hoos and Leyton-Brown, ICML 2014). It is estimated from the
trials as they are, without a model: they are put into K groups by x_i, and of the correlation ratio

    eta^2 = sum_k n_k (mean_k - mean)^2 / sum_j (score_j - mean)^2

its bias (K - 1) / (n - 1), which is that of n scores that have nothing to do with x_i, is taken out
(Kelley, doi:10.1073/pnas.21.9.554):

    epsilon^2 = 1 - (1 - eta^2) (n - 1) / (n - K).

What is left of 1 when all are added is what they do together, and the luck of seeds. How probable
so large an index is where scores have nothing to do with x_i is found by permutation.

Trials that learn where to go (tpe, cmaes, nsga2, pbt) are not spread evenly: the importance is then
one among the settings that were tried.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from purejaxppo.sweeps.trials import Result

MOST_GROUPS = 10
PERMUTATIONS = 999
CHANCE = 0.05
"""A dimension with a larger probability than this is not told apart from one without effect."""


class Importance(NamedTuple):
    """What a dimension explains.

    Attributes:
        name: of the dimension.
        share: of the variance of the scores, from 0 to 1; None where the trials are too few, or
            all alike.
        chance: probability of so large a share by luck alone; None likewise.
        trials: how many were counted: those with a score, and with a value of the dimension.
    """

    name: str
    share: float | None
    chance: float | None
    trials: int

    @property
    def certain(self) -> bool:
        """Says whether it is told apart from a dimension without effect."""
        return self.chance is not None and self.chance <= CHANCE


def importances(results: Iterable[Result], names: Sequence[str]) -> list[Importance]:
    """Computes the importance of each dimension, the largest first.

    Args:
        results: of trials; those without a score do not count.
        names: of the dimensions.
    """
    scored = [r for r in results if r.score is not None]
    found = []
    for name in names:
        there = [r for r in scored if name in r.setting]
        scores = np.array([r.score for r in there], float)
        groups = groups_of([r.setting[name] for r in there])
        found.append(Importance(name, *_explained(groups, scores), len(there)))
    return sorted(found, key=lambda x: -1.0 if x.share is None else x.share, reverse=True)


def groups_of(values: Sequence[Any]) -> np.ndarray:
    """Groups trials by a value: equal ones together; where there are many, as many to each group.

    Args:
        values: [n], numbers or choices.

    Returns:
        [n] numbers of groups, from 0: at most the root of n, and at most 10, unless they are
        choices.
    """
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in values)
    distinct = sorted(set(values)) if numbers else list(dict.fromkeys(map(repr, values)))
    most = max(2, min(MOST_GROUPS, math.isqrt(len(values))))
    if not numbers or len(distinct) <= most:
        places = {x: i for i, x in enumerate(distinct)}
        return np.array([places[x if numbers else repr(x)] for x in values], int)
    # quantiles: logarithms would give the same groups
    edges = np.unique(np.quantile(values, np.linspace(0, 1, most + 1)[1:-1]))
    return np.unique(np.searchsorted(edges, values, side="left"), return_inverse=True)[1]


def correlation_ratios(groups: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Computes epsilon squared, the share of the variance that groups explain, without bias.

    Args:
        groups: [n] numbers of groups, from 0, none of them empty.
        scores: [..., n].

    Returns:
        [...], below 0 by chance where nothing is explained.
    """
    n, kinds = scores.shape[-1], int(groups.max()) + 1
    member = groups[:, None] == np.arange(kinds)
    around = scores - scores.mean(axis=-1, keepdims=True)
    between = ((around @ member) ** 2 / member.sum(axis=0)).sum(axis=-1)
    eta = between / (around**2).sum(axis=-1)
    return 1 - (1 - eta) * (n - 1) / (n - kinds)


def _explained(groups: np.ndarray, scores: np.ndarray) -> tuple[float | None, float | None]:
    """Returns the share that groups explain, and its probability by luck; None: not known."""
    kinds = len(set(groups.tolist()))
    if kinds < 2 or len(scores) <= kinds + 1 or np.ptp(scores) == 0:
        return None, None
    share = float(correlation_ratios(groups, scores))
    # equal calls give equal numbers
    rng = np.random.default_rng(0)
    shuffled = rng.permuted(np.tile(scores, (PERMUTATIONS, 1)), axis=1)
    # rounding must not make a share differ from itself
    larger = int((correlation_ratios(groups, shuffled) >= share - 1e-9).sum())
    return max(share, 0.0), (1 + larger) / (1 + PERMUTATIONS)
