"""What is read downwards stays short enough to be read."""

import ast

import pytest
from stages import ROOT

pytestmark = pytest.mark.core


@pytest.mark.parametrize("name", ["train_autoenc.py", "train_diffusion.py"])
def test_the_main_of_a_training_script_is_shorter_than_150_lines(name: str) -> None:
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
    (main,) = (of for of in tree.body if isinstance(of, ast.FunctionDef) and of.name == "main")
    assert main.end_lineno - main.lineno + 1 < 150


def test_infer_is_shorter_than_150_lines() -> None:
    assert len((ROOT / "infer.py").read_text(encoding="utf-8").splitlines()) < 150
