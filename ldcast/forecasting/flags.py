"""What the flags of infer.py ask for: the model, the request and the picture."""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ldcast.calibration import Calibration, read_calibration
from ldcast.data.event import RainEvent
from ldcast.forecasting.event import ForecastRequest
from ldcast.nowcast.ldcast import LDCast
from ldcast.nowcast.model_folder import fingerprint
from ldcast.nowcast.request import check_window
from ldcast.products.area_files import read_areas
from ldcast.products.area_table import table_path, write_area_table
from ldcast.products.areas import AreasOnGrid, check_some_inside
from ldcast.products.borders import read_borders
from ldcast.products.files import write_forecast
from ldcast.products.forecast import Forecast
from ldcast.products.plot import plot_forecast


def load_model(
    flags: argparse.Namespace, device: torch.device
) -> tuple[LDCast, Calibration | None]:
    """The model as the flags want it, and its calibration where it is asked for."""
    model = LDCast.from_pretrained(flags.model, device)
    model.use_sampler(flags.sampler, flags.steps)
    if flags.window is not None:
        check_window(flags.window, model.rain_multiple)
    if not flags.calibrated:
        return model, None
    settings = model.config.diffusion
    calibration = read_calibration(flags.model)
    calibration.check_sampling(settings.sampler, settings.num_sampling_steps)
    calibration = calibration.until(flags.lead_minutes)
    for minutes in flags.accumulate:
        calibration.of_sums(minutes)  # raises
    return model, calibration


def request_of(flags: argparse.Namespace, calibration: Calibration | None) -> ForecastRequest:
    """What the flags ask of `forecast_event`; the sampler is the model's."""
    return ForecastRequest(
        num_members=flags.members,
        seed=flags.seed,
        model=flags.model,
        lead_minutes=flags.lead_minutes,
        settings={"amp": flags.amp, "window": flags.window},
        calibration=calibration,
        probabilities=tuple(flags.probabilities),
        quantiles=tuple(flags.quantiles),
        use_means=flags.means,
        accumulate=tuple(flags.accumulate),
        amount_thresholds=tuple(flags.amount_thresholds),
        use_plain_sums=flags.plain_sums,
        weights_sha256=fingerprint(flags.model),
        command=flags.command,
    )


def draw(
    flags: argparse.Namespace,
    past: RainEvent,
    forecast: Forecast,
    later: np.ndarray | None = None,
) -> None:
    """The picture of --plot. later: what was observed at the lead times, where that is known."""
    plot_forecast(
        past.rain_rate,
        forecast.rain_rate,
        forecast.issue_time,
        forecast.lead_minutes,
        forecast.grid,
        flags.plot,
        forecast.calibrated_chances,
        borders=borders_of(flags, past),
        quality=forecast.quality,
        is_second_hand=forecast.is_second_hand,
        later=later,
        **({"thresholds": flags.probabilities} if flags.probabilities else {}),
    )


def areas_of(flags: argparse.Namespace) -> AreasOnGrid | None:
    """The areas of --areas, to be placed on the grid of images."""
    return AreasOnGrid(read_areas(flags.areas)) if flags.areas else None


def on_areas(
    request: ForecastRequest, areas: AreasOnGrid | None, past: RainEvent
) -> ForecastRequest:
    """The request with the areas' pixels on the grid of the images.

    Raises InputError where none lies on it.
    """
    if areas is None:
        return request
    pixels = areas(past.grid, past.rain_rate.shape[1:])
    check_some_inside(pixels)
    return replace(request, areas=pixels)


def write_all(flags: argparse.Namespace, forecast: Forecast, path: Path) -> list[Path]:
    """Writes the forecast file and, with --areas, the table beside it, which are returned.

    The table first: a service that ends in between makes a forecast again that has no file.
    """
    written = [path]
    if forecast.areas is None:
        table_path(path).unlink(missing_ok=True)  # of an earlier forecast
    else:
        chosen = flags.probabilities, flags.amount_thresholds, flags.quantiles
        write_area_table(forecast, table_path(path), *chosen)
        written.append(table_path(path))
    write_forecast(forecast, path, flags.format)
    return written


def borders_of(flags: argparse.Namespace, past: RainEvent) -> list[np.ndarray]:
    """The lines of --borders that cross the domain."""
    if not flags.borders:
        return []
    return read_borders(flags.borders, past.grid, past.rain_rate.shape[1:])
