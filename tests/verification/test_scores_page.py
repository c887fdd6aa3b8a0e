"""The page of scores: it holds the table's numbers, and a browser draws what is switched on."""

import re
import sys

import numpy as np
import pytest
from pages import FETCHES, about_of, arrays_of, needs_browser
from score_tables import LEADS, as_array, make_case, make_table, nothing_known

from ldcast.verification.scores_page import save_scores_page

MODEL = "runs/ldcast"


@pytest.fixture
def page_of(tmp_path):
    """Writes the page of a table, and gives its path."""

    def write(table, shown=()):
        save_scores_page(table, shown, tmp_path / "scores.html")
        return tmp_path / "scores.html"

    return write


def panels_in(about: dict) -> dict[str, dict]:
    """The panels of all lead times, by their titles."""
    versions = [versions for group in about["groups"] for versions in group["panels"]]
    return {panel["title"]: panel for of_one in versions for panel in of_one}


def values_in(panel: dict) -> dict[str, list]:
    """By name, of the lines without a note."""
    return {line["name"]: line["values"] for line in panel["lines"] if not line["note"]}


def test_the_page_holds_the_numbers_of_the_table(page_of) -> None:
    table = make_table()
    table["models"][MODEL]["fair_crps_1px"][3] = None
    path = page_of(table)
    about = about_of(path)
    panels = panels_in(about)
    legend = [entry["name"] for entry in about["legend"]]
    assert legend == [MODEL, "steps", "extrapolation", "persistence", "dry", "observed"]
    for title, score in (
        ("fair CRPS, 1 px", "fair_crps_1px"),
        ("wet area", "wet_area_ratio"),
        ("FSS, ≥ 1 mm/h, 16 px", "fss_1mm_16px"),
        ("Brier score, ≥ 1 mm/h", "brier_1mm"),
    ):
        if score not in table["models"][MODEL]:
            assert title not in panels
            continue
        assert panels[title]["x"] == LEADS
        for name, values in values_in(panels[title]).items():
            assert values == table["models"][name][score]
        bounds = table["intervals"]["models"][MODEL][score]
        (line,) = (line for line in panels[title]["lines"] if line["name"] == MODEL)
        assert (line["low"], line["high"]) == (bounds["low"], bounds["high"])
    skill = table["skill"][MODEL]["persistence"]["fair_crps_1px"]["pooled"]
    assert values_in(panels["skill, fair CRPS 1 px, pooled"])[MODEL] == skill
    assert not re.search(FETCHES, path.read_text())


def test_distributions_are_there_for_all_lead_times(page_of) -> None:
    table = make_table()
    about = about_of(page_of(table))
    panels = panels_in(about)
    scores = table["models"][MODEL]
    for lead, minutes in enumerate(LEADS):
        ranks = values_in(panels[f"rank histogram, 64 px, +{minutes} min"])[MODEL]
        np.testing.assert_allclose(ranks, 17 * as_array(scores["rank_histogram_64px"][lead]))
        spectra = values_in(panels[f"power spectrum, +{minutes} min"])
        assert spectra[MODEL] == scores["power_spectrum_db"][lead][::-1]  # x rises in the page
        assert spectra["observed"] == scores["observed_power_spectrum_db"][lead][::-1]
    reliability = panels["reliability, ≥ 1 mm/h"]
    assert set(values_in(reliability)) == set(values_in(reliability["below"])) == {MODEL, "steps"}
    counts = as_array(scores["num_forecasts_1mm"]).sum(axis=0)
    shares = as_array(values_in(reliability["below"])[MODEL])
    np.testing.assert_allclose(shares, counts / counts.sum())
    ranks, spectra = about["groups"][1], about["groups"][3]
    assert ranks["choices"] == spectra["choices"] == [f"+{minutes} min" for minutes in LEADS]
    assert ranks["choices"][ranks["chosen"]] == "+30 min"


def test_a_lead_time_of_which_nothing_is_known_is_empty(page_of) -> None:
    table = make_table()
    for scores in table["models"].values():
        for name in ("rank_histogram_1px", "power_spectrum_db", "observed_power_spectrum_db"):
            scores[name][0] = [None] * len(scores[name][0])
    panels = panels_in(about_of(page_of(table)))
    assert panels["rank histogram, 1 px, +5 min"]["lines"] == []
    assert panels["power spectrum, +5 min"]["lines"] == []
    assert panels["power spectrum, +10 min"]["lines"]


def test_maps_are_those_of_the_case(page_of) -> None:
    case = make_case({"persistence": 1, "dry": 1, "steps": 3, MODEL: 3})
    path = page_of(make_table(), [case, case])
    (first, second), arrays = about_of(path)["cases"], arrays_of(path)
    assert first == second and first["lead_minutes"] == [15, 30, 60, 100]
    assert first["sources"] == ["observed", "persistence", "steps", MODEL]
    chance = (case.forecasts[MODEL] >= 1).mean(axis=0)
    codes = arrays[f"1/{MODEL}/chance of ≥ 1 mm/h"]
    assert (codes[:, :6] == 255).all()
    np.testing.assert_allclose(codes[:, 6:] / 100, chance[:, 6:], atol=0.0051)
    happened = arrays["0/observed/chance of ≥ 1 mm/h"][:, 6:] == 100
    np.testing.assert_array_equal(happened, case.observation[:, 6:] >= 1)
    assert f"0/{MODEL}/mean of members" in arrays and "0/persistence/mean of members" not in arrays


def test_it_needs_no_matplotlib(page_of, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert page_of(make_table()).stat().st_size > 100_000


# ---- in a browser --------------------------------------------------------------------------------


def picture_of(page, index: int = 0) -> str:
    return page.evaluate(f"charts[{index}].plot.ctx.canvas.toDataURL()")


def shown_values(page) -> dict[str, float]:
    found = page.locator("#values output").all()
    return {v.get_attribute("data-name"): float(v.get_attribute("data-value")) for v in found}


@needs_browser
@pytest.mark.parametrize("width", [1300, 390])
def test_values_under_the_pointer_are_those_of_the_table(opened, page_of, width) -> None:
    table = make_table()
    page = opened(page_of(table), viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    over = page.locator(".u-over").first
    over.scroll_into_view_if_needed()
    box = over.bounding_box()
    for lead in (1, 10, 19):
        across = LEADS[lead] / (1.02 * LEADS[-1])
        page.mouse.move(box["x"] + across * box["width"], box["y"] + 90)
        expected = {name: of["fair_crps_1px"][lead] for name, of in table["models"].items()}
        assert shown_values(page) == expected
        beside = page.locator("#values").bounding_box()
        assert beside["x"] >= 0 and beside["x"] + beside["width"] <= width


@needs_browser
def test_what_is_switched_off_is_not_drawn(opened, page_of) -> None:
    page = opened(page_of(make_table()), color_scheme="dark")
    before = picture_of(page)
    switch = page.locator("#switches input[data-name=persistence]")
    switch.uncheck()
    without = picture_of(page)
    assert without != before
    shown = "charts[0].plot.series.slice(1).filter((of) => of.show).map((of) => of.label)"
    assert page.evaluate(shown) == [MODEL, "steps", "extrapolation", "dry"]
    assert page.evaluate(shown.replace("[0]", "[6]")) == [MODEL, "steps", "extrapolation", "dry"]
    page.evaluate("charts[0].holder.focus()")
    page.keyboard.press("ArrowRight")
    assert set(shown_values(page)) == {MODEL, "steps", "extrapolation", "dry"}
    page.locator("#bands").uncheck()
    assert picture_of(page) != without and page.locator("#values").is_hidden()
    page.evaluate("charts[0].holder.focus()")
    page.keyboard.press("ArrowRight")
    assert "(" not in page.locator("#values output").first.inner_text()
    page.locator("#bands").check()
    switch.check()
    assert picture_of(page) == before


@needs_browser
@pytest.mark.parametrize("kind", ["one member", "no intervals", "nothing known", "long names"])
def test_a_table_that_lacks_much_opens(opened, page_of, kind) -> None:
    table, shown = make_table(), []
    if kind == "one member":
        table = make_table(num_members=1)
        shown = [make_case({"persistence": 1, MODEL: 1}, leads=(60,))]
    elif kind == "no intervals":
        table = make_table(has_intervals=False) | {"num_events": 1}
        del table["skill"], table["wavelength_px"], table["models"][MODEL]["brier_1mm"]
    elif kind == "nothing known":
        for part in ("models", "interior", "intervals", "skill", "seconds_per_forecast"):
            table[part] = nothing_known(table[part])
    else:
        table = make_table(("runs/" + 8 * "a-long-name-", "runs/<b>bold</b>"))
        shown = [make_case({"persistence": 1, "runs/<b>bold</b>": 2})]
    page = opened(page_of(table, shown), viewport={"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    num_charts, has_bands = page.evaluate("charts.length"), page.locator("#bands").count() == 1
    assert (num_charts > 0, has_bands) == (
        kind != "nothing known",
        kind not in ("no intervals", "nothing known"),
    )
    assert page.locator("#cases").is_visible() == bool(shown)
    headings = page.locator("h2").all_inner_texts()
    assert ("Reliability" in headings) == (kind in ("no intervals", "long names"))
    assert page.locator("b").count() <= 2  # a name's tags are text


@needs_browser
def test_values_of_long_names_stay_in_the_window(opened, page_of) -> None:
    names = ("runs/" + 8 * "a-long-name-", "runs/<b>bold</b>")
    page = opened(page_of(make_table(names)), viewport={"width": 340, "height": 800})
    page.locator(".u-over").first.hover()
    assert "<b>bold</b>" in page.inner_text("#values")
    beside = page.locator("#values").bounding_box()
    assert beside["x"] >= 0 and beside["x"] + beside["width"] <= 340
