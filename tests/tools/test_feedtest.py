"""The simulated feed: its faults, its verdict, and the service under it."""

from pathlib import Path

import numpy as np
import pytest
from tiny_models import tiny_model

from ldcast.data.readers.specs import read_event
from ldcast.data.synthetic import synthetic_event
from ldcast.errors import run_script
from ldcast.forecasting.feed import forecast_path
from ldcast.products.forecast import Forecast, write_npz
from ldcast.tools import feedtest

EVENT = synthetic_event(0, 8, 32, 32)


def test_forecasts_are_expected_where_four_frames_come_whole() -> None:
    faults = ["", "late", "slow", "repeated", "", "missing", "", "cut short"]
    assert feedtest.expected_times(EVENT, faults, 4) == set(EVENT.time[3:5])


def test_every_fault_happens_and_most_frames_have_none() -> None:
    faults = feedtest.choose_faults(200, seed=0)
    assert set(faults) == {"", *feedtest.FAULTS}
    assert faults.count("") > 120
    assert faults == feedtest.choose_faults(200, seed=0) != feedtest.choose_faults(200, seed=1)


def test_all_but_the_missing_are_delivered_once_the_late_ones_later() -> None:
    faults = ["", "late", "missing", "", "slow"]
    turns = feedtest.deliveries(faults, seed=0)
    turn_of = {frame: turn for turn, frames in turns.items() for frame, _ in frames}
    assert sorted(turn_of) == [0, 1, 3, 4]
    assert turn_of[0] == 0 and turn_of[3] == 3
    assert 1 < turn_of[1] <= 1 + feedtest.MAX_DELAY


@pytest.mark.parametrize("fault", feedtest.FAULTS[:-1])
def test_a_delivered_frame_is_what_its_fault_says(fault: str, tmp_path: Path) -> None:
    feedtest.deliver(tmp_path, EVENT, 2, fault, pause=0)
    names = sorted(path.name for path in tmp_path.iterdir())
    repeated = ["again_0002.npz"] if fault == "repeated" else []
    assert names == [*repeated, "frame_0002.npz"]
    if fault == "cut short":
        with pytest.raises(ValueError):
            read_event(tmp_path / names[0])
    else:
        for name in names:
            event = read_event(tmp_path / name)
            assert event.time.tolist() == [EVENT.time[2]]
            np.testing.assert_array_equal(event.rain_rate[0], EVENT.rain_rate[2])


def test_the_verdict_names_what_is_lost_doubled_or_wrong(tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log.txt"
    out.mkdir()
    good, lost, doubled, other = EVENT.time[3:7]
    for issue_time, content in ((good, good), (doubled, doubled), (other, good)):
        rain = np.zeros((1, 1, 4, 4), np.float32)
        forecast = Forecast(rain, content, np.array([5]), {}, 0, "model", "plms", 1)
        write_npz(forecast, forecast_path(out, issue_time, ".npz"))
    names = [forecast_path(out, time, ".npz").name for time in (good, doubled, doubled, other)]
    log.write_text("\n".join(names))
    (out / "forecast_19990101T0000.npz").touch()
    wrong = feedtest.complaints(out, log, {good, lost, doubled, other})
    assert wrong == [
        "lost: forecast_20000101T0020.npz",
        "not asked for: forecast_19990101T0000.npz",
        "of another time: forecast_20000101T0030.npz",
        "said 0 times: forecast_20000101T0020.npz",
        "said 2 times: forecast_20000101T0025.npz",
    ]


@pytest.mark.slow
def test_the_service_loses_and_doubles_nothing(tmp_path: Path, capsys) -> None:
    tiny_model().save_pretrained(tmp_path)
    arguments = ["--frames", "14", "--pace", "0.1", "--model", str(tmp_path), "--seed", "6"]
    assert run_script(lambda: feedtest.main(arguments)) == 0, capsys.readouterr()
    assert "8 forecasts expected, 8 there" in capsys.readouterr().out
