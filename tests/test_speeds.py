"""Which tests are quick, slow and core: the shares of the suite that the README promises."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# The seams that a change of an idea touches, each with its core tests.
SEAMS = (
    *("diffusion/test_schedule.py", "diffusion/test_samplers.py"),
    *("models/test_autoencoder.py", "models/test_conditioner.py", "models/test_unet.py"),
    *("nowcast/test_ldcast.py", "nowcast/test_model_folder.py", "data/test_crops.py"),
    *("test_config.py", "test_rain.py", "test_infer.py", "test_training.py"),
    "training/test_ema.py",
)


def marks_in(node: ast.AST) -> set[str]:
    """Names of `pytest.mark.NAME` in a decorator or in the value of `pytestmark`."""
    return {
        found.attr
        for found in ast.walk(node)
        if isinstance(found, ast.Attribute) and ast.unparse(found.value) == "pytest.mark"
    }


def marks_of(function: ast.FunctionDef) -> set[str]:
    """Those of all its cases: one of a single parameter is not the function's."""
    of_all = [d for d in function.decorator_list if "parametrize" not in marks_in(d)]
    return set().union(*map(marks_in, of_all))


def functions_of(path: Path) -> Iterator[set[str]]:
    """The marks of each test function of a file, those of the file included."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    of_file = set()
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            of_file |= marks_in(node)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield of_file | marks_of(node)


@pytest.fixture(scope="module")
def marks() -> dict[str, list[set[str]]]:
    """Of the test functions of each file, as `diffusion/test_schedule.py`."""
    paths = sorted(TESTS.rglob("test_*.py"))
    return {path.relative_to(TESTS).as_posix(): list(functions_of(path)) for path in paths}


def test_every_file_has_a_quick_test(marks: dict[str, list[set[str]]]) -> None:
    assert not [name for name, of_file in marks.items() if all("slow" in of for of in of_file)]


def test_few_tests_are_slow(marks: dict[str, list[set[str]]]) -> None:
    slow = [of for of_file in marks.values() for of in of_file if "slow" in of]
    assert 0 < len(slow) < 50


def test_core_tests_are_some_hundreds_at_every_seam_and_none_is_slow(
    marks: dict[str, list[set[str]]],
) -> None:
    core = [(name, of) for name, of_file in marks.items() for of in of_file if "core" in of]
    assert 150 <= len(core) <= 400
    assert {name for name, _ in core} >= set(SEAMS)
    assert not [name for name, of in core if of & {"slow", "gpu"}]
