"""Baselines by pysteps: extrapolation and STEPS ensembles, as weather services use them.

Neither knows what comes from outside the domain: it is dry in the extrapolation, and in STEPS what
is found by mirroring the rain at the edges. Pixels without data count as dry. Scores of the
interior leave what came from either out.
Source: Pulkkinen et al. 2019 (GMD 12), pysteps; Bowler et al. 2006 (QJRMS 132), STEPS.
"""

import functools
import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldcast.machine.files import code_fingerprint
from ldcast.machine.quiet import contained, import_contained
from ldcast.rain import WET_THRESHOLD, is_wet
from ldcast.verification.cases import Case
from ldcast.verification.forecasters import PACKAGE, Forecaster

WET_DB = -10.0  # the same in dB
STEPS_DRY_DB = -12.0  # dB; a step below the threshold, so that rain has an edge

# The settings of pysteps's examples, which the published evaluation of LDCast used too (Leinonen et
# al. 2023), but for two that make a better ensemble. Fair CRPS, mean of 5, 15, 30, 60 and 100
# minutes, of six crops of 256 x 256 pixels for training, 8 members, same noise:
#   their settings                        0.1465 mm/h, in the interior 0.1557
#   `STEPS_DRY_DB` of -12 instead of -15 dB     0.1447                       0.1536
#   and a mirror at the edges, not dry    0.1351                       0.1521
# The mirror helps inside too: older frames, carried to the newest to fit the model to, would have a
# dry margin. No better: 8 levels, the mask fixed or none, noise adjusted, AR(1), only means
# matched, and the smaller perturbations of motion that pysteps lists for Lucas-Kanade.
STEPS_SETTINGS: dict[str, Any] = {
    "n_cascade_levels": 6,
    "ar_order": 2,
    "noise_method": "nonparametric",
    "vel_pert_method": "bps",
    "mask_method": "incremental",
    "probmatching_method": "cdf",
    "extrap_kwargs": {"map_coordinates_mode": "reflect"},
}


def pysteps_baselines(num_members: int) -> list[Forecaster]:
    """Two forecasters: "extrapolation", one member, and "steps", `num_members` members.

    extrapolation: the newest frame, carried along its Lucas-Kanade motion, unchanged.
    steps: the same with noise that replaces small scales sooner than large ones, and with perturbed
        motion. Where there is too little rain to fit it, its members are the extrapolation.
    Motion is zero where no rain can be tracked. Members are finite where the newest past frame has
    data and NaN elsewhere; STEPS draws from the case's seed alone.
    Raises ImportError where pysteps or OpenCV, which its Lucas-Kanade needs, is missing.
    """
    try:
        import cv2
        import scipy

        import_contained("pysteps")
    except Exception as error:  # also ValueError, where compiled for another NumPy
        raise ImportError(
            f"extrapolation and STEPS need pysteps and OpenCV ({error}); install them with: "
            "pip install pysteps opencv-python-headless"
        ) from error
    identity = {
        "pysteps": importlib.metadata.version("pysteps"),
        "opencv": cv2.__version__,
        "scipy": scipy.__version__,
        "numpy": np.__version__,
        "code": code_fingerprint(Path(__file__), PACKAGE / "rain.py"),
    }
    return [
        Forecaster("extrapolation", _extrapolation, {"name": "extrapolation", **identity}),
        Forecaster(
            "steps",
            functools.partial(_steps, num_members),
            {"name": "steps", "num_members": num_members, **identity},
        ),
    ]


def _extrapolation(past: Tensor, case: Case) -> Tensor:
    """past: (past_frames, H, W) mm/h -> (1, T, H, W) mm/h."""
    with contained("pysteps"):
        rain_rate = _no_data_as_dry(past)
        carried = _carry(rain_rate[-1], _motion(rain_rate), case.frames.future_frames)
    return _to_members(carried[None], past)


def _steps(num_members: int, past: Tensor, case: Case) -> Tensor:
    """past: (past_frames, H, W) mm/h -> (num_members, T, H, W) mm/h."""
    with contained("pysteps"):
        rain_rate = _no_data_as_dry(past)
        motion = _motion(rain_rate)
        members = _steps_ensemble(rain_rate, motion, num_members, case)
        if members is None:
            carried = _carry(rain_rate[-1], motion, case.frames.future_frames)
            members = np.stack([carried] * num_members)
    return _to_members(members, past)


def _no_data_as_dry(past: Tensor) -> np.ndarray:
    return np.nan_to_num(past.cpu().numpy().astype(np.float64), nan=0.0)


def _to_db(rain_rate: np.ndarray) -> np.ndarray:
    wet_rate = np.maximum(rain_rate, WET_THRESHOLD)
    return np.where(is_wet(rain_rate, WET_THRESHOLD), 10 * np.log10(wet_rate), STEPS_DRY_DB)


def _from_db(rain_db: np.ndarray) -> np.ndarray:
    """mm/h, float32; 0 below the threshold."""
    return np.where(rain_db >= WET_DB, 10 ** (rain_db / 10), 0.0).astype(np.float32)


def _motion(rain_rate: np.ndarray) -> np.ndarray:
    """Lucas-Kanade motion of all frames, (2, H, W): pixels per frame to the right and down."""
    from pysteps.motion.lucaskanade import dense_lucaskanade

    return dense_lucaskanade(_to_db(rain_rate))


def _carry(frame: np.ndarray, motion: np.ndarray, num_lead: int) -> np.ndarray:
    """frame (H, W) mm/h, carried backwards along the motion -> (T, H, W) mm/h."""
    from pysteps.extrapolation.semilagrangian import extrapolate

    return extrapolate(frame, motion, num_lead, outval=0.0).astype(np.float32)


def _steps_ensemble(
    rain_rate: np.ndarray, motion: np.ndarray, num_members: int, case: Case
) -> np.ndarray | None:
    """(num_members, T, H, W) mm/h, or None where there is too little rain to fit the model to."""
    from pysteps.nowcasts import steps

    frames: list[np.ndarray] = []  # each (num_members, H, W)
    try:
        steps.forecast(
            _to_db(rain_rate),
            motion,
            case.frames.future_frames,
            n_ens_members=num_members,
            precip_thr=WET_DB,
            kmperpixel=case.pixel_km,
            timestep=case.frames.minutes_per_frame,
            seed=case.seed,
            callback=lambda rain_db: frames.append(_from_db(rain_db)),
            return_output=False,  # it would hold all frames in float64, three times over
            **STEPS_SETTINGS,
        )
    # Seen with a few wet pixels or a field that never changes: "zero-size array", "non-finite
    # values", a singular matrix (LinAlgError is a ValueError), a nonstationary AR process.
    except (ValueError, RuntimeError):
        return None
    # It also fails silently, all dry, where only the newest frame or an edge has rain.
    has_rain = any(frame.any() for frame in frames)
    return np.stack(frames, axis=1) if has_rain else None


def _to_members(members: np.ndarray, past: Tensor) -> Tensor:
    """float32 on the device of `past`, NaN where its newest frame is."""
    on_device = torch.from_numpy(members).to(past.device)
    return on_device.where(~past[-1].isnan(), torch.nan)
