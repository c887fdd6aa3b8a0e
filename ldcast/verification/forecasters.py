"""Forecasters, models and baselines with one calling form, and their forecasts kept on disk."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ldcast.data.fields import FieldNeed
from ldcast.diffusion import warn_of_few_steps
from ldcast.machine.files import code_fingerprint, open_atomically
from ldcast.nowcast.ldcast import LDCast
from ldcast.nowcast.model_folder import fingerprint
from ldcast.settings import to_dict
from ldcast.verification.baselines import dry, persistence
from ldcast.verification.cases import Case

BASELINES = ("persistence", "dry", "extrapolation", "steps")
REFERENCE = "persistence"  # always there
PACKAGE = Path(__file__).parents[1]
# What of the package decides a model's forecast besides its settings.
FORECAST_CODE = (
    *("models", "diffusion", "motion", "inputs", "nowcast", "machine/device.py"),
    *("rain.py", "seeds.py", "config.py", "frames.py"),
)


@dataclass(frozen=True)
class Forecaster:
    """A way to forecast: a model, a baseline, or another system whose files are read.

    name: what the scores call it.
    forecast: past (past_frames, H, W) mm/h and the case that it belongs to -> members
        (E, T, H, W) mm/h on the same device; of the case only `seed`, `pixel_km` and `frames` may
        matter, unless it is read. Where it has `fields`, it is also called with fields, name ->
        (F, c, H, W).
    identity: all that decides its forecasts besides past and case, plain values; None for one that
        is too quick to be worth keeping.
    notes: lines for the user. fields: what it needs besides past rain, by name.
    is_read: whether its forecasts were made elsewhere, so that nobody knows how long that took.
    """

    name: str
    forecast: Callable[..., Tensor]
    identity: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
    fields: Mapping[str, FieldNeed] = field(default_factory=dict)
    is_read: bool = False


def simple_baselines() -> list[Forecaster]:
    """Persistence and a dry forecast, one member each."""
    return [
        Forecaster("persistence", lambda past, case: persistence(past, case.frames.future_frames)),
        Forecaster("dry", lambda past, case: dry(past, case.frames.future_frames)),
    ]


def model_forecaster(
    folder: str,
    num_members: int,
    num_sampling_steps: int | None,
    device: torch.device,
    amp: str,
    sampler: str | None = None,
) -> Forecaster:
    """The model in a folder, loaded, under the name that it is given by.

    num_sampling_steps, sampler: None for the model's own. amp: as for `LDCast.predict`.
    Raises InputError where the device computes garbage in that precision.
    """
    model = LDCast.from_pretrained(folder, device)
    model.use_sampler(sampler, num_sampling_steps)
    diffusion = model.config.diffusion
    notes = [
        *model.precision_notes(amp),
        *warn_of_few_steps(diffusion.sampler, diffusion.num_sampling_steps),
    ]

    def forecast(past: Tensor, case: Case, fields: Mapping[str, Tensor] | None = None) -> Tensor:
        return model.predict(past, num_members, case.seed, amp=amp, fields=fields)

    identity = {
        "weights": fingerprint(folder),
        "settings": to_dict(model.config),
        "num_members": num_members,
        "num_sampling_steps": diffusion.num_sampling_steps,
        "precision": str(model.precision(amp)),
        "device": device.type,
        "torch": torch.__version__,
        "code": code_fingerprint(*(PACKAGE / name for name in FORECAST_CODE)),
    }
    return Forecaster(folder, forecast, identity, tuple(notes), model.fields)


class TimedForecast(NamedTuple):
    """members: (E, T, H, W) mm/h. seconds: wall time that they took when they were made, or NaN."""

    members: Tensor
    seconds: float


class ForecastCache:
    """Keeps forecasts in a folder, so that none is made twice and an interrupted run resumes.

    A file's name is a digest of the past frames, the fields, the case's seed, pixel size and
    `frames`, and the forecaster's `identity`, its own code included. 16 members of 256 x 256 take
    about 25 MB.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(
        self,
        forecaster: Forecaster,
        past: Tensor,
        case: Case,
        fields: Mapping[str, Tensor] | None = None,
    ) -> TimedForecast:
        """The forecast as it was kept, or made now.

        past: (past_frames, H, W) mm/h. fields: name -> (F, c, H, W), with those that the
            forecaster needs.
        """
        own = {name: fields[name] for name in forecaster.fields}
        if forecaster.identity is None:
            return _make(forecaster, past, case, own)
        path = self.folder / f"{_digest(forecaster.identity, past, case, own)}.npz"
        kept = _read(path)
        if kept is None:
            kept = _make(forecaster, past, case, own)
            self.folder.mkdir(parents=True, exist_ok=True)
            with open_atomically(path) as file:
                members = kept.members.cpu().numpy()
                np.savez_compressed(file, members=members, seconds=kept.seconds)
        return kept._replace(members=kept.members.to(past.device))

    def size(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.folder.glob("*.npz"))


def _make(
    forecaster: Forecaster, past: Tensor, case: Case, fields: Mapping[str, Tensor]
) -> TimedForecast:
    start = time.perf_counter()
    members = forecaster.forecast(past, case, **({"fields": fields} if fields else {}))
    if past.is_cuda:
        torch.cuda.synchronize(past.device)
    seconds = math.nan if forecaster.is_read else time.perf_counter() - start
    return TimedForecast(members, seconds)


def _read(path: Path) -> TimedForecast | None:
    """None where there is no such file, or a damaged one."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            return TimedForecast(torch.from_numpy(file["members"]), float(file["seconds"]))
    except Exception:  # of a dozen kinds from zipfile, zlib, tokenize and NumPy: it is damaged
        return None


def _digest(
    identity: dict[str, Any], past: Tensor, case: Case, fields: Mapping[str, Tensor]
) -> str:
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    digest.update(repr((case.seed, case.pixel_km, case.frames)).encode())
    for name, values in {"past": past, **fields}.items():
        digest.update(f"{name} {tuple(values.shape)} {values.dtype}".encode())
        digest.update(values.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
