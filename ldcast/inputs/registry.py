"""The inputs that a model's config may name: a new one is a file beside this, and a line here.

known.py defines what an input is.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ldcast.errors import InputError
from ldcast.inputs.carried_frames import CarriedFrames
from ldcast.inputs.carried_prognosis import CarriedPrognosis
from ldcast.inputs.carried_rain import CarriedRain
from ldcast.inputs.known import Input
from ldcast.machine.files import code_fingerprint
from ldcast.settings import unknown_name

INPUTS: dict[str, type] = {
    "carried_rain": CarriedRain,
    "carried_frames": CarriedFrames,
    "carried_prognosis": CarriedPrognosis,
}
REPLACED = {
    "carried_past": "carried_frames",
    "carried_scales": "carried_frames,carried_prognosis",
}


def inputs_code() -> str:
    """SHA-256 of the code that makes inputs: trained networks take what it made then."""
    package = Path(__file__).parent
    return code_fingerprint(package, package.parent / "motion")


def build_inputs(names: Sequence[str]) -> dict[str, Input]:
    """The inputs of these names, in their order.

    Raises InputError for one that is not registered, and for one that is named twice.
    """
    for name in names:
        if name in REPLACED:
            raise InputError(
                f"inputs: got {name}, which {REPLACED[name]} has replaced: it holds other images, "
                f"so a model of the former has to be trained anew, with --inputs {REPLACED[name]}"
            )
        if name not in INPUTS:
            raise InputError(unknown_name(name, list(INPUTS), "input"))
    if len(set(names)) < len(names):
        raise InputError(f"inputs: got {', '.join(names)}, expected each of them once")
    return {name: INPUTS[name]() for name in names}


def check_inputs_registered(inputs: Mapping[str, Input]) -> None:
    """Raises InputError for an input that config.json could not name."""
    for name, given in inputs.items():
        if INPUTS.get(name) is not type(given):
            raise InputError(
                f"the input {type(given).__name__} is not registered as '{name}', so no model "
                "folder can name it: add a line for it to INPUTS in ldcast/inputs/registry.py"
            )
