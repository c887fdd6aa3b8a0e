"""Whether a calibration helps for rain that it was not fitted on: scores and reliability curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ldcast.calibration.fit import CaseReader, ScoredCase
from ldcast.calibration.maps import Calibration
from ldcast.machine.files import open_atomically
from ldcast.products.ensemble import THRESHOLDS
from ldcast.rain import is_wet
from ldcast.verification.scores.crps import crps_ensemble

if TYPE_CHECKING:  # matplotlib is an extra, imported where it is used
    from matplotlib.axes import Axes

JUDGED_STAGES = ("raw", "matched", "calibrated")  # as forecast; matched; the probability corrected
MIN_CLASSES = 16  # of probability, besides 0: one for each possible share of 16 members


class Judgement:
    """How good members and probabilities are for one event, at each stage of calibration.

    Adds up over cases. Stages are `JUDGED_STAGES`, K thresholds, T lead times.
    event: what tables call it.

    No two shares of members fall into one class of probability, so the reliability of raw and
    matched is exact. Calibrated probabilities take more values, and those of a class count by their
    mean, which can only lower the term a little. Brier scores are exact throughout.
    """

    def __init__(
        self,
        event: str,
        num_members: int,
        num_leads: int,
        thresholds: Sequence[float] = THRESHOLDS,
    ) -> None:
        self.event, self.thresholds = event, tuple(thresholds)
        self._last_class = max(num_members, MIN_CLASSES)
        # By class of probability p: forecasts, sums of p, of o (1 where reached, else 0), (p - o)^2
        shape = (len(JUDGED_STAGES), len(thresholds), num_leads, 4, self._last_class + 1)
        self._sums = np.zeros(shape)
        self._crps = np.zeros((2, num_leads))
        self._num_pixels = np.zeros(num_leads)

    def add(self, case: ScoredCase, calibration: Calibration) -> None:
        """Adds a case, with what the calibration makes of it."""
        matched = calibration.calibrate_members(case.members)
        probability = calibration.exceedance_probability(matched)  # (K, T, H, W)
        for frame, radar in enumerate(case.observation):
            is_scored = ~np.isnan(radar)
            radar = radar[is_scored]
            stages = [case.members[:, frame, is_scored], matched[:, frame, is_scored]]
            for stage, members in enumerate(stages):
                crps = crps_ensemble(torch.from_numpy(members), torch.from_numpy(radar))
                self._crps[stage, frame] += crps.sum(dtype=torch.float64).item()
            self._num_pixels[frame] += len(radar)
            for index, threshold in enumerate(self.thresholds):
                reached = is_wet(radar, threshold).astype(float)
                shares = [is_wet(members, threshold).mean(axis=0) for members in stages]
                for stage, p in enumerate([*shares, probability[index, frame, is_scored]]):
                    self._sums[stage, index, frame] += self._sums_by_class(p, reached)

    def _sums_by_class(self, p: np.ndarray, o: np.ndarray) -> np.ndarray:
        """(4, classes) of probabilities and outcomes (n,)."""
        nearest = np.rint(p * self._last_class).astype(int)
        weights = (None, p, o, np.square(p - o))
        return np.array([np.bincount(nearest, w, self._last_class + 1) for w in weights])

    def brier(self) -> np.ndarray:
        """Brier score (stage, K), mean over lead times."""
        num, _, _, squares = self._by_moment()
        return _lead_mean(squares.sum(axis=-1), num.sum(axis=-1))

    def reliability(self) -> np.ndarray:
        """Its reliability term (stage, K), mean over lead times; 0 where p is the frequency of o.

        Source: Murphy 1973 (Journal of Applied Meteorology 12), eq. 11; p is the mean of a class.
        """
        num, p, o, _ = self._by_moment()
        squares = np.square(p - o) / np.maximum(num, 1)
        return _lead_mean(squares.sum(axis=-1), num.sum(axis=-1))

    def crps(self) -> np.ndarray:
        """CRPS of the raw and the matched members, (2,) mm/h, mean over lead times."""
        return _lead_mean(self._crps, self._num_pixels)

    def curves(self) -> np.ndarray:
        """Forecasts, mean p and mean o of each class, all lead times pooled, (3, stage, K, class);
        NaN where there is no forecast.
        """
        num, p, o, _ = self._by_moment().sum(axis=3)
        with np.errstate(invalid="ignore"):
            return np.array([num, p / num, o / num])

    def _by_moment(self) -> np.ndarray:
        """(4, stage, K, T, class)"""
        return np.moveaxis(self._sums, 3, 0)


def _lead_mean(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean over the last axis, lead times, of the means at those that have pixels."""
    with np.errstate(invalid="ignore"):
        return np.nanmean(sums / counts, axis=-1)


def judge(
    read_cases: CaseReader,
    names: dict[str, str],
    calibrations: dict[str | None, Calibration],
    num_members: int,
) -> list[Judgement]:
    """For each event, how the calibration that was fitted without it does on it.

    names: event -> what tables call it. calibrations: as `fit` returns them.
    """
    first = calibrations[None]
    size = num_members, len(first.lead_minutes), first.thresholds
    judgements = {event: Judgement(name, *size) for event, name in names.items()}
    for case in read_cases("judge"):
        judgements[case.event].add(case, calibrations[case.event])
    return list(judgements.values())


def describe(judgements: list[Judgement], unit: str = "mm/h") -> str:
    """The scores of each event as two tables. unit: of what was judged."""
    width = max(len("event"), *(len(judgement.event) for judgement in judgements))
    row = (f"{{:<{width}}} {{:>9}}" + "  " + " {:>10}" * 3).format
    lines = ["Each event as judged by a calibration fitted on the other ones (lower is better)"]
    for what, of in (("Brier score", Judgement.brier), ("reliability", Judgement.reliability)):
        lines += ["", row(what, unit, *JUDGED_STAGES)]
        for judgement in judgements:
            for threshold, scores in zip(judgement.thresholds, of(judgement).T, strict=True):
                lines.append(row(judgement.event, f"{threshold:g}", *map("{:.5f}".format, scores)))
    lines += ["", row(f"CRPS, {unit}", "", *JUDGED_STAGES[:2], "")]
    for judgement in judgements:
        lines.append(row(judgement.event, "", *map("{:.5f}".format, judgement.crps()), ""))
    return "\n".join(line.rstrip() for line in [*lines, "", count_harm(judgements)])


def count_harm(judgements: list[Judgement]) -> str:
    """A line on how often the calibration made an event worse that it was not fitted on."""
    is_worse_brier, is_worse_crps = _is_worse(judgements)
    line = (
        f"calibrated is worse than raw in {is_worse_brier.sum()} of {is_worse_brier.size} Brier "
        f"scores, matched than raw in {is_worse_crps.sum()} of {is_worse_crps.size} CRPS"
    )
    if not _is_harmful(judgements):
        return line
    return f"{line}: these events may have too little in common; fit on more of them"


def _is_worse(judgements: list[Judgement]) -> tuple[np.ndarray, np.ndarray]:
    """Of each event the Brier scores, (events, K), and the CRPS, (events,)."""
    brier = np.array([judgement.brier() for judgement in judgements])  # (events, stage, K)
    crps = np.array([judgement.crps() for judgement in judgements])  # (events, 2)
    return brier[:, -1] > brier[:, 0], crps[:, 1] > crps[:, 0]


def _is_harmful(judgements: list[Judgement]) -> bool:
    return any(is_worse.any() for is_worse in _is_worse(judgements))


def record(judgements: list[Judgement]) -> dict[str, Any]:
    """What `Calibration.judged` keeps, plain values; a score without any pixel is None."""
    return {
        "summary": count_harm(judgements),
        "is_harmful": _is_harmful(judgements),
        "events": [
            {
                "event": judgement.event,
                "brier_raw": _plain(judgement.brier()[0]),
                "brier_calibrated": _plain(judgement.brier()[-1]),
            }
            for judgement in judgements
        ],
    }


def _plain(scores: np.ndarray) -> list[float | None]:
    return [None if np.isnan(score) else round(float(score), 6) for score in scores]


def draw_reliability(judgements: list[Judgement], path: Path) -> None:
    """Reliability curves before and after, a row of panels for each event (PNG).

    Below each one, how often the probabilities were given.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(THRESHOLDS), 4.6 * len(judgements)), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subfigures(len(judgements), 1, squeeze=False)[:, 0]
    for row, judgement in zip(rows, judgements, strict=True):
        row.suptitle(judgement.event)
        panels = row.subplots(2, len(THRESHOLDS), height_ratios=[3, 1], sharex=True)
        for index, threshold in enumerate(THRESHOLDS):
            _draw_curves(*panels[:, index], judgement.curves()[:, :, index])
            panels[0, index].set_title(f"at least {threshold:g} mm/h")
        panels[0, 0].set_ylabel("observed frequency")
        panels[1, 0].set_ylabel("forecasts")
        panels[0, 0].legend(frameon=False)
    with open_atomically(path) as file:
        figure.savefig(file, format="png", dpi=120)


def _draw_curves(curve: Axes, count: Axes, of_stage: np.ndarray) -> None:
    """of_stage: (3, stage, class), what `Judgement.curves` says of a threshold."""
    curve.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
    for stage, colour in ((0, "tab:orange"), (2, "tab:blue")):
        num, p, o = of_stage[:, stage, of_stage[0, stage] > 0]
        curve.plot(p, o, marker=".", color=colour, label=JUDGED_STAGES[stage])
        count.plot(p, num, marker=".", color=colour, linewidth=0.8)
    curve.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    count.set(yscale="log", xlabel="forecast probability")
