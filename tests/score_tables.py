"""What `scores.json` might hold, and cases to look at: for tests of figures and pages."""

from __future__ import annotations

from typing import Any

import numpy as np

from ldcast.verification.page.case_maps import ShownCase

LEADS = list(range(5, 101, 5))
WAVELENGTHS = (256 / np.arange(1, 129)).tolist()
SIZES, THRESHOLDS = (1, 8, 64), ("0.1", "1", "10")
BASELINES = ("persistence", "dry", "extrapolation", "steps")
SHOWN_LEADS = (15, 30, 60, 100)


def make_table(
    models: tuple[str, ...] = ("runs/ldcast",),
    baselines: tuple[str, ...] = BASELINES,
    num_members: int = 16,
    has_intervals: bool = True,
) -> dict[str, Any]:
    """What `scores.json` might hold: plausible curves, different for each forecaster."""
    names = [*baselines, *models]
    size_of = {"steps": num_members} | dict.fromkeys(models, num_members)
    scores = {
        name: make_scores(index, size_of.get(name, 1), name) for index, name in enumerate(names)
    }
    interior = {
        name: {key: entry for key, entry in entries.items() if "spectr" not in key}
        for name, entries in make_interior(scores).items()
    }
    intervals = {"level": 0.9, "models": around(scores), "interior": around(interior)}
    return {
        "lead_minutes": LEADS,
        "num_members": num_members,
        "crop_size": 256,
        "seed": 0,
        "num_events": 2,
        "cases": [{"event": f"mch_2016071{i % 2}"} for i in range(24)],
        "models": scores,
        "interior": interior,
        "interior_share": np.linspace(0.95, 0.3, 20).tolist(),
        "intervals": intervals if has_intervals else None,
        "skill": {name: {"persistence": make_skill(i)} for i, name in enumerate(names)},
        "wavelength_px": WAVELENGTHS,
        "seconds_per_forecast": {name: 0.01 + i for i, name in enumerate(names)},
        "notes": [
            "Intervals resample 2 events: fewer than five say little of other days.",
            "Ensembles of different sizes are compared by the fair CRPS only.",
        ],
    }


def make_scores(index: int, num_members: int, name: str) -> dict[str, Any]:
    rng = np.random.default_rng(index)
    lead = np.array(LEADS) / 100
    quality = {"persistence": 1.0, "dry": 0.95, "extrapolation": 0.85, "steps": 0.55}
    level = quality.get(name, 0.45 + 0.03 * index)
    crps = level * (0.25 * lead**0.5) if name != "dry" else 0.2 + 0 * lead
    bins = num_members + 1
    scores: dict[str, Any] = {}
    for size in SIZES:
        scores[f"crps_{size}px"] = 1.05 * crps / size**0.3
        scores[f"fair_crps_{size}px"] = crps / size**0.3
        scores[f"fair_crps_log_rain_{size}px"] = 1.5 * crps / size**0.3
        bowl = 1 + 0.3 * (1 + index) * np.linspace(-1, 1, bins) ** 4 * lead[:, None]
        histogram = bowl * rng.uniform(0.95, 1.05, bowl.shape)
        scores[f"rank_histogram_{size}px"] = histogram / histogram.sum(axis=1, keepdims=True)
        scores[f"rank_divergence_{size}px"] = 0.01 * (1 + index) * lead * size**0.4
        for threshold in THRESHOLDS:
            decay = np.exp(-(1 + level) * lead * (1 + float(threshold) ** 0.5 / 2))
            scores[f"fss_{threshold}mm_{size}px"] = decay ** (1 / size**0.3)
    scores["fss_1mm_16px"], scores["fss_10mm_16px"] = np.exp(-level * lead), np.exp(-3 * lead)
    for threshold in THRESHOLDS:
        rarity = 0.3 / (1 + float(threshold))
        scores[f"csi_pmm_{threshold}mm"] = np.exp(-3 * level * lead * (1 + float(threshold) / 5))
        scores[f"brier_{threshold}mm"] = level * rarity * (0.2 + lead)
        chance = np.linspace(0, 1, bins)
        slope = (0.6 + 0.05 * index) * chance + 0.1 * rarity
        scores[f"observed_frequency_{threshold}mm"] = slope + 0 * lead[:, None]
        counts = 1e6 * rarity * np.exp(-6 * chance) * (1 + lead[:, None])
        scores[f"num_forecasts_{threshold}mm"] = np.round(counts)
    scores["rmse"] = 2 * level * lead**0.4
    scores["spread"] = 1.6 * level * lead**0.5 if num_members > 1 else np.full(len(LEADS), np.nan)
    observed = 10 + 25 * np.log10(np.array(WAVELENGTHS) / 2) + 0 * lead[:, None]
    blur = 0 if num_members > 1 else 6
    scores["observed_power_spectrum_db"] = observed
    scores["power_spectrum_db"] = observed - 1 - index / 2 - blur * lead[:, None]
    return {key: plain(values) for key, values in scores.items()}


def make_interior(scores: dict[str, Any]) -> dict[str, Any]:
    """Slightly better than whole crops, and unknown after an hour and a half."""
    lead = np.array(LEADS)
    return {
        name: {
            key: plain(np.where(lead[:, None] <= 90, 0.9 * as_array(entry), np.nan))
            if as_array(entry).ndim == 2
            else plain(np.where(lead <= 90, 0.9 * as_array(entry), np.nan))
            for key, entry in entries.items()
        }
        for name, entries in scores.items()
    }


def around(scores: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {
            key: {"low": plain(0.85 * as_array(entry)), "high": plain(1.2 * as_array(entry))}
            for key, entry in entries.items()
            if as_array(entry).ndim == 1
        }
        for name, entries in scores.items()
    }


def make_skill(index: int) -> dict[str, Any]:
    pooled = 0.1 + 0.1 * index - 0.05 * np.array(LEADS) / 100
    return {
        f"fair_crps_{size}px": {
            "pooled": plain(pooled),
            "low": plain(pooled - 0.15),
            "high": plain(pooled + 0.1),
            "median": plain(pooled - 0.1),
            "num_cases": [20] * len(LEADS),
        }
        for size in SIZES
    }


def as_array(entry: Any) -> np.ndarray:
    return np.array(entry, dtype=float)


def plain(values: np.ndarray) -> Any:
    """Nested lists with None for NaN, as JSON has it."""
    return np.where(np.isnan(values), None, values).tolist()


def make_case(
    forecasters: dict[str, int], height: int = 24, width: int = 24, leads: tuple = SHOWN_LEADS
) -> ShownCase:
    """forecasters: number of members of each. A quarter of the maps has no data."""
    rng = np.random.default_rng(0)

    def rain(*shape: int) -> np.ndarray:
        values = rng.gamma(0.2, 10.0, (*shape, height, width)).astype(np.float32)
        values[..., : height // 4, :] = np.nan
        return values

    forecasts = {name: rain(members, len(leads)) for name, members in forecasters.items()}
    title = "wettest: mch_20160711, 2016-07-11 22:00 UTC"
    return ShownCase(title, leads, rain(len(leads)), forecasts)


def nothing_known(entry: Any) -> Any:
    """The same tables and lists with None in place of every number."""
    if isinstance(entry, dict):
        return {key: nothing_known(value) for key, value in entry.items()}
    return [nothing_known(value) for value in entry] if isinstance(entry, list) else None
