"""LDCast as a nowcast method of pysteps.

  from pysteps import nowcasts
  from ldcast import pysteps_plugin

  pysteps_plugin.register()
  members = nowcasts.get_method("ldcast")(precip, velocity, 20, n_ens_members=16)

`pysteps.blending.steps` blends it with a weather model as an external nowcast: docs/products.md.
"""

import operator
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ldcast.errors import InputError
from ldcast.machine.quiet import import_contained
from ldcast.nowcast.ldcast import LDCast


def forecast(
    precip: np.ndarray,
    velocity: np.ndarray | None,
    timesteps: int | Sequence[float],
    n_ens_members: int = 16,
    seed: int | None = 0,
    timestep: float | None = None,
    model: str | Path | LDCast = "bundled",
    num_sampling_steps: int | None = None,
    device: str = "auto",
    **settings: object,
) -> np.ndarray:
    """An ensemble nowcast in pysteps's form: (n_ens_members, timesteps, m, n), mm/h, float32.

    precip: (4 or more, m, n) in mm/h, not transformed to dB, oldest first; the last ones are used,
        as many as the model starts from. NaN or masked = no data; the first row is the northern
        one, as importers of pysteps give it.
    velocity: accepted for pysteps's calling form, and not used: the model knows no motion field.
    timesteps: how many frames, or a list of rising whole numbers of them. Beyond those that the
        model makes at once (20), the forecast is autoregressive.
    seed: of the members' noise; None as 0, so that a forecast can be repeated.
    timestep: minutes between frames, to be checked: a model knows one only (5); None: that.
    model: a model folder, "bundled", or a loaded `LDCast`, which saves loading it again.
    settings: passed to `LDCast.predict`: amp, window, members_per_batch, progress, fields.
    Raises InputError for another time step, too few frames, what is no rain in mm/h, or lead times
    between frames.
    """
    wanted = _wanted_frames(timesteps)
    if not isinstance(model, LDCast):
        model = LDCast.from_pretrained(model, device)
    minutes, num_past = model.frames.minutes_per_frame, model.frames.past_frames
    if timestep not in (None, minutes):
        raise InputError(f"got a time step of {timestep} minutes, expected {minutes}")
    precip = np.ma.asanyarray(precip)
    if precip.ndim != 3 or len(precip) < num_past:
        raise InputError(
            f"got precip of shape {precip.shape}, expected (time, m, n) with {num_past} frames or "
            "more"
        )
    past = np.ma.filled(precip[-num_past:].astype(np.float32), np.nan)
    lead_minutes = minutes * wanted[-1]
    rain = model.predict(
        past, n_ens_members, seed or 0, num_sampling_steps, lead_minutes=lead_minutes, **settings
    )
    return rain if len(wanted) == rain.shape[1] else rain[:, np.array(wanted) - 1]


def register(name: str = "ldcast") -> None:
    """Makes `pysteps.nowcasts.get_method(name)` return `forecast`.

    Raises InputError where pysteps is missing or the name belongs to another method.
    """
    try:
        interface = import_contained("pysteps.nowcasts.interface")
    except ImportError:
        raise InputError("this needs pysteps; install it with: pip install pysteps") from None
    methods = interface._nowcast_methods  # pysteps 1.x has no other way in
    if methods.get(name, forecast) is not forecast:
        raise InputError(f"pysteps has a method '{name}' already: register another name")
    methods[name] = forecast


def _wanted_frames(timesteps: int | Sequence[float]) -> list[int]:
    """1, 2, ... for a number of frames, or the numbers listed."""
    try:
        return list(range(1, operator.index(timesteps) + 1)) or _refuse(timesteps)
    except TypeError:
        pass
    steps = np.asarray(timesteps, dtype=float)
    is_rising = steps.ndim == 1 and len(steps) and steps[0] >= 1 and (np.diff(steps) > 0).all()
    if not is_rising or (steps != steps.round()).any():
        _refuse(timesteps)
    return steps.astype(int).tolist()


def _refuse(timesteps: object) -> list[int]:
    raise InputError(
        f"got timesteps {timesteps}, expected a number of frames or rising whole numbers of them, "
        "from 1: the model gives those and nothing between"
    )
