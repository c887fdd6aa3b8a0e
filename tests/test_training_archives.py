"""Trainings on archives: what their folders state, exact resume, weights of examples."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from archives import make_archive
from stages import ROOT, Stage, same_gradients, same_tensors, start_two, state

from ldcast.data.index_pickers import IndexPicker
from ldcast.training.metrics import METRICS_NAME, metrics_lines
from ldcast.training.run import read_arguments


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty days of 30 frames."""
    return make_archive(tmp_path_factory.mktemp("archives") / "radar.zarr", 20, 30)


@pytest.fixture
def on_archive(stage: Stage, archive: Path) -> Stage:
    stage.inputs[1] = str(archive)
    return stage


def losses(run: Path) -> list[float]:
    lines = metrics_lines(run / METRICS_NAME)
    return [line["loss"] for line in lines if line["kind"] == "training"]


def test_the_folder_states_which_days_train(on_archive, tmp_path, capsys):
    out = on_archive.run(tmp_path / "run", 1)
    split = read_arguments(out)["split_days"]
    assert split["shares"] == [0.8, 0.1, 0.1] and "whole days of UTC" in split["rule"]
    trained_on = json.loads((out / "config.json").read_text())["trained_on"]
    assert trained_on["data"] == ["radar#training:0.8,0.1,0.1"]
    said = capsys.readouterr()
    said = said.out + said.err
    assert "windows in time; lost are" in said and "crops as drawn" in said
    line = on_archive.fails(capsys, out, "--split-days", "0.6", "0.2", "0.2")
    assert "was started with split_days" in line


def test_stage_2_keeps_the_days_of_stage_1(archive, autoencoder_run, event_path, tmp_path):
    first = Stage("autoencoder", archive, autoencoder_run)
    first.run(tmp_path / "ae", 1, "--split-days", "0.5", "0.3", "0.2")
    second = Stage("diffusion", event_path, tmp_path / "ae")
    second.inputs[:2] = []  # the data, too, are those of stage 1
    out = second.run(tmp_path / "ld", 1)
    assert read_arguments(out)["split_days"]["shares"] == [0.5, 0.3, 0.2]
    assert read_arguments(out)["data"] == [str(archive)]


def test_split_days_and_validation_data_are_refused_together(on_archive, tmp_path, capsys):
    more = ["--split-days", "0.8", "0.1", "0.1", "--validation-data", "synthetic:0"]
    line = on_archive.fails(capsys, tmp_path / "run", *more)
    assert "expected one of them" in line


def test_the_weight_of_a_draw_reaches_the_loss(on_archive, tmp_path, monkeypatch):
    more = ["--data.crop-picker", "uniform", "--optimizer.clip-norm", "1e9"]
    plain = losses(on_archive.run(tmp_path / "plain", 1, *more))
    draw = IndexPicker.__call__
    monkeypatch.setattr(
        IndexPicker, "__call__", lambda self, rng: replace(draw(self, rng), weight=3.0)
    )
    weighted = losses(on_archive.run(tmp_path / "weighted", 1, *more))
    assert weighted == pytest.approx([3 * loss for loss in plain], rel=1e-5)


def test_a_varied_run_resumes_exactly(event_path, archive, autoencoder_run, tmp_path):
    """Of an archive and an event file together, of which each gives its windows."""
    stage = Stage("autoencoder", archive, autoencoder_run)
    stage.inputs[2:2] = [str(event_path)]
    more = ["--frames.num-frames", "12", "--data.crop-motion", "1", "--data.rain-factor-db", "0.6"]
    whole = stage.run(tmp_path / "whole", 4, *more, "--data.num-workers", "2")
    for iterations in (2, 4):
        stage.run(tmp_path / "parts", iterations, *more)
    assert same_tensors(state(whole), state(tmp_path / "parts"))
    assert losses(whole) != losses(stage.run(tmp_path / "still", 4, *more[:2]))


@pytest.mark.slow
@pytest.mark.parametrize("picker", ["wet", "equal_frequency", "importance", "mixed"])
def test_a_run_that_stopped_ends_as_one_that_did_not(on_archive, tmp_path, picker):
    more = ["--data.crop-picker", picker]
    whole = on_archive.run(tmp_path / "whole", 4, *more, "--data.num-workers", "2")
    for iterations in (2, 4):
        on_archive.run(tmp_path / "parts", iterations, *more)
    assert same_tensors(state(whole), state(tmp_path / "parts"))


@pytest.mark.slow
def test_two_processes_compute_the_gradients_of_one(on_archive, tmp_path):
    more = ["--batch-size", "4", "--loop.num-micro-batches", "2"]
    more += ["--data.crop-picker", "importance", "--data.num-workers", "1"]
    script = ROOT / f"{on_archive.script.__name__}.py"
    two = start_two(script, *on_archive.arguments(tmp_path / "two", 1, *more))
    output, _ = two.communicate(timeout=300)
    assert two.returncode == 0, output
    assert output.count("crops as drawn") == 1
    same_gradients(tmp_path / "two", on_archive.run(tmp_path / "one", 1, *more))


@pytest.mark.slow
def test_archives_and_event_files_train_together(on_archive, event_path, tmp_path):
    on_archive.inputs.insert(2, str(event_path))
    out = on_archive.run(tmp_path / "run", 2, "--data.crop-picker", "importance")
    names = json.loads((out / "config.json").read_text())["trained_on"]["data"]
    assert len(names) == 2 and names[0].startswith("event@") and names[1].startswith("radar#")
