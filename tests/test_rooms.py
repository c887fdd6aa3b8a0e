"""Imports point one way: which room of the package may know which."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.core

ROOT = Path(__file__).parents[1]
SCRIPTS = ("train_autoenc", "train_diffusion", "infer")
# Each knows those before it, and none after it. What lies in a room is in it, unless it is named.
ROOMS = (
    *("errors", "settings", "seeds", "frames", "rain"),  # vocabulary
    *("machine", "motion", "models", "diffusion"),
    *("data", "data.readers", "data.archive", "products"),
    "data.building",  # which places archives as products are placed
    *("inputs", "config", "nowcast"),
    *("verification", "calibration", "training", "published", "forecasting"),
    *(
        "data.build",
        "data.inspect",
        "data.index",
        "verify",
        "calibrate",
        "pysteps_plugin",
        "",
    ),  # doors; "" is the package
    "tools",
    *SCRIPTS,
)
FLAT = {"__init__", "errors", "settings", "seeds", "frames", "rain", "config"}
FLAT |= {"verify", "calibrate", "pysteps_plugin"}
# What networks and samplers know beside themselves.
KNOWN = {"models": {"errors", "settings"}, "diffusion": {"errors", "settings", "seeds"}}
REQUIRED = {"torch", "numpy", "einops", "tqdm", "safetensors", "ldcast"} | sys.stdlib_module_names
# Imported in a function although not optional, and why.
LATE = {
    ("nowcast.ldcast", "forecasting.dataarrays"): "the method is of the class, its work is above",
    ("training.metrics", "torch.utils.tensorboard"): "it needs the package tensorboard, an extra",
}


class Import(NamedTuple):
    """One name that a module imports; is_late: not at its top, but in a function or for types."""

    module: str
    of: str
    is_late: bool


def name_of(path: Path) -> str:
    """`data.event` of ldcast/data/event.py, `infer` of infer.py, and "" of the package itself."""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__")
    return name.removeprefix("ldcast.").removesuffix(".")


PATHS = [*sorted((ROOT / "ldcast").rglob("*.py")), *(ROOT / f"{name}.py" for name in SCRIPTS)]
MODULES = {name_of(path): path for path in PATHS}


def imports_of(module: str) -> Iterator[Import]:
    """All that a module imports; those of the package without `ldcast.`."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    at_top = set(map(id, tree.body))
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            is_module = [name.removeprefix("ldcast.") in MODULES for name in inner]
            names = [i if is_so else node.module for i, is_so in zip(inner, is_module, strict=True)]
        for name in names:
            of = "" if name == "ldcast" else name.removeprefix("ldcast.")
            yield Import(module, of, id(node) not in at_top)


IMPORTS = [found for module in MODULES for found in imports_of(module)]
OURS = [found for found in IMPORTS if found.of in MODULES]


def room_of(module: str) -> str | None:
    """The room with the longest name that the module lies in."""
    rooms = (room for room in ROOMS if f"{module}.".startswith(f"{room}."))
    return max(rooms, key=len, default=None)


def test_every_module_lies_in_a_room() -> None:
    assert not [module for module in MODULES if room_of(module) is None]


def test_only_vocabulary_and_doors_lie_flat_in_the_package() -> None:
    assert {path.stem for path in (ROOT / "ldcast").glob("*.py")} == FLAT


def test_no_arrow_points_back_up() -> None:
    up = [
        f"{found.module} -> {found.of}"
        for found in OURS
        if ROOMS.index(room_of(found.of)) > ROOMS.index(room_of(found.module))
        and found[:2] not in LATE
    ]
    assert not up


def test_no_modules_import_each_other_in_a_circle() -> None:
    below = {module: set() for module in MODULES}
    for found in OURS:
        if found[:2] not in LATE and found.of != found.module:
            below[found.module].add(found.of)
    while leaves := [module for module, of in below.items() if not of]:
        for leaf in leaves:
            del below[leaf]
        below = {module: of.difference(leaves) for module, of in below.items()}
    assert not below


@pytest.mark.parametrize("room", KNOWN)
def test_networks_and_samplers_know_neither_each_other_nor_data_nor_files(room) -> None:
    known = {room_of(found.of) for found in OURS if room_of(found.module) == room}
    assert known - {room} <= KNOWN[room]


def test_tools_are_imported_by_nothing() -> None:
    users = {found.module for found in OURS if room_of(found.of) == "tools"}
    assert {room_of(user) for user in users} <= {"tools"}


def test_late_imports_are_of_optional_packages() -> None:
    late = {
        found[:2]
        for found in IMPORTS
        if found.is_late and (found.of in MODULES or found.of.partition(".")[0] in REQUIRED)
    }
    assert late == LATE.keys()
