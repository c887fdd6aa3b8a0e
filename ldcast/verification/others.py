"""Forecasts of other systems, read from files and scored beside ours.

A file belongs to the case that its entry `case` names or, without one, its own name; see
ldcast/verification/case_files.py. Issue time, size, lead times and, where both are known, corners
must be those of the case, too. All files are read once and checked before the work, and one by one
again when their case is scored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ldcast.data.checks import format_time
from ldcast.data.event import RainEvent
from ldcast.data.grids import CORNERS
from ldcast.data.pickers import Window
from ldcast.errors import InputError
from ldcast.rain import valid_mask
from ldcast.verification.case_files import case_names
from ldcast.verification.cases import Case, case_grid
from ldcast.verification.forecasters import BASELINES, Forecaster
from ldcast.verification.others_files import (
    SUFFIXES,
    OthersForecast,
    read_case_name,
    read_others_forecast,
)
from ldcast.verification.page.lines import OBSERVED
from ldcast.verification.scoring import read_case

_MAX_OFF = 0.1  # of a pixel's side, between the corners of a file and of its case
_SHOWN = 3  # names that a message lists


@dataclass(frozen=True)
class OthersForecasts:
    """The files of one system for the cases, found and checked.

    name: what the scores call it. folder: where they are. paths: by the case's window.
    num_members: of each. num_unused: files that are of none of the cases.
    """

    name: str
    folder: Path
    paths: dict[Window, Path]
    num_members: int
    num_unused: int = 0

    def forecaster(self) -> Forecaster:
        """Reads the file of a case."""

        def forecast(past: Tensor, case: Case) -> Tensor:
            rain_rate = read_others_forecast(self.paths[case.window]).rain_rate
            return torch.from_numpy(rain_rate).to(past.device)

        return Forecaster(self.name, forecast, is_read=True)

    def notes(self, num_members: int) -> list[str]:
        """Lines for the user; num_members: of the models."""
        count = f"{self.num_members} member{'s' * (self.num_members != 1)}"
        lines = [f"{self.name}: {len(self.paths)} forecasts of {count} from {self.folder}"]
        if self.num_members not in (1, num_members):
            lines.append(
                f"{self.name} has {self.num_members} members, the models {num_members}: its rank "
                "histograms and reliability are in scores.json, but not drawn"
            )
        if self.num_unused:
            files = "file is" if self.num_unused == 1 else "files are"
            lines.append(f"{self.folder}: {self.num_unused} {files} of none of the cases")
        return lines

    def description(self) -> dict[str, Any]:
        """For `scores.json`."""
        count = {"num_files": len(self.paths), "num_members": self.num_members}
        return {"directory": str(self.folder), **count}


def parse_sources(texts: Sequence[str], models: Sequence[str]) -> dict[str, Path]:
    """Name -> folder, of NAME=DIR.

    Raises InputError for another form, a name that is taken by a model, a baseline or another
    folder, and a folder that is not there or holds no forecast file.
    """
    sources: dict[str, Path] = {}
    for text in texts:
        name, is_pair, folder = text.partition("=")
        if not (name and is_pair and folder):
            raise InputError(
                f"--forecasts {text}: expected NAME=DIR, such as radar2=forecasts/radar2"
            )
        if name in (*BASELINES, OBSERVED, *models):
            whose = "a model has" if name in models else "a baseline or the radar has"
            raise InputError(f"--forecasts {text}: {whose} the name {name}; choose another")
        if "$" in name or name.startswith("_"):
            raise InputError(
                f"--forecasts {text}: expected a name without $ and not beginning with _, which "
                "legends of figures read otherwise; choose another"
            )
        if name in sources:
            raise InputError(f"--forecasts {text}: the name {name} is given twice; choose another")
        sources[name] = Path(folder)
        if not forecast_files(sources[name]):
            raise InputError(
                f"--forecasts {text}: {folder} holds no forecasts, expected files that end in "
                f"{' or '.join(SUFFIXES)}, one for each case"
            )
    return sources


def forecast_files(folder: Path) -> list[Path]:
    """Forecast files in a folder, by their endings; InputError where there is no such folder."""
    if not folder.is_dir():
        why = "is a file" if folder.exists() else "is not there"
        raise InputError(f"{folder} {why}, expected a folder of forecasts; check --forecasts")
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )


def find_forecasts(
    sources: dict[str, Path], events: list[RainEvent], cases: Sequence[Case], crop_size: int
) -> list[OthersForecasts]:
    """The forecasts of every source for the cases, each file read once and checked.

    sources: as `parse_sources` gives them.
    Raises InputError where a case has no file or two, and for a file that is damaged, of another
    issue time, size, place, unit, of other lead times or another number of members, or that lacks a
    scored pixel.
    """
    if not sources:
        return []
    names = case_names(events, cases, crop_size)
    found = {name: _match(name, folder, names) for name, folder in sources.items()}
    num_members: dict[str, int] = {}
    for case, case_name in zip(tqdm(cases, desc="checks", disable=None), names, strict=True):
        observation = read_case(events, case, crop_size, torch.device("cpu")).observation
        grid = case_grid(events, case, crop_size)
        for name, paths in found.items():
            path = paths[case_name]
            forecast = read_others_forecast(path)
            count = len(forecast.rain_rate)
            _check_is_of(forecast, case, case_name, observation, path)
            _check_place(forecast, grid, observation, path)
            _check_members(count, num_members.setdefault(name, count), path)
            _check_complete(forecast, observation, path)
            del forecast  # before the next one is read
    return [
        OthersForecasts(
            name,
            sources[name],
            {case.window: paths[of] for case, of in zip(cases, names, strict=True)},
            num_members[name],
            len(forecast_files(sources[name])) - len(paths),
        )
        for name, paths in found.items()
    ]


def _match(source: str, folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """Case name -> its file. Raises InputError where a case has none or two."""
    found: dict[str, Path] = {}
    other = ""
    for path in forecast_files(folder):
        said = read_case_name(path)
        name = said or path.stem
        if said and path.stem in names and path.stem != said:
            raise InputError(
                f"{path} has the name of one case and says that it is of another, {said}: rename "
                "it, or make the forecast again"
            )
        if name not in names:
            other = name
        elif name in found:
            raise InputError(
                f"{found[name]} and {path} are both of the case {name}, expected one; remove one"
            )
        else:
            found[name] = path
    missing = [name for name in names if name not in found]
    if missing:
        more = ", ..." if len(missing) > _SHOWN else ""
        seen = f" (it has {other}, which is none of them)" if other else ""
        raise InputError(
            f"{source}: {folder} has no forecast of {len(missing)} of {len(names)} cases, "
            f"{', '.join(missing[:_SHOWN])}{more}{seen}; expected a file for each, named after the "
            "case or with its name as entry 'case'; --write-cases DIR writes what to forecast from"
        )
    return found


def _check_is_of(
    forecast: OthersForecast, case: Case, name: str, observation: Tensor, path: Path
) -> None:
    if forecast.issue_time != case.issue_time:
        raise InputError(
            f"{path}: issue time {format_time(forecast.issue_time)}, expected "
            f"{format_time(case.issue_time)} as in the case {name}; make the forecast from there"
        )
    size, expected = forecast.rain_rate.shape[-2:], tuple(observation.shape[-2:])
    if size != expected:
        raise InputError(
            f"{path}: {size[0]} x {size[1]} pixels, expected {expected[0]} x {expected[1]} as in "
            "the case; make the forecast on its grid, or cut it out"
        )
    leads, expected_leads = np.asarray(forecast.lead_minutes), case.frames.lead_minutes
    if not np.array_equal(leads, expected_leads):
        raise InputError(
            f"{path}: lead times {_describe_leads(leads)}, expected "
            f"{_describe_leads(expected_leads)}, as the models have; make these, and no others"
        )


def _check_place(
    forecast: OthersForecast, grid: dict[str, Any], observation: Tensor, path: Path
) -> None:
    if forecast.corners is None or not all(name in grid for name in CORNERS):
        return
    corners = tuple(float(grid[name]) for name in CORNERS)
    x1, y1, x2, y2 = corners
    height, width = observation.shape[-2:]
    sides = np.array([x2 - x1, y2 - y1] * 2) / ([width, height] * 2)
    if (np.abs(np.subtract(forecast.corners, corners)) > _MAX_OFF * sides).any():
        raise InputError(
            f"{path}: its corners x1 y1 x2 y2 are {_describe_corners(forecast.corners)}, expected "
            f"{_describe_corners(corners)} as in the case; make the forecast on its grid"
        )


def _check_members(num_members: int, expected: int, path: Path) -> None:
    if num_members != expected:
        raise InputError(
            f"{path}: got {num_members} for the number of members, expected {expected} as in the "
            "files before it; make all forecasts with as many"
        )


def _check_complete(forecast: OthersForecast, observation: Tensor, path: Path) -> None:
    # As of models: left out, pixels without a forecast would make a system look better than it is.
    is_scored = valid_mask(observation).numpy()
    num_missing = int(np.isnan(forecast.rain_rate[:, is_scored]).any(axis=0).sum())
    if num_missing:
        raise InputError(
            f"{path}: no forecast (NaN) in {num_missing} of {is_scored.sum()} scored pixels and "
            "lead times, expected mm/h wherever the newest past frame and the later radar images "
            "have data; write 0 where it forecasts no rain"
        )


def _describe_leads(leads: Sequence[float] | np.ndarray) -> str:
    texts = [f"{lead:g}" for lead in leads]
    shown = texts if len(texts) <= 3 else [*texts[:2], "...", texts[-1]]
    return f"{', '.join(shown)} min ({len(texts)} of them)"


def _describe_corners(corners: Sequence[float]) -> str:
    return " ".join(f"{corner:.10g}" for corner in corners)
