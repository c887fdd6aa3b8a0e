"""Skill against a reference: pooled, with its uncertainty, and of the median case.

Only fair scores, which do not depend on the number of members, are compared.
"""

import numpy as np

from ldcast.verification.tally import CASE_SCORES, Tally, interval

MIN_REFERENCE = 0.01  # mm/h; a nearly dry case has no skill to speak of


def skill(score: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """1 - score / reference: 1 is perfect, 0 no better than the reference; NaN where that is 0."""
    ratio = np.full(np.broadcast(score, reference).shape, np.nan)
    np.divide(score, reference, out=ratio, where=np.asarray(reference) > 0)
    return 1 - ratio


def median_skill(scores: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median over cases of each case's skill, and how many cases count.

    scores, references: (cases, ...) mm/h. A case counts where its reference is above
    `MIN_REFERENCE`. A pooled mean hangs on a few wet cases; every case has one vote here.
    Returns (...) and (...); NaN where no case counts.
    """
    counts = references > MIN_REFERENCE  # False where NaN
    num_cases = counts.sum(axis=0)
    median = np.full(num_cases.shape, np.nan)
    by_case = np.where(counts, skill(scores, references), np.nan)
    median[num_cases > 0] = np.nanmedian(by_case[:, num_cases > 0], axis=0)
    return median, num_cases


def skill_table(
    tally: Tally, reference: Tally, draws: np.ndarray | None, leads: np.ndarray
) -> dict[str, dict]:
    """All kinds of skill against one reference: score -> kind -> (T,), or a number below "mean".

    pooled: of the scores of all cases together; low, high: its interval when events are drawn
        again, the same ones for both; median and num_cases: see `median_skill`.
    mean: the same of the scores' means over `leads`, so far as both know them.
    draws: see `draw_events`; None for no interval. leads: (T,) bool.
    """
    values = tally.values(), reference.values()
    again = None if draws is None else (tally.resampled(draws), reference.resampled(draws))
    table = {}
    for name in [name for name in CASE_SCORES if name in values[0]]:  # areas have no blocks
        pooled = tuple(of[name] for of in values)
        resampled = None if again is None else tuple(of[name] for of in again)
        by_case = tuple(np.stack([case[name] for case in of.cases]) for of in (tally, reference))
        table[name] = _kinds(pooled, resampled, by_case)
        means = (pair and mean_of_leads(*pair, leads) for pair in (pooled, resampled, by_case))
        table[name]["mean"] = _kinds(*means)
    return table


def mean_of_leads(
    scores: np.ndarray, references: np.ndarray, leads: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Means over those of `leads` (T,) that both know, (..., T) -> (...); NaN for none."""
    is_known = leads & ~np.isnan(scores + references)
    count = is_known.sum(axis=-1)
    means = (np.where(is_known, of, 0).sum(axis=-1) for of in (scores, references))
    return tuple(mean / np.where(count > 0, count, np.nan) for mean in means)


Pair = tuple[np.ndarray, np.ndarray]  # of the forecaster and of its reference


def _kinds(pooled: Pair, resampled: Pair | None, by_case: Pair) -> dict[str, np.ndarray]:
    kinds = {"pooled": skill(*pooled)}
    if resampled is not None:
        kinds |= interval(skill(*resampled))
    kinds["median"], kinds["num_cases"] = median_skill(*by_case)
    return kinds
