"""Loss curves from metrics.jsonl."""

from pathlib import Path

import pytest

from ldcast.errors import InputError
from ldcast.training.plot import main, read_curves

LINES = """{"iteration": 0, "val_loss": 2.0, "val_loss_ema": 2.5}
{"iteration": 5, "loss": 1.5, "lr": 0.1}
{"iteration": 10, "loss": 1.0, "lr": 0.1}
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "metrics.jsonl").write_text(LINES)
    return tmp_path


def test_each_curve_has_its_own_iterations(run: Path) -> None:
    curves = read_curves(run)
    assert curves["loss"] == [(5, 1.5), (10, 1.0)]
    assert curves["val_loss"] == [(0, 2.0)]
    assert curves["val_loss_ema"] == [(0, 2.5)]
    assert curves["lr"] == [(5, 0.1), (10, 0.1)]


def test_a_line_that_is_being_written_and_values_that_are_null_are_left_out(run: Path) -> None:
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"iteration": 15, "loss": null, "lr": 0.2}\n{"iteration": 20, "lo')
    curves = read_curves(run)
    assert curves["loss"] == [(5, 1.5), (10, 1.0)]
    assert curves["lr"][-1] == (15, 0.2)


def test_a_picture_with_a_panel_per_run(run: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is an extra")
    from PIL import Image

    for name, runs in (("one.png", [run]), ("two.png", [run, run])):
        main([*map(str, runs), "--out", str(run / name)])
    one, two = (Image.open(run / name) for name in ("one.png", "two.png"))
    assert two.size == (2 * one.width, one.height)


def test_a_panel_for_each_kind_of_curve(run: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is an extra")
    from PIL import Image

    main([str(run), "--out", str(run / "few.png")])
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"iteration": 10, "val_crps_ema": 0.3}\n')
    main([str(run), "--out", str(run / "more.png")])
    few, more = (Image.open(run / name) for name in ("few.png", "more.png"))
    assert more.height == few.height * 3 / 2


def test_a_run_without_a_line_is_named(run: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is an extra")
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(InputError, match="no line yet"):
        main([str(run), "--out", str(run / "curves.png")])


def test_a_folder_without_metrics_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"metrics\.jsonl does not exist"):
        read_curves(tmp_path)
