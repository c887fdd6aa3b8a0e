"""Diagrams as data: the same for matplotlib and for a page, and what the page does with them."""

import re
from pathlib import Path

import numpy as np
import pytest
from pages import FETCHES, about_of, arrays_of, needs_browser, rates

from ldcast.products import charts
from ldcast.products.charts import CaseMaps, ChartsPage, Group, Images, save_charts
from ldcast.products.diagrams import Guide, Line, Panel, draw_panel, page_style, panel_data

STYLE = {"color": "#0072b2", "linewidth": 2.0, "label": "a"}
NAN = np.nan


def panel(*values: list[float], **more) -> Panel:
    """One line for each list, of the names a, b and so on."""
    lines = tuple(
        Line(np.array(line, float), STYLE, name=name)
        for name, line in zip("abc", values, strict=False)
    )
    x = np.arange(len(values[0]), dtype=float)
    return Panel("title", "hint", x, lines, "across", "up", **more)


def write(path: Path, *groups: Group, **more) -> Path:
    styles = {name: STYLE | {"label": name} for name in "ab"}
    page = ChartsPage("title", "subtitle", groups, styles, **more)
    with open(path, "wb") as file:
        save_charts(page, file)
    return path


def group(*panels: Panel) -> Group:
    return Group("heading", "", tuple((panel,) for panel in panels))


def maps(height: int = 10, width: int = 14, source: str = "a model") -> CaseMaps:
    """Of two sources at three lead times; one has a mean, both have chances."""
    random = np.random.default_rng(0)
    rain = np.where(random.random((3, height, width)) > 0.5, 10 * random.random((3, 1, 1)), 0)
    rain = rain * (1 + random.random((3, height, width)))
    rain[:, 0, 0] = NAN
    observed = Images({"member 1": rain, "chance": (rain >= 1).astype(float)}, ("chance",))
    views = {"member 1": 2 * rain, "chance": random.random(rain.shape), "mean": 3 * rain}
    sources = {"observed": observed, source: Images(views, ("chance",))}
    return CaseMaps("wettest", (15, 30, 60), sources)


@pytest.mark.core
def test_data_of_a_panel_rise_along_x_and_have_gaps() -> None:
    band = (np.array([0.0, 1, NAN]), np.array([2.0, 3, 4]))
    line = Line(np.array([1.0, NAN, 3]), STYLE | {"linestyle": (0, (5, 2))}, band, "a", "note")
    falling = Panel("t", "h", np.array([8.0, 4, 2]), (line,), "x", "y", (8, 2), x_scale="log")
    data = panel_data(falling)
    assert data["x"] == [2, 4, 8] and data["x_limits"] == [8, 2]
    (found,) = data["lines"]
    assert (found["values"], found["low"], found["high"]) == ([3, None, 1], [None, 1, 0], [4, 3, 2])
    assert (found["name"], found["note"], found["dash"]) == ("a", "note", [10, 4])
    assert page_style(STYLE)["dash"] == [] and page_style(STYLE)["marker"] == ""


def test_the_picture_has_the_same_numbers() -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is an extra")
    from matplotlib.figure import Figure

    below = panel([0.5, 0.1, 0.2], y_scale="log")
    joined = panel([1, NAN, 3], below=below, joins_gaps=True, guides=(Guide((0, 2)),))
    figure = Figure()
    draw_panel(joined, figure.add_subplot())
    above, strip = figure.axes
    guide, line = above.lines
    assert guide.get_ydata()[0] == 2 and line.get_xydata().tolist() == [[0, 1], [2, 3]]
    assert strip.lines[0].get_ydata().tolist() == panel_data(below)["lines"][0]["values"]
    assert strip.get_yscale() == "log" and strip.get_xlabel() == "across"


def test_nothing_in_a_text_ends_the_script_or_fills_the_template(tmp_path) -> None:
    text = "</script><script>alert('{{data}}')</script>"
    page = ChartsPage(text, text, (group(panel([1, 2])),), {text: STYLE}, notes=(text,))
    with open(tmp_path / "page.html", "wb") as file:
        save_charts(page, file)
    assert about_of(tmp_path / "page.html")["title"] == text
    html = (tmp_path / "page.html").read_text()
    assert html.count("</script>") == 3 and not re.search(FETCHES, html)


def test_maps_come_back(tmp_path) -> None:
    case = maps()
    path = write(tmp_path / "page.html", cases=(case,))
    about, arrays = about_of(path), arrays_of(path)
    assert about["block"] == 1
    for name, source in case.sources.items():
        for view, images in source.views.items():
            codes = arrays[f"0/{name}/{view}"]
            if view == "chance":
                np.testing.assert_allclose(codes / 100, images, atol=0.0051)
            else:
                wet = np.where(images < 0.1, 0, images)
                np.testing.assert_allclose(rates(codes, about), wet, rtol=0.03)


def test_maps_that_are_too_many_get_coarser_and_the_page_says_so(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(charts, "MAX_BYTES", charts.HEAD_BYTES + 10_000)
    path = write(tmp_path / "page.html", cases=(maps(90, 70),))
    about = about_of(path)
    assert path.stat().st_size <= charts.MAX_BYTES
    assert about["block"] > 1 and "means of" in " ".join(about["map_notes"])
    assert arrays_of(path)["0/observed/member 1"].shape[1:] == tuple(about["shape"])


# ---- in a browser --------------------------------------------------------------------------------


def canvas_of(page, index: int = 0) -> str:
    return page.evaluate(f"charts[{index}].plot.ctx.canvas.toDataURL()")


def values_of(page) -> dict[str, float]:
    """What is shown for the place that is pointed at, by name."""
    found = page.locator("#values output").all()
    return {v.get_attribute("data-name"): float(v.get_attribute("data-value")) for v in found}


def point_at(page, share: float, index: int = 0) -> None:
    """At a share of the width of a diagram."""
    over = page.locator(".u-over").nth(index)
    over.scroll_into_view_if_needed()
    box = over.bounding_box()
    page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2)


@needs_browser
def test_gaps_stay_or_are_bridged_and_zero_has_no_logarithm(opened, tmp_path) -> None:
    gaps, joined = [1, NAN, 3, 4], panel([1, NAN, 3, 4], [2, 2, 2, 2], joins_gaps=True)
    path = write(tmp_path / "page.html", group(panel(gaps), joined, panel([0, 1, 10, 100])))
    page = opened(path)
    assert page.evaluate("charts[0].plot.data[1]") == [1, None, 3, 4]
    point_at(page, 0.35)
    assert values_of(page) == {}
    point_at(page, 0.35, 1)
    assert values_of(page) in ({"a": 1, "b": 2}, {"a": 3, "b": 2})
    assert "(0)" in page.inner_text("#values") or "(2)" in page.inner_text("#values")
    path = write(tmp_path / "log.html", group(panel([0, 1, 10, 100], y_scale="log")))
    page = opened(path)
    assert page.evaluate("charts[0].plot.data[1]") == [None, 1, 10, 100]
    assert page.evaluate("charts[0].plot.scales.y.min") > 0


@needs_browser
def test_a_band_is_drawn_where_it_is_known_and_can_be_switched_off(opened, tmp_path) -> None:
    band = (np.array([1.0, NAN, 1, 1]), np.array([5.0, 5, 5, 5]))
    line = Line(np.array([3.0, 3, 3, 3]), STYLE, band, "a")
    drawn = Panel("t", "h", np.arange(4.0), (line,), "x", "y", (0, 3), (0, 10))
    page = opened(write(tmp_path / "page.html", group(drawn)))

    def is_coloured(x: float) -> bool:
        """At a height of 4, between line and edge of the band."""
        red, _, blue, alpha = page.evaluate(
            """(x) => {
                const { plot } = charts[0], canvas = plot.ctx.canvas;
                const copy = new OffscreenCanvas(canvas.width, canvas.height);
                const ink = copy.getContext("2d", { willReadFrequently: true });
                ink.drawImage(canvas, 0, 0);
                const at = [plot.valToPos(x, "x", true), plot.valToPos(4, "y", true)];
                return [...ink.getImageData(...at.map(Math.round), 1, 1).data];
            }""",
            x,
        )
        return alpha > 0 and blue > red

    assert [is_coloured(x) for x in (0.5, 1.5, 2.4)] == [False, False, True]
    page.locator("#bands").uncheck()
    assert not is_coloured(2.4)


@needs_browser
def test_a_slider_goes_through_the_versions_on_one_axis(opened, tmp_path) -> None:
    versions = tuple(panel([level, level + 1, level], is_stairs=True) for level in (0, 5, 9))
    slid = Group("histograms", "", (versions,), ("+5 min", "+10 min", "+15 min"), chosen=1)
    page = opened(write(tmp_path / "page.html", slid))
    assert page.evaluate("charts[0].plot.data[1]") == [5, 6, 5]
    before, axis = (
        canvas_of(page),
        page.evaluate("[charts[0].plot.scales.y.min, charts[0].plot.scales.y.max]"),
    )
    page.locator("main input").fill("2")
    assert page.evaluate("charts[0].plot.data[1]") == [9, 10, 9]
    assert page.inner_text("main output") == "+15 min" and canvas_of(page) != before
    assert page.evaluate("[charts[0].plot.scales.y.min, charts[0].plot.scales.y.max]") == axis


@needs_browser
def test_keys_go_through_a_diagram_whichever_way_it_runs(opened, tmp_path) -> None:
    turned = panel([1, 2, 4], x_limits=(2, 0))
    page = opened(write(tmp_path / "page.html", group(panel([1, 2, 4]), turned)))
    for index, expected in ((0, (1, 2, 4)), (1, (4, 2, 1))):
        page.evaluate(f"charts[{index}].holder.focus()")
        for value in (*expected, expected[-1]):
            page.keyboard.press("ArrowRight")
            assert values_of(page) == {"a": value}
        page.keyboard.press("ArrowLeft")
        assert values_of(page) == {"a": expected[1]}
    page.evaluate("document.activeElement.blur()")
    assert page.locator("#values").is_hidden()


@needs_browser
def test_maps_change_with_what_is_chosen(opened, tmp_path) -> None:
    case = maps(source="<i>a</i> model")
    page = opened(write(tmp_path / "page.html", cases=(case, maps(source="other"))))
    assert page.locator("#maps figure").count() == 2
    assert page.locator("#view option").all_inner_texts() == ["member 1", "chance", "mean"]
    seen, model = (source.views for source in case.sources.values())
    sure = page.locator("#maps canvas").first
    sure.scroll_into_view_if_needed()
    box = sure.bounding_box()
    page.mouse.move(box["x"] + 5.5 / 14 * box["width"], box["y"] + 3.5 / 10 * box["height"])
    pictures = set()
    for view in ("member 1", "chance", "mean"):
        page.select_option("#view", label=view)
        for lead in range(3):
            page.locator("#lead").fill(str(lead))
            shown = [
                float(v)
                for v in page.locator("#maps output").evaluate_all(
                    "all => all.map((o) => o.dataset.value)"
                )
            ]
            expected = [(of.get(view, of["member 1"]))[lead, 3, 5] for of in (seen, model)]
            expected = [value if value >= 0.1 or view == "chance" else 0 for value in expected]
            assert shown == pytest.approx(expected, rel=0.03, abs=0.006)
            pictures.add(page.locator("#maps canvas").nth(1).evaluate("of => of.toDataURL()"))
    assert len(pictures) == 9
    page.keyboard.press("Tab")
    sure.focus()
    page.keyboard.press("ArrowDown")
    assert "row 4, column 5" in page.inner_text("#place")
    page.select_option("#case", index=1)
    assert "other" in page.inner_text("#maps")
