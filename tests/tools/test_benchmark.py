"""The benchmark of a forecast's parts: what it counts is what is known to be done."""

import pytest
import torch

from ldcast.errors import run_script
from ldcast.machine.device import choose_device
from ldcast.models.blocks import Conv3d
from ldcast.tools import benchmark

CPU = choose_device("cpu")


def test_operations_are_counted_also_where_convolutions_go_to_a_library_by_hand() -> None:
    x = torch.randn(1, 8, 2, 16, 16)
    layer = Conv3d(8, 4, 3, padding=1)
    expected = 2 * 27 * 8 * 4 * 2 * 16 * 16
    with torch.no_grad():
        assert benchmark.operations_of(lambda: layer(x)) == expected
        assert benchmark.operations_of(lambda: torch.mm(x[0, 0, 0], x[0, 0, 0])) == 2 * 16**3
        num = 8 * 2 * 16 * 16
        modes = x.cfloat()
        transform = benchmark.operations_of(lambda: torch.fft.fftn(modes, dim=(3, 4)))
        real = benchmark.operations_of(lambda: torch.fft.rfftn(x, dim=(3, 4)))
    assert transform == 5 * num * 8  # log2 of 16 x 16
    assert 0.5 * transform <= real <= 0.7 * transform  # one axis real, the other of half the length


def test_a_forecast_is_taken_apart(capsys) -> None:
    arguments = ["--preset", "tiny", "--size", "40", "--members", "2", "--repeats", "1"]
    assert run_script(lambda: benchmark.main([*arguments, "--device", "cpu"])) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split(" | ")[0].strip("| "): line for line in lines if line.startswith("| ")}
    for part in ("past and inputs, encoded", "conditioner", "denoiser, 2 members"):
        _, times, seconds, operations, _, _ = rows[part].strip("| ").split(" | ")
        assert float(seconds) >= 0 and float(operations) > 0
        assert times == ("5" if part.startswith("denoiser") else "1")
    shares = [line.split(" | ")[1].strip(" |%") for line in lines[lines.index("|---|---:|") + 1 :]]
    assert sum(map(int, shares)) == pytest.approx(100, abs=3)
    assert "convolutions" in lines[-4] + lines[-3] + lines[-2] + lines[-1] + rows["convolutions"]


def test_the_shortest_time_counts_and_the_first_does_not(monkeypatch) -> None:
    ticks = iter([0.0, 0.1, 1.0, 1.7, 2.0, 2.5])
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: next(ticks))
    assert benchmark.seconds_of(lambda: None, CPU, 2) == pytest.approx(0.5)


@pytest.mark.parametrize("flag", ["--members", "--repeats", "--size"])
def test_impossible_numbers_are_refused(flag: str, capsys) -> None:
    assert run_script(lambda: benchmark.main([flag, "0"])) == 2
    assert "got 0" in capsys.readouterr().err
