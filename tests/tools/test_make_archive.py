"""An archive of synthetic rain that repeats some hours."""

import numpy as np
import pytest

from ldcast.data.readers.specs import read_event
from ldcast.data.synthetic import synthetic_event
from ldcast.errors import run_script
from ldcast.tools import make_archive

pytest.importorskip("xarray", reason="reads archives")
pytest.importorskip("zarr", minversion="3", reason="writes archives")
pytest.importorskip("numcodecs", reason="rounds what archives keep")


def test_an_archive_repeats_some_hours(tmp_path, capsys):
    out = tmp_path / "a.zarr"
    arguments = ["--out", str(out), "--frames", "72", "--distinct", "48", "--size", "32", "40"]
    assert run_script(lambda: make_archive.main(arguments)) == 0
    assert "72 frames" in capsys.readouterr().out
    event, made = read_event(out), synthetic_event(0, 48, 32, 40)
    assert len(event.time) == 72 and np.array_equal(event.rain_rate[48:], event.rain_rate[:24])
    np.testing.assert_allclose(event.rain_rate[:48], made.rain_rate, rtol=2.0**-8)
    assert run_script(lambda: make_archive.main(arguments)) == 2
    assert "exists, and is kept" in capsys.readouterr().err
