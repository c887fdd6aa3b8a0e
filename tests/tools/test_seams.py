"""The measure of seams on fields whose seams are known, and the tool on a small domain."""

import numpy as np
import pytest
from tiny_models import tiny_model

from ldcast.data.event import RainEvent
from ldcast.data.event_files import write_event
from ldcast.data.synthetic import synthetic_event
from ldcast.diffusion.windows import cover
from ldcast.errors import run_script
from ldcast.tools import seams
from ldcast.tools.seams import border_change, border_lines


def test_rain_without_seams_has_a_ratio_of_one() -> None:
    field = 10 ** np.random.default_rng(0).normal(size=(8, 400, 400))
    assert border_change(field, [100, 200], [100, 300]) == pytest.approx(1, abs=0.03)


def test_a_jump_at_a_border_shows_and_elsewhere_does_not() -> None:
    field = 10 ** np.random.default_rng(0).normal(scale=0.1, size=(2, 90, 120))
    field[:, :, 40:] *= 10  # one in log10; elsewhere noise changes it by 0.11 on average
    assert border_change(field, [], [40]) == pytest.approx(1 / 0.113, rel=0.15)
    assert border_change(field, [], [60]) < 1


def test_other_cells_of_the_decoder_are_what_borders_are_compared_with() -> None:
    """All cells of 4 pixels have edges, and the border is one of them: no seam."""
    cells = 10 ** np.random.default_rng(0).normal(size=(40, 50, 50))
    field = cells.repeat(4, axis=1).repeat(4, axis=2)
    assert border_change(field, [100], [100]) > 3
    assert border_change(field, [100], [100], every=4) == pytest.approx(1, abs=0.05)


def test_pixels_without_data_do_not_count() -> None:
    field = np.ones((1, 20, 30))
    field[:, 10:] = 2
    field[:, 10, :15] = np.nan
    assert np.isfinite(border_change(field + np.arange(30), [10], []))


def test_borders_are_where_windows_begin_and_end_within_the_field() -> None:
    assert border_lines(cover(16, 40, 16), 4) == ([], [48, 64, 96, 112])


def test_the_tool_compares_three_forecasts(tmp_path, capsys) -> None:
    event = synthetic_event(seed=1, num_frames=4, height=128, width=80)
    event.rain_rate[:, :64, 64:] = np.nan  # a tile without any data
    write_event(RainEvent(event.rain_rate, event.time), tmp_path / "event.npz")
    tiny_model().save_pretrained(tmp_path)
    arguments = ["--model", str(tmp_path), "--data", str(tmp_path / "event.npz"), "--steps", "1"]
    saved = tmp_path / "three.npz"
    usual = [*arguments, "--window", "64", "--save", str(saved)]
    assert run_script(lambda: seams.main(usual)) == 0
    table = capsys.readouterr().out
    for name in ("radar", "whole", "windows together", "tile by tile"):
        assert f"| {name} |" in table
    three = np.load(saved)
    assert {three[name].shape for name in three.files} == {(1, 20, 128, 80)}
    assert not np.array_equal(three["together"], three["tiles"])
    assert np.isnan(three["tiles"][..., :64, 64:]).all()
    for wrong, word in (
        (["--window", "128"], "expected more than --window each way"),
        (["--window", "50"], "windows of 50 pixels"),
        (["--members", "0"], "got 0 members"),
        (["--save", "nowhere/three.npz"], "nowhere"),
    ):
        assert run_script(lambda more=wrong: seams.main([*arguments, *more])) == 2
        assert word in capsys.readouterr().err
