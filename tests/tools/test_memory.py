"""The measure of a forecast's memory, on domains as small as they can be."""

import pytest

from ldcast.errors import run_script
from ldcast.tools import memory


def test_sizes_are_measured_and_larger_ones_reckoned(monkeypatch, capsys) -> None:
    peaks = {"64": 1.0, "128x64": 1.5}
    monkeypatch.setattr(memory, "measure_apart", lambda _argv, size: (peaks[size], 2.0, 3.0))
    arguments = ["--sizes", "64", "128x64", "--fit", "128"]
    assert run_script(lambda: memory.main(arguments)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "| 128x64 | 1.50 | 2.00 | 3.0 |" in lines
    assert "| 128 | 2.50, fitted | | |" in lines


@pytest.mark.parametrize(
    "settings",
    [
        ["--window", "64"],
        pytest.param(["--calls", "1"], marks=pytest.mark.slow),
        pytest.param(["--lead-minutes", "105"], marks=pytest.mark.slow),
    ],
)
def test_a_forecast_is_measured_in_a_process_of_its_own(settings, capsys) -> None:
    arguments = ["--preset", "tiny", "--sizes", "64x80", "--device", "cpu", *settings]
    assert run_script(lambda: memory.main(arguments)) == 0
    row = capsys.readouterr().out.splitlines()[-1]
    peak, call, _rest = map(float, row.strip("| ").split(" | ")[1:])
    assert 0.1 < peak < 4
    assert call > 0


def test_the_call_that_is_timed_is_the_last_one_with_all_its_windows(monkeypatch) -> None:
    ticks = iter(range(1000))
    monkeypatch.setattr(memory.Stopwatch, "_now", lambda self: next(ticks) ** 2)
    arguments = ["--preset", "tiny", "--device", "cpu", "--window", "64", "--calls", "3"]
    _, call, _ = memory.measure(memory.parse_flags(arguments), 64, 600)
    seconds = [(2 * run + 1) ** 2 - (2 * run) ** 2 for run in range(6)]
    assert call == sum(seconds[4:])  # two batches of windows a call


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--sizes", "a"], "got size 'a'"),
        (["--calls", "0"], "got 0 calls"),
        (["--sizes", "64", "--fit", "128"], "got sizes of one number of pixels"),
        (["--sizes", "64x128", "128x64", "--fit", "256"], "got sizes of one number of pixels"),
        (["--preset", "tiny", "--sizes", "64", "--window", "7"], "ended with status 2"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, word, capsys) -> None:
    assert run_script(lambda: memory.main(arguments)) == 2
    assert word in capsys.readouterr().err
