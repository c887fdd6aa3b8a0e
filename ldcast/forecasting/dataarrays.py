"""Forecasts from and to xarray's DataArrays, for notebooks (needs xarray and pyproj)."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch

from ldcast.data.cadence import round_event, times_before_rounding
from ldcast.data.past import past_event
from ldcast.data.readers.gridded import event_from_dataarray
from ldcast.data.reading import Reading
from ldcast.errors import InputError
from ldcast.motion import forecast_quality
from ldcast.nowcast.ldcast import LDCast
from ldcast.products.dataset import to_dataset
from ldcast.products.files import require_packages
from ldcast.products.forecast import Forecast
from ldcast.products.summary import describe_gaps

if TYPE_CHECKING:
    from xarray import DataArray


def predict_xarray(
    model: LDCast,
    rain: DataArray,
    num_members: int = 16,
    seed: int = 0,
    num_sampling_steps: int | None = None,
    lead_minutes: int | None = None,
    first_member: int = 0,
    **settings: Any,
) -> DataArray:
    """`LDCast.predict_xarray`."""
    if type(rain).__name__ != "DataArray":
        raise InputError(
            f"got {type(rain).__name__}, expected an xarray DataArray: of a Dataset, pick the "
            'variable, as in dataset["rainfall_rate"]'
        )
    if model.fields:
        raise InputError(
            f"the model takes {', '.join(model.fields)} besides rain, which a DataArray of rain "
            "does not bring: use predict, or infer.py with an event file"
        )
    require_packages(".nc")  # before the work
    frames = model.frames
    minutes = frames.minutes_per_frame
    event = round_event(event_from_dataarray(rain, Reading(minutes=minutes)), minutes)
    past = past_event(event, frames)
    for note in [*past.notes, *describe_gaps(past.rain_rate, minutes)]:
        warnings.warn(note, stacklevel=3)
    settings |= {"lead_minutes": lead_minutes, "first_member": first_member}
    members = model.predict(past.rain_rate, num_members, seed, num_sampling_steps, **settings)
    num_frames = members.shape[1]
    diffusion = model.config.diffusion
    forecast = Forecast(
        rain_rate=members,
        issue_time=past.time[-1],
        lead_minutes=frames.leads(num_frames),
        grid=event.grid,
        past_time_as_read=times_before_rounding(past),
        seed=seed,
        model=str(model.trained_on.get("name", "LDCast")),
        sampler=diffusion.sampler,
        num_sampling_steps=num_sampling_steps or diffusion.num_sampling_steps,
        quality=forecast_quality(
            torch.from_numpy(past.rain_rate), num_frames, frames.minutes_per_frame
        ).numpy(),
        is_second_hand=frames.is_continued(num_frames),
    )
    dataset = to_dataset(forecast)
    numbers = dataset.realization
    dataset["realization"] = numbers.copy(data=numbers.values + first_member)
    about = [name for name in ("quality", "second_hand", "crs") if name in dataset]
    return dataset.set_coords(about)["rain_rate"]
