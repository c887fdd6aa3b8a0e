"""Loss curves from metrics.jsonl."""

import sys
from pathlib import Path

import pytest
from pages import about_of, needs_browser

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


def panels_of(path: Path) -> dict[str, dict]:
    (group,) = about_of(path)["groups"]
    return {panel["title"]: panel for (panel,) in group["panels"]}


def of_run(panel: dict, run: str, note: str = "") -> dict[int, float]:
    """Iteration -> value, where there is one."""
    (line,) = (line for line in panel["lines"] if (line["name"], line["note"]) == (run, note))
    pairs = zip(panel["x"], line["values"], strict=True)
    return {iteration: value for iteration, value in pairs if value is not None}


def test_a_page_holds_the_curves_of_all_runs_and_needs_no_matplotlib(run, monkeypatch) -> None:
    other = run / "other"
    other.mkdir()
    (other / "metrics.jsonl").write_text('{"iteration": 7, "loss": 3.0, "val_crps_ema": 0.3}\n')
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    main([str(run), str(other), "--out", str(run / "run.html")])
    panels = panels_of(run / "run.html")
    assert about_of(run / "run.html")["subtitle"] == "up to iteration 10"
    assert list(panels) == ["loss", "CRPS, averaged weights, mm/h", "learning rate"]
    loss = panels["loss"]
    assert loss["x"] == [0, 5, 7, 10] and loss["y_scale"] == "log"
    assert of_run(loss, run.name, "training") == {5: 1.5, 10: 1.0}
    assert of_run(loss, run.name, "validation, averaged weights") == {0: 2.5}
    assert of_run(loss, "other", "training") == {7: 3.0}
    colours = {line["name"]: line["colour"] for line in loss["lines"]}
    assert len(set(colours.values())) == 2
    legend = about_of(run / "run.html")["legend"]
    assert {entry["name"]: entry["colour"] for entry in legend} == colours


def test_runs_of_one_name_can_be_told_apart(run: Path) -> None:
    for folder in ("a/stage2", "b/stage2"):
        (run / folder).mkdir(parents=True)
        (run / folder / "metrics.jsonl").write_text(LINES)
    runs = [str(run / folder) for folder in ("a/stage2", "b/stage2", "b/stage2")]
    main([*runs, "--out", str(run / "run.html")])
    names = [entry["name"] for entry in about_of(run / "run.html")["legend"]]
    assert names == [*runs[:2], f"{runs[2]} (2)"]


def test_other_endings_and_empty_runs_are_refused_for_pages_too(run: Path) -> None:
    with pytest.raises(InputError, match=r"expected \.png or \.html"):
        main([str(run), "--out", str(run / "run.htm")])
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(InputError, match="no line yet"):
        main([str(run), "--out", str(run / "run.html")])
    assert not (run / "run.html").exists()


@needs_browser
def test_a_run_can_be_switched_off(run: Path, opened) -> None:
    other = run / "other"
    other.mkdir()
    (other / "metrics.jsonl").write_text(
        LINES.replace("1.5", "4.5") + '{"iteration": 12, "loss": null}'
    )
    main([str(run), str(other), "--out", str(run / "run.html")])
    page = opened(run / "run.html")
    picture = "charts[0].plot.ctx.canvas.toDataURL()"
    before, highest = page.evaluate(picture), page.evaluate("charts[0].plot.scales.y.max")
    page.locator("#switches input[data-name=other]").uncheck()
    assert page.evaluate(picture) != before
    assert page.evaluate("charts[0].plot.scales.y.max") < highest
    page.evaluate("charts[0].holder.focus()")
    page.keyboard.press("ArrowRight")
    assert all(run.name in text for text in page.locator("#values div").all_inner_texts())
