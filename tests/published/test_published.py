"""Published files: the same forecast as theirs, every tensor accounted for, and what is refused."""

import json
import os
import pathlib
import re
import warnings
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from golden_arrays import GOLDEN, below, load, notes
from safetensors.torch import load_file
from torch import Tensor

import infer
import train_diffusion
from ldcast import LDCast
from ldcast.config import DiffusionConfig, ModelConfig
from ldcast.data.event_files import write_event
from ldcast.data.synthetic import synthetic_event
from ldcast.errors import run_script
from ldcast.models import AutoencoderConfig, ConditionerConfig, DenoiserConfig
from ldcast.nowcast.ldcast import build
from ldcast.published.__main__ import main
from ldcast.published.importing import check_finite, count_bytes, match, write_models
from ldcast.published.names import averaged_name, conditioner_name, denoiser_name
from ldcast.published.reading import Checkpoint, read_checkpoint

ARRAYS = load("forecast_e2e")
MAPS = pathlib.Path("/proc/self/maps")
COPIES = ("autoencoder.", "context_encoder.autoencoder.0.")
BUFFERS = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
)


def schedule_tables(name: str) -> dict[str, Tensor]:
    """The five buffers, float32, from the betas that the published code computed."""
    beta = load("schedule")[f"{name}.betas_float64"]
    alpha_bar = torch.cumprod(1 - beta, dim=0)
    before = torch.cat([torch.ones_like(beta[:1]), alpha_bar[:-1]])
    tables = beta, alpha_bar, before, alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    return {name: table.float() for name, table in zip(BUFFERS, tables, strict=True)}


def published_tensors() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The two state dicts of the narrow network in `golden/`, complete as the published ones are.

    Its arrays leave out what is in the files twice, and what nothing uses.
    """
    second = below(ARRAYS, "ldm.")
    first = below(second, "autoencoder.") | {"log_var": torch.zeros(())}
    second |= {prefix + name: tensor for prefix in COPIES for name, tensor in first.items()}
    second |= schedule_tables("linear")
    second |= {
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(1100, dtype=torch.int32),
    }
    return first, second


class Files:
    """Two files that tests change before they are imported."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.first, self.second = published_tensors()
        self.paths = folder / "autoenc.pt", folder / "ldm.pt"
        self.out = folder / "model"

    def save(self, wrap=lambda tensors: tensors, **how) -> list[str]:
        """Writes the files as the published code does; returns the arguments.

        Published weights are pickles, so what reads them can only be tested on pickles. They are
        of this test's own tensors, and the reader unpickles nothing but tensors.
        """
        for path, tensors in zip(self.paths, (self.first, self.second), strict=True):
            torch.save(wrap(tensors), path, **how)
        return [*map(str, self.paths), "--out", str(self.out)]

    def weights(self) -> dict[str, Tensor]:
        return load_file(self.out / "model.safetensors")

    def refusal(self, capsys, *more: str, saved: bool = False) -> str:
        """The one line of a refused import, which must leave no model behind."""
        argv = [*map(str, self.paths), "--out", str(self.out)] if saved else self.save()
        assert run_script(lambda: main([*argv, *more])) == 2
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        assert not list(self.out.glob("**/*.*"))
        return line


@pytest.fixture
def files(tmp_path) -> Files:
    return Files(tmp_path)


# ---- the forecast


def test_forecast_of_the_imported_model_is_the_published_one(files):
    """10 steps from the same noise. Negative rain, here an error, was taken for dry there."""
    main(files.save())
    model = LDCast.from_pretrained(files.out, device="cpu")
    past = ARRAYS["R_past"].clamp(min=0)
    steps = notes("forecast_e2e")["S"]
    asked = {"num_sampling_steps": steps, "noise": ARRAYS["x_T"], "amp": "off"}
    forecast = model.predict(past, 1, **asked)[0]
    expected = ARRAYS["R_pred"]
    compared = ~torch.isnan(forecast) & ((expected - 0.1).abs() > 1e-3)
    assert compared.float().mean() > 0.9
    got, expected = forecast[compared], expected[compared]
    is_heavy = expected >= 10
    assert is_heavy.any()
    torch.testing.assert_close(got[~is_heavy], expected[~is_heavy], rtol=0, atol=1e-3)
    torch.testing.assert_close(got[is_heavy], expected[is_heavy], rtol=1e-4, atol=0)


def test_infer_takes_the_imported_model(files, tmp_path):
    main(files.save())
    rng = np.random.default_rng(0)
    time = np.datetime64("2020-06-01T00:00:00") + 300 * np.arange(4).astype("timedelta64[s]")
    rain = rng.gamma(0.5, 2.0, (4, 40, 72)).astype(np.float32)
    np.savez(tmp_path / "event.npz", rain_rate=rain, time=time)
    out = tmp_path / "forecast.npz"
    argv = ["--model", str(files.out), "--data", str(tmp_path / "event.npz"), "--out", str(out)]
    infer.main([*argv, "--members", "2", "--steps", "4"])
    with np.load(out) as forecast:
        assert forecast["rain_rate"].shape == (2, 20, 40, 72)
        assert np.isfinite(forecast["rain_rate"]).all()


def test_the_imported_model_can_be_fine_tuned(files, tmp_path):
    main(files.save())
    event = synthetic_event(seed=3, num_frames=28, height=64, width=64)
    write_event(event, tmp_path / "event.npz")
    argv = ["--init", str(files.out), "--data", str(tmp_path / "event.npz"), "--lr", "0"]
    out = tmp_path / "run"
    train_diffusion.main([*argv, "--preset", "tiny", "--iterations", "1", "--out", str(out)])
    tuned = LDCast.from_pretrained(out, device="cpu")
    imported = LDCast.from_pretrained(files.out, device="cpu")
    assert tuned.config == imported.config
    for name, tensor in imported.state_dict().items():
        assert torch.equal(tuned.state_dict()[name], tensor)


# ---- which tensors are used


def test_averaged_weights_are_used_and_raw_ones_kept_on_request(files):
    main([*files.save(), "--keep-raw"])
    name = "output_blocks.0.0.in_layers.2.weight"
    raw, averaged = (
        files.second["model." + name],
        files.second["model_ema." + name.replace(".", "")],
    )
    assert not torch.equal(raw, averaged)
    assert torch.equal(files.weights()["denoiser.up.0.0.conv1.weight"], averaged)
    kept = load_file(files.out / "raw" / "model.safetensors")
    assert torch.equal(kept["denoiser.up.0.0.conv1.weight"], raw)
    assert torch.equal(kept["conditioner.proj.bias"], files.weights()["conditioner.proj.bias"])
    descriptions = [json.loads((files.out / f / "config.json").read_text()) for f in ("", "raw")]
    for description, kind in zip(descriptions, ("averaged", "raw"), strict=True):
        assert description["trained_on"] == {
            "imported_from": "autoenc.pt, ldm.pt",
            "denoiser": f"{kind} weights",
        }
    LDCast.from_pretrained(files.out / "raw", device="cpu")


def test_without_averages_the_raw_weights_are_used_and_it_is_said(files, capsys):
    second = files.second
    files.second = {n: t for n, t in second.items() if not n.startswith("model_ema.")}
    main(files.save())
    assert "no averaged weights (model_ema.*) in the file" in capsys.readouterr().out
    assert "raw weights" in (files.out / "config.json").read_text()
    raw = second["model.output_blocks.0.0.in_layers.2.weight"]
    assert torch.equal(files.weights()["denoiser.up.0.0.conv1.weight"], raw)


def test_without_averages_there_is_nothing_else_to_keep(files, capsys):
    files.second = {n: t for n, t in files.second.items() if not n.startswith("model_ema.")}
    assert "leave --keep-raw out" in files.refusal(capsys, "--keep-raw")


def test_every_tensor_is_accounted_for(files, capsys):
    main(files.save())
    lines = capsys.readouterr().out.splitlines()
    for tensors in (files.first, files.second):
        line = next(line for line in lines if f" of {len(tensors)} tensors used" in line)
        num_used, start = int(line.split(": ")[1].split()[0]), lines.index(line) + 1
        num_named = 0
        for named in lines[start:]:
            if not named.startswith("  not used: "):
                break
            names = named.removeprefix("  not used: ").split(": ")[0]
            if names.endswith(")"):
                num_named += int(names.rpartition("(")[2][:-1])
            else:
                assert set(names.split(", ")) <= tensors.keys()
                num_named += len(names.split(", "))
        assert num_used + num_named == len(tensors)


@pytest.mark.parametrize(
    "absent",
    [
        BUFFERS,
        BUFFERS[1:3],
        COPIES,
        COPIES[:1],
        COPIES[1:],
        ("autoencoder.log_var",),
        ("model_ema.decay", "model_ema.num_updates"),
        (*COPIES, *BUFFERS),
    ],
)
def test_what_is_in_the_files_twice_may_be_absent(files, absent):
    main(files.save())
    expected = files.weights()
    files.second = {n: t for n, t in files.second.items() if not n.startswith(absent)}
    files.out = files.out.with_name("other")
    main(files.save())
    assert files.weights().keys() == expected.keys()
    assert all(torch.equal(t, expected[name]) for name, t in files.weights().items())


@pytest.mark.parametrize("prefix", COPIES)
def test_copies_that_differ_are_refused(files, capsys, prefix):
    name = prefix + "decoder.3.conv2.bias"
    files.second[name] = files.second[name] + 1e-6
    line = files.refusal(capsys)
    assert f"{name} differ from" in line
    assert "expected the autoencoder that the model was trained with" in line


def test_copies_of_another_type_are_compared_in_the_coarser_one(files, capsys):
    files.second = {
        n: t.half() if t.is_floating_point() and n not in BUFFERS else t
        for n, t in files.second.items()
    }
    main(files.save())
    expected = files.first["to_decoder.bias"]
    assert torch.equal(files.weights()["autoencoder.to_decoder.bias"], expected)
    name = COPIES[0] + "to_decoder.bias"
    files.second[name] = files.second[name] * 1.01
    files.out = files.out.with_name("other")
    assert f"{name} differ from" in files.refusal(capsys)


REQUIRED = [
    (0, "to_decoder.weight"),
    (0, "encoder.0.conv1.weight"),
    (0, "decoder.3.proj.bias"),
    (1, "context_encoder.proj.0.weight"),
    (1, "context_encoder.analysis.0.0.norm1.weight"),
    (1, "context_encoder.temporal_transformer.0.attn1.Q.weight"),
    (1, "context_encoder.resnet.1.conv2.bias"),
    (1, "context_encoder.autoencoder.0.to_moments.bias"),
    (1, "model.time_embed.0.weight"),
    (1, "model.input_blocks.0.0.weight"),
    (1, "model.input_blocks.2.0.op.weight"),
    (1, "model.input_blocks.3.0.in_layers.2.weight"),
    (1, "model.middle_block.1.filter.w1"),
    (1, "model.output_blocks.3.2.conv.bias"),
    (1, "model.out.2.weight"),
    (1, "model_ema.out2weight"),
    (1, "model_ema.output_blocks11convbias"),
]


@pytest.mark.parametrize(("which", "name"), REQUIRED)
def test_a_missing_tensor_is_named_with_its_shape(files, capsys, which, name):
    tensor = (files.first, files.second)[which].pop(name)
    line = files.refusal(capsys)
    assert f"{files.paths[which]}: got nothing as {name}, expected {tuple(tensor.shape)}" in line


@pytest.mark.parametrize(("which", "name"), REQUIRED)
@pytest.mark.parametrize("axis", [0, -1])
def test_a_misshapen_tensor_is_named_with_its_shape(files, capsys, which, name, axis):
    if axis:  # whichever comes first
        files.first, files.second = (dict(reversed(t.items())) for t in (files.first, files.second))
    tensors = (files.first, files.second)[which]
    right = tensors[name]
    tensors[name] = torch.cat([right, right], dim=axis)
    line = files.refusal(capsys)
    got, expected = tuple(tensors[name].shape), tuple(right.shape)
    assert f"{files.paths[which]}: got {got} as {name}, expected {expected}" in line
    assert "more" not in line


@pytest.mark.parametrize(
    ("which", "name"),
    [
        (0, "encoder.1.extra"),
        (1, "extra"),
        (1, "model.input_blocks.1.0.in_layers.0.weight"),
        (1, "model_ema.input_blocks100"),
        (1, "context_encoder.autoencoder.0.extra"),
    ],
)
def test_an_unknown_tensor_is_named(files, capsys, which, name):
    (files.first, files.second)[which][name] = torch.zeros(3)
    assert f"got (3,) as {name}, expected nothing" in files.refusal(capsys)


@pytest.mark.parametrize(
    ("which", "names", "example"),
    [
        (0, r"encoder\.0\..*", "encoder.0.conv1.weight"),
        (
            1,
            r"context_encoder\.(analysis|forecast)\..*",
            "context_encoder.analysis.0.0.norm1.weight",
        ),
        (
            1,
            r"model\.(input_blocks\.3|output_blocks\.[23])\..*",
            "model.input_blocks.3.0.in_layers.2.weight",
        ),
    ],
)
def test_where_no_tensor_tells_a_size_one_is_named(files, capsys, which, names, example):
    tensors = (files.first, files.second)[which]
    for name in [name for name in tensors if re.fullmatch(names, name)]:
        del tensors[name]
    assert f"{files.paths[which]}: got no tensor {example}, expected one" in files.refusal(capsys)


def test_many_faults_are_counted(files, capsys):
    for name in [n for n in files.second if n.startswith("model_ema.out")]:
        del files.second[name]
    line = files.refusal(capsys)
    assert line.count("got nothing as") == 3
    assert " more" in line


# ---- sizes, types and the schedule, read from the tensors


def as_published(config: ModelConfig) -> tuple[Checkpoint, Checkpoint]:
    """A model of any size under the published names; its tensors are zeros without memory."""
    with torch.device("meta"):
        networks = build(config).networks()

    def tensors(network: str, prefix: str, name_of) -> dict[str, Tensor]:
        return {
            prefix + name_of(name): torch.zeros(()).expand(tensor.shape)
            for name, tensor in networks[network].state_dict().items()
        }

    second = tensors("conditioner", "context_encoder.", conditioner_name)
    for prefix, name_of in (("model.", str), ("", averaged_name)):
        second |= tensors(
            "denoiser", prefix, lambda name, f=name_of: f(denoiser_name(name, config.denoiser))
        )
    return (
        Checkpoint(pathlib.Path("first"), tensors("autoencoder", "", str)),
        Checkpoint(pathlib.Path("second"), second),
    )


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(),
        ModelConfig(autoencoder=AutoencoderConfig(channels=16, coarse_channels=64)),
        ModelConfig(autoencoder=AutoencoderConfig(channels=48, latent_channels=8)),
        ModelConfig(
            conditioner=ConditionerConfig(
                channels=24, num_analysis_blocks=3, num_forecast_blocks=1, num_afno_blocks=4
            )
        ),
        ModelConfig(conditioner=ConditionerConfig(head_channels=16)),
        ModelConfig(
            conditioner=ConditionerConfig(num_cascade_levels=2),
            denoiser=DenoiserConfig(32, (1, 3), 1, (0,), num_afno_blocks=4),
        ),
        ModelConfig(
            conditioner=ConditionerConfig(channels=16, num_cascade_levels=4),
            denoiser=DenoiserConfig(16, (1, 2, 1, 3), 3, (1, 3)),
        ),
        ModelConfig(
            conditioner=ConditionerConfig(channels=16, num_cascade_levels=1),
            denoiser=DenoiserConfig(16, (1,), 2, ()),
        ),
    ],
)
def test_sizes_are_read_from_the_shapes(config):
    config = replace(
        config,
        conditioner=replace(config.conditioner, drop_wide_modes=True),
        denoiser=replace(config.denoiser, drop_wide_modes=True),
    )
    assert match(*as_published(config)).config == config


def test_the_published_files_have_the_paper_s_sizes():
    """Names and shapes of all tensors of the two files."""
    checkpoints = [
        Checkpoint(
            pathlib.Path(name),
            {name: torch.zeros(()).expand(shape) for name, shape, _ in json.loads(text)},
        )
        for name in ("manifest_autoenc.json", "manifest_ldm.json")
        for text in [(GOLDEN / name).read_text()]
    ]
    checkpoints[1].tensors.update(schedule_tables("linear"))
    model = match(*checkpoints)
    paper = ModelConfig()
    assert model.config == replace(
        paper,
        conditioner=replace(paper.conditioner, drop_wide_modes=True),
        denoiser=replace(paper.denoiser, drop_wide_modes=True),
    )
    assert sum(t.numel() for t in model.weights.tensors.values()) == 671_358_338


def test_autoencoders_of_other_levels_are_refused(files, capsys):
    files.first["encoder.4.conv1.bias"] = torch.zeros(3)
    assert "got an autoencoder of 3 levels, expected 2" in files.refusal(capsys)


def test_models_with_a_second_input_are_refused(files, capsys):
    files.second["context_encoder.proj.1.weight"] = torch.zeros(3)
    assert "has a second input (context_encoder.proj.1.*)" in files.refusal(capsys)


@pytest.mark.parametrize(
    "part",
    [
        "context_encoder.resnet.1.",
        "context_encoder.forecast.0.",
        "context_encoder.temporal_transformer.0.mlp.",
        "model.input_blocks.2.0.op.",
        "model.input_blocks.4.0.op.",
        "model.input_blocks.1.1.",
        "model.output_blocks.1.1.conv.",
        "model.middle_block.1.",
    ],
)
def test_a_missing_module_is_named_and_nothing_else(files, capsys, part):
    gone = {n: tuple(t.shape) for n, t in files.second.items() if n.startswith(part)}
    files.second = {n: t for n, t in files.second.items() if n not in gone}
    line = files.refusal(capsys)
    assert line.count("got nothing as " + part) == min(len(gone), 3)
    assert "expected nothing" not in line
    named = [name for name in gone if f"got nothing as {name}, expected {gone[name]}" in line]
    assert len(named) == min(len(gone), 3)


@pytest.mark.parametrize(
    "name",
    [
        "context_encoder.resnet.40.proj.bias",
        "context_encoder.analysis.0.300000.norm1.weight",
        "model.input_blocks.200000000.0.op.weight",
        "model.input_blocks." + 5000 * "9" + ".0.op.weight",
    ],
)
def test_a_stray_module_is_named_however_large_its_number(files, capsys, name):
    files.second[name] = torch.zeros(3)
    assert f"got (3,) as {name}, expected nothing" in files.refusal(capsys)


def test_a_network_without_channels_is_refused(files, capsys):
    for name in ("model.input_blocks.0.0.weight", "model.input_blocks.0.0.bias"):
        files.second[name] = files.second[name][:0]
    files.second["model.out.2.weight"] = files.second["model.out.2.weight"][:, :0]
    assert "got a denoiser of 0 channels" in files.refusal(capsys)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_noise_schedule_is_read_from_its_tables(files, name):
    files.second |= schedule_tables(name)
    main(files.save())
    ours = {"linear": "sqrt_linear", "cosine": "cosine"}[name]
    config = LDCast.from_pretrained(files.out, device="cpu").config
    assert config.diffusion == DiffusionConfig(schedule=ours)


@pytest.mark.parametrize("change", [lambda t: (1 + 1e-5) * t, lambda t: t[:500]])
def test_another_noise_schedule_is_refused(files, capsys, change):
    files.second["betas"] = change(files.second["betas"])
    shape = tuple(files.second["betas"].shape)
    expected = f"another noise schedule, betas {shape}, expected those of sqrt_linear or cosine"
    assert expected in files.refusal(capsys)


def test_bfloat16_halves_the_file_and_rounds(files):
    main(files.save())
    whole = files.weights()
    files.out = files.out.with_name("half")
    main([*files.save(), "--dtype", "bfloat16"])
    assert all(torch.equal(t, whole[name].bfloat16()) for name, t in files.weights().items())
    LDCast.from_pretrained(files.out, device="cpu")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_files_of_other_float_types_are_imported_as_float32(files, dtype):
    for tensors in (files.first, files.second):
        tensors |= {n: t.to(dtype) for n, t in tensors.items() if t.is_floating_point()}
    main(files.save())
    assert {t.dtype for t in files.weights().values()} == {torch.float32}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("which", "name"), [(0, "to_moments.weight"), (1, "model_ema.out2weight")])
def test_values_that_are_not_finite_are_refused(files, capsys, which, name, value):
    tensors = (files.first, files.second)[which]
    tensors[name] = tensors[name].clone()
    tensors[name][0, 0, 0, 0, 0] = value
    for prefix in COPIES:
        files.second[prefix + "to_moments.weight"] = files.first["to_moments.weight"]
    line = files.refusal(capsys)
    assert f"got NaN or infinite values in {name} of {files.paths[which]}" in line


@pytest.mark.parametrize(("value", "dtype"), [(1e39, "float32"), (3.4e38, "bfloat16")])
def test_values_too_large_for_the_file_are_refused(files, capsys, value, dtype):
    name = "model_ema.out2bias"
    files.second[name] = torch.full_like(files.second[name], value, dtype=torch.float64)
    line = files.refusal(capsys, "--dtype", dtype)
    assert f"in {name} of {files.paths[1]}, expected finite ones of torch.{dtype}" in line


def test_integers_are_no_weights(files, capsys):
    files.first["to_decoder.bias"] = files.first["to_decoder.bias"].long()
    line = files.refusal(capsys)
    assert "has torch.int64 as to_decoder.bias, expected plain numbers of a float type" in line


def test_progress_adds_up(files):
    files.save()
    model = match(*map(read_checkpoint, files.paths))
    for dtype in (torch.float32, torch.bfloat16):
        done = []
        check_finite(model.weights, dtype, done.append)
        write_models(model, {files.out: model.weights}, dtype, done.append)
        assert sum(done) == count_bytes(model.weights, dtype)


@pytest.mark.parametrize("is_older", [False, True])
def test_progress_of_reading_ends_at_the_size_of_the_file(files, is_older):
    files.save(_use_new_zipfile_serialization=not is_older)
    done = []
    read_checkpoint(files.paths[1], done.append)
    assert sum(done) == files.paths[1].stat().st_size


# ---- a conditioner that was never trained


def reset_norms(files: Files) -> None:
    for name, tensor in files.second.items():
        if re.fullmatch(r"context_encoder\.(?!autoencoder).*norm\d\.(weight|bias)", name):
            files.second[name] = torch.full_like(tensor, float(name.endswith("weight")))


def test_an_untrained_conditioner_is_told(files, capsys):
    main(files.save())
    assert "never trained" not in capsys.readouterr().out
    reset_norms(files)
    files.out = files.out.with_name("fresh")
    main(files.save())
    assert "warning: the LayerNorm weights of the conditioner are all" in capsys.readouterr().out
    assert "never trained" in (files.out / "config.json").read_text()


def test_one_trained_norm_is_enough(files, capsys):
    reset_norms(files)
    files.second["context_encoder.forecast.0.norm2.bias"][0] = 1e-7
    main(files.save())
    assert "never trained" not in capsys.readouterr().out


# ---- kinds of files


def test_older_files_and_lightning_checkpoints_give_the_same_model(files, capsys):
    main(files.save())
    expected = (files.out / "model.safetensors").read_bytes()

    files.out = files.out.with_name("older")
    main(files.save(_use_new_zipfile_serialization=False))
    assert (files.out / "model.safetensors").read_bytes() == expected

    files.out = files.out.with_name("lightning")
    capsys.readouterr()
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]}
    main(
        files.save(
            lambda tensors: {
                "epoch": 7,
                "pytorch-lightning_version": "1.9.5",
                "state_dict": tensors,
                "optimizer_states": [optimizer],
            }
        )
    )
    assert (files.out / "model.safetensors").read_bytes() == expected
    told = "  not used: epoch, pytorch-lightning_version, optimizer_states: of the training run"
    assert capsys.readouterr().out.count(told) == 2


@pytest.mark.parametrize("is_older", [False, True])
def test_files_saved_on_a_gpu_are_read_without_one(files, monkeypatch, is_older):
    monkeypatch.setattr(torch.serialization, "location_tag", lambda _: "cuda:0")
    main(files.save(_use_new_zipfile_serialization=not is_older))
    assert torch.equal(
        files.weights()["autoencoder.to_decoder.bias"], files.first["to_decoder.bias"]
    )


@pytest.mark.skipif(not MAPS.exists(), reason="only Linux lists what is mapped")
@pytest.mark.parametrize("is_older", [False, True])
def test_new_files_are_mapped_and_not_read(files, is_older):
    files.save(_use_new_zipfile_serialization=not is_older)
    checkpoint = read_checkpoint(files.paths[1])
    assert (str(files.paths[1]) in MAPS.read_text()) == (not is_older)
    assert checkpoint.tensors.keys() == files.second.keys()


class Custom:
    pass


class Trap:
    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("is_older", [False, True])
def test_other_classes_are_named_and_never_unpickled(files, capsys, tmp_path, is_older):
    how = {"_use_new_zipfile_serialization": not is_older}
    files.save(lambda tensors: {"state_dict": tensors, "callbacks": Custom()}, **how)
    line = files.refusal(capsys, saved=True)
    assert f"{files.paths[0]} holds {__name__}.Custom, expected tensors" in line

    files.save(lambda tensors: {**tensors, "trap": Trap(tmp_path / "sprung")}, **how)
    assert "posix.mkdir" in files.refusal(capsys, saved=True)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("name", "tensor", "what"),
    [
        ("a\n\x1b[31m", torch.zeros(3), r"'a\n\x1b[31m'"),
        (5, torch.zeros(3), "a tensor called 5"),
        ("a", torch.zeros(3).to_sparse(), "torch.sparse_coo on cpu as a"),
        ("a", torch.zeros(3, device="meta"), "torch.strided on meta as a"),
        ("a", torch.zeros(3, dtype=torch.complex64), "torch.complex64 as a"),
        ("a", torch.zeros(3).to(torch.float8_e4m3fn), "torch.float8_e4m3fn as a"),
    ],
)
def test_what_are_no_weights_is_refused(files, capsys, name, tensor, what):
    files.second[name] = tensor
    assert what in files.refusal(capsys)


@pytest.mark.parametrize("protocol", [3, 4])
def test_other_pickle_protocols_are_read_or_refused_in_one_line(files, capsys, protocol):
    argv = files.save(pickle_protocol=protocol)
    if protocol == 3:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            main(argv)
    else:
        assert "or of a protocol above 3" in files.refusal(capsys, saved=True)


def test_damage_that_checksums_show_is_refused(files, capsys):
    files.save()
    content = bytearray(files.paths[1].read_bytes())
    content[len(content) // 2] ^= 2
    files.paths[1].write_bytes(content)
    line = files.refusal(capsys, saved=True)
    assert f"{files.paths[1]} is damaged in ldm/data/" in line


def test_compressed_files_are_read_right(files):
    main(files.save())
    expected = files.weights()
    with zipfile.ZipFile(files.paths[1]) as archive:
        records = [(record, archive.read(record)) for record in archive.infolist()]
    with zipfile.ZipFile(files.paths[1], "w", zipfile.ZIP_DEFLATED) as archive:
        for record, content in records:
            archive.writestr(record.filename, content)
    files.out = files.out.with_name("other")
    main([*map(str, files.paths), "--out", str(files.out)])
    assert all(torch.equal(tensor, expected[name]) for name, tensor in files.weights().items())


def test_a_pickled_network_is_refused(files, capsys):
    files.save(lambda _: torch.nn.Linear(2, 2))
    line = files.refusal(capsys, saved=True)
    assert "torch.nn.modules.linear.Linear" in line
    assert "save its state_dict alone" in line


@pytest.mark.parametrize(
    "content", [b"", b"not a checkpoint", b"PK\x03\x04", b"\x80\x02}q\x00.", b"\x00" * 100]
)
def test_files_of_another_kind_are_refused(files, capsys, content):
    files.save()
    files.paths[1].write_bytes(content)
    line = files.refusal(capsys, saved=True)
    assert f"{files.paths[1]} cannot be read as a PyTorch checkpoint" in line or "holds" in line


@pytest.mark.parametrize("is_older", [False, True])
@pytest.mark.parametrize("kept", [0.0001, 0.3, 0.999])
def test_files_cut_short_are_refused(files, capsys, is_older, kept):
    files.save(_use_new_zipfile_serialization=not is_older)
    content = files.paths[1].read_bytes()
    files.paths[1].write_bytes(content[: int(kept * len(content))])
    assert "it may be cut short" in files.refusal(capsys, saved=True)


def test_an_archive_of_files_must_be_unpacked(files, capsys):
    files.save()
    np.savez(files.paths[1].with_suffix(".npz"), a=np.zeros(3))
    files.paths[1].with_suffix(".npz").rename(files.paths[1])
    assert "an archive that must be unpacked first" in files.refusal(capsys, saved=True)


@pytest.mark.parametrize("content", [[torch.zeros(3)], {"a": 3}, {"state_dict": {"a": "b"}}, 5])
def test_tables_of_other_things_are_refused(files, capsys, content):
    files.save(lambda _: content)
    assert "expected" in files.refusal(capsys, saved=True)


@pytest.mark.parametrize(
    ("make", "what"), [(pathlib.Path.mkdir, "is no file"), (lambda _: None, "is missing")]
)
def test_a_missing_file_is_named(files, capsys, make, what):
    files.save()
    files.paths[1].unlink()
    make(files.paths[1])
    line = files.refusal(capsys, saved=True)
    assert f"{files.paths[1]} {what}, expected a file of weights" in line
    assert not files.out.exists()


def test_files_in_the_wrong_order_are_told_apart(files, capsys):
    files.first, files.second = files.second, files.first
    line = files.refusal(capsys)
    assert f"got a latent diffusion model in {files.paths[0]} and an autoencoder in" in line
    files.first = files.second
    assert "got an autoencoder in" in files.refusal(capsys)
    files.second = {"bias": torch.zeros(3)}
    assert f"other tensors in {files.paths[1]}" in files.refusal(capsys)


# ---- where it is written


@pytest.mark.parametrize("name", ["config.json", "raw/config.json", "state.safetensors"])
def test_a_model_or_a_run_is_not_overwritten(files, capsys, name):
    (files.out / name).parent.mkdir(parents=True)
    (files.out / name).write_text("{}")
    assert run_script(lambda: main([*files.save(), "--keep-raw"])) == 2
    assert f"{files.out} has a {name} already: name another folder" in capsys.readouterr().err
    assert not list(files.out.glob("**/model.safetensors"))


@pytest.mark.parametrize("place", ["", "raw"])
def test_what_a_killed_import_left_is_cleared(files, place):
    (files.out / place).mkdir(parents=True)
    for name in (".model.safetensors.123.tmp", "model.safetensors"):
        (files.out / place / name).write_text("half")
    main([*files.save(), "--keep-raw"])
    assert not list(files.out.glob("**/.*.tmp"))
    LDCast.from_pretrained(files.out / place, device="cpu")


def test_a_place_that_cannot_be_written_is_refused(files, capsys):
    argv = files.save()
    (files.out.parent / "taken").write_text("")
    argv[-1] = str(files.out.parent / "taken" / "model")
    assert run_script(lambda: main(argv)) == 2
    assert "cannot write into" in capsys.readouterr().err
