"""The measures of archives, on ones as small as they can be."""

import functools

import pytest
from archives import make_archive

from ldcast.errors import run_script
from ldcast.tools import archives


def test_draws_are_measured_in_a_process_for_each_picker(tmp_path, monkeypatch, capfd):
    arguments = ["draws", "--frames", "700", "--draws", "5", "--out", str(tmp_path)]
    monkeypatch.setattr(archives, "GAP_EVERY", 300)
    commands = []
    monkeypatch.setattr(archives.subprocess, "run", lambda command, check: commands.append(command))
    assert run_script(lambda: archives.main(arguments)) == 0
    assert len(commands) == len(archives.PICKERS)
    for command in commands:  # the first writes the archive, the others find it
        assert run_script(functools.partial(archives.main, command[3:])) == 0
    rows = [line.split("|") for line in capfd.readouterr().out.splitlines()[2:]]
    assert [row[1].strip() for row in rows] == list(archives.PICKERS)
    assert all(float(row[4]) > 1 for row in rows)


def test_crops_are_read_by_workers(tmp_path, monkeypatch, capsys):
    path = make_archive(tmp_path / "a.zarr", num_days=1)
    monkeypatch.setattr(archives, "CROP_SIZE", 32)
    assert run_script(lambda: archives.main(["crops", "--archive", str(path), "--crops", "8"])) == 0
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [int(row[1]) for row in rows] == [0, 1, 2] and all(float(row[2]) > 0 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["draws", "--frames", "0", "--out", "x"], "at least 1"),
        (["crops", "--archive", "nothing.zarr"], "nothing.zarr has no index"),
        (["crops"], "crops needs --archive"),
        (["draws"], "draws needs --out"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, word, capsys):
    assert run_script(lambda: archives.main(arguments)) == 2
    assert word in capsys.readouterr().err
