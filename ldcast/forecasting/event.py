"""One forecast: from the radar images that it starts from to the content of its file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from ldcast.calibration import Calibration
from ldcast.data.cadence import times_before_rounding
from ldcast.data.event import RainEvent
from ldcast.data.fields import fields_at
from ldcast.errors import check_count
from ldcast.machine.code_version import code_version
from ldcast.machine.device import name_of_dtype
from ldcast.machine.files import printable
from ldcast.machine.processes import Processes
from ldcast.motion import forecast_quality
from ldcast.nowcast.ldcast import LDCast
from ldcast.nowcast.request import count_frames
from ldcast.products.accumulate import accumulate
from ldcast.products.amounts import Amounts
from ldcast.products.areas import AreaPixels, area_forecast
from ldcast.products.forecast import Forecast, Provenance
from ldcast.products.statistics import Statistics, ensemble_statistics


@dataclass(frozen=True)
class ForecastRequest:
    """What is asked for besides a model and the images to start from.

    num_members, seed, first_member, num_sampling_steps, lead_minutes: as for `LDCast.predict`.
    settings: further arguments of it, such as amp and window.
    model, weights_sha256, command: what the forecast says that it was made by.
    calibration: corrects rain rates and gives probabilities, of as many frames as are forecast; see
        `Calibration.until`. None: neither.
    probabilities (mm/h), quantiles (0..1), use_means: as for `ensemble_statistics`.
    accumulate: lengths of windows of time, minutes, see `ldcast.products.accumulate`.
    amount_thresholds (mm): of their probabilities. use_plain_sums: frames are just added.
    areas: those on which the file says what falls, on the grid of the images.
    """

    num_members: int
    seed: int
    model: str
    lead_minutes: int | None = None
    first_member: int = 0
    num_sampling_steps: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    calibration: Calibration | None = None
    probabilities: tuple[float, ...] = ()
    quantiles: tuple[float, ...] = ()
    use_means: bool = False
    accumulate: tuple[int, ...] = ()
    amount_thresholds: tuple[float, ...] = ()
    use_plain_sums: bool = False
    areas: AreaPixels | None = None
    weights_sha256: str = ""
    command: str = ""


def forecast_event(
    model: LDCast,
    past: RainEvent,
    request: ForecastRequest,
    processes: Processes | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Forecast | None:
    """The forecast that is asked for; None in all processes but the first.

    past: (past_frames, H, W), as `past_event` gives it. processes: share the members; None: one.
    progress: as for `LDCast.predict`.
    Raises InputError as that does, and for fields that the model takes but the event lacks.
    """
    processes = processes or Processes(0, 1, model.device)
    frames, diffusion = model.frames, model.config.diffusion
    num_frames = num_frames_of(model, request)
    past_rain = torch.from_numpy(past.rain_rate)
    members = processes.block(check_count("members", request.num_members))
    first_member = check_count("as first member", request.first_member, low=0)
    settings = {"fields": forecast_fields(model, past, num_frames), **request.settings}
    with processes.failing_together():
        rain = model.predict(
            past_rain,
            len(members),
            request.seed,
            request.num_sampling_steps,
            lead_minutes=request.lead_minutes,
            first_member=first_member + members.start,
            progress=progress,
            **settings,
        )
    rain = processes.collect(rain, request.num_members)
    if rain is None:
        return None
    forecast = Forecast(
        rain_rate=rain.numpy(),
        issue_time=past.time[-1],
        lead_minutes=frames.leads(num_frames),
        grid=past.grid,
        seed=request.seed,
        model=request.model,
        sampler=diffusion.sampler,
        num_sampling_steps=request.num_sampling_steps or diffusion.num_sampling_steps,
        quality=forecast_quality(past_rain, num_frames, frames.minutes_per_frame).numpy(),
        is_second_hand=frames.is_continued(num_frames),
        past_time_as_read=times_before_rounding(past),
        provenance=Provenance(
            code_version(),
            request.weights_sha256,
            printable(request.command),
            past.time,
            tuple(map(printable, past.sources)),
            name_of_dtype(model.precision(request.settings.get("amp", "auto"))),
        ),
    )
    rain_rate, statistics = _corrected(forecast.rain_rate, request)
    amounts, areas = _amounts(forecast, past, request), None
    if request.areas is not None:
        areas = area_forecast(request.areas, rain_rate, amounts and amounts.rain_amount)
    return replace(
        forecast,
        amounts=amounts,
        areas=areas,
        rain_rate=rain_rate,
        statistics=statistics,
        is_calibrated=request.calibration is not None,
    )


def num_frames_of(model: LDCast, request: ForecastRequest) -> int:
    """Frames of the forecast. Raises InputError for a lead time between two of them."""
    if request.lead_minutes is None:
        return model.frames.future_frames
    return count_frames(request.lead_minutes, model.frames)


def forecast_fields(model: LDCast, past: RainEvent, num_frames: int) -> dict[str, np.ndarray]:
    """What a model takes besides the past rain, from the event that the past is of.

    num_frames: of the forecast. Returns name -> (F, c, H, W), for past and future frames.
    Raises InputError for a field that the event lacks or that ends too soon.
    """
    frames = model.frames
    num_rounds = -(-num_frames // frames.future_frames)
    number = np.arange(1 - frames.past_frames, num_rounds * frames.future_frames + 1)
    times = past.time[-1] + frames.step * number
    later = (num_rounds - 1) * frames.future_frames
    needs = {
        name: need._replace(num_frames=need.num_frames + later)
        if need.num_frames > frames.past_frames
        else need
        for name, need in model.fields.items()
    }
    return fields_at(past, needs, times)


def _amounts(forecast: Forecast, past: RainEvent, request: ForecastRequest) -> Amounts | None:
    """What falls in the windows that are asked for, of members as the model made them, or with a
    calibration by its own for sums."""
    if not request.accumulate:
        return None
    amounts = accumulate(
        forecast, request.accumulate, past.rain_rate, is_along_motion=not request.use_plain_sums
    )
    statistics = Statistics()
    if request.calibration:
        amounts, statistics = _calibrated_amounts(amounts, request.calibration)
    own = ensemble_statistics(
        amounts.rain_amount, request.amount_thresholds, request.quantiles, request.use_means
    )
    return replace(amounts, statistics=replace(statistics, **own.entries()))


def _calibrated_amounts(amounts: Amounts, calibration: Calibration) -> tuple[Amounts, Statistics]:
    """With the radar's distribution of amounts, and corrected chances, windows of each length by
    their own fit."""
    rain, chances = amounts.rain_amount.copy(), []
    for minutes in dict.fromkeys(amounts.minutes.tolist()):
        chosen, fit = amounts.minutes == minutes, calibration.of_sums(minutes)
        rain[:, chosen] = fit.calibrate_members(rain[:, chosen])
        chances.append(fit.exceedance_probability(rain[:, chosen]))
    statistics = Statistics(
        exceedance_threshold=np.array(fit.thresholds),
        exceedance_probability=np.concatenate(chances, axis=1),
    )
    return replace(amounts, rain_amount=rain), statistics


def _corrected(rain: np.ndarray, request: ForecastRequest) -> tuple[np.ndarray, Statistics]:
    """The members (E, T, H, W) mm/h as they are to be written, and what they are reduced to."""
    statistics, calibration = Statistics(), request.calibration
    if calibration:
        rain = calibration.calibrate_members(rain)
        statistics = Statistics(
            exceedance_threshold=np.array(calibration.thresholds),
            exceedance_probability=calibration.exceedance_probability(rain),
        )
    own = ensemble_statistics(rain, request.probabilities, request.quantiles, request.use_means)
    return rain, replace(statistics, **own.entries())
