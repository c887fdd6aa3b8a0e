"""Calibration of a model's forecasts: rain rates matched to the radar's, probabilities corrected.

    calibration = read_calibration(folder)                # fitted by python -m ldcast.calibrate
    matched = calibration.calibrate_members(rain)         # (E, T, H, W) mm/h
    calibration.exceedance_probability(matched)           # (threshold, T, H, W)

Two steps, each with its own map for every lead time:
1. Probability matching: a member's rain rate becomes the rate that the radar exceeds equally
   often, so that members rain as often and as hard as the radar, all cases together.
   Source: Ebert 2001 (Monthly Weather Review 129, section 3b) matches pooled members to rain
   rates by rank; between one forecast and one observation it is called quantile mapping.
2. Isotonic recalibration: where k of E matched members reach a threshold, the probability is the
   frequency with which the radar reached it in such places, made non-decreasing in k.
   Source: Zadrozny and Elkan 2002 (KDD, section 3); for weather Dimitriadis, Gneiting and Jordan
   2021 (PNAS 118, e2016191118).

It is the file `calibration.json` of a model folder. `LDCast.save_pretrained` does not write it: who
copies a model that way copies the file, too, which is good for the same weights and settings.
"""

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ldcast.errors import InputError
from ldcast.frames import FrameConfig
from ldcast.machine.files import write_text
from ldcast.nowcast.model_folder import BUNDLED, fingerprint, locate, read_description
from ldcast.products.ensemble import THRESHOLDS
from ldcast.rain import WET_THRESHOLD, RainScale, is_wet
from ldcast.settings import to_dict

CALIBRATION_NAME = "calibration.json"
FORMAT_VERSION = 1
MAX_FORECAST_RATE = RainScale().max_rain_rate


@dataclass(frozen=True, eq=False)
class Calibration:
    """Maps that correct a model's forecasts, and what they were fitted on.

    lead_minutes: (T,) minutes after the issue time.
    forecast_rain, radar_rain: (T, N) mm/h, non-decreasing, at least 0.1. Equal quantiles of the
        members and of the radar: one becomes the other, and in between it is linear.
    thresholds: (K,) mm/h, `THRESHOLDS`; of sums any, in mm.
    probability: (K, T, E + 1) in 0..1, non-decreasing in the last axis: the chance of at least a
        threshold where 0, 1, ..., E of E members reach it.
    num_forecasts: (K, T, E + 1), on how many pixels of the fit so many members did.
    fitted_on: events, numbers of cases and members, ...; for people.
    model: `model_fingerprint` at the fit; sampler, num_sampling_steps: likewise.
    minutes: of sums, how long their windows are; `lead_minutes` are then the ends of the windows,
        and all rain is in mm. 0: of rain rates.
    sums: calibrations of sums, which those of rates say nothing about: how rain lasts is another
        question. Of windows of different lengths.
    judged: how it does on events that it was not fitted on, as `judge.record` says it; empty where
        there was but one event.

    Raises InputError where the arrays are not as described.
    """

    lead_minutes: tuple[int, ...]
    forecast_rain: np.ndarray
    radar_rain: np.ndarray
    thresholds: tuple[float, ...]
    probability: np.ndarray
    num_forecasts: np.ndarray
    fitted_on: dict[str, Any]
    model: str
    sampler: str
    num_sampling_steps: int
    judged: dict[str, Any] = field(default_factory=dict)
    minutes: int = 0
    sums: tuple["Calibration", ...] = ()

    def __post_init__(self) -> None:
        num_leads, num_thresholds = len(self.lead_minutes), len(self.thresholds)
        if not self.minutes and self.thresholds != THRESHOLDS:
            raise InputError(f"got thresholds {self.thresholds}, expected {THRESHOLDS} mm/h")
        if self.minutes and self.sums:
            raise InputError("got sums of sums, expected them of rain rates")
        for rain_rate in (self.forecast_rain, self.radar_rain):
            _check_map("rain rates", rain_rate, (num_leads,), WET_THRESHOLD, math.inf)
        _check_map("probabilities", self.probability, (num_thresholds, num_leads), 0, 1)
        if self.forecast_rain.shape != self.radar_rain.shape:
            raise InputError("expected as many rain rates of the radar as of the forecast")
        if (
            self.num_forecasts.shape != self.probability.shape
            or not (np.isfinite(self.num_forecasts) & (self.num_forecasts >= 0)).all()
        ):
            raise InputError("expected a count of forecasts, 0 or more, for each probability")
        if not isinstance(self.judged, dict):
            raise InputError(f"got judged {self.judged!r}, expected a table")

    @property
    def warning(self) -> str:
        """A line on the judgement, where the calibration made an event worse; else empty."""
        return str(self.judged.get("summary", "")) if self.judged.get("is_harmful") else ""

    def until(self, lead_minutes: int) -> "Calibration":
        """The part for a shorter forecast.

        Raises InputError for a longer one: of frames that rest on forecast frames nothing was
        fitted.
        """
        if lead_minutes > self.lead_minutes[-1]:
            raise InputError(
                f"got {lead_minutes} minutes of lead time, but the calibration ends at "
                f"{self.lead_minutes[-1]}: leave out --calibrated or forecast no longer"
            )
        num = self.lead_minutes.index(lead_minutes) + 1
        return replace(
            self,
            lead_minutes=self.lead_minutes[:num],
            forecast_rain=self.forecast_rain[:num],
            radar_rain=self.radar_rain[:num],
            probability=self.probability[:, :num],
            num_forecasts=self.num_forecasts[:, :num],
            sums=tuple(
                of.until(lead_minutes) for of in self.sums if of.lead_minutes[0] <= lead_minutes
            ),
        )

    def of_sums(self, minutes: int) -> "Calibration":
        """That of sums over windows of so many minutes; raises InputError where there is none."""
        for of in self.sums:
            if of.minutes == minutes:
                return of
        fitted = " ".join(str(of.minutes) for of in self.sums) or "none"
        raise InputError(
            f"got --accumulate {minutes} with --calibrated, but the calibration has sums over "
            f"{fitted} minutes: leave out one of both, or fit it again with "
            f"python -m ldcast.calibrate --accumulate {minutes} ..."
        )

    def check_sampling(self, sampler: str, num_sampling_steps: int) -> None:
        """Raises InputError unless sampler and steps are those of the fit."""
        if (sampler, num_sampling_steps) != (self.sampler, self.num_sampling_steps):
            raise InputError(
                f"the calibration is for {self.num_sampling_steps} steps of {self.sampler}, got "
                f"{num_sampling_steps} of {sampler}: forecast with those, or fit it again with "
                "python -m ldcast.calibrate --steps ..."
            )

    def calibrate_members(self, rain: np.ndarray) -> np.ndarray:
        """The members, but with the radar's distribution of rain rates.

        rain: (E, T, H, W) mm/h, NaN = no forecast.
        Returns the same shape, float32. NaN stays NaN and 0 stays 0, larger stays larger or equal.
        Where the model rains too often its weakest rain becomes 0; where it rains too seldom dry
        places stay dry, since they are all alike. Rain beyond the last quantile is multiplied
        by that one's factor, but not lifted above 118.428 mm/h, where forecasts end.
        """
        return match_rain(rain, self.forecast_rain, self.radar_rain)

    def exceedance_probability(self, matched: np.ndarray) -> np.ndarray:
        """The chance of at least each threshold, from members that `calibrate_members` returned.

        matched: (E, T, H, W) mm/h; E may differ from that of the fit.
        Returns (K, T, H, W) float32, NaN where a member is. Each threshold was fitted by itself, so
        a higher one's chance is cut to that of the lower ones where it would exceed them.
        """
        table = self._probability_of_count(len(matched))
        result = np.empty((len(self.thresholds), *matched.shape[1:]), np.float32)
        for frame in range(len(self.lead_minutes)):
            members = matched[:, frame]
            for index, threshold in enumerate(self.thresholds):
                count = is_wet(members, threshold).sum(axis=0)
                result[index, frame] = table[index, frame][count]
            result[:, frame, np.isnan(members).any(axis=0)] = np.nan
            np.minimum.accumulate(result[:, frame], axis=0, out=result[:, frame])
        return result

    def _probability_of_count(self, num_members: int) -> np.ndarray:
        """`probability` for another number of members, (K, T, num_members + 1).

        For more members than at the fit, linear between the shares of members. For fewer, they
        stand for a draw of those of the fit, which says less the fewer they are: where j of them
        reach the threshold, the mean over all k that the draw may have come from.
        """
        num_fitted = self.probability.shape[-1] - 1
        if num_members > num_fitted:
            shares = np.linspace(0, 1, num_members + 1)
            fitted_shares = np.linspace(0, 1, num_fitted + 1)
            return np.apply_along_axis(
                lambda nodes: np.interp(shares, fitted_shares, nodes), -1, self.probability
            )
        chance = draw_chance(num_fitted, num_members)
        weight = self.num_forecasts + 1.0  # with one more of each, no j is without any k
        return (weight * self.probability) @ chance / (weight @ chance)


def match_rain(rain: np.ndarray, forecast_rain: np.ndarray, radar_rain: np.ndarray) -> np.ndarray:
    """`Calibration.calibrate_members` for the given maps, each (T, N) mm/h."""
    matched = np.zeros(rain.shape, np.float32)
    for frame, nodes in enumerate(zip(forecast_rain, radar_rain, strict=True)):
        before, after = rain[:, frame], matched[:, frame]  # one by one: a fraction of the memory
        after[np.isnan(before)] = np.nan
        is_kept = is_wet(before, nodes[0][0])
        after[is_kept] = _match_wet(before[is_kept], *nodes)
    return matched


def _match_wet(rain: np.ndarray, forecast_rain: np.ndarray, radar_rain: np.ndarray) -> np.ndarray:
    """(n,) mm/h that the map (N,) keeps wet -> (n,) mm/h."""
    inside = np.interp(rain, forecast_rain, radar_rain)
    beyond = rain * (radar_rain[-1] / forecast_rain[-1])
    matched = np.where(rain > forecast_rain[-1], beyond, inside)
    return np.minimum(matched, np.maximum(rain, MAX_FORECAST_RATE))


def draw_chance(num_all: int, num_drawn: int) -> np.ndarray:
    """(num_all + 1, num_drawn + 1): the chance that of `num_drawn` members, drawn from `num_all`
    of which k reach a threshold, j do (hypergeometric distribution).
    """
    num_draws = math.comb(num_all, num_drawn)
    return np.array(
        [
            # Whole numbers until they are divided: from 68 members on they fit in no int64.
            [
                math.comb(k, j) * math.comb(num_all - k, num_drawn - j) / num_draws
                for j in range(num_drawn + 1)
            ]
            for k in range(num_all + 1)
        ]
    )


# Settings that came after calibrations had been fitted, newest first, and what they were before.
_LATER_SETTINGS = (
    {"rain.exponent": 0.4},
    {"diffusion.member_noise": "white", "autoencoder.lapped": False},
    {"autoencoder.decoder": "residual"},
    {"rain.transform": "log", "diffusion.around_linear_forecast": False},
    {
        "denoiser.linear_path_scales": (),
        "diffusion.sampler_settings.eta": 0.0,
        "diffusion.sampler_settings.fresh_noise_scale": 1.0,
    },
    {"denoiser.use_linear_path": False, "diffusion.channel_sizes": "unit"},
    {
        "frames": to_dict(FrameConfig()),
        "inputs": (),
        "autoencoder.rain_weight": 0.0,
    },
    {"autoencoder.kind": "kl"},
    {"diffusion.sampler_settings": {"spacing": "published"}},
)


def model_fingerprint(folder: str | Path) -> str:
    """SHA-256 of what a model's forecasts depend on, its weights and its settings."""
    return model_fingerprints(folder)[0]


def model_fingerprints(folder: str | Path) -> list[str]:
    """The present fingerprint, and those of earlier versions for the same model, newest first."""
    settings = to_dict(read_description(folder).model)
    weights = fingerprint(folder)
    found = [_digest(weights, settings)]
    for later in _LATER_SETTINGS:
        for name, before in later.items():
            *parents, leaf = name.split(".")
            table = settings
            for parent in parents:
                table = table[parent]
            if leaf not in table:  # of another sampler
                continue
            if table[leaf] != before:
                return found
            del table[leaf]
        digest = _digest(weights, settings)
        if digest != found[-1]:  # settings that only another autoencoder or sampler has
            found.append(digest)
    return found


def _digest(weights: str, settings: dict[str, Any]) -> str:
    text = f"{weights} {json.dumps(settings, sort_keys=True)}"
    return hashlib.sha256(text.encode()).hexdigest()


def check_not_bundled(folder: str | Path) -> None:
    """Raises InputError for the model that ships with the package, which has no calibration."""
    if locate(folder).resolve() == BUNDLED.resolve():
        raise InputError(
            f"the bundled model has no calibration: copy its folder (cp -r {BUNDLED} DIR) and fit "
            "one with radar data of your own (python -m ldcast.calibrate --model DIR --data ...)"
        )


def read_calibration(folder: str | Path) -> Calibration:
    """The calibration in a model folder, or in that of "bundled".

    Raises InputError where there is none, where it is broken, of a newer format, for other lead
    times, or was fitted before the model's weights or settings changed.
    """
    path = locate(folder) / CALIBRATION_NAME
    refit = f"python -m ldcast.calibrate --model {folder} --data ..."
    if not path.is_file():
        check_not_bundled(folder)
        raise InputError(f"{path} does not exist: fit it with {refit}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.pop("format_version")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{path} is broken, expected JSON with format_version: {refit}") from None
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path} has format {version}, this code reads {FORMAT_VERSION}: update ldcast to read "
            f"a newer one, or {refit}"
        )
    try:
        calibration = _from_plain(content)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise InputError(f"{path} is broken ({error}): fit it again with {refit}") from None
    lead_minutes = read_description(folder).model.frames.lead_minutes
    if calibration.lead_minutes != lead_minutes:
        raise InputError(
            f"{path} is for lead times of {calibration.lead_minutes} minutes, expected "
            f"{lead_minutes}: fit it again with {refit}"
        )
    if calibration.model not in model_fingerprints(folder):
        raise InputError(
            f"{path} was fitted to other weights or settings than {folder} has now: the model was "
            f"trained or changed since; fit it again with {refit}"
        )
    return calibration


def write_calibration(folder: str | Path, calibration: Calibration) -> None:
    """Writes `calibration.json` into a model folder; a row of numbers is one line."""
    content = {"format_version": FORMAT_VERSION} | _to_plain(asdict(calibration))
    text = json.dumps(content, indent=2, allow_nan=False)
    one_line = re.sub(r"\[[^][{}\"]*\]", lambda row: " ".join(row[0].split()), text)
    write_text(locate(folder) / CALIBRATION_NAME, one_line + "\n")


def _to_plain(content: dict[str, Any]) -> dict[str, Any]:
    """Arrays as lists, also those of sums."""
    plain = {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in content.items()
    }
    return plain | {"sums": [_to_plain(of) for of in content["sums"]]}


def _from_plain(content: dict[str, Any]) -> Calibration:
    """What `write_calibration` wrote.

    Raises ValueError, TypeError, KeyError or OverflowError for other things.
    """
    arrays = ("forecast_rain", "radar_rain", "probability", "num_forecasts")
    content = content | {name: np.array(content[name], dtype=float) for name in arrays}
    content["lead_minutes"] = tuple(content["lead_minutes"])
    content["thresholds"] = tuple(content["thresholds"])
    content["sums"] = tuple(_from_plain(of) for of in content.get("sums", ()))
    return Calibration(**content)


def _check_map(
    what: str, nodes: np.ndarray, leading: tuple[int, ...], low: float, high: float
) -> None:
    """Raises InputError unless nodes (*leading, n >= 2) are finite, in low..high, in order."""
    if nodes.ndim != len(leading) + 1 or nodes.shape[:-1] != leading or nodes.shape[-1] < 2:
        raise InputError(f"got {what} of shape {nodes.shape}, expected {leading} and some more")
    is_good = np.isfinite(nodes) & (nodes >= low) & (nodes <= high)
    if not is_good.all() or (np.diff(nodes) < 0).any():
        raise InputError(f"expected {what} from {low} to {high} that never decrease")
