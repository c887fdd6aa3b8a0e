"""The sums of many scores over many cases, and how sure their values are."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ldcast.rain import valid_mask
from ldcast.seeds import STREAM_EVENTS, STREAM_TIES, keyed_generator, keyed_rng
from ldcast.verification.scores.score import Score

NUM_RESAMPLES = 1000
INTERVAL = 0.9  # share of the resamples inside
MAX_UNKNOWN = 0.05  # share of the resamples that may lack a score before there is no interval
CASE_SCORES = ("fair_crps_1px", "fair_crps_8px", "fair_crps_64px")


class Tally:
    """Sums of the scores of one forecaster, by event; they do not grow with the cases.

    cases: of each case in turn, those of `CASE_SCORES` that it has, name -> (T,).
    """

    def __init__(self, scores: Sequence[Score]) -> None:
        self.cases: list[dict[str, np.ndarray]] = []
        self._scores = scores
        self._sums: dict[str, list[np.ndarray]] = {}  # event -> one (T, S) for each score

    def add(self, event: str, members: Tensor, observation: Tensor, seed: int) -> None:
        """Adds a case.

        event: what the bootstrap draws as one: the file that the case comes from.
        members: (E, T, H, W) mm/h. observation: (T, H, W) mm/h, NaN where not scored, whatever the
            members say there.
        seed: of what is left to chance (ties of ranks), the same for every forecaster.
        """
        generator = keyed_generator(seed, STREAM_TIES)
        frames = zip(members.unbind(dim=1), observation, strict=True)  # one by one: a little memory
        by_frame = [self._statistics(*frame, generator) for frame in frames]
        sums = [torch.stack(of_score).cpu().numpy() for of_score in zip(*by_frame, strict=True)]
        before = self._sums.get(event, [0] * len(sums))
        self._sums[event] = [old + new for old, new in zip(before, sums, strict=True)]
        values = self._values(sums)
        self.cases.append({name: values[name] for name in CASE_SCORES if name in values})

    def values(self) -> dict[str, np.ndarray]:
        """Scores of all cases together: name -> (T,), or (T, K) for a curve or a histogram."""
        return self._values([of_score.sum(axis=0) for of_score in self._by_event()])

    def resampled(self, draws: np.ndarray) -> dict[str, np.ndarray]:
        """Scores by lead time when events are counted otherwise: name -> (N, T).

        draws: (N, events), how often each event counts, such as `draw_events` gives.
        """
        sums = [np.tensordot(draws, of_score, axes=1) for of_score in self._by_event()]
        return {name: value for name, value in self._values(sums).items() if value.ndim == 2}

    def _by_event(self) -> list[np.ndarray]:
        """(events, T, S) for each score, events in the order of their names."""
        events = [self._sums[event] for event in sorted(self._sums)]
        return [np.stack(of_score) for of_score in zip(*events, strict=True)]

    def _values(self, sums: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        values: dict[str, np.ndarray] = {}
        for score, of_score in zip(self._scores, sums, strict=True):
            values |= score.values(of_score)
        return values

    def _statistics(
        self, members: Tensor, observation: Tensor, generator: torch.Generator
    ) -> list[Tensor]:
        """Of each score at one lead time; members: (E, H, W), observation: (H, W)."""
        members = members.where(valid_mask(observation), torch.nan)
        return [score.statistics(members, observation, generator) for score in self._scores]


def draw_events(num_events: int, seed: int) -> np.ndarray:
    """(N, num_events): how often each event comes up when as many are drawn with replacement.

    Whole events, because the cases of one are far from independent.
    Source: Efron 1979 (Annals of Statistics 7); blocks as in Hamill 1999 (Weather and Forecasting
    14), who resamples whole days.
    """
    rng = keyed_rng(seed, STREAM_EVENTS)
    return rng.multinomial(num_events, [1 / num_events] * num_events, size=NUM_RESAMPLES)


def interval(resampled: np.ndarray) -> dict[str, np.ndarray]:
    """ "low" and "high" (...), between which `INTERVAL` of the resamples (N, ...) lie.

    NaN where more than a few resamples are, because hardly any event knows the score there: what
    is left would differ little, and look sure. Fewer such resamples are left out.
    """
    is_known = np.isnan(resampled).mean(axis=0) <= MAX_UNKNOWN
    bounds = np.full((2, *resampled.shape[1:]), np.nan)
    tails = [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2]
    bounds[:, is_known] = np.nanquantile(resampled[:, is_known], tails, axis=0)
    return {"low": bounds[0], "high": bounds[1]}
