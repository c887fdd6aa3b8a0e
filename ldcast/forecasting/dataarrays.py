"""Forecasts from and to xarray's DataArrays, for notebooks (needs xarray and pyproj)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ldcast.data.cadence import round_event
from ldcast.data.past import past_event
from ldcast.data.readers.gridded import event_from_dataarray
from ldcast.data.reading import Reading
from ldcast.errors import InputError
from ldcast.forecasting.event import ForecastRequest, forecast_event
from ldcast.nowcast.ldcast import LDCast
from ldcast.products.dataset import to_dataset
from ldcast.products.files import require_packages
from ldcast.products.summary import describe_gaps

if TYPE_CHECKING:
    from xarray import DataArray

# Attributes of a forecast file that say how a forecast was made.
MADE_BY = (
    "model",
    "code_version",
    "sampler",
    "num_sampling_steps",
    "seed",
    "network_precision",
    "past_time",
)


def predict_xarray(
    model: LDCast,
    rain: DataArray,
    num_members: int = 16,
    seed: int = 0,
    num_sampling_steps: int | None = None,
    lead_minutes: int | None = None,
    first_member: int = 0,
    progress: Callable[[int, int], None] | None = None,
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
    request = ForecastRequest(
        num_members,
        seed,
        model=str(model.trained_on.get("name", "LDCast")),
        lead_minutes=lead_minutes,
        first_member=first_member,
        num_sampling_steps=num_sampling_steps,
        settings=settings,
    )
    forecast = forecast_event(model, past, request, progress=progress)
    dataset = to_dataset(forecast)
    numbers = dataset.realization
    dataset["realization"] = numbers.copy(data=numbers.values + first_member)
    about = [name for name in ("quality", "second_hand", "crs") if name in dataset]
    made_by = {name: dataset.attrs[name] for name in MADE_BY}
    return dataset.set_coords(about)["rain_rate"].assign_attrs(made_by)
