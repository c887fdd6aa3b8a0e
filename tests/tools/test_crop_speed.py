"""How fast crops are read from an archive."""

from pathlib import Path

import pytest

from ldcast.errors import run_script
from ldcast.tools import crop_speed, make_archive

pytest.importorskip("xarray", reason="reads archives")
pytest.importorskip("zarr", minversion="3", reason="writes archives")
pytest.importorskip("numcodecs", reason="rounds what archives keep")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("speed") / "a.zarr"
    make_archive.main(["--out", str(out), "--frames", "48", "--size", "32", "40"])
    return out


def test_crops_bytes_and_memory_are_counted(archive, capsys):
    arguments = [str(archive), "--frames", "8", "--crop-size", "32", "--seconds", "0.2", "--cold"]
    assert run_script(lambda: crop_speed.main(arguments)) == 0
    header, row = capsys.readouterr().out.splitlines()
    name, workers, crops, _, kilobytes, *_, memory = row.split()
    assert header.startswith("archive  workers  crops/s  crops/core-s  kB/crop")
    assert (name, workers) == ("a.zarr", "0") and float(crops) > 0 and float(memory) > 50
    whole = sum(file.stat().st_size for file in archive.rglob("*") if file.is_file())
    assert 1 < float(kilobytes) < whole / 1000


def test_crops_larger_than_the_archive_are_one_line(archive, capsys):
    assert run_script(lambda: crop_speed.main([str(archive), "--crop-size", "64"])) == 2
    assert "choose a smaller crop" in capsys.readouterr().err


@pytest.mark.slow
def test_workers_add_up(archive):
    flags = ["--frames", "8", "--crop-size", "32", "--seconds", "0.2", "--workers", "2"]
    assert run_script(lambda: crop_speed.main([str(archive), *flags])) == 0
