"""What both training scripts do when numbers, files or the machine go wrong."""

import json
import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from stages import Stage, state

import train_diffusion
from ldcast.data.crops import TrainingCrops
from ldcast.errors import run_script
from ldcast.training import run as run_module
from ldcast.training.crashtest import difference, read_counters, read_metrics
from ldcast.training.ema import EMA
from ldcast.training.forecasts import FixedCases
from ldcast.training.run import Run
from ldcast.training.stopping import StopRequest

DRY_RUN_CALLS = 2  # of the training loss, for raw and averaged weights
VALIDATION_CALLS = 4


def spoil_loss(
    monkeypatch: pytest.MonkeyPatch, stage: Stage, calls: range, factor: float = torch.nan
) -> None:
    """Multiplies the loss of some training calls, counted from 0; validation is left alone."""
    loss, num_calls = stage.script.training_loss, iter(range(10_000))

    def spoiled(*args: object) -> torch.Tensor:
        value = loss(*args)
        if torch.is_grad_enabled():
            value = value * (factor if next(num_calls) in calls else 1.0)
        return value

    monkeypatch.setattr(stage.script, "training_loss", spoiled)


def spoil_rain(monkeypatch: pytest.MonkeyPatch, value: float, iteration: int) -> None:
    """Puts one pixel of this value into the training crops of an iteration."""
    read = TrainingCrops.__getitem__

    def spoiled(crops: TrainingCrops, key: tuple[int, int, int]) -> torch.Tensor:
        rain_rate = read(crops, key)
        if key[1] == iteration:
            rain_rate[0, 2, 5, 7] = value
        return rain_rate

    monkeypatch.setattr(TrainingCrops, "__getitem__", spoiled)


def at_update(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], None]) -> None:
    """Does something right after an optimizer update, counted from 1."""
    update = EMA.update

    def update_and_act(ema: EMA) -> None:
        update(ema)
        if ema.num_updates == number:
            act()

    monkeypatch.setattr(EMA, "update", update_and_act)


def send(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


# ---- numbers that go wrong -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "problem"),
    [(torch.nan, "loss"), (torch.inf, "loss"), (1e30, "gradient")],
)
def test_a_bad_update_is_skipped_and_counted(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float, problem: str
) -> None:
    spoil_loss(monkeypatch, stage, range(1, 2), factor)
    out = stage.run(tmp_path / "run", 3)
    lines = [line for line in read_metrics(out) if "lr" in line]
    assert [line["num_skipped"] for line in lines] == [0, 1, 1]
    assert lines[-1][f"num_skipped_{problem}"] == 1
    assert all(tensor.isfinite().all() for tensor in state(out).values())
    assert state(out)["optimizer.0.step"] == 2


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, -1.0, 501.0])
def test_impossible_rain_is_skipped_and_counted(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    spoil_rain(monkeypatch, value, iteration=1)
    out = stage.run(tmp_path / "run", 3)
    assert read_metrics(out)[-2]["num_skipped_rain"] == 1
    assert state(out)["optimizer.0.step"] == 2


@pytest.mark.parametrize("value", [torch.nan, 499.0])
def test_no_data_and_heavy_rain_are_not_bad(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    spoil_rain(monkeypatch, value, iteration=1)
    out = stage.run(tmp_path / "run", 3)
    assert read_metrics(out)[-2]["num_skipped"] == 0


def test_the_largest_possible_rain_can_be_set(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_rain(monkeypatch, 501.0, iteration=1)
    out = stage.run(tmp_path / "run", 3, "--data.max-rain-rate", "502")
    assert read_metrics(out)[-2]["num_skipped"] == 0


def test_a_loss_that_jumps_is_skipped(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_loss(monkeypatch, stage, range(22, 23), 50.0)
    spoiled = stage.run(tmp_path / "run", 24)
    assert read_metrics(spoiled)[-2]["num_skipped_jump"] == 1


def test_how_far_a_loss_may_jump_can_be_set(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_loss(monkeypatch, stage, range(22, 23), 50.0)
    out = stage.run(tmp_path / "run", 24, "--loop.max-loss-ratio", "1000")
    assert read_metrics(out)[-2]["num_skipped"] == 0


def test_an_overflow_of_fp16_is_skipped_and_lowers_the_scale(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_loss(monkeypatch, stage, range(1, 2), 1e34)
    out = stage.run(tmp_path / "run", 3, "--amp", "fp16")
    assert read_metrics(out)[-2]["num_skipped_overflow"] == 1
    assert read_counters(out)["scaler"]["scale"] == 2.0**15
    assert state(out)["optimizer.0.step"] == 2


# ---- rolled back ---------------------------------------------------------------------------------

ROLLBACK = ("--loop.validation-interval", "3", "--loop.max-bad-updates", "2")


def test_bad_updates_in_a_row_roll_the_run_back_once(
    stage: Stage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    usual = stage.reference(6, *ROLLBACK)
    spoil_loss(monkeypatch, stage, range(4, 6))  # iterations 4 and 5; validated at 3
    out = stage.run(tmp_path / "run", 6, *ROLLBACK)
    assert "2 bad updates in a row at iteration 6" in capsys.readouterr().out
    after = read_counters(out)
    assert (after["attempt"], after["lr_factor"], after["skipped"]) == (1, 0.5, {"loss": 2})
    assert after["iteration"] == 6
    lines = [line for line in read_metrics(out) if "lr" in line]
    usual_lines = [line for line in read_metrics(usual) if "lr" in line]
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[:3] == usual_lines[:3]
    for line, usual_line in zip(lines[3:], usual_lines[3:], strict=True):
        assert line["lr"] == pytest.approx(usual_line["lr"] / 2)
        assert line["wet_share"] != usual_line["wet_share"]  # other crops
    assert state(out)["optimizer.0.step"] == 6


def test_a_rollback_survives_a_stop(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before the bad updates and after the rollback: the last validated state counts."""
    with monkeypatch.context() as patch:
        spoil_loss(patch, stage, range(5, 7))
        unbroken = stage.run(tmp_path / "unbroken", 8, *ROLLBACK)
    assert read_counters(unbroken)["attempt"] == 1
    broken = tmp_path / "broken"
    for update, spoiled in ((4, range(0)), (6, range(1, 3)), (7, range(0))):
        with monkeypatch.context() as patch:
            spoil_loss(patch, stage, spoiled)
            at_update(patch, update, send(signal.SIGTERM))
            assert stage.script.main(stage.arguments(broken, 8, *ROLLBACK)) == 143
    stage.run(broken, 8, *ROLLBACK)
    assert difference(broken, unbroken) is None


def test_bad_updates_after_a_rollback_end_the_run(
    stage: Stage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil_loss(monkeypatch, stage, range(1, 10_000))
    out = tmp_path / "run"
    line = stage.fails(capsys, out, "--loop.max-bad-updates", "2", "--iterations", "9")
    assert "2 bad updates in a row at iteration 2" in line
    assert "rolled back to iteration" in line
    assert "4 x a loss that is not finite" in line
    assert "lower --lr" in line
    assert all(tensor.isfinite().all() for tensor in load_file(out / "model.safetensors").values())
    assert all(tensor.isfinite().all() for tensor in state(out).values())


def test_a_validation_that_is_not_finite_rolls_the_run_back(
    stage: Stage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Weights that are spoiled without a word: every score after iteration 2 is NaN."""
    validate = stage.script.validate

    def spoiled(model: torch.nn.Module, ema: EMA, *args: object) -> tuple[dict, list]:
        scores, comparisons = validate(model, ema, *args)
        return {n: torch.nan if ema.num_updates > 2 else v for n, v in scores.items()}, comparisons

    monkeypatch.setattr(stage.script, "validate", spoiled)
    more = ("--loop.validation-interval", "2", "--iterations", "6")
    line = stage.fails(capsys, tmp_path / "run", *more)
    assert "a validation score that is not finite at iteration 4" in line
    assert "rolled back to iteration" in line
    assert read_counters(tmp_path / "run")["iteration"] == 2


def test_a_validation_loss_that_jumps_rolls_the_run_back(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raw weights that went wrong between two validations are not kept as a good checkpoint."""
    validate = stage.script.validate

    def spoiled(model: torch.nn.Module, ema: EMA, *args: object) -> tuple[dict, list]:
        scores, comparisons = validate(model, ema, *args)
        is_first_visit = ema.num_updates == 4 and not (tmp_path / "seen").exists()
        if is_first_visit:
            (tmp_path / "seen").touch()
            scores["val_loss"] *= 50
        return scores, comparisons

    monkeypatch.setattr(stage.script, "validate", spoiled)
    out = stage.run(tmp_path / "run", 6, "--loop.validation-interval", "2")
    counters = read_counters(out)
    assert (counters["attempt"], counters["iteration"]) == (1, 6)
    assert "rolled back to iteration 2" in counters["rollback"]
    assert "a validation loss that jumped from" in counters["rollback"]


def test_networks_that_give_no_numbers_at_all_are_named(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = stage.run(tmp_path / "first", 1)
    weights = load_file(first / "model.safetensors")
    for tensor in weights.values():
        tensor.mul_(1e30)
    save_file(weights, first / "model.safetensors")
    line = stage.fails(capsys, tmp_path / "run", "--init", str(first))
    assert "not finite" in line


def test_a_training_that_diverges_ends_with_a_sound_model(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wild = ("--lr", "1e6", "--optimizer.warmup-iterations", "1", "--optimizer.clip-norm", "1e30")
    more = (*wild, "--loop.validation-interval", "5", "--iterations", "60")
    line = stage.fails(capsys, tmp_path / "run", *more)
    assert "rolled back to iteration" in line
    saved = load_file(tmp_path / "run" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in saved.values())


# ---- stopped, killed, damaged --------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves_with_its_own_status(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    unbroken = stage.reference(4)
    broken = tmp_path / "broken"
    with monkeypatch.context() as patch:
        at_update(patch, 2, send(number))
        assert stage.script.main(stage.arguments(broken, 4)) == 128 + number
    assert read_counters(broken)["iteration"] == 2
    stage.run(broken, 4)
    assert difference(broken, unbroken) is None


def test_a_signal_cuts_a_validation_short(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--loop.validation-interval", "2")
    unbroken = stage.reference(4, *more)
    loss, calls = stage.script.training_loss, []

    def interrupted(*args: object) -> torch.Tensor:
        if not torch.is_grad_enabled():
            calls.append(args)
            if len(calls) == DRY_RUN_CALLS + VALIDATION_CALLS + 1:  # the first of iteration 2
                send(signal.SIGTERM)()
        return loss(*args)

    broken = tmp_path / "broken"
    with monkeypatch.context() as patch:
        patch.setattr(stage.script, "training_loss", interrupted)
        assert stage.script.main(stage.arguments(broken, 4, *more)) == 143
    assert len(calls) == DRY_RUN_CALLS + VALIDATION_CALLS + 1
    assert read_counters(broken)["iteration"] == 2
    assert "val_loss" not in read_metrics(broken)[-1]
    stage.run(broken, 4, *more)
    assert difference(broken, unbroken) is None


def test_processes_forked_by_a_run_ignore_signals(capfd: pytest.CaptureFixture[str]) -> None:
    with StopRequest(print) as stop:
        child = os.fork()
        if child == 0:
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(os.getpid(), number)
            os._exit(7 if stop.is_set else 0)
        assert os.waitpid(child, 0)[1] == 0
        assert capfd.readouterr().out == ""
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_set


@pytest.mark.parametrize("kind", ["truncated", "flipped", "missing", "empty"])
def test_a_damaged_checkpoint_is_put_aside_for_the_one_before(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    more = ("--loop.validation-interval", "1")
    unbroken = stage.reference(3, *more)
    broken = shutil.copytree(unbroken, tmp_path / "broken")
    path = broken / "state.safetensors"
    damage(path, kind)
    before = path.read_bytes() if path.is_file() else None
    capsys.readouterr()
    stage.run(broken, 3, *more)
    assert difference(broken, unbroken) is None
    if kind != "missing":
        assert "going on from state.previous.safetensors" in capsys.readouterr().out
        assert (broken / "state.damaged.safetensors").read_bytes() == before


def test_two_damaged_checkpoints_end_the_run_and_stay(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = stage.run(tmp_path / "run", 2, "--loop.validation-interval", "1")
    for name in ("state.safetensors", "state.previous.safetensors"):
        damage(out / name, "flipped")
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert "state.previous.safetensors" in stage.fails(
        capsys, out, "--loop.validation-interval", "1"
    )
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_the_only_checkpoint_damaged_is_named_and_stays(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = stage.run(tmp_path / "run", 2)
    (out / "state.previous.safetensors").unlink()
    damage(out / "state.safetensors", "truncated")
    assert "no state before it" in stage.fails(capsys, out)
    assert (out / "state.safetensors").is_file()


def damage(path: Path, kind: str) -> None:
    content = bytearray(path.read_bytes())
    if kind == "truncated":
        del content[-100:]
    elif kind == "flipped":
        content[-100] ^= 1
    elif kind == "empty":
        content.clear()
    path.unlink() if kind == "missing" else path.write_bytes(content)


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(
    stage: Stage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The limit on the size of files stands for a full disk."""
    more = ("--loop.validation-interval", "2")
    unbroken = stage.reference(4, *more)
    out = tmp_path / "broken"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_disk() -> None:
        half = (out / "state.safetensors").stat().st_size // 2
        resource.setrlimit(resource.RLIMIT_FSIZE, (half, limits[1]))

    try:
        with monkeypatch.context() as patch:
            at_update(patch, 3, fill_disk)
            line = stage.fails(capsys, out, *more, "--iterations", "4")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "state.safetensors" in line
    assert read_counters(out)["iteration"] == 2
    stage.run(out, 4, *more)
    assert difference(out, unbroken) is None


# ---- found before the first batch ----------------------------------------------------------------


def test_a_disk_without_room_for_three_checkpoints_is_named(
    stage: Stage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=100_000)
    monkeypatch.setattr(run_module.shutil, "disk_usage", lambda _: usage)
    assert "three checkpoints" in stage.fails(capsys, tmp_path / "run")
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_checkpoint_is_rehearsed_before_the_first_batch(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []
    rehearse, read = Run.rehearse_save, TrainingCrops.__getitem__
    monkeypatch.setattr(
        Run, "rehearse_save", lambda *args: (events.append("checkpoint"), rehearse(*args))
    )
    monkeypatch.setattr(
        TrainingCrops, "__getitem__", lambda *args: (events.append("batch"), read(*args))[1]
    )
    out = stage.run(tmp_path / "run", 2)
    assert events == ["checkpoint", *["batch"] * 4]
    assert not list(out.glob(".*"))
    stage.run(out, 3)
    assert events == ["checkpoint", *["batch"] * 4, "checkpoint", *["batch"] * 2]


def test_a_forecast_that_fails_is_found_before_the_first_batch(
    event_path: Path, autoencoder_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "the forecast", "failed")

    monkeypatch.setattr(FixedCases, "score", fail)
    arguments = Stage("diffusion", event_path, autoencoder_run).arguments(tmp_path / "run", 2)
    assert run_script(lambda: train_diffusion.main(arguments)) == 2
    assert not (tmp_path / "run" / "model.safetensors").exists()


# ---- what a run leaves to look at ----------------------------------------------------------------


@pytest.mark.draws
def test_without_matplotlib_a_line_says_so_and_the_run_trains(
    stage: Stage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(run_module.importlib.util, "find_spec", lambda _: None)
    out = stage.run(tmp_path / "run", 1)
    assert "pip install matplotlib" in capsys.readouterr().out
    assert not (out / "pictures").exists()


def test_lines_of_metrics_hold_what_is_to_be_watched(stage: Stage, tmp_path: Path) -> None:
    out = stage.run(tmp_path / "run", 2)
    line = json.loads((out / "metrics.jsonl").read_text().splitlines()[-2])
    names = [
        "lr",
        "loss",
        "grad_norm",
        "wet_share",
        "examples_per_s",
        "data_wait_share",
        "num_skipped",
    ]
    assert set(names) <= line.keys()
    assert 0 < line["data_wait_share"] < 1
    assert line["examples_per_s"] > 0


def test_tensorboard_shows_what_the_metrics_hold(stage: Stage, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = stage.run(tmp_path / "run", 3, "--tensorboard")
    shown = EventAccumulator(str(out / "tensorboard"))
    shown.Reload()
    losses = [(point.step, point.value) for point in shown.Scalars("loss")]
    expected = [(line["iteration"], line["loss"]) for line in read_metrics(out) if "loss" in line]
    assert [step for step, _ in losses] == [step for step, _ in expected]
    np.testing.assert_allclose([v for _, v in losses], [v for _, v in expected], rtol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        ("--data.num-workers", "1"),
        ("--loop.num-micro-batches", "2"),
        ("--loop.use-activation-checkpointing", "true"),
    ],
)
def test_what_decides_nothing_may_change_when_a_run_is_taken_up(
    stage: Stage, tmp_path: Path, change: tuple[str, str]
) -> None:
    whole = state(stage.reference(4))
    parts = shutil.copytree(stage.reference(2), tmp_path / "parts")
    parts = state(stage.run(parts, 4, *change))
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-3, atol=5e-4)
