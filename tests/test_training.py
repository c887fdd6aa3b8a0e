"""Both training scripts, run as a user runs them, with the tiny preset on synthetic rain."""

import json
import math
import os
import shutil
import signal
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from stages import LOOP, SCRIPTS, Stage, same_gradients, same_tensors, state
from tiny_models import tiny_model

import infer
import train_autoenc
import train_diffusion
from ldcast import LDCast
from ldcast.config import AUTOENCODER_PRESETS, DIFFUSION_PRESETS, CRPSLossConfig, ModelConfig
from ldcast.data.crops import Example, TrainingCrops
from ldcast.data.event_files import write_event
from ldcast.data.pickers import WetPicker, Window
from ldcast.data.readers.specs import read_event
from ldcast.data.synthetic import synthetic_event
from ldcast.errors import run_script
from ldcast.machine.folders import lock_folder
from ldcast.motion import fill_gaps
from ldcast.nowcast.model_folder import read_description
from ldcast.seeds import keyed_generators, keyed_rng
from ldcast.settings import override
from ldcast.tools.crashtest import read_metrics
from ldcast.training import latents
from ldcast.training.ema import EMA
from ldcast.training.latents import encode_example
from ldcast.training.run import ARGUMENTS_NAME, read_arguments
from train_diffusion import latent_grid, training_loss

# ---- a run and what it leaves --------------------------------------------------------------------


@pytest.mark.core
def test_the_scripts_chain_without_repeated_arguments(
    event_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(event_path, "event.npz")
    spans = [
        "--data",
        "event.npz@/2000-01-01T02:20",
        "--validation-data",
        "event.npz@2000-01-01T02:20/",
    ]
    train_autoenc.main([*LOOP, "--iterations", "1", *spans])
    train_diffusion.main([*LOOP, "--iterations", "1"])
    infer.main(["--model", "runs/ldcast", "--data", str(event_path), "--members", "1"])
    with np.load("forecast.npz", allow_pickle=False) as forecast:
        assert forecast["rain_rate"].shape == (1, 20, 64, 80)


@pytest.mark.draws
def test_a_run_folder_holds_a_fixed_set_of_files(stage: Stage, tmp_path: Path) -> None:
    out = stage.run(tmp_path / "run", 1)
    names = {path.name for path in out.iterdir()}
    expected = "config.json metrics.jsonl model.safetensors state.json"
    states = "state.safetensors state.previous.safetensors"
    assert names - {"pictures"} == {*expected.split(), *states.split()}
    drawn = {"00000000.png", "00000001.png"} if find_spec("matplotlib") else set()
    assert {path.name for path in out.glob("pictures/*")} == drawn


@pytest.mark.core
def test_validation_names_raw_and_averaged_weights_apart(stage: Stage, tmp_path: Path) -> None:
    out = stage.run(tmp_path / "run", 3)
    last = [line for line in read_metrics(out) if "val_loss" in line][-1]
    assert last["iteration"] == 3
    assert last["val_loss"] != last["val_loss_ema"]


def test_training_lowers_the_loss(stage: Stage, tmp_path: Path) -> None:
    out = stage.run(tmp_path / "run", 40, "--optimizer.warmup-iterations", "1")
    scores = [line["val_loss_ema"] for line in read_metrics(out) if "val_loss" in line]
    assert scores[-1] < 0.9 * scores[0]


def test_the_model_folder_holds_the_best_averaged_weights(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The autoencoder's best has the lowest loss, the nowcaster's the lowest CRPS: iteration 1."""
    best = state(stage.reference(1))
    name = {train_autoenc: "val_loss_ema", train_diffusion: "val_crps_ema"}[stage.script]
    others = {"val_loss": 1.0, "val_loss_ema": 1.0, "val_mae_log_ema": 1.0}
    scores = iter([{**others, name: score} for score in (9.0, 3.0, 1.0, 2.0)])  # a dry run's first
    monkeypatch.setattr(stage.script, "validate", lambda *_: (next(scores), []))
    out = stage.run(tmp_path / "run", 2, "--loop.validation-interval", "1")
    assert next(scores, None) is None
    assert json.loads((out / "config.json").read_text())["trained_on"]["iteration"] == 1
    saved = load_file(out / "model.safetensors")
    averaged = {n.removeprefix("ema."): t for n, t in best.items() if n.startswith("ema.")}
    assert averaged and all(torch.equal(saved[name], averaged[name]) for name in averaged)
    assert not same_tensors(best, state(out))


def test_all_networks_that_are_trained_are_averaged(stage: Stage) -> None:
    names = {name for name in state(stage.reference(1)) if not name.startswith("optimizer.")}
    averaged = {name.removeprefix("ema.") for name in names if name.startswith("ema.")}
    assert averaged == {name for name in names if not name.startswith("ema.")}
    trained = {"autoencoder": {"autoencoder"}, "diffusion": {"conditioner", "denoiser"}}
    assert {name.partition(".")[0] for name in averaged} == trained[stage.name]


def test_the_logged_norm_is_that_of_the_gradients_not_of_scaled_ones(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = ("--amp", "fp16")
    if stage.is_refused(capsys, tmp_path / "refused", *half):
        return
    norm, half_norm = (
        [line["grad_norm"] for line in read_metrics(stage.reference(1, *more)) if "lr" in line][-1]
        for more in ((), half)
    )
    assert half_norm == pytest.approx(norm, rel=0.05)


def test_a_run_folder_is_a_model_folder_from_iteration_0(
    event_path: Path, autoencoder_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(EMA, "update", stop)
    arguments = Stage("diffusion", event_path, autoencoder_run).arguments(tmp_path / "run", 5)
    assert run_script(lambda: train_diffusion.main(arguments)) == 130
    LDCast.from_pretrained(tmp_path / "run", device="cpu")


def test_without_anything_to_hold_out_one_line_says_so(
    stage: Stage, short_event_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.inputs[1] = str(short_event_path)
    out = stage.run(tmp_path / "run", 2)
    assert "without validation" in capsys.readouterr().out
    assert not any("val_loss" in line for line in read_metrics(out))
    saved = load_file(out / "model.safetensors")
    averaged = {n.removeprefix("ema."): t for n, t in state(out).items() if n.startswith("ema.")}
    assert all(torch.equal(saved[name], tensor) for name, tensor in averaged.items())
    assert any(not torch.equal(state(out)[name], averaged[name]) for name in averaged)


def test_blank_images_end_no_training(
    event_path: Path, autoencoder_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two images of the validation part's only past are blank, and half of the newest one is."""
    event = read_event(event_path)
    event.rain_rate[[28, 30]] = np.nan
    event.rain_rate[31, :, :40] = np.nan
    write_event(event, tmp_path / "gaps.npz")
    stage = Stage("diffusion", tmp_path / "gaps.npz", autoencoder_run)
    stage.inputs += ["--forecast-score.num-cases", "2"]
    out = stage.run(tmp_path / "run", 1)
    assert "drawn cases: more than half of a past frame is without data" in capsys.readouterr().out
    assert all(np.isfinite(line.get("val_crps_ema", 0)) for line in read_metrics(out))


def test_the_loss_of_a_past_with_a_gap_is_that_of_the_filled_one() -> None:
    model = tiny_model()
    rain_rate = torch.from_numpy(synthetic_event(3, 24, 64, 64).rain_rate).float()

    def loss(rain_rate: torch.Tensor) -> float:
        generators = keyed_generators(0, indices=[0])
        grid = latent_grid(model, model.autoencoder)
        latents = encode_example(Example(rain_rate[None, None], {}), grid, {})
        return training_loss(model.latent_nowcaster, latents, generators).item()

    gapped = rain_rate.clone()
    gapped[1, :, :40] = torch.nan
    filled = torch.cat([fill_gaps(gapped[:4]).rain_rate, rain_rate[4:]])
    assert loss(gapped) == loss(filled) != loss(gapped.nan_to_num(nan=0.0))


# ---- the same run again --------------------------------------------------------------------------


def test_two_runs_are_equal(stage: Stage, tmp_path: Path) -> None:
    first, second = stage.reference(2), stage.run(tmp_path / "again", 2)
    assert same_tensors(state(first), state(second))
    assert read_metrics(first) == read_metrics(second)


def test_another_seed_gives_another_run(stage: Stage, tmp_path: Path) -> None:
    first, second = stage.reference(1), stage.run(tmp_path / "other", 1, "--seed", "1")
    assert not same_tensors(state(first), state(second))


VARIED = ("--data.crop-motion", "1", "--data.rain-factor-db", "0.6")
HALVED = ("--amp", "bf16", "--loop.num-micro-batches", "2")


@pytest.mark.parametrize("more", [(), pytest.param(HALVED, marks=pytest.mark.slow)], ids=str)
def test_a_run_stopped_by_ctrl_c_resumes_exactly(
    stage: Stage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
) -> None:
    if stage.is_refused(capsys, tmp_path / "refused", *more):
        return
    more = (*more, "--loop.log-interval", "4")
    unbroken = stage.reference(5, *more)
    update = EMA.update

    def update_and_interrupt(ema: EMA) -> None:
        update(ema)
        if ema.num_updates == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(EMA, "update", update_and_interrupt)
    broken = stage.run(tmp_path / "broken", 5, *more)
    assert state(broken).keys() == state(unbroken).keys()
    assert not same_tensors(state(broken), state(unbroken))
    monkeypatch.setattr(EMA, "update", update)
    stage.run(broken, 5, *more)
    assert same_tensors(state(broken), state(unbroken))
    assert read_metrics(broken) == read_metrics(unbroken)


@pytest.mark.core
def test_more_iterations_extend_a_run(stage: Stage, tmp_path: Path) -> None:
    whole = stage.reference(4)
    parts = stage.run(stage.run(tmp_path / "parts", 2), 4)
    assert same_tensors(state(whole), state(parts))


def test_a_run_that_is_extended_starts_a_further_phase_of_its_learning_rate(
    stage: Stage, tmp_path: Path
) -> None:
    lr = 1e-5
    curve = ("--optimizer.lr-curve", "cosine", "--optimizer.warmup-iterations", "0")
    curve += ("--lr", str(lr))
    out = stage.run(tmp_path / "run", 2, *curve)
    stage.run(out, 4, *curve)
    assert read_arguments(out)["phase_ends"] == [2, 4]
    stage.run(out, 4, *curve)  # repeated, it is no phase
    assert read_arguments(out)["phase_ends"] == [2, 4]
    rates = [line["lr"] for line in read_metrics(out) if "lr" in line]
    assert rates == pytest.approx([lr, lr / 2, lr, lr / 2])
    whole = [line["lr"] for line in read_metrics(stage.reference(4, *curve)) if "lr" in line]
    assert whole == pytest.approx(
        [lr * (1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)], rel=1e-4
    )


def test_a_run_that_is_cut_short_keeps_its_planned_end(stage: Stage, tmp_path: Path) -> None:
    curve = ("--optimizer.lr-curve", "cosine", "--loop.validation-interval", "2")
    whole = stage.reference(4, *curve)
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut)
    (cut / "state.previous.safetensors").replace(cut / "state.safetensors")
    assert same_tensors(state(stage.run(cut, 4, *curve)), state(whole))


def test_what_an_old_run_did_not_know_is_as_it_was_then(
    event_path: Path, autoencoder_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = Stage("diffusion", event_path, autoencoder_run)
    path = stage.run(tmp_path / "run", 1) / ARGUMENTS_NAME
    arguments = json.loads(path.read_text())
    for name in ("inputs", "noise_levels", "phase_ends"):
        del arguments[name]
    del arguments["optimizer"]["lr_curve"], arguments["forecast_score"]["num_sampling_steps"]
    del arguments["crps"]["latent_weight"], arguments["data_settings"]["judged_by"]
    path.write_text(json.dumps(arguments))
    line = stage.fails(capsys, path.parent, "--noise-levels", "0,1")
    assert "noise_levels [], now it is [0.0, 1.0]" in line
    line = stage.fails(capsys, path.parent, "--data.judged-by", "past")
    assert "data.judged_by all, now it is past: repeat the first command" in line
    assert read_metrics(stage.run(path.parent, 2))[-1]["iteration"] == 2


def test_what_the_loss_was_of_an_old_run_by_the_crps_is_known(
    event_path: Path, autoencoder_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = Stage("diffusion", event_path, autoencoder_run)
    more = ("--loss", "crps", "--crps.block-sizes", "1", "--diffusion.num-sampling-steps", "1")
    path = stage.run(tmp_path / "run", 1, *more) / ARGUMENTS_NAME
    arguments = json.loads(path.read_text())
    del arguments["crps"]["latent_weight"]
    path.write_text(json.dumps(arguments))
    line = stage.fails(capsys, path.parent, *more, "--crps.latent-weight", "1")
    assert "crps.latent_weight 0.0, now it is 1.0" in line


@pytest.mark.slow
def test_the_preset_that_is_taken_when_none_is_named_trains_and_forecasts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    few = ["--iterations", "2", "--batch-size", "2", "--loop.num-validation-examples", "2"]
    train_autoenc.main([*few, "--data", "synthetic:0", "synthetic:1"])
    monkeypatch.setattr(latents, "NUM_MEASURED", 6)
    train_diffusion.main([*few, "--crop-size", "64", "--forecast-score.num-cases", "1"])
    model = LDCast.from_pretrained("runs/ldcast", device="cpu")
    preset = DIFFUSION_PRESETS["small"]
    assert model.config.denoiser == preset.denoiser and model.config.diffusion == preset.diffusion
    assert model.config.autoencoder == AUTOENCODER_PRESETS["small"].autoencoder
    arguments = ["--model", "runs/ldcast", "--data", "synthetic:2", "--members", "2"]
    assert infer.main([*arguments, "--out", "forecast.npz"]) in (None, 0)
    with np.load("forecast.npz") as forecast:
        assert np.isfinite(forecast["rain_rate"]).all()
    bundled = LDCast.from_pretrained("bundled", device="cpu")
    # It starts members from more noise than it was trained with.
    settings = bundled.config.diffusion.sampler_settings | {"noise_scale": 1.0}
    diffusion = replace(bundled.config.diffusion, sampler_settings=settings)
    assert replace(bundled.config, diffusion=diffusion) == model.config


def test_crops_of_stage_2_are_judged_by_the_past_where_that_is_asked_for() -> None:
    settings = override(
        DIFFUSION_PRESETS["tiny"], {"data.crop_size": 32, "data.crop_picker": "wet"}
    )
    event = synthetic_event(seed=2, num_frames=40, height=96, width=128)
    config = ModelConfig(
        autoencoder=AUTOENCODER_PRESETS["tiny"].autoencoder, denoiser=settings.denoiser
    )

    def crops(judged_by: str) -> TrainingCrops:
        changed = override(settings, {"data.judged_by": judged_by})
        return train_diffusion.training_crops([event], changed, config, seed=0)

    def first_windows(crops: TrainingCrops) -> list[Window]:
        return [crops.picker(keyed_rng(0, index)) for index in range(20)]

    by_all, by_past = crops("all"), crops("past")
    picker = WetPicker([event], 24, 32, multiple=config.rain_multiple, num_judged_frames=4)
    expected = [picker(keyed_rng(0, index)) for index in range(20)]
    assert first_windows(by_past) == expected != first_windows(by_all)
    assert by_past.fingerprint() != by_all.fingerprint()


@pytest.mark.parametrize(
    ("preset", "loss", "sampler"),
    [
        ("tiny", "crps", ("one_call", 1, "white")),
        ("small", "denoising", ("dpm_solver", 12, "white")),
        ("small", None, ("one_call", 1, "correlated")),
    ],
)
def test_a_loss_brings_the_sampler_that_goes_with_it(
    autoencoder_run: Path, preset: str, loss: str | None, sampler: tuple[str, int, str]
) -> None:
    more = ["--loss", loss] if loss else []
    settings, *_ = train_diffusion.parse(
        ["--preset", preset, "--autoencoder", str(autoencoder_run), *more]
    )
    found = settings.diffusion
    assert (found.sampler, found.num_sampling_steps, found.member_noise) == sampler
    assert settings.loss == (loss or "crps")
    assert settings.crps.latent_weight == (1.1 if (preset, loss) == ("small", None) else 0.0)


@pytest.mark.parametrize("preset", DIFFUSION_PRESETS)
def test_any_preset_goes_on_from_a_model_that_denoises_and_from_one_of_one_call(
    preset: str, tmp_path: Path
) -> None:
    tiny_model().save_pretrained(tmp_path / "denoises")
    start = ["--preset", preset, "--init"]
    settings, *_ = train_diffusion.parse([*start, str(tmp_path / "denoises")])
    assert (settings.loss, settings.crps) == ("denoising", CRPSLossConfig())
    assert settings.diffusion == tiny_model().config.diffusion
    more = ["--loss", "crps", "--autoencoder", str(tmp_path / "denoises")]
    settings, *_ = train_diffusion.parse([*start, str(tmp_path / "denoises"), *more])
    assert (settings.loss, settings.diffusion.sampler) == ("crps", "one_call")
    assert settings.crps == DIFFUSION_PRESETS[preset].crps
    settings, *_ = train_diffusion.parse([*start, "bundled"])
    assert (settings.loss, settings.diffusion.sampler) == ("crps", "one_call")


def test_another_sampler_than_the_presets_starts_from_its_own_settings(
    event_path: Path, autoencoder_run: Path, tmp_path: Path
) -> None:
    stage = Stage("diffusion", event_path, autoencoder_run)
    run = stage.run(tmp_path / "run", 1, "--diffusion.sampler", "dpm_solver")
    diffusion = read_description(run).model.diffusion
    assert (diffusion.sampler, diffusion.sampler_settings) == (
        "dpm_solver",
        {"eta": 0.0, "fresh_noise_scale": 1.0},
    )


def test_a_run_from_before_a_setting_resumes(
    event_path: Path, autoencoder_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = Stage("diffusion", event_path, autoencoder_run)
    path = stage.run(tmp_path / "run", 1) / ARGUMENTS_NAME
    assert "spacing" in stage.fails(
        capsys, path.parent, "--diffusion.sampler-settings", "spacing=published"
    )
    arguments = json.loads(path.read_text())
    del arguments["diffusion"]["sampler_settings"]
    path.write_text(json.dumps(arguments))
    assert read_metrics(stage.run(path.parent, 2))[-1]["iteration"] == 2
    arguments = json.loads(path.read_text())
    del arguments["diffusion"]["schedule"]
    path.write_text(json.dumps(arguments))
    assert "diffusion.schedule None" in stage.fails(capsys, path.parent)


def test_a_run_from_before_kinds_of_autoencoders_resumes(
    event_path: Path, autoencoder_run: Path, tmp_path: Path
) -> None:
    stage = Stage("autoencoder", event_path, autoencoder_run)
    path = stage.run(tmp_path / "run", 1) / ARGUMENTS_NAME
    arguments = json.loads(path.read_text())
    del arguments["autoencoder"]["kind"]
    path.write_text(json.dumps(arguments))
    assert read_metrics(stage.run(path.parent, 2))[-1]["iteration"] == 2


def test_a_run_from_before_errors_in_mmh_resumes_without_them(
    event_path: Path, autoencoder_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = Stage("autoencoder", event_path, autoencoder_run)
    path = stage.run(tmp_path / "run", 1) / ARGUMENTS_NAME
    arguments = json.loads(path.read_text())
    del arguments["autoencoder"]["rain_weight"]
    path.write_text(json.dumps(arguments))
    line = stage.fails(capsys, path.parent, "--autoencoder.rain-weight", "0.5")
    assert "autoencoder.rain_weight 0.0, now it is 0.5" in line
    assert read_metrics(stage.run(path.parent, 2))[-1]["iteration"] == 2


def test_a_run_from_before_variations_goes_on_without_them(
    event_path: Path, autoencoder_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = Stage("autoencoder", event_path, autoencoder_run)
    path = stage.run(tmp_path / "run", 1) / ARGUMENTS_NAME
    arguments = json.loads(path.read_text())
    for name in ("crop_motion", "rain_factor_db"):
        del arguments["data_settings"][name]
    path.write_text(json.dumps(arguments))
    line = stage.fails(capsys, path.parent, "--data.crop-motion", "1")
    assert "data.crop_motion 0, now it is 1" in line
    line = stage.fails(capsys, path.parent, "--data.rain-factor-db", "0.6")
    assert "data.rain_factor_db 0.0, now it is 0.6" in line
    assert same_tensors(state(stage.run(path.parent, 2)), state(stage.reference(2)))


def test_a_varied_run_resumes_exactly(stage: Stage, tmp_path: Path) -> None:
    whole = stage.reference(4, *VARIED)
    for iterations in (2, 4):
        parts = stage.run(tmp_path / "parts", iterations, *VARIED)
    assert same_tensors(state(parts), state(whole))


def test_crops_without_room_to_move_are_refused(
    event_path: Path, autoencoder_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = Stage("diffusion", event_path, autoencoder_run)
    line = stage.fails(capsys, tmp_path / "run", "--data.crop-motion", "2")
    assert "64 x 80 pixels, expected at least 78 x 78" in line
    assert "use --data.crop-motion 1 or a smaller --crop-size" in line
    line = stage.fails(capsys, tmp_path / "run", "--data.crop-motion", "1.5")
    assert "data.crop_motion: got '1.5', expected int" in line


def test_a_finished_run_is_left_as_it_is(stage: Stage, tmp_path: Path) -> None:
    out = stage.run(tmp_path / "run", 2)
    before = read_metrics(out), state(out)
    stage.run(out, 2)
    assert read_metrics(out) == before[0]
    assert same_tensors(state(out), before[1])


def test_lines_of_metrics_beyond_the_checkpoint_are_cut(stage: Stage, tmp_path: Path) -> None:
    out = stage.run(tmp_path / "run", 2)
    before = read_metrics(out)
    with open(out / "metrics.jsonl", "a") as file:
        file.write('{"iteration": 3, "loss": 1.0}\n{"iteration": 4, "lo')
    stage.run(out, 2)
    assert read_metrics(out) == before


def test_micro_batches_change_nothing_but_rounding(stage: Stage, tmp_path: Path) -> None:
    whole = stage.reference(1)
    same_gradients(stage.run(tmp_path / "parts", 1, "--loop.num-micro-batches", "2"), whole)


# ---- every option does something -----------------------------------------------------------------

BOTH = [
    ("--lr", "1e-5"),
    ("--batch-size", "1"),
    ("--crop-size", "48"),
    ("--amp", "bf16"),
    ("--amp", "fp16"),
    ("--optimizer.betas", "0.5,0.9"),
    ("--optimizer.weight-decay", "0.5"),
    ("--optimizer.warmup-iterations", "100"),
    ("--optimizer.decay-after", "1"),
    ("--optimizer.clip-norm", "0.001"),
    ("--data.crop-picker", "uniform"),
    ("--data.use-augmentation", "false"),
    ("--data.crop-motion", "1"),
    ("--data.rain-factor-db", "0.6"),
    ("--loop.ema-decay", "0.01"),
]
ONLY = {
    "autoencoder": [
        ("--autoencoder.kl-weight", "1"),
        ("--autoencoder.channels", "4"),
        ("--rain.wet-threshold", "0.5"),
    ],
    "diffusion": [
        ("--loss-norm", "l1"),
        ("--encoder-dtype", "bfloat16"),
        ("--diffusion.prediction", "v"),
        ("--diffusion.schedule", "cosine"),
        ("--conditioner.channels", "16"),
        ("--denoiser.num-res-blocks", "2"),
    ],
}


@pytest.fixture(scope="module")
def usual_states(event_path: Path, autoencoder_run: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The state that each script reaches in two iterations without any option."""
    stages = {name: Stage(name, event_path, autoencoder_run) for name in SCRIPTS}
    return {name: state(stage.reference(2)) for name, stage in stages.items()}


# An option of both scripts is one piece of code: one of them is quick.
OPTIONS = [(name, option) for name in SCRIPTS for option in ONLY[name]]
OPTIONS += [("autoencoder", option) for option in BOTH]
OPTIONS += [pytest.param("diffusion", option, marks=pytest.mark.slow) for option in BOTH]


@pytest.mark.parametrize(("name", "option"), OPTIONS, ids=str)
def test_an_option_changes_the_run(
    name: str,
    option: tuple[str, str],
    event_path: Path,
    autoencoder_run: Path,
    usual_states: dict[str, dict[str, torch.Tensor]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stage = Stage(name, event_path, autoencoder_run)
    if stage.is_refused(capsys, tmp_path / "refused", *option):
        return
    changed = stage.run(tmp_path / "changed", 2, *option)
    assert not same_tensors(usual_states[name], state(changed))


def test_worker_processes_change_nothing(stage: Stage, tmp_path: Path) -> None:
    alone = stage.reference(2)
    helped = stage.run(tmp_path / "helped", 2, "--data.num-workers", "1")
    assert same_tensors(state(alone), state(helped))


def test_intervals_decide_when_to_log_and_to_validate(stage: Stage, tmp_path: Path) -> None:
    more = ("--loop.log-interval", "2", "--loop.validation-interval", "3")
    out = stage.run(tmp_path / "run", 5, *more)
    assert [line["iteration"] for line in read_metrics(out) if "lr" in line] == [2, 4, 5]
    assert [line["iteration"] for line in read_metrics(out) if "val_loss" in line] == [0, 3, 5]


def test_validation_data_may_be_named(stage: Stage, short_event_path: Path, tmp_path: Path) -> None:
    usual = stage.reference(1)
    named = stage.run(tmp_path / "named", 1, "--validation-data", str(short_event_path))
    assert read_metrics(usual)[-1]["val_loss"] != read_metrics(named)[-1]["val_loss"]


def test_init_starts_from_a_models_sizes_and_weights(
    stage: Stage, autoencoder_run: Path, tmp_path: Path
) -> None:
    widths = {train_autoenc: "--autoencoder.channels", train_diffusion: "--denoiser.channels"}
    first = stage.run(tmp_path / "first", 1, widths[stage.script], "16")
    tuned = stage.run(tmp_path / "tuned", 1, "--init", str(first), "--lr", "0")
    before, after = (load_file(out / "model.safetensors") for out in (first, tuned))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor)


# ---- what the user can fix -----------------------------------------------------------------------


def test_a_changed_argument_is_named(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = stage.run(tmp_path / "run", 1)
    line = stage.fails(capsys, out, "--lr", "0.5")
    assert "optimizer.lr" in line
    assert "0.5" in line


def test_too_large_a_crop_names_the_size_that_fits(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--crop-size 64" in stage.fails(capsys, tmp_path / "run", "--crop-size", "128")


def test_a_crop_must_fit_the_networks(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    is_first = stage.name == "autoencoder"
    size, fit = ("34", "4, as the networks need: 32 or 36") if is_first else ("40", "16")
    assert f"multiple of {fit}" in stage.fails(capsys, tmp_path / "run", "--crop-size", size)


def test_fewer_iterations_than_done_are_refused(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = stage.run(tmp_path / "run", 3)
    assert "loop.iterations" in stage.fails(capsys, out)


def test_a_run_folder_that_cannot_be_written_is_found_first(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot write" in stage.fails(capsys, tmp_path / "file" / "run")


def test_no_data_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "run")]
    assert run_script(lambda: train_autoenc.main([*LOOP, *out])) == 2
    assert "--data" in capsys.readouterr().err


def test_stage_2_without_stage_1_points_to_it(
    event_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = ["--autoencoder", str(tmp_path / "none"), "--data", str(event_path)]
    assert run_script(lambda: train_diffusion.main([*LOOP, *missing])) == 2
    assert "none" in capsys.readouterr().err


def test_an_unknown_flag_exits_with_status_2(stage: Stage, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        stage.run(tmp_path / "run", 1, "--optimizer.momentum", "1")
    assert stop.value.code == 2


# ---- what a folder or a file means ---------------------------------------------------------------


def test_training_and_validation_may_not_share_a_frame(
    stage: Stage, event_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = ("--validation-data", f"{event_path}@2000-01-01T01:00/2000-01-01T03:30")
    assert "share 30 frames" in stage.fails(capsys, tmp_path / "run", *same)


def test_a_model_that_is_no_run_is_not_overwritten(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = stage.run(tmp_path / "run", 1)
    (out / "state.json").unlink()
    before = (out / "model.safetensors").read_bytes()
    assert "choose another --out" in stage.fails(capsys, out)
    assert (out / "model.safetensors").read_bytes() == before


def test_two_processes_cannot_train_in_one_folder(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = stage.run(tmp_path / "run", 1)
    with lock_folder(out):
        assert "another process" in stage.fails(capsys, out)


def test_what_a_killed_run_left_half_written_is_cleared(stage: Stage, tmp_path: Path) -> None:
    out = stage.run(tmp_path / "run", 1)
    (out / ".state.safetensors.123.tmp").write_bytes(b"half")
    stage.run(out, 1)
    assert not list(out.glob(".*"))


def test_the_validation_of_iteration_0_outlives_an_early_stop(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = stage.reference(2)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    broken = tmp_path / "broken"
    with monkeypatch.context() as patch:
        patch.setattr(EMA, "update", stop)
        assert run_script(lambda: stage.script.main(stage.arguments(broken, 2))) == 130
    stage.run(broken, 2)
    assert read_metrics(broken) == read_metrics(unbroken)


def test_a_run_stopped_by_ctrl_c_says_so_in_its_status(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = EMA.update

    def update_and_interrupt(ema: EMA) -> None:
        update(ema)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(EMA, "update", update_and_interrupt)
    assert stage.script.main(stage.arguments(tmp_path / "run", 2)) == 130


def test_stage_2_notices_another_autoencoder(
    event_path: Path, autoencoder_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    autoencoder = shutil.copytree(autoencoder_run, tmp_path / "autoenc")
    stage = Stage("diffusion", event_path, autoencoder)
    out = stage.run(tmp_path / "run", 1)
    tensors = load_file(autoencoder / "model.safetensors")
    doubled = {name: 2 * tensor for name, tensor in tensors.items()}
    save_file(doubled, autoencoder / "model.safetensors")
    assert "autoencoder_sha256" in stage.fails(capsys, out)


def test_stage_2_cannot_start_from_an_autoencoder(
    event_path: Path, autoencoder_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = Stage("diffusion", event_path, autoencoder_run)
    line = stage.fails(capsys, tmp_path / "run", "--init", str(autoencoder_run))
    assert "give it as --autoencoder" in line


def test_validation_data_holds_beside_recorded_training_data(
    autoencoder_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*LOOP, "--autoencoder", str(autoencoder_run), "--out", str(tmp_path / "run")]
    arguments += ["--validation-data", "nowhere.npz"]
    assert run_script(lambda: train_diffusion.main(arguments)) == 2
    assert "nowhere.npz" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("diffusion", ("--conditioner.channels", "12")),
        ("diffusion", ("--diffusion.num-sampling-steps", "5000")),
        ("autoencoder", ("--loop.ema-decay", "2")),
        ("autoencoder", ("--lr", "inf")),
    ],
)
def test_senseless_settings_are_refused(
    name: str,
    option: tuple[str, str],
    event_path: Path,
    autoencoder_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stage = Stage(name, event_path, autoencoder_run)
    assert option[1] in stage.fails(capsys, tmp_path / "run", *option)


def test_validations_forecast_with_the_steps_that_are_asked_for(
    event_path: Path, autoencoder_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict, steps = LDCast.predict, []

    def recorded(self: LDCast, past: object, members: int, seed: int, num: object, **more: object):
        steps.append(num)
        return predict(self, past, members, seed, num, **more)

    monkeypatch.setattr(LDCast, "predict", recorded)
    stage = Stage("diffusion", event_path, autoencoder_run)
    stage.run(tmp_path / "three", 1, "--forecast-score.num-sampling-steps", "3")
    assert steps and set(steps) == {3}
    steps.clear()
    stage.run(tmp_path / "own", 1)
    assert steps and set(steps) == {None}  # the model's own
