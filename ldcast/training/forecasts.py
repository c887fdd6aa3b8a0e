"""Forecasts of a few fixed cases: the score that chooses the best checkpoint, and its picture."""

import copy
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ldcast.config import DataConfig, ForecastScoreConfig
from ldcast.data.crops import read_window
from ldcast.data.event import RainEvent
from ldcast.data.fields import FieldNeed
from ldcast.data.pickers import Window
from ldcast.errors import InputError, NonFiniteError
from ldcast.frames import FrameConfig, nearest_leads
from ldcast.machine.processes import Processes
from ldcast.machine.stopping import StopRequest
from ldcast.nowcast.ldcast import LDCast
from ldcast.products.summary import readable_time
from ldcast.rain import drop_impossible_rain
from ldcast.training.pictures import Comparison, drawn_indices
from ldcast.verification.cases import (
    CANDIDATES_PER_CASE,
    Case,
    draw_candidates,
    spread_over,
)
from ldcast.verification.scores.crps import fair_crps

DRAWN_LEADS = (5, 15, 30, 60, 100)  # minutes; drawn are those nearest of the model's own


def drawn_titles(frames: FrameConfig) -> list[str]:
    """Of the columns of the picture, one for each lead time that is drawn."""
    leads = nearest_leads(frames.lead_minutes, DRAWN_LEADS)
    return [f"+{frames.lead_minutes[index]} min" for index in leads]


class CaseScores(NamedTuple):
    """What the forecasts of the cases give.

    crps: fair CRPS in mm/h, mean over the pixels with data of all lead times and cases; infinite
        where the networks gave values that are not finite.
    comparisons: radar and one member of the drawn cases, driest first.
    """

    crps: float
    comparisons: list[Comparison]


class FixedCases:
    """The same few forecasts at every validation, with the same noise.

    events: of the validation part. The cases are drawn as verification draws them, driest first,
    and the last one is the wettest; there are fewer than settings.num_cases where the events have
    not so many windows. settings.num_members forecasts are made of each.
    frames: of the model.
    amp: as for `LDCast.predict`.
    Raises InputError as `draw_candidates` does.
    """

    def __init__(
        self,
        events: list[RainEvent],
        frames: FrameConfig,
        settings: ForecastScoreConfig,
        data: DataConfig,
        seed: int,
        amp: str,
    ) -> None:
        num_draws = CANDIDATES_PER_CASE * settings.num_cases
        self.notes: list[str] = []  # on cases that could not be drawn
        candidates = draw_candidates(
            events, frames, num_draws, data.crop_size, seed, self.notes.append
        )
        if not candidates:
            raise InputError(
                "no validation window has data in half of each past frame: choose other "
                "--validation-data or a smaller --crop-size"
            )
        *candidates, wettest = candidates
        num_others = min(settings.num_cases - 1, len(candidates))
        self.cases = [*spread_over(candidates, num_others), wettest]
        self._events, self._data, self._frames = events, data, frames
        self._settings, self._amp = settings, amp
        self._kept: dict[Window, Tensor] = {}  # rain of stored events

    def wettest(self) -> "FixedCases":
        """The wettest case alone."""
        alone = copy.copy(self)
        alone.cases = self.cases[-1:]
        return alone

    def _read(
        self, case: Case, fields: Mapping[str, FieldNeed]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Rain (T, H, W) of a case, mm/h, NaN for no data and for impossible values; and fields."""
        num_frames, crop_size = self._frames.num_frames, self._data.crop_size
        if case.window in self._kept:
            return self._kept[case.window], {}
        example = read_window(self._events, case.window, num_frames, crop_size, fields)
        rain_rate, _ = drop_impossible_rain(example.rain_rate[0], self._data.max_rain_rate)
        if self._events[case.window.event].is_stored:  # which carries no fields
            self._kept[case.window] = rain_rate
        return rain_rate, example.fields

    def score(self, model: LDCast, processes: Processes, stop: StopRequest) -> CaseScores:
        """Forecasts and scores the cases, shared out among the processes.

        stop: when requested, the remaining cases are left out.
        """
        cases = self.cases
        drawn = drawn_indices(len(cases))
        sums = torch.zeros(2, dtype=torch.float64)
        comparisons = {}
        for index in stop.until(processes.share(len(cases))):
            case = cases[index]
            rain_rate, fields = self._read(case, model.fields)
            num_past = self._frames.past_frames
            past, future = rain_rate[:num_past], rain_rate[num_past:]
            try:
                members = model.predict(
                    past,
                    self._settings.num_members,
                    case.seed,
                    self._settings.num_sampling_steps or None,
                    amp=self._amp,
                    fields=fields,
                )
            except NonFiniteError:
                sums[0] = torch.inf
                continue
            crps = fair_crps(members, future)  # (T, H, W)
            sums += torch.stack([crps.nansum(dtype=torch.float64), crps.isfinite().sum()])
            if index in drawn:
                title = f"{case.event.partition('@')[0]}\n{readable_time(case.issue_time)} UTC"
                shown = nearest_leads(self._frames.lead_minutes, DRAWN_LEADS)
                comparisons[index] = Comparison(
                    title, future[shown].numpy(), members[0, shown].numpy(), "one member"
                )
        total, num_pixels = processes.sum(sums).tolist()
        comparisons = processes.gather(comparisons)
        return CaseScores(total / max(num_pixels, 1), [comparisons[i] for i in sorted(comparisons)])
