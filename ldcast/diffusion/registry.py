"""The samplers that a model's config may name: a new one is a file beside this, and a line here.

A sampler is a frozen dataclass with `schedule`, `num_sampling_steps` and, after them, settings of
its own, each with a default; sampler.py has its calling form.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ldcast.diffusion.ancestral import AncestralSampler
from ldcast.diffusion.ddim import DDIMSampler
from ldcast.diffusion.dpm_solver import DPMSolverSampler
from ldcast.diffusion.flow_ode import FlowSampler
from ldcast.diffusion.one_call import OneCallSampler
from ldcast.diffusion.plms import PLMSSampler
from ldcast.diffusion.sampler import Sampler
from ldcast.diffusion.schedule import NoiseSchedule
from ldcast.diffusion.unipc import UniPCSampler
from ldcast.errors import InputError
from ldcast.settings import unknown_name

SAMPLERS: dict[str, type] = {
    "plms": PLMSSampler,
    "dpm_solver": DPMSolverSampler,
    "unipc": UniPCSampler,
    "ddim": DDIMSampler,
    "ancestral": AncestralSampler,
    "flow": FlowSampler,
    "one_call": OneCallSampler,
}

ONE_CALL = "one_call"  # which `--loss crps` trains
_COMMON = ("schedule", "num_sampling_steps")  # of every sampler; all other fields are settings


def build_sampler(
    name: str,
    schedule: NoiseSchedule,
    num_sampling_steps: int,
    settings: Mapping[str, Any] | None = None,
) -> Sampler:
    """The sampler of that name. Raises InputError for a name, a number or a setting that it lacks.

    settings: by name; those left out take the sampler's defaults.
    """
    settings = all_settings(name, settings or {})
    try:
        return SAMPLERS[name](schedule, num_sampling_steps, **settings)
    except ValueError as error:
        raise InputError(str(error)) from None


def all_settings(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` and the defaults of those that are not among them.

    Raises InputError for an unknown name, and for settings that the sampler does not have or that
    are of another type.
    """
    if name not in SAMPLERS:
        raise InputError(unknown_name(name, list(SAMPLERS), "sampler"))
    defaults = _defaults(SAMPLERS[name])
    for key, value in settings.items():
        if key not in defaults:
            raise InputError(unknown_name(key, list(defaults), f"setting of the sampler {name}"))
        kind = type(defaults[key])
        is_number = kind is float and type(value) is int
        if not is_number and type(value) is not kind:
            raise InputError(
                f"sampler {name}: got {key} {value!r}, expected {kind.__name__} such as "
                f"{defaults[key]!r}"
            )
    return {**defaults, **settings}


def name_of(sampler: Sampler) -> str:
    """What the registry calls a sampler. Raises InputError for one that it does not have."""
    for name, kind in SAMPLERS.items():
        if type(sampler) is kind:
            return name
    raise InputError(
        f"the sampler {type(sampler).__name__} is not registered, so no model folder can name it: "
        "add a line for it to SAMPLERS in ldcast/diffusion/registry.py"
    )


def settings_of(sampler: Sampler) -> dict[str, Any]:
    """A sampler's own settings by name; what `build_sampler` takes."""
    return {key: getattr(sampler, key) for key in _defaults(type(sampler))}


def _defaults(kind: type) -> dict[str, Any]:
    fields = dataclasses.fields(kind)
    return {field.name: field.default for field in fields if field.name not in _COMMON}
