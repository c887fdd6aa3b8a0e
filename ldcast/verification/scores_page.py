"""The page of scores: the diagrams and cases of the picture, to explore in a browser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldcast.machine.files import open_atomically
from ldcast.products.charts import CaseMaps, ChartsPage, Group, Images, save_charts
from ldcast.products.maps import CHANCE_TITLE
from ldcast.products.summary import LIKELY_MM_H, chance_of, ensemble_mean
from ldcast.verification.page.by_lead import lead_panels
from ldcast.verification.page.case_maps import ShownCase
from ldcast.verification.page.contents import (
    CASES_HINT,
    CASES_TITLE,
    LEADS_TITLE,
    counts_of,
    leads_hint,
    small_print,
    title_of,
)
from ldcast.verification.page.distributions import (
    curve_leads,
    rank_panels,
    reliability_panels,
    spectrum_panels,
)
from ldcast.verification.page.lines import OBSERVED, OBSERVED_STYLE, line_styles

MEMBER, MEAN = "member 1", "mean of members"


def save_scores_page(table: dict[str, Any], shown: Sequence[ShownCase], path: Path) -> None:
    """Writes the page; needs no matplotlib.

    table: the content of `scores.json`, None for what is unknown.
    Raises OSError if `path` cannot be written; a file that was there before is then still there.
    """
    groups = tuple(group for group in _groups(table) if group.panels)
    has_observed = any(
        line.name == OBSERVED
        for group in groups
        for versions in group.panels
        for panel in versions
        for line in panel.lines
    )
    page = ChartsPage(
        title=title_of(table),
        subtitle=counts_of(table),
        groups=groups,
        styles=line_styles(table) | ({OBSERVED: OBSERVED_STYLE} if has_observed else {}),
        notes=tuple(small_print(table)),
        cases=tuple(_maps(case) for case in shown),
        cases_texts=(CASES_TITLE, CASES_HINT),
    )
    with open_atomically(path) as file:
        save_charts(page, file)


def _groups(table: dict[str, Any]) -> list[Group]:
    """As in the picture, but distributions at all lead times."""
    leads = list(range(len(table["lead_minutes"])))
    choices = tuple(f"+{minutes} min" for minutes in table["lead_minutes"])
    chosen = curve_leads(table)[0]
    ranks, spectra = rank_panels(table, leads), spectrum_panels(table, leads)
    by_lead, reliability = lead_panels(table), reliability_panels(table)
    of_all = "of all cases"
    return [
        Group(LEADS_TITLE, leads_hint(table), tuple((panel,) for panel in by_lead)),
        Group("Rank histograms", of_all, tuple(map(tuple, ranks)), choices, chosen),
        Group(
            "Reliability",
            "of all cases and lead times together; below, how often each chance was forecast",
            tuple((panel,) for panel in reliability),
        ),
        Group("Power spectra", of_all, (tuple(spectra),) if spectra else (), choices, chosen),
    ]


def _maps(case: ShownCase) -> CaseMaps:
    """Of the radar and of each forecaster, but for one that is dry everywhere."""
    sources = {OBSERVED: _images(case.observation[None])}
    sources |= {name: _images(rain) for name, rain in case.forecasts.items() if name != "dry"}
    return CaseMaps(case.title, case.lead_minutes, sources)


def _images(members: np.ndarray) -> Images:
    """members: (E, T, H, W) mm/h."""
    views = {MEMBER: members[0]}
    if len(members) > 1:
        views[MEAN] = ensemble_mean(members)
    views[CHANCE_TITLE] = chance_of(members, LIKELY_MM_H)
    return Images(views, (CHANCE_TITLE,))
