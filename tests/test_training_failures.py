"""What both training scripts do when numbers, files or the machine go wrong."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from stages import ROOT, Stage, state

import train_diffusion
from ldcast.data.crops import Example, TrainingCrops
from ldcast.data.event_files import write_event
from ldcast.data.readers.specs import read_event
from ldcast.errors import run_script
from ldcast.machine.stopping import StopRequest
from ldcast.tools.crashtest import difference, read_counters, read_metrics
from ldcast.training import run as run_module
from ldcast.training.checkpoint import TrainState
from ldcast.training.ema import EMA
from ldcast.training.forecasts import FixedCases
from ldcast.training.metrics import TRAINING, VALIDATION, MetricsLog, metrics_lines
from ldcast.training.run import Run

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

    def spoiled(crops: TrainingCrops, key: tuple[int, int, int]) -> Example:
        example = read(crops, key)
        if key[1] == iteration:
            example.rain_rate[0, 2, 5, 7] = value
        return example

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


@pytest.fixture(params=["autoencoder", pytest.param("diffusion", marks=pytest.mark.slow)])
def stage(request: pytest.FixtureRequest, event_path: Path, autoencoder_run: Path) -> Stage:
    """What goes wrong is handled by code of both scripts: the faster one is quick."""
    return Stage(request.param, event_path, autoencoder_run)


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


@pytest.mark.parametrize(
    "value",
    [torch.inf, 501.0, *(pytest.param(v, marks=pytest.mark.slow) for v in (-torch.inf, -1))],
)
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


@pytest.mark.parametrize(
    ("option", "num_skipped"), [((), 1), (("--loop.max-loss-ratio", "1000"), 0)]
)
def test_a_loss_that_jumps_is_skipped(
    stage: Stage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    option: tuple[str, ...],
    num_skipped: int,
) -> None:
    spoil_loss(monkeypatch, stage, range(22, 23), 50.0)
    line = read_metrics(stage.run(tmp_path / "run", 24, *option))[-2]
    assert (line["num_skipped"], line.get("num_skipped_jump", 0)) == (num_skipped, num_skipped)


def test_an_overflow_of_fp16_is_skipped_and_lowers_the_scale(
    stage: Stage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if stage.is_refused(capsys, tmp_path / "refused", "--amp", "fp16"):
        return
    spoil_loss(monkeypatch, stage, range(1, 2), 1e34)
    out = stage.run(tmp_path / "run", 3, "--amp", "fp16")
    assert read_metrics(out)[-2]["num_skipped_overflow"] == 1
    assert read_counters(out)["scaler"]["scale"] == 2.0**15
    assert state(out)["optimizer.0.step"] == 2


def test_impossible_rain_is_no_data_in_validations(
    stage: Stage, event_path: Path, tmp_path: Path
) -> None:
    event, scores = read_event(str(event_path)), []
    for value in (np.nan, 600.0):
        event.rain_rate[40, 20:30, 20:30] = value
        path = tmp_path / str(value) / "event.npz"
        path.parent.mkdir()
        write_event(event, path)
        stage.inputs[1] = str(path)
        scores.append(read_metrics(stage.run(path.parent / "run", 1))[-1])
    assert scores[0] == scores[1]


def test_a_validation_waits_for_a_good_update() -> None:
    state = TrainState({}, None, None, None, iteration=5, validated_at=0)
    assert state.is_validation_due(5, is_done=False)
    state.count_bad("loss")
    assert not state.is_validation_due(5, is_done=False)
    state.iteration, state.num_bad_in_a_row = 6, 0
    assert state.is_validation_due(5, is_done=False)
    state.validated_at = 6
    assert not state.is_validation_due(5, is_done=False)
    assert not state.is_validation_due(5, is_done=True)
    state.iteration = 7
    assert state.is_validation_due(5, is_done=True)


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


def test_a_rollback_that_cannot_be_saved_loses_no_line(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Run.save

    def save_but_for_a_rollback(run: Run, state: TrainState) -> None:
        save(run, state) if state.attempt == 0 else fail_to_write()

    monkeypatch.setattr(Run, "save", save_but_for_a_rollback)
    spoil_loss(monkeypatch, stage, range(4, 6))
    with pytest.raises(OSError, match="No space"):
        stage.run(tmp_path / "run", 6, *ROLLBACK)
    assert [line["iteration"] for line in read_metrics(tmp_path / "run")] == [0, 1, 2, 3, 3, 4, 5]


def test_a_rollback_keeps_the_lowered_scale_of_fp16(
    stage: Stage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if stage.is_refused(capsys, tmp_path / "refused", "--amp", "fp16"):
        return
    spoil_loss(monkeypatch, stage, range(4, 6), 1e34)
    out = stage.run(tmp_path / "run", 6, *ROLLBACK, "--amp", "fp16")
    counters = read_counters(out)
    assert (counters["attempt"], counters["skipped"]) == (1, {"overflow": 2})
    assert counters["scaler"]["scale"] == 2.0**14


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


def test_only_a_second_ctrl_c_interrupts_at_once() -> None:
    with StopRequest() as stop:
        send(signal.SIGTERM)()
        send(signal.SIGTERM)()
        assert (stop.is_set, stop.status, list(stop.until(range(3)))) == (True, 143, [])
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)()


@pytest.mark.slow
def test_a_signal_to_all_processes_with_nobody_reading_saves_as_well(
    event_path: Path, autoencoder_run: Path, tmp_path: Path
) -> None:
    """As when a cluster ends a job, or Ctrl-C ends `python train_autoenc.py ... | tee log`."""
    stage, out = Stage("autoencoder", event_path, autoencoder_run), tmp_path / "run"
    arguments = stage.arguments(out, 10_000, "--data.num-workers", "1")
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train_autoenc.py"), *arguments],
        stdout=writer,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    os.close(reader)
    os.close(writer)
    log = out / "metrics.jsonl"
    while not (log.is_file() and any(line["iteration"] == 5 for line in metrics_lines(log))):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=50)
    assert (process.returncode, errors) == (143, "")
    assert read_counters(out)["iteration"] >= 5


@pytest.mark.parametrize(
    "kind",
    [
        "flipped",
        "missing",
        *(pytest.param(k, marks=pytest.mark.slow) for k in ("truncated", "empty")),
    ],
)
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
        assert "from state.previous.safetensors" in capsys.readouterr().out
        assert (broken / "state.damaged.safetensors").read_bytes() == before


@pytest.mark.parametrize("kind", ["missing", "empty"])
def test_a_rollback_finds_the_checkpoint_before_a_lost_one(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    out = stage.run(tmp_path / "run", 5, *ROLLBACK)  # validated at 0, 3 and 5
    damage(out / "state.safetensors", kind)
    spoil_loss(monkeypatch, stage, range(2))
    stage.run(out, 5, *ROLLBACK)
    counters = read_counters(out)
    assert (counters["attempt"], counters["iteration"]) == (1, 5)
    assert "rolled back to iteration 3" in counters["rollback"]


def test_a_state_that_is_damaged_while_the_run_lives_is_replaced(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--loop.validation-interval", "2")
    undisturbed, out = stage.reference(4, *more), tmp_path / "run"
    at_update(monkeypatch, 3, lambda: damage(out / "state.safetensors", "empty"))
    stage.run(out, 4, *more)
    assert difference(out, undisturbed) is None


def test_a_trained_run_without_its_states_is_not_begun_again(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(stage.reference(2), tmp_path / "run")
    for path in out.glob("state*.safetensors"):
        path.unlink()
    model = (out / "model.safetensors").read_bytes()
    assert "no state.safetensors" in stage.fails(capsys, out)
    assert (out / "model.safetensors").read_bytes() == model


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


def test_only_what_a_save_replaces_counts_as_room(
    stage: Stage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "state.damaged.safetensors").write_bytes(bytes(10**8))
    usage = shutil.disk_usage(tmp_path)._replace(free=100_000)
    monkeypatch.setattr(run_module.shutil, "disk_usage", lambda _: usage)
    assert "three checkpoints" in stage.fails(capsys, out)


def test_a_start_that_failed_may_be_corrected(
    stage: Stage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Run, "_check_room", fail_to_write)
        stage.fails(capsys, tmp_path / "run")
    stage.run(tmp_path / "run", 1, "--lr", "1e-5")


def test_a_rehearsed_checkpoint_is_read_back(
    stage: Stage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write = run_module.write_state

    def write_and_damage(state: TrainState, path: Path) -> None:
        write(state, path)
        damage(path, "flipped")

    monkeypatch.setattr(run_module, "write_state", write_and_damage)
    assert "has changed" in stage.fails(capsys, tmp_path / "run")


def test_half_written_files_of_others_stay(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that is no run, around one that is being written."""
    (tmp_path / "run").mkdir()
    others = [tmp_path / ".a.tmp", tmp_path / "run" / ".state.safetensors.new.tmp"]
    for path in [*others, tmp_path / "config.json"]:
        path.write_text("")
    assert "would be overwritten" in stage.fails(capsys, tmp_path)
    assert all(path.exists() for path in others)


def fail_to_write(*_: object) -> None:
    raise OSError(28, "No space left on device")


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


def test_waiting_for_data_of_skipped_updates_is_not_counted(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = TrainingCrops.__getitem__

    def slow(crops: TrainingCrops, key: tuple[int, int, int]) -> Example:
        time.sleep(0.1 if key[1] < 3 else 0)
        return read(crops, key)

    monkeypatch.setattr(TrainingCrops, "__getitem__", slow)
    spoil_loss(monkeypatch, stage, range(3))
    out = stage.run(tmp_path / "run", 4, "--loop.log-interval", "4")
    line = next(line for line in metrics_lines(out / "metrics.jsonl") if "lr" in line)
    assert 0 < line["data_wait_share"] < 1


@pytest.mark.draws
def test_a_picture_that_cannot_be_written_ends_nothing(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is an extra")
    out = stage.run(tmp_path / "run", 1)
    shutil.rmtree(out / "pictures")
    (out / "pictures").write_text("")
    stage.run(out, 2)
    assert "no picture" in capsys.readouterr().out
    assert read_counters(out)["iteration"] == 2


def test_damaged_lines_of_metrics_are_dropped(stage: Stage, tmp_path: Path) -> None:
    out = shutil.copytree(stage.reference(2), tmp_path / "run")
    good = (out / "metrics.jsonl").read_bytes()
    junk = b'12\n{}\n{"iteration": null}\n\x80{"iteration": 1}\n{"iterat'
    (out / "metrics.jsonl").write_bytes(junk.replace(b"\n", b"\n" + good, 1))
    stage.run(out, 2)
    assert read_metrics(out) == read_metrics(stage.reference(2))


def test_a_validation_that_was_not_saved_leaves_no_line(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, use_tensorboard=False)
    for iteration, kind in ((0, VALIDATION), (3, TRAINING), (3, VALIDATION), (4, TRAINING)):
        log.write(kind, iteration, score=1.0)
    log.cut(3, validated_at=0)
    kept = [(line["iteration"], line["kind"]) for line in metrics_lines(log.path)]
    assert kept == [(0, "validation"), (3, "training")]


def test_lines_of_older_runs_do_not_say_their_kind(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, use_tensorboard=False)
    lines = ((0, "val_loss"), (3, "loss"), (3, "val_loss"), (4, "loss"))
    texts = [json.dumps({"iteration": iteration, name: 1.0}) for iteration, name in lines]
    log.path.write_text("\n".join(texts))
    log.cut(3, validated_at=0)
    kept = [(line["iteration"], "val_loss" in line) for line in metrics_lines(log.path)]
    assert kept == [(0, True), (3, False)]


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
def test_what_decides_nothing_may_change_when_a_run_resumes(
    stage: Stage, tmp_path: Path, change: tuple[str, str]
) -> None:
    whole = state(stage.reference(4))
    parts = shutil.copytree(stage.reference(2), tmp_path / "parts")
    parts = state(stage.run(parts, 4, *change))
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-3, atol=5e-4)
