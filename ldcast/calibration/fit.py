"""How a calibration is fitted: what is counted on forecasts and radar images, and the maps from it.

All counts add up over cases, so any number of them takes the same memory, and leaving out an event
is leaving out its counts.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ldcast.calibration.maps import Calibration, match_rain
from ldcast.products.ensemble import THRESHOLDS
from ldcast.rain import WET_THRESHOLD, is_wet

# Classes of rain rate, 2.3 % wide, from 0.1 to 250 mm/h: finer than most radar products'.
EDGES = (WET_THRESHOLD * 10 ** np.linspace(0, 3.4, 341)).astype(np.float32)
NUM_QUANTILES = 64  # nodes of a map of rain rates
MIN_PIXELS = 500  # of the radar, that the rarest quantile needs: it comes from a few showers
POOLED_FRAMES = 2  # neighbouring lead times, on either side, that a fit takes in
PRIOR_PIXELS = 100  # weight of the uncorrected probability against what was counted


class ScoredCase(NamedTuple):
    """event: the file it is from, so that all spans of one file are one event.
    members: (E, T, H, W) mm/h; observation: (T, H, W) mm/h, by the radar; NaN in both where one of
        them has no data. Or of T windows, mm.
    """

    event: str
    members: np.ndarray
    observation: np.ndarray


# Goes through all cases, one in memory at a time; the text is what the progress bar says.
CaseReader = Callable[[str], Iterator[ScoredCase]]


def count_rain(rain_rate: np.ndarray) -> np.ndarray:
    """How many values are dry and how many in each class of `EDGES`, (1 + classes,); NaN is none.

    The last class is open.
    """
    dry_edges = np.concatenate([[-np.inf], EDGES[:-1]]).astype(np.float32)
    values = rain_rate[~np.isnan(rain_rate)]
    classes = np.searchsorted(dry_edges, values, side="right") - 1
    return np.bincount(classes, minlength=len(EDGES))


def count_case(case: ScoredCase) -> np.ndarray:
    """`count_rain` of the members and of the radar image at each lead time, (2, T, 1 + classes)."""
    frames = zip(case.members.swapaxes(0, 1), case.observation, strict=True)
    return np.array([[count_rain(rain) for rain in pair] for pair in frames]).swapaxes(0, 1)


def pool_leads(counts: np.ndarray) -> np.ndarray:
    """Sums over neighbouring lead times, (..., T, n) -> (..., T, n).

    As many on either side, up to `POOLED_FRAMES`, so fewer near the first and the last: the first
    ones are the surest, and their neighbours on one side only would make them look less so.
    """
    frame = np.arange(counts.shape[-2])
    reach = np.minimum(np.minimum(frame, frame[::-1]), POOLED_FRAMES)
    is_near = np.abs(frame[:, None] - frame) <= reach[:, None]  # (T, T)
    return is_near.astype(float) @ counts


def fit_rain_maps(
    member_counts: np.ndarray, radar_counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`forecast_rain` and `radar_rain` of a Calibration, (T, N) each.

    member_counts, radar_counts: (T, 1 + classes), as `count_rain` gives them.
    """
    pairs = zip(pool_leads(member_counts), pool_leads(radar_counts), strict=True)
    maps = np.array([_equal_quantiles(*pair) for pair in pairs])  # (T, 2, N)
    return maps[:, 0], maps[:, 1]


def _equal_quantiles(member_counts: np.ndarray, radar_counts: np.ndarray) -> np.ndarray:
    """(2, N) mm/h: the rates that members, and that the radar, reach on the same share of pixels.

    The shares go from that of the wet pixels, of members or radar, whichever are drier, down to
    that of `MIN_PIXELS`. Where there is less rain than that, rain is not changed.
    """
    member_shares, radar_shares = _share_reaching(member_counts), _share_reaching(radar_counts)
    often = min(member_shares[0], radar_shares[0])
    seldom = MIN_PIXELS / max(radar_counts.sum(), 1)
    if often <= seldom:
        return np.tile(_rounded(np.geomspace(EDGES[0], EDGES[-1], NUM_QUANTILES)), (2, 1))
    shares = np.geomspace(often, seldom, NUM_QUANTILES)
    return np.array([_rate_reached(shares, of) for of in (member_shares, radar_shares)])


def _share_reaching(counts: np.ndarray) -> np.ndarray:
    """The share of values that reach each of `EDGES`."""
    return np.append(counts[:0:-1].cumsum()[::-1], 0) / max(counts.sum(), 1)


def _rate_reached(shares: np.ndarray, share_reaching: np.ndarray) -> np.ndarray:
    """The rates, mm/h, that the given shares of values reach; the highest where there are many."""
    num_reached = np.count_nonzero(share_reaching) + 1  # edges, and the first that none reaches
    known, edge = np.unique(share_reaching[:num_reached][::-1], return_index=True)
    log_rate = np.log(EDGES[:num_reached].astype(float))[::-1][edge]
    return _rounded(np.exp(np.interp(shares, known, log_rate)))


def _rounded(values: np.ndarray) -> np.ndarray:
    """To four digits, for a readable file."""
    return np.vectorize(lambda value: float(f"{value:.4g}"))(values)


def count_exceedances(
    matched: np.ndarray, observation: np.ndarray, thresholds: Sequence[float] = THRESHOLDS
) -> np.ndarray:
    """On how many pixels 0, 1, ..., E members reach each threshold, and the radar then does, too.

    matched: (E, T, H, W), observation: (T, H, W) mm/h, NaN where not scored.
    Returns (2, K, T, E + 1): all pixels, and those on which the radar reaches it.
    """
    num_members, num_leads = matched.shape[:2]
    counts = np.empty((2, len(thresholds), num_leads, num_members + 1))
    for frame in range(num_leads):
        is_scored = ~np.isnan(observation[frame])
        members, radar = matched[:, frame, is_scored], observation[frame, is_scored]
        for index, threshold in enumerate(thresholds):
            count = is_wet(members, threshold).sum(axis=0)
            reached = count[is_wet(radar, threshold)]
            counts[0, index, frame] = np.bincount(count, minlength=num_members + 1)
            counts[1, index, frame] = np.bincount(reached, minlength=num_members + 1)
    return counts


def fit_probability(num_forecasts: np.ndarray, num_reached: np.ndarray) -> np.ndarray:
    """`probability` of a Calibration, from counts (..., E + 1) that are pooled already.

    As if `PRIOR_PIXELS` more pixels had each number of members, on which the share of members were
    right: neither 0 nor 1 is claimed because of a handful, and no number is without a pixel.
    """
    share = np.linspace(0, 1, num_forecasts.shape[-1])
    weight = num_forecasts + PRIOR_PIXELS
    frequency = (num_reached + PRIOR_PIXELS * share) / weight
    fitted = np.empty_like(frequency)
    for index in np.ndindex(frequency.shape[:-1]):
        fitted[index] = isotonic(frequency[index], weight[index])
    return _rounded(fitted)


def isotonic(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The non-decreasing sequence with the least weighted squared distance from `values`, (n,).

    Neighbours in the wrong order are replaced by their mean until none are left ("pool adjacent
    violators"): Ayer et al. 1955 (Annals of Mathematical Statistics 26).
    """
    blocks: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(values, weights, strict=True):
        length = 1
        while blocks and blocks[-1][0] >= value:
            left, left_weight, left_length = blocks.pop()
            value = (left * left_weight + value * weight) / (left_weight + weight)
            weight += left_weight
            length += left_length
        blocks.append((value, weight, length))
    means, _, lengths = zip(*blocks, strict=True)
    return np.repeat(means, lengths)


def fit(
    read_cases: CaseReader,
    events: list[str],
    num_members: int,
    lead_minutes: tuple[int, ...],
    about: dict[str, Any],
    thresholds: tuple[float, ...] = THRESHOLDS,
) -> dict[str | None, Calibration]:
    """The calibration on all events, under None, and, where there are several, without each one.

    events: all that the cases are from. lead_minutes: of the forecasts.
    about: `fitted_on`, `model`, `sampler` and `num_sampling_steps` of `Calibration`, and `minutes`
        of one of sums. thresholds: mm/h, or mm.
    """
    left_out = [None, *events] if len(events) > 1 else [None]
    counts = {event: np.zeros((2, len(lead_minutes), len(EDGES))) for event in events}
    for case in read_cases("forecasts"):
        counts[case.event] += count_case(case)
    maps = {out: fit_rain_maps(*_sum_without(counts, out)) for out in left_out}

    shape = (2, len(thresholds), len(lead_minutes), num_members + 1)
    reached = {out: np.zeros(shape) for out in left_out}
    for case in read_cases("fit"):
        for out in left_out:
            if out != case.event:
                matched = match_rain(case.members, *maps[out])
                reached[out] += count_exceedances(matched, case.observation, thresholds)

    calibrations = {}
    for out in left_out:
        num_forecasts, num_reached = pool_leads(reached[out])
        calibrations[out] = Calibration(
            lead_minutes=lead_minutes,
            forecast_rain=maps[out][0],
            radar_rain=maps[out][1],
            thresholds=thresholds,
            probability=fit_probability(num_forecasts, num_reached),
            num_forecasts=num_forecasts,
            **about,
        )
    return calibrations


def _sum_without(counts: dict[str, np.ndarray], left_out: str | None) -> np.ndarray:
    return sum(of_event for event, of_event in counts.items() if event != left_out)
