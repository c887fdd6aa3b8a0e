"""Scoring: one mask for every forecaster, pooled scores, and what came from outside the crop."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ldcast.data.event import RainEvent
from ldcast.data.pickers import Window
from ldcast.errors import InputError
from ldcast.verification.baselines import persistence
from ldcast.verification.cases import Case
from ldcast.verification.derived import Derived
from ldcast.verification.forecasters import ForecastCache, Forecaster, simple_baselines
from ldcast.verification.scoring import Record, read_case, score_cases

FIVE_MINUTES = np.timedelta64(300, "s")
CROP = 32  # pixels
CPU = torch.device("cpu")


def make_event(rain_rate: np.ndarray) -> RainEvent:
    time = np.datetime64("2020-06-01", "s") + np.arange(len(rain_rate)) * FIVE_MINUTES
    return RainEvent(rain_rate.astype(np.float32), time, name="storm")


def make_cases(event: RainEvent, num_cases: int) -> list[Case]:
    """Windows that start at frames 0, 1, ..."""
    return [
        Case(Window(0, frame, 0, 0), event.name, event.time[frame + 3], 1.0, seed=frame, source="s")
        for frame in range(num_cases)
    ]


def score(forecasters: list[Forecaster], event: RainEvent, cases, folder) -> dict[str, Record]:
    return score_cases(forecasters, [event], cases, CROP, CPU, ForecastCache(folder))[0]


def test_every_forecaster_gets_the_past_with_its_gaps_filled():
    rain_rate = np.full((25, CROP, CROP), 2.0)
    rain_rate[1, :, :20] = np.nan  # an earlier image
    rain_rate[3, :4] = np.nan  # the newest: no gap, and not scored
    event = make_event(rain_rate)
    past, observation, _ = read_case([event], make_cases(event, 1)[0], CROP, CPU)
    torch.testing.assert_close(past[1, 4:], torch.full((CROP - 4, CROP), 2.0))
    assert past[3, :4].isnan().all() and observation[:, :4].isnan().all()


def test_scores_are_pooled_over_the_valid_pixels_of_all_cases(tmp_path):
    rain_rate = np.ones((25, CROP, CROP))
    rain_rate[4] = 3  # the first case's lead of 5 minutes, three quarters of it without data
    rain_rate[4, :24] = np.nan
    rain_rate[24] = np.nan  # the second case's last lead
    event = make_event(rain_rate)
    record = score(simple_baselines(), event, make_cases(event, 2), tmp_path)["dry"]
    scores = record.whole.values()
    # 5 minutes: 256 pixels off by 3; in the second case, whose newest past frame is the same
    # frame, the same quarter of the domain off by 1. 10 minutes: 1024 and 256 pixels off by 1.
    assert scores["crps_1px"][0] == (3 * 256 + 1 * 256) / 512
    assert scores["crps_8px"][0] == (3 * 4 + 1 * 4) / 8
    assert (scores["crps_1px"][1:] == 1).all() and (scores["fair_crps_1px"][1:] == 1).all()
    assert np.isnan(scores["crps_64px"]).all()  # the crop is a quarter of such a block
    assert [case["fair_crps_1px"][0] for case in record.whole.cases] == [3, 1]
    assert set(record.whole.cases[0]) == {"fair_crps_1px", "fair_crps_8px", "fair_crps_64px"}
    assert len(record.seconds) == 2


def test_every_forecaster_is_scored_on_the_same_pixels(tmp_path):
    rain_rate = np.ones((24, CROP, CROP))
    rain_rate[3, :, :4] = np.nan  # the newest past frame: half of a block of 8 pixels
    rain_rate[4:, :, :4] = 100
    rain_rate[4:, :, 8:12] = np.nan  # the radar image of the future: half of another one

    def five_where_scored(past: Tensor, case: Case) -> Tensor:
        forecast = torch.full((2, 20, CROP, CROP), 5.0)
        forecast[..., :4] = torch.nan
        forecast[..., 8:12] = 1000
        return forecast

    event = make_event(rain_rate)
    forecasters = [*simple_baselines(), Forecaster("five", five_where_scored)]
    records = score(forecasters, event, make_cases(event, 1), tmp_path)
    for name, error in (("dry", 1), ("five", 4)):
        values = records[name].whole.values()
        assert (values["crps_1px"] == error).all() and (values["crps_8px"] == error).all()


@pytest.mark.filterwarnings("error")
def test_interior_leaves_out_what_came_in(tmp_path):
    generator = np.random.default_rng(0)
    field = 10 ** generator.normal(size=(CROP, CROP + 23))
    frames = [field[:, 23 - frame : 23 - frame + CROP] for frame in range(24)]  # a pixel rightwards
    event = make_event(np.stack(frames))
    cases = make_cases(event, 1)
    carried = Forecaster("carried", lambda past, case: carry(past[-1]))
    records, motions = score_cases([carried], [event], cases, CROP, CPU, ForecastCache(tmp_path))
    assert motions == [pytest.approx((0, 1), abs=0.05)]
    whole, interior = records["carried"].whole.values(), records["carried"].interior.values()
    assert (whole["crps_1px"] > 0).all()
    assert (interior["crps_1px"] == 0).all()  # all that could be known is known
    assert "power_spectrum_db" in whole and "power_spectrum_db" not in interior
    assert set(interior) < set(whole)


def carry(frame: Tensor) -> Tensor:
    """The frame a column further right in every future frame, dry air behind it."""
    members = torch.zeros(1, 20, *frame.shape)
    for lead in range(1, 21):
        members[0, lead - 1, :, lead:] = frame[:, :-lead]
    return members


def test_a_forecast_with_holes_is_refused(tmp_path):
    def with_a_hole(past: Tensor, case: Case) -> Tensor:
        forecast = persistence(past, 20)
        forecast[0, 7, 3, 3] = torch.nan
        return forecast

    event = make_event(np.ones((24, CROP, CROP)))
    with pytest.raises(InputError, match=r"model forecasts values that are not finite for storm"):
        score([Forecaster("model", with_a_hole)], event, make_cases(event, 1), tmp_path)


def test_what_is_not_scored():
    rain_rate = np.ones((24, CROP, CROP))
    rain_rate[3, 0, 0] = rain_rate[10, 1, 1] = np.nan
    event = make_event(rain_rate)
    past, observation, _ = read_case([event], make_cases(event, 1)[0], CROP, CPU)
    assert past.shape == (4, CROP, CROP) and observation.shape == (20, CROP, CROP)
    assert observation.isnan().sum() == 20 + 1  # the newest past frame's, and the future's own


def test_motion_is_that_of_the_surroundings_too(tmp_path):
    rng = np.random.default_rng(0)
    field = 10 ** rng.normal(size=(CROP, 4 * CROP))
    field[:, : 2 * CROP] = 0  # what moves across the crop's place is dry all the time
    frames = np.stack([np.roll(field, frame, axis=1) for frame in range(24)])
    frames[:, :, :CROP] = 0
    event = make_event(frames)
    (motion,) = score_cases(
        simple_baselines(), [event], make_cases(event, 1), CROP, CPU, ForecastCache(tmp_path)
    )[1]
    assert motion == pytest.approx((0, 1), abs=0.1)


def test_what_a_forecast_says_beside_scored_pixels_does_not_come_into_sums(tmp_path):
    """Sums follow the rain, so air of pixels that nobody can judge would be carried into others."""
    rain_rate = np.random.default_rng(0).gamma(0.5, 2.0, (24, CROP, CROP))
    rain_rate = np.stack([np.roll(rain_rate[0], 2 * frame, axis=1) for frame in range(24)])
    rain_rate[4:, :, 12:16] = np.nan
    event = make_event(rain_rate)
    is_scored = torch.from_numpy(np.isfinite(event.rain_rate[4:]))
    ones = torch.ones(1, 20, CROP, CROP)
    forecasters = [
        Forecaster("one", lambda past, case: ones),
        Forecaster("wild", lambda past, case: ones.where(is_scored, torch.tensor(400.0))),
    ]
    cases, derived = make_cases(event, 1), Derived(accumulate=(30,), thresholds=(1.0,))
    cache = ForecastCache(tmp_path)
    records, _ = score_cases(forecasters, [event], cases, CROP, CPU, cache, derived)
    one, wild = (records[name].derived["sum_30min"].values() for name in ("one", "wild"))
    assert np.isfinite(one["fair_crps_1px"]).all()
    np.testing.assert_array_equal(one["fair_crps_1px"], wild["fair_crps_1px"])
