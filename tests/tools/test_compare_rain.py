"""The tool that sets synthetic rain beside radar."""

import functools

import numpy as np
import pytest

from ldcast.data.synthetic import synthetic_event
from ldcast.errors import InputError
from ldcast.tools import compare_rain


def test_command_prints_real_and_synthetic_rows(tmp_path, monkeypatch, capsys):
    event = synthetic_event(50, 4, 64, 64)
    path = tmp_path / "radar.npz"
    np.savez(path, rain_rate=event.rain_rate, time=event.time, pixel_size_m=1000.0)
    small = functools.partial(synthetic_event, num_frames=4, height=64, width=64)
    monkeypatch.setattr(compare_rain, "synthetic_event", small)
    compare_rain.main([str(path), "--seeds", "3"])
    rows = capsys.readouterr().out.strip().splitlines()
    assert [row.split(" | ")[0].strip("| ") for row in rows[2:]] == [
        "radar", "synthetic:0", "synthetic:1", "synthetic:2", "synthetic, median (range) of 3"
    ]  # fmt: skip
    with pytest.raises(InputError, match="--seeds"):
        compare_rain.main([str(path), "--seeds", "0"])
