"""Scoring: every forecaster forecasts every case, and each adds to its record."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from ldcast.data.checks import format_time
from ldcast.data.crops import read_window
from ldcast.data.event import RainEvent
from ldcast.data.fields import FieldNeed
from ldcast.errors import InputError
from ldcast.motion import fill_gaps, interior_mask, mean_motion
from ldcast.products.ensemble import THRESHOLDS
from ldcast.rain import as_float32, valid_mask
from ldcast.verification.cases import Case, case_grid
from ldcast.verification.derived import Derived
from ldcast.verification.forecasters import ForecastCache, Forecaster, TimedForecast
from ldcast.verification.scores.categorical import MatchedMeanScore
from ldcast.verification.scores.crps import CRPSScore
from ldcast.verification.scores.fractions import FractionsScore
from ldcast.verification.scores.probabilities import BrierScore
from ldcast.verification.scores.ranks import RankScore
from ldcast.verification.scores.score import Score
from ldcast.verification.scores.spectrum import SpectrumScore
from ldcast.verification.scores.spread import SpreadScore
from ldcast.verification.scores.wet_area import WetAreaScore
from ldcast.verification.tally import Tally

BLOCK_SIZES = (1, 8, 64)  # pixels
SCALES = (1, 4, 16, 64)  # pixels
NOTHING_DERIVED = Derived()
MOTION_MARGIN = 128  # pixels around a crop that its motion is estimated from, too


def interior_scores() -> list[Score]:
    """The scores that make sense on a part of the pixels; a new score is a line here."""
    return [
        *(CRPSScore(size) for size in BLOCK_SIZES),
        *(RankScore(size) for size in BLOCK_SIZES),
        *(FractionsScore(threshold, SCALES) for threshold in THRESHOLDS),
        *(BrierScore(threshold) for threshold in THRESHOLDS),
        SpreadScore(),
        WetAreaScore(),
        MatchedMeanScore(THRESHOLDS),
    ]


def whole_scores() -> list[Score]:
    """All scores."""
    return [*interior_scores(), SpectrumScore()]


@dataclass
class Record:
    """What is known of one forecaster.

    whole: its scores on all pixels, interior: on those whose air came from inside the crop.
    seconds: of each case, wall time of the forecast when it was made.
    derived: of what is made of forecasts, by name.
    """

    whole: Tally = field(default_factory=lambda: Tally(whole_scores()))
    interior: Tally = field(default_factory=lambda: Tally(interior_scores()))
    seconds: list[float] = field(default_factory=list)
    derived: dict[str, Tally] = field(default_factory=dict)

    def add(
        self, case: Case, forecast: TimedForecast, observation: Tensor, is_inside: Tensor
    ) -> None:
        """observation: (T, H, W) mm/h, NaN where not scored; is_inside: (T, H, W) bool."""
        self.whole.add(case.source, forecast.members, observation, case.seed)
        observation = observation.where(is_inside, torch.nan)
        self.interior.add(case.source, forecast.members, observation, case.seed)
        self.seconds.append(forecast.seconds)


def score_cases(
    forecasters: list[Forecaster],
    events: list[RainEvent],
    cases: list[Case],
    crop_size: int,
    device: torch.device,
    cache: ForecastCache,
    derived: Derived = NOTHING_DERIVED,
) -> tuple[dict[str, Record], list[tuple[float, float] | None]]:
    """Every forecaster's record over all cases, and each case's mean motion (pixels per frame).

    One forecast is in memory at a time. derived: what is scored besides rain rates.
    Raises InputError where a forecast lacks a pixel that the newest past frame has.
    """
    records = {forecaster.name: Record(derived=derived.tallies()) for forecaster in forecasters}
    motions = []
    names = needed_fields(forecasters)
    num_forecasts = len(cases) * len(forecasters)
    with tqdm(total=num_forecasts, desc="forecasts", disable=None) as bar:
        for case in cases:
            past, observation, fields = read_case(events, case, crop_size, device, names)
            around = _read_around(events, case, crop_size, device)
            motions.append(mean_motion(around, case.frames.minutes_per_frame))
            is_inside = interior_mask(valid_mask(past[-1]), motions[-1], len(observation))
            about = past, case.frames, case_grid(events, case, crop_size)
            radar = derived.of(observation[None], *about)
            for forecaster in forecasters:
                forecast = cache(forecaster, past, case, fields)
                _check_finite(forecast.members, observation, forecaster.name, case)
                records[forecaster.name].add(case, forecast, observation, is_inside)
                if tallies := records[forecaster.name].derived:
                    # What it says beside scored pixels would be carried into sums of others.
                    scored = forecast.members.where(valid_mask(observation), torch.nan)
                    made = derived.of(scored, *about)
                    for name, tally in tallies.items():  # without any area too: of every event
                        tally.add(case.source, made[name], radar[name][0], case.seed)
                bar.update()
    return records, motions


class CaseData(NamedTuple):
    """What a case is forecast from and judged by.

    past: (past_frames, H, W) mm/h, its gaps filled as `LDCast.predict` does, for every forecaster
        alike.
    observation: (future_frames, H, W) mm/h, NaN where it is not scored: without data then, or in
        the newest past frame.
    fields: name -> (F, c, H, W), as the forecasters need them.
    """

    past: Tensor
    observation: Tensor
    fields: dict[str, Tensor]


def needed_fields(forecasters: Sequence[Forecaster]) -> dict[str, FieldNeed]:
    """What the forecasters need besides rain; of a field that several need, the most."""
    needs: dict[str, FieldNeed] = {}
    for forecaster in forecasters:
        for name, need in forecaster.fields.items():
            needs[name] = max(need, needs.get(name, need))
    return needs


def read_case(
    events: list[RainEvent],
    case: Case,
    crop_size: int,
    device: torch.device,
    fields: Mapping[str, FieldNeed] | None = None,
) -> CaseData:
    """The frames of a case, and what is needed of its fields.

    Raises InputError where its event lacks a field.
    """
    num_frames, num_past = case.frames.num_frames, case.frames.past_frames
    example = read_window(events, case.window, num_frames, crop_size, fields).to(device)
    past, observation = example.rain_rate[0, :num_past], example.rain_rate[0, num_past:]
    observation = observation.where(valid_mask(past[-1]), torch.nan)
    filled = fill_gaps(past, case.frames.minutes_per_frame).rain_rate
    return CaseData(filled, observation, example.fields)


def _read_around(
    events: list[RainEvent], case: Case, crop_size: int, device: torch.device
) -> Tensor:
    """Rain of a case's past and future (T, h, w) mm/h, with a margin as far as the event goes.

    In a small crop a few showers, or none, say little of the motion that brings the next ones.
    """
    window, rain_rate = case.window, events[case.window.event].rain_rate
    rows, columns = (
        slice(max(start - MOTION_MARGIN, 0), start + crop_size + MOTION_MARGIN)
        for start in (window.y, window.x)
    )
    frames = slice(window.first_frame, window.first_frame + case.frames.num_frames)
    return torch.from_numpy(as_float32(rain_rate[frames, rows, columns])).to(device)


def _check_finite(members: Tensor, observation: Tensor, name: str, case: Case) -> None:
    # Left out, pixels without a forecast would make a model look better than it is.
    if not torch.isfinite(members[:, valid_mask(observation)]).all():
        raise InputError(
            f"{name} forecasts values that are not finite for {case.event} at "
            f"{format_time(case.issue_time)}, expected mm/h: try --amp off, or another model"
        )
