"""Examples as latents: encoded in the loop or once, the same; and how a run resumes from a pool."""

import errno
import json
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from stages import Stage, same_tensors, state
from tiny_models import tiny_model
from torch.utils.data import default_collate

import train_diffusion
from ldcast.data.crops import Example, TrainingCrops
from ldcast.data.event_files import write_event
from ldcast.data.readers.specs import read_event
from ldcast.data.synthetic import synthetic_event
from ldcast.errors import InputError
from ldcast.inputs.carried_rain import CarriedRain
from ldcast.machine.processes import join_processes
from ldcast.machine.stopping import StopRequest
from ldcast.rain import to_model_units
from ldcast.training import latents
from ldcast.training import pool as latent_pool
from ldcast.training.latents import encode_example
from ldcast.training.pool import LatentPool, make_pool
from train_diffusion import latent_grid

POOL = ("--pool", "12", "--inputs", "carried_rain")


@pytest.fixture
def stage(event_path: Path, autoencoder_run: Path) -> Stage:
    return Stage("diffusion", event_path, autoencoder_run)


def arguments(**changes) -> dict:
    """Of a run, those that a pool asks for."""
    table = {"pool": 11, "seed": 4, "frames": {"past_frames": 4}, "inputs": ["carried_rain"]}
    table |= {"rain": {"smoothing_sigma": 0.5}, "data_settings": {"max_rain_rate": 500.0}}
    return table | {"encoder_dtype": "float32", "autoencoder_sha256": "0"} | changes


def crops_and_encode(event_path: Path) -> tuple:
    model, inputs = tiny_model(), {"carried_rain": CarriedRain()}
    crops = TrainingCrops([read_event(event_path)], 24, 32, "uniform", 4, margin=8)
    grid = latent_grid(model, model.autoencoder)
    return crops, partial(encode_example, grid=grid, inputs=inputs, margin=8)


@pytest.mark.parametrize("keep_rain", [True, False])
def test_an_example_without_rain_keeps_no_rain_in_memory(event_path, keep_rain) -> None:
    """A slice of no frames holds the whole: 8 GB of it for 400 crops."""
    crops, encode = crops_and_encode(event_path)
    example = encode(default_collate([crops[(0, 0, 0)]]), keep_rain=keep_rain).without_rain()
    for name, tensor in example.by_name().items():
        assert tensor.untyped_storage().nbytes() <= 2 * tensor.nbytes, name
    assert example.rain_rate.shape == (1, 1, 0, 32, 32)


def test_a_pool_holds_what_the_loop_would_encode(event_path, tmp_path) -> None:
    crops, encode = crops_and_encode(event_path)
    counts = []
    with join_processes(torch.device("cpu")) as processes, StopRequest() as stop:
        work = encode, processes, stop, counts.append
        pool = make_pool(tmp_path, crops, arguments(), *work)
    assert sum(counts) == 11 and counts[-1] == 3
    drawn = [pool[(0, iteration, 3)] for iteration in range(200)]
    expected = [encode(default_collate([crops[(0, 0, index)]])) for index in range(11)]
    names = set(expected[0].by_name())
    assert names >= {"z_past", "z_future", "future.carried_rain", "weight", "num_wet"}
    seen = set()
    for example in drawn:
        index = int(np.argmin([(example.z_future - e.z_future[0]).abs().max() for e in expected]))
        for name, value in default_collate([example]).to(torch.device("cpu")).by_name().items():
            torch.testing.assert_close(
                value, expected[index].by_name()[name], rtol=1e-3, atol=1e-3, msg=name
            )
        seen.add(index)
    assert seen == set(range(11))
    again = LatentPool(tmp_path, 11, 4)
    assert torch.equal(again[(1, 5, 0)].z_past, pool[(1, 5, 0)].z_past)
    assert any(not torch.equal(pool[(0, k, 0)].z_past, pool[(1, k, 0)].z_past) for k in range(5))


def test_latents_are_those_of_past_and_future_oldest_first() -> None:
    model = tiny_model()
    rain_rate = torch.from_numpy(synthetic_event(3, 24, 32, 48).rain_rate).float()[None, None]
    made = encode_example(Example(rain_rate, {}), latent_grid(model, model.autoencoder), {})
    for z, frames in ((made.z_past, slice(4)), (made.z_future, slice(4, 24))):
        expected, _ = model.autoencoder.encode(
            to_model_units(rain_rate[:, :, frames], model.rain_scale)
        )
        torch.testing.assert_close(z, expected)


def test_a_pool_keeps_rain_of_a_tenth_wet_and_no_data_as_it_is(event_path, tmp_path) -> None:
    """0.1 mm/h is wet; the float16 nearest to it, as float32, would not be."""
    crops, encode = crops_and_encode(event_path)

    def encode_light(example: Example) -> latents.LatentExample:
        rain_rate = torch.full_like(example.rain_rate, 0.1)
        rain_rate[..., 8:16] = torch.nan
        return encode(example._replace(rain_rate=rain_rate), keep_rain=True)

    with join_processes(torch.device("cpu")) as processes, StopRequest() as stop:
        work = encode_light, processes, stop, lambda num: None
        pool = make_pool(tmp_path, crops, arguments(), *work)
    rain_rate = pool[(0, 0, 0)].rain_rate
    assert rain_rate.shape == (1, 20, 32, 32) and rain_rate.isnan().any()
    assert set(rain_rate[~rain_rate.isnan()].tolist()) == {torch.tensor(0.1).item()}


def test_validation_encodes_on_the_device_of_the_model(event_path, monkeypatch) -> None:
    model, devices = tiny_model(), []
    encode = latents.encode_example

    def recorded(*args, device, **kwargs) -> latents.LatentExample:
        devices.append(device)
        return encode(*args, device=device, **kwargs)

    monkeypatch.setattr(train_diffusion, "encode_example", recorded)
    crops = [crops_and_encode(event_path)[0][(0, 0, 0)]]
    settings = train_diffusion.DIFFUSION_PRESETS["tiny"]
    with join_processes(torch.device("cpu")) as processes, StopRequest() as stop:
        train_diffusion.validation_loss(model, settings, crops, 0, processes, stop)
    assert devices == [model.device]


def count_encoded(folder, crops, encode, **changes) -> int:
    """Examples that are encoded to have the pool of a run with these arguments."""
    counts = []
    with join_processes(torch.device("cpu")) as processes, StopRequest() as stop:
        make_pool(folder, crops, arguments(**changes), encode, processes, stop, counts.append)
    return sum(counts)


@pytest.mark.parametrize(
    "change",
    [
        {"autoencoder_sha256": "1"},
        {"encoder_dtype": "bfloat16"},
        {"rain": {"smoothing_sigma": 0.0}},
        {"data_settings": {"max_rain_rate": 10.0}},
        {"frames": {"past_frames": 4, "minutes_per_frame": 10}},
    ],
)
def test_a_pool_of_another_run_is_made_anew(change, event_path, tmp_path) -> None:
    crops, encode = crops_and_encode(event_path)
    assert count_encoded(tmp_path, crops, encode) == 11
    assert count_encoded(tmp_path, crops, encode) == 0
    assert count_encoded(tmp_path, crops, encode, **change) == 11


def test_a_pool_of_other_data_is_made_anew(event_path, tmp_path) -> None:
    """Other frames to train on, as with other frames held out, other rain, and another seed."""
    crops, encode = crops_and_encode(event_path)
    event, settings = read_event(event_path), (24, 32, "uniform")
    assert count_encoded(tmp_path, crops, encode) == 11
    rainier = replace(event, rain_rate=event.rain_rate.copy())
    rainier.rain_rate[3, 24, 25] += 1
    for others, seed in (
        ([event.select(slice(0, 30))], 4),
        ([rainier], 4),
        ([replace(event, time=event.time + 300)], 4),
        ([event], 5),
    ):
        other = TrainingCrops(others, *settings, seed, margin=8)
        assert other.fingerprint() == TrainingCrops(others, *settings, seed, margin=8).fingerprint()
        assert other.fingerprint() != crops.fingerprint()
        assert count_encoded(tmp_path, other, encode) == 11
    assert TrainingCrops([event], *settings, 4, margin=9).fingerprint() != crops.fingerprint()


@pytest.mark.parametrize("damage", ["gone", "short", "stray", "mark", "content"])
def test_a_damaged_pool_is_made_anew(damage, event_path, tmp_path) -> None:
    crops, encode = crops_and_encode(event_path)
    count_encoded(tmp_path, crops, encode)
    if damage == "gone":
        (tmp_path / "weight.npy").unlink()
    elif damage == "short":
        content = (tmp_path / "z_past.npy").read_bytes()
        (tmp_path / "z_past.npy").write_bytes(content[:-10])
    elif damage == "content":
        content = (tmp_path / "z_past.npy").read_bytes()
        (tmp_path / "z_past.npy").write_bytes(content[:-10] + 10 * b"\xff")
    elif damage == "stray":
        np.save(tmp_path / "other.npy", np.zeros(3))
    else:
        (tmp_path / "pool.json").write_text("{")
    assert count_encoded(tmp_path, crops, encode) == 11


def test_a_pool_that_has_no_room_is_refused(event_path, tmp_path, monkeypatch) -> None:
    crops, encode = crops_and_encode(event_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match=r"room for 0.0 GB, expected .* for the pool"):
        count_encoded(tmp_path / "pool", crops, encode)


def test_values_that_a_pool_cannot_hold_are_refused(event_path, tmp_path) -> None:
    crops, encode = crops_and_encode(event_path)

    def encode_large(example: Example) -> latents.LatentExample:
        made = encode(example)
        return made._replace(z_past=made.z_past + 1e5)

    with pytest.raises(InputError, match=r"z_past has values up to 1e.05, expected no more"):
        count_encoded(tmp_path, crops, encode_large)


def test_impossible_rain_counts_in_the_crop_alone(event_path) -> None:
    crops, encode = crops_and_encode(event_path)
    example = default_collate([crops[(0, 0, 0)]])
    example.rain_rate[0, 0, 2, 1, 1] = 900.0  # in the margin of 8 pixels
    assert encode(example, max_rain_rate=500.0).num_impossible.tolist() == [0]
    example.rain_rate[0, 0, 2, 20, 20] = 900.0
    assert encode(example, max_rain_rate=500.0).num_impossible.tolist() == [1]


def test_a_run_resumes_from_its_pool_exactly(stage, tmp_path, monkeypatch) -> None:
    whole = stage.run(tmp_path / "whole", 4, *POOL)
    out = stage.run(tmp_path / "parts", 2, *POOL)
    encodings = []
    encode = latents.encode_example

    def counted(example: Example, *args, **kwargs) -> latents.LatentExample:
        encodings.append(len(example.rain_rate))
        return encode(example, *args, **kwargs)

    monkeypatch.setattr(train_diffusion, "encode_example", counted)
    stage.run(out, 4, *POOL)
    assert sum(encodings) < 12  # those of the validations
    assert same_tensors(state(whole), state(out))


def test_a_pool_that_was_cut_short_is_made_anew(stage, tmp_path, monkeypatch) -> None:
    whole = stage.run(tmp_path / "whole", 2, *POOL)

    def interrupted(folder, crops, arguments, encode, processes, stop, progress):
        def request(num: int) -> None:
            stop._request(15, None)

        return make_pool(folder, crops, arguments, encode, processes, stop, request)

    with monkeypatch.context() as patch:
        patch.setattr(latent_pool, "make_pool", interrupted)
        assert stage.script.main(stage.arguments(tmp_path / "cut", 2, *POOL)) == 143
    assert not (tmp_path / "cut" / "pool" / "pool.json").exists()
    assert same_tensors(state(stage.run(tmp_path / "cut", 2, *POOL)), state(whole))
    made_of = json.loads((tmp_path / "cut" / "pool" / "pool.json").read_text())
    assert made_of["pool"] == 12 and made_of["inputs"] == ["carried_rain"]


@pytest.mark.parametrize("change", [("--crop-size", "48"), ("--pool", "3")])
def test_other_crops_are_noticed_when_a_run_resumes(stage, change, tmp_path, capsys) -> None:
    out = stage.run(tmp_path / "run", 1)
    name = "data.crop_size 32, now it is 48" if "48" in change else "pool 0, now it is 3"
    assert name in stage.fails(capsys, out, *change)
    path = out / "state.json"
    recorded = json.loads(path.read_text())
    del recorded["data_settings"]  # as runs recorded it before
    path.write_text(json.dumps(recorded))
    stage.run(out, 2)


def test_a_run_says_where_its_inputs_are_made_otherwise(
    stage, tmp_path, capsys, monkeypatch
) -> None:
    inputs = ("--inputs", "carried_rain")
    out = stage.run(tmp_path / "run", 1, *inputs)
    stage.run(out, 2, *inputs)
    note = "note: the code that makes inputs"
    assert note not in capsys.readouterr().out
    monkeypatch.setattr(train_diffusion, "inputs_code", lambda: "edited")
    stage.run(out, 3, *inputs)
    assert note in capsys.readouterr().out
    recorded = json.loads((out / "state.json").read_text())
    assert recorded.pop("inputs_code") == "edited"
    (out / "state.json").write_text(json.dumps(recorded))  # as runs recorded it before
    stage.run(out, 4, *inputs)
    assert note in capsys.readouterr().out
    assert json.loads((out / "state.json").read_text())["inputs_code"] == "edited"


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="files stay sparse here")
def test_a_disk_that_fills_up_is_an_error_not_a_signal(event_path, tmp_path, monkeypatch) -> None:
    crops, encode = crops_and_encode(event_path)

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"No space left.*\.npy"):
        count_encoded(tmp_path / "pool", crops, encode)


def test_frames_that_the_autoencoder_saw_are_named(event_path, tmp_path, capsys) -> None:
    """Stage 1 on all of an event, stage 2 holding its end out: said, for the score is too good."""
    first = Stage("autoencoder", event_path, tmp_path)
    other = tmp_path / "other.npz"
    write_event(synthetic_event(9, 30, 64, 64), other)
    out = first.run(tmp_path / "autoenc", 1, "--validation-data", str(other))
    capsys.readouterr()
    Stage("diffusion", event_path, out).run(tmp_path / "run", 1)
    assert f"{out} was trained on rain of event@" in capsys.readouterr().out
