"""Model folders: written and read back exactly, and what is wrong with others said in a line."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import rain, tiny_config, tiny_model

from ldcast import LDCast, NoiseSchedule
from ldcast.config import ModelConfig
from ldcast.diffusion import DDPMLoss, PLMSSampler
from ldcast.errors import InputError
from ldcast.nowcast.ldcast import build
from ldcast.nowcast.model_folder import (
    WEIGHTS_NAME,
    check_checksum,
    load_weights,
    locate,
    read_description,
    write_description,
    write_tensors,
    write_weights,
)
from ldcast.rain import RainScale
from ldcast.settings import to_dict

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder as `save_pretrained` writes it; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model().save_pretrained(folder)
    return folder


@pytest.fixture
def copied(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def change_config(folder, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def refusal(folder) -> str:
    """The message, which must be one line and name the place."""
    with pytest.raises(InputError) as caught:
        LDCast.from_pretrained(folder, device="cpu")
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


@pytest.mark.core
def test_a_saved_model_forecasts_the_same_to_the_bit(saved):
    expected = tiny_model().predict(rain(), num_members=2, seed=3)
    model = LDCast.from_pretrained(saved, device="cpu")
    assert torch.equal(model.predict(rain(), num_members=2, seed=3), expected)
    assert not model.training


@pytest.mark.parametrize("as_type", [str, lambda folder: folder])
def test_folders_are_named_by_text_or_path(saved, as_type):
    assert LDCast.from_pretrained(as_type(saved), device="cpu").device == torch.device("cpu")


@pytest.mark.core
@pytest.mark.parametrize(
    "config",
    [
        tiny_config(),
        tiny_config(schedule="cosine", prediction="noise", num_sampling_steps=7),
        ModelConfig(
            rain=RainScale(0.2, 0.05, 0.1, 0.6, 1.0, 90.0, "power", 0.3),
            autoencoder=tiny_config().autoencoder,
            conditioner=tiny_config().conditioner,
            denoiser=tiny_config().denoiser,
        ),
    ],
)
def test_settings_come_back_from_the_model_and_from_its_folder(config, tmp_path):
    model = build(config, trained_on={"events": ["one", "two"], "iterations": 3})
    assert model.config == config
    model.save_pretrained(tmp_path)
    back = LDCast.from_pretrained(tmp_path, device="cpu")
    assert back.config == config
    assert back.trained_on == {"events": ["one", "two"], "iterations": 3}
    schedules = {"sqrt_linear": NoiseSchedule.sqrt_linear, "cosine": NoiseSchedule.cosine}
    assert torch.equal(
        back.latent_nowcaster.training_sampler.schedule.alpha_bar,
        schedules[config.diffusion.schedule]().alpha_bar,
    )


def test_a_folder_holds_two_readable_files_and_no_schedule(saved):
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]
    content = json.loads((saved / "config.json").read_text())
    assert content["model"] == json.loads(json.dumps(to_dict(tiny_config())))
    names = load_file(saved / "model.safetensors")
    assert {name.split(".")[0] for name in names} == {"autoencoder", "conditioner", "denoiser"}
    assert not any("alpha" in name or "beta" in name for name in names)


def test_saving_again_replaces_the_model(copied):
    other = tiny_model(seed=1)
    other.save_pretrained(copied)
    back = LDCast.from_pretrained(copied, device="cpu")
    for name, tensor in other.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor)


def test_a_model_saved_in_half_precision_has_rounded_parameters_and_exact_buffers(tmp_path):
    model = tiny_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path, dtype=torch.float16)
    back = LDCast.from_pretrained(tmp_path, device="cpu")
    parameters = dict(model.named_parameters())
    for name, tensor in back.state_dict().items():
        assert torch.equal(model.state_dict()[name], before[name])  # the model stays as it was
        wanted = before[name].half().float() if name in parameters else before[name]
        assert torch.equal(tensor, wanted), name
    stored = load_file(tmp_path / "model.safetensors")
    assert stored["denoiser.step_embedding.0.weight"].dtype == torch.float16


def test_a_parameter_that_half_precision_cannot_hold_is_named_and_nothing_written(tmp_path):
    model = tiny_model()
    with torch.no_grad():
        next(model.latent_nowcaster.denoiser.parameters()).view(-1)[0] = 1e6
    name = next(iter(model.latent_nowcaster.denoiser.state_dict()))
    with pytest.raises(InputError, match=f"^denoiser.{re.escape(name)} .*float16"):
        model.save_pretrained(tmp_path / "new", dtype=torch.float16)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("dtype", [torch.int32, torch.complex64, torch.float8_e4m3fn, "float16"])
def test_types_that_would_ruin_weights_are_refused(dtype, tmp_path):
    with pytest.raises(InputError, match=r"got the type .* expected one of torch.float32"):
        tiny_model().save_pretrained(tmp_path / "new", dtype=dtype)
    assert not (tmp_path / "new").exists()


def test_weights_in_half_precision_load_as_float32(copied):
    change_weights(
        copied, lambda tensors: tensors.update({n: t.half() for n, t in tensors.items()})
    )
    model = LDCast.from_pretrained(copied, device="cpu")
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_reading_a_model_draws_nothing_from_the_global_generator(saved):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    LDCast.from_pretrained(saved, device="cpu")
    assert torch.equal(torch.get_rng_state(), before)


TENSORS = {
    "channels_last": torch.randn(3, 2, 2, 4, 5).contiguous(memory_format=torch.channels_last_3d),
    "transposed": torch.randn(4, 3).T,
    "scalar": torch.tensor(2.5),
    "none": torch.zeros(0, 3),
    "half": torch.randn(3).half(),
    "brain": torch.randn(7).bfloat16(),
    "double": torch.randn(2, dtype=torch.float64),
    "counts": torch.tensor([1, -(2**40)]),
    "few": torch.tensor([3, -4], dtype=torch.int32),
    "parameter": torch.nn.Parameter(torch.randn(5)),
}


@pytest.mark.parametrize("name", ["saved", "bundled"])
def test_reading_a_model_does_not_load_the_compiler(name, saved):
    """More than a second of a forecast, for a few sums of tensors without content."""
    folder = saved if name == "saved" else name
    code = (
        "import sys; from ldcast import LDCast; "
        f"LDCast.from_pretrained({str(folder)!r}, 'cpu'); "
        "print([m for m in ('torch._dynamo', 'sympy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_tensors_are_written_as_the_library_reads_them(tmp_path):
    done = []
    write_tensors(tmp_path / "t.safetensors", TENSORS, {"note": "é"}, progress=done.append)
    back = load_file(tmp_path / "t.safetensors")
    assert back.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)
    assert sum(done) == sum(tensor.nbytes for tensor in TENSORS.values())
    with safe_open(tmp_path / "t.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert metadata.keys() == {"note", "sha256"}
    assert metadata["note"] == "é"


def test_a_changed_byte_anywhere_is_noticed(tmp_path):
    path = tmp_path / "t.safetensors"
    write_tensors(path, TENSORS, {"note": "é"})
    check_checksum(path, is_required=True)
    content = path.read_bytes()
    for position in {*range(0, len(content), 7), len(content) - 1}:
        changed = bytearray(content)
        changed[position] ^= 4
        path.write_bytes(changed)
        with pytest.raises(InputError, match=r"t\.safetensors"):
            check_checksum(path, is_required=True)


def test_a_file_without_a_checksum_is_not_compared(tmp_path):
    save_file({"a": torch.ones(3)}, tmp_path / "t.safetensors")
    check_checksum(tmp_path / "t.safetensors")
    with pytest.raises(InputError, match="has changed"):
        check_checksum(tmp_path / "t.safetensors", is_required=True)


@pytest.mark.core
def test_weights_that_changed_on_disk_are_not_loaded(tmp_path):
    network = torch.nn.Linear(3, 2)
    write_weights(tmp_path, network=network)
    content = bytearray((tmp_path / WEIGHTS_NAME).read_bytes())
    content[-3] ^= 1
    (tmp_path / WEIGHTS_NAME).write_bytes(content)
    with pytest.raises(InputError, match="has changed since it was written"):
        load_weights(tmp_path, network=network)


def test_tensors_start_at_multiples_of_their_width(tmp_path):
    """So that a mapped file can be used in place."""
    write_tensors(tmp_path / "t.safetensors", TENSORS)
    content = (tmp_path / "t.safetensors").read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    assert start % 8 == 0
    header = json.loads(content[8:start])
    for name in TENSORS:
        entry = header[name]
        assert entry["data_offsets"][0] % TENSORS[name].element_size() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_floats_are_written_in_the_type_asked_for(tmp_path, dtype):
    write_tensors(tmp_path / "t.safetensors", TENSORS, dtype=dtype)
    for name, tensor in load_file(tmp_path / "t.safetensors").items():
        expected = TENSORS[name].to(dtype) if tensor.is_floating_point() else TENSORS[name]
        assert tensor.dtype == expected.dtype
        assert torch.equal(tensor, expected)


def test_bundled_is_a_folder_of_the_package():
    assert locate("bundled").parent.name == "ldcast"
    assert locate("elsewhere").name == "elsewhere"


def test_missing_folder_is_refused(tmp_path):
    assert "no such folder" in refusal(tmp_path / "nowhere")


def test_folder_of_other_things_is_refused(tmp_path):
    assert "it has no config.json" in refusal(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"stage": "nowcaster"}', "\x00\xff"])
def test_broken_config_is_refused(copied, text):
    (copied / "config.json").write_bytes(text.encode("latin-1"))
    assert "broken" in refusal(copied)


def test_newer_format_is_refused(copied):
    change_config(copied, format_version=2)
    assert "has format 2, this code reads 1: update ldcast" in refusal(copied)


@pytest.mark.core
def test_unknown_setting_is_refused_with_the_nearest_name(copied):
    change_config(copied, model={"denoiser": {"chanels": 8}})
    with pytest.raises(InputError, match=r"denoiser\.chanels: did you mean denoiser\.channels"):
        read_description(copied)


def test_autoencoder_alone_is_refused_and_stage_two_named(tmp_path):
    model = tiny_model()
    write_weights(tmp_path, autoencoder=model.autoencoder)
    write_description(tmp_path, "autoencoder", model.config, {})
    message = refusal(tmp_path)
    assert "holds an autoencoder only" in message
    assert f"python train_diffusion.py --autoencoder {tmp_path}" in message


def test_one_network_can_be_read_from_a_folder_of_three(saved):
    autoencoder = build(tiny_config()).autoencoder
    load_weights(saved, autoencoder=autoencoder)
    for name, tensor in tiny_model().autoencoder.state_dict().items():
        assert torch.equal(autoencoder.state_dict()[name], tensor)


def test_refused_weights_leave_the_networks_as_they_were(copied):
    change_weights(copied, lambda tensors: tensors.pop("denoiser.leave.2.1.weight"))
    networks = tiny_model(seed=1).networks()
    before = {n: t.clone() for m in networks.values() for n, t in m.state_dict().items()}
    with pytest.raises(InputError):
        load_weights(copied, **networks)
    after = {n: t for m in networks.values() for n, t in m.state_dict().items()}
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())


def test_missing_weights_are_refused(copied):
    (copied / "model.safetensors").unlink()
    assert "is missing: the folder is incomplete" in refusal(copied)


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.99])
def test_truncated_weights_are_refused(copied, kept):
    path = copied / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    assert "cannot be read" in refusal(copied)


def test_weights_of_another_kind_are_refused(copied):
    np.save(copied / "model.npy", np.zeros(3))
    (copied / "model.npy").rename(copied / "model.safetensors")
    assert "truncated or of another kind" in refusal(copied)


NAME = "denoiser.enter.0.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(NAME), f"has nothing as {NAME}, expected (8,)"),
        (
            lambda tensors: tensors.update({"denoiser.extra": torch.zeros(3)}),
            "has (3,) as denoiser.extra, expected nothing",
        ),
        (
            lambda tensors: tensors.update({NAME: torch.zeros(9)}),
            f"has (9,) as {NAME}, expected (8,)",
        ),
    ],
)
def test_tensors_of_another_model_are_named(copied, change, message):
    change_weights(copied, change)
    assert message in refusal(copied)


def test_settings_of_another_model_are_noticed(copied):
    model = to_dict(tiny_config())
    model["autoencoder"]["channels"] = 16
    change_config(copied, model=model)
    assert "of another model than the settings" in refusal(copied)


def test_unfinished_save_leaves_the_old_model(copied, monkeypatch):
    before = (copied / "model.safetensors").read_bytes()

    def disk_full(_descriptor) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        tiny_model(seed=1).save_pretrained(copied)
    assert (copied / "model.safetensors").read_bytes() == before
    assert len(list(copied.iterdir())) == 2


def test_samplers_need_not_be_those_that_build_makes(tmp_path):
    """A custom number of steps is kept; it is a setting of the sampler given."""
    model = tiny_model()
    schedule = NoiseSchedule.sqrt_linear()
    model.latent_nowcaster.training_sampler = DDPMLoss(schedule, target="v")
    model.latent_nowcaster.inference_sampler = PLMSSampler(schedule, 11)
    model.save_pretrained(tmp_path)
    assert LDCast.from_pretrained(tmp_path, device="cpu").config.diffusion.num_sampling_steps == 11


@pytest.mark.parametrize("model", [3, []])
def test_a_model_that_is_no_table_is_refused(copied, model):
    change_config(copied, model=model)
    assert "expected a table of settings" in refusal(copied)


@pytest.mark.parametrize("stage", ["decoder", None])
def test_an_unknown_stage_is_refused(copied, stage):
    change_config(copied, stage=stage)
    assert "expected autoencoder or nowcaster" in refusal(copied)
