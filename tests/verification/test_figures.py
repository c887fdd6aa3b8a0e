"""The page of figures: drawn from any table of scores, and showing all that the table holds."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from score_tables import LEADS, SHOWN_LEADS, as_array, make_case, make_table, nothing_known, plain

from ldcast.products.maps import CHANCE_SCALE, RAIN_SCALE
from ldcast.verification.figures import draw_page, make_page


def panels_of(fig: Any) -> dict[str, Any]:
    """Axes by their titles."""
    return {axes.get_title("left"): axes for axes in fig.axes if axes.get_title("left")}


def names_in(axes: Any) -> list[str]:
    return [line.get_label() for line in axes.lines if not line.get_label().startswith("_")]


def maps_in(fig: Any) -> list[Any]:
    return [axes for axes in fig.axes if axes.images]


@pytest.fixture(autouse=True)
def _matplotlib() -> None:
    pytest.importorskip("matplotlib", reason="figures need matplotlib, an extra")


def test_every_score_of_every_forecaster_is_drawn() -> None:
    panels = panels_of(make_page(make_table(("a", "b")), []))
    assert list(panels)[:16] == [
        *("fair CRPS, 1 px", "fair CRPS, 8 px", "fair CRPS, 64 px"),
        *("fair CRPS of log rain, 1 px", "fair CRPS, 1 px, interior"),
        *("skill, fair CRPS 1 px, pooled", "skill, fair CRPS 1 px, median case"),
        *("error (solid) and spread (dashed)", "FSS, ≥ 1 mm/h, 16 px", "FSS, ≥ 10 mm/h, 16 px"),
        *("CSI of matched mean, ≥ 1 mm/h", "CSI of matched mean, ≥ 10 mm/h"),
        *("Brier score, ≥ 1 mm/h", "rank divergence, 1 px"),
        *("rank divergence, 8 px", "rank divergence, 64 px"),
    ]
    assert list(panels)[16:] == [
        *("rank histogram, 1 px, +30 min", "rank histogram, 1 px, +90 min"),
        *("rank histogram, 64 px, +30 min", "rank histogram, 64 px, +90 min"),
        *("reliability, ≥ 0.1 mm/h", "reliability, ≥ 1 mm/h", "reliability, ≥ 10 mm/h"),
        *("power spectrum, +30 min", "power spectrum, +90 min"),
    ]
    ensembles, baselines = ["a", "b", "steps"], ["extrapolation", "persistence", "dry"]
    crps = panels["fair CRPS, 1 px"]
    assert names_in(crps) == ensembles + baselines
    assert len(crps.collections) == 6  # the bands
    assert names_in(panels["fair CRPS, 1 px, interior"]) == ensembles + baselines + ensembles
    skill = panels["skill, fair CRPS 1 px, pooled"]
    assert names_in(skill) == [*ensembles, "extrapolation", "dry"]
    assert names_in(panels["error (solid) and spread (dashed)"]) == ensembles * 2
    assert names_in(panels["rank divergence, 8 px"]) == ensembles
    assert len(panels["rank histogram, 1 px, +30 min"].patches) == 3
    assert names_in(panels["reliability, ≥ 1 mm/h"]) == ensembles
    spectra = panels["power spectrum, +30 min"]
    assert names_in(spectra) == [*ensembles, "extrapolation", "observed"]


def test_lines_hold_the_tables_numbers() -> None:
    table = make_table()
    table["models"]["runs/ldcast"]["fair_crps_1px"][3] = None
    panels = panels_of(make_page(table, []))
    line = panels["fair CRPS, 1 px"].lines[0]
    np.testing.assert_array_equal(line.get_xdata(), LEADS)
    expected = as_array(table["models"]["runs/ldcast"]["fair_crps_1px"])
    np.testing.assert_array_equal(line.get_ydata(), expected)
    assert np.isnan(expected[3])
    histogram = panels["rank histogram, 64 px, +90 min"].patches[0].get_data()
    shares = table["models"]["runs/ldcast"]["rank_histogram_64px"][LEADS.index(90)]
    np.testing.assert_allclose(histogram.values, 17 * as_array(shares))
    np.testing.assert_allclose(histogram.edges, np.arange(18) / 17)


def test_reliability_pools_lead_times_by_their_forecasts() -> None:
    table = make_table(baselines=(), num_members=2)
    scores = table["models"]["runs/ldcast"]
    for entry in ("observed_frequency_1mm", "num_forecasts_1mm"):
        scores[entry] = [[None] * 3] * len(LEADS)
    scores["num_forecasts_1mm"][:2] = [[100, 30, 0], [300, 10, 10]]
    scores["observed_frequency_1mm"][:2] = [[0.1, 0.5, None], [0.3, 0.9, 1.0]]
    panel = panels_of(make_page(table, []))["reliability, ≥ 1 mm/h"]
    _, climatology, line = panel.lines
    np.testing.assert_allclose(line.get_xdata(), [0, 0.5])  # ten forecasts of 1 are too few
    np.testing.assert_allclose(line.get_ydata(), [0.25, 0.6])
    np.testing.assert_allclose(climatology.get_ydata(), (100 + 24 + 10) / 450)


def test_a_dry_forecast_does_not_squeeze_the_spectra() -> None:
    table = make_table()
    spectra = as_array(table["models"]["steps"]["power_spectrum_db"])
    table["models"]["steps"]["power_spectrum_db"] = plain(spectra - 100)
    panel = panels_of(make_page(table, []))["power spectrum, +30 min"]
    assert panel.get_ylim()[0] == pytest.approx(10 - 20)  # the observed reach down to 10 dB
    assert panel.get_ylim()[1] > 60


def test_what_is_missing_is_left_out() -> None:
    table = make_table(baselines=("persistence", "dry"), has_intervals=False)
    del table["models"]["runs/ldcast"]["csi_pmm_1mm"], table["skill"], table["wavelength_px"]
    for name in ("fss_1mm_16px", "fair_crps_log_rain_1px"):
        for scores in table["models"].values():
            del scores[name]
    table["interior"] = nothing_known(table["interior"])
    panels = panels_of(make_page(table, []))
    assert not [title for title in panels if "skill" in title or "interior" in title]
    assert not [title for title in panels if "spectrum" in title]
    assert {"FSS, ≥ 1 mm/h, 8 px", "fair CRPS of log rain, 8 px"} <= set(panels)
    assert names_in(panels["CSI of matched mean, ≥ 1 mm/h"]) == ["persistence", "dry"]
    assert names_in(panels["CSI of matched mean, ≥ 10 mm/h"])[0] == "runs/ldcast"
    assert not panels["fair CRPS, 1 px"].collections


def test_one_member_has_no_panels_of_spread() -> None:
    titles = panels_of(make_page(make_table(num_members=1), []))
    assert "fair CRPS, 1 px" in titles
    assert not [title for title in titles if "rank" in title or "spread" in title]
    assert not [title for title in titles if "reliability" in title]


def test_nothing_known_leaves_the_texts(tmp_path: Path) -> None:
    table = make_table()
    for part in ("models", "interior", "intervals", "skill", "seconds_per_forecast"):
        table[part] = nothing_known(table[part])
    fig = make_page(table, [])
    assert fig.axes == []
    texts = "\n".join(text.get_text() for text in fig.texts)
    assert "24 cases, 2 events, 16 members" in texts
    assert "12 of mch_20160710, 12 of mch_20160711" in texts
    assert all(note in texts for note in table["notes"])
    draw_page(table, [], tmp_path / "scores.png")


@pytest.mark.parametrize(
    ("forecasters", "num_rain", "num_chance"),
    [
        ({"persistence": 1, "dry": 1, "extrapolation": 1, "steps": 3, "a": 3}, 5, 3),
        pytest.param({"persistence": 1, "dry": 1, "a": 3, "b": 3}, 4, 3, marks=pytest.mark.slow),
        ({"persistence": 1, "dry": 1, "a": 1}, 3, 0),
    ],
)
def test_maps_of_a_case(forecasters: dict[str, int], num_rain: int, num_chance: int) -> None:
    case = make_case(forecasters, 12, 30)
    fig = make_page(make_table(("a", "b")), [case])
    bars = [axes.get_xlabel() for axes in fig.axes]
    assert bars.count(RAIN_SCALE.label) == 1
    assert bars.count(CHANCE_SCALE.label) == (num_chance > 0)
    images = [axes.images[0] for axes in maps_in(fig)]
    is_rain = [image.norm.vmax == RAIN_SCALE.bounds[-1] for image in images]
    assert (sum(is_rain), len(images)) == (4 * num_rain, 4 * (num_rain + num_chance))
    assert {image.norm.vmax for image in images} <= {CHANCE_SCALE.bounds[-1], 100}
    np.testing.assert_array_equal(
        as_array(images[1].get_array().filled(np.nan)), case.observation[1]
    )
    assert any(axes.get_ylabel() == "persistence" for axes in fig.axes)
    assert not any("dry" in axes.get_ylabel() for axes in maps_in(fig))


@pytest.mark.parametrize(
    ("shape", "leads"),
    [((10, 40), SHOWN_LEADS), pytest.param((40, 10), (60,), marks=pytest.mark.slow)],
)
def test_nothing_overlaps(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], leads: tuple[int, ...]
) -> None:
    from matplotlib import style

    from ldcast.verification.figures import PAGE_STYLE

    monkeypatch.setattr("ldcast.verification.page.layout.DPI", 60)
    models = ("runs/a-model-with-a-long-name/ldcast-small", "runs/another-long-name/ldcast-small")
    forecasters = dict.fromkeys((*models, "steps"), 2) | {"persistence": 1, "extrapolation": 1}
    case = make_case(forecasters, *shape, leads)
    with style.context(["default", PAGE_STYLE]):
        fig = make_page(make_table(models), [case])
    parts = [*fig.axes, *fig.texts, *fig.legends]
    boxes = np.array([part.get_tightbbox(fig.canvas.get_renderer()).extents for part in parts])
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    shared = np.minimum(high, high.swapaxes(0, 1)) - np.maximum(low, low.swapaxes(0, 1))
    overlaps = np.argwhere(np.triu((shared > 1).all(axis=-1), 1))  # a dot for rounding
    assert [(parts[i], parts[j]) for i, j in overlaps] == []
    assert (boxes > 0).all() and (boxes[:, 2:] < fig.bbox.size).all()


def test_the_page_is_written_as_a_whole_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("ldcast.verification.page.layout.DPI", 20)
    path = tmp_path / "scores.png"
    case = make_case({"persistence": 1, "runs/ldcast": 2}, leads=(60,))
    draw_page(make_table(baselines=("persistence",)), [case], path)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("half way")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(RuntimeError):
        draw_page(make_table(), [], path)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_without_matplotlib_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="matplotlib"):
        draw_page(make_table(), [], tmp_path / "scores.png")
    assert list(tmp_path.iterdir()) == []


def test_a_small_interior_is_not_drawn() -> None:
    table = make_table()
    table["interior_share"] = [0.5] * 12 + [0.19] * 7 + [None]
    lines = panels_of(make_page(table, []))["fair CRPS, 1 px, interior"].lines
    assert np.isnan(lines[0].get_ydata()).tolist() == [False] * 12 + [True] * 8
