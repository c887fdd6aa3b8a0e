"""Examples as latents: encoded in the loop or once, the same; and how a run resumes from a pool."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from stages import Stage, same_tensors, state
from tiny_models import tiny_model
from torch.utils.data import default_collate

import train_diffusion
from ldcast.data.archive import read_event
from ldcast.data.crops import Example, TrainingCrops
from ldcast.nowcast.carried_rain import CarriedRain
from ldcast.processes import join_processes
from ldcast.stopping import StopRequest
from ldcast.training import latents
from ldcast.training.latents import LatentPool, encode_example, make_pool
from train_diffusion import latent_grid

POOL = ("--data.pool", "12", "--inputs", "carried_rain")


@pytest.fixture
def stage(event_path: Path, autoencoder_run: Path) -> Stage:
    return Stage("diffusion", event_path, autoencoder_run)


def arguments(**changes) -> dict:
    """Of a run, those that a pool asks for."""
    settings = {"pool": 11, "num_workers": 0, "crop_size": 32}
    table = {"data": ["event.npz"], "data_settings": settings, "seed": 4, "inputs": []}
    return table | {"encoder_dtype": "float32", "autoencoder_sha256": "0"} | changes


def crops_and_encode(event_path: Path) -> tuple:
    model, inputs = tiny_model(), {"carried_rain": CarriedRain()}
    crops = TrainingCrops([read_event(event_path)], 24, 32, "uniform", 4, margin=8)
    grid = latent_grid(model, model.autoencoder)
    return crops, partial(encode_example, grid=grid, inputs=inputs, margin=8)


def test_a_pool_holds_what_the_loop_would_encode(event_path, tmp_path) -> None:
    crops, encode = crops_and_encode(event_path)
    counts = []
    with join_processes(torch.device("cpu")) as processes, StopRequest() as stop:
        make = partial(make_pool, tmp_path, crops, arguments(), encode, processes, stop)
        pool = make(counts.append)
        assert sum(counts) == 11 and counts[-1] == 3
        make(counts.append)
        assert sum(counts) == 11  # nothing is encoded twice
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


@pytest.mark.parametrize(
    ("change", "is_new"),
    [
        ({"seed": 5}, True),
        ({"autoencoder_sha256": "1"}, True),
        ({"data_settings": {"pool": 11, "num_workers": 0, "crop_size": 64}}, True),
        ({"data_settings": {"pool": 11, "num_workers": 2, "crop_size": 32}}, False),
    ],
)
def test_a_pool_of_another_run_is_made_anew(change, is_new, event_path, tmp_path) -> None:
    crops, encode = crops_and_encode(event_path)
    counts = []
    with join_processes(torch.device("cpu")) as processes, StopRequest() as stop:
        for table in (arguments(), arguments(**change)):
            counts.clear()
            make_pool(tmp_path, crops, table, encode, processes, stop, counts.append)
    assert (sum(counts) == 11) == is_new


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
    make = train_diffusion.make_pool

    def interrupted(folder, crops, arguments, encode, processes, stop, progress):
        def request(num: int) -> None:
            stop._request(15, None)

        return make(folder, crops, arguments, encode, processes, stop, request)

    with monkeypatch.context() as patch:
        patch.setattr(train_diffusion, "make_pool", interrupted)
        assert stage.script.main(stage.arguments(tmp_path / "cut", 2, *POOL)) == 143
    assert not (tmp_path / "cut" / "pool" / "pool.json").exists()
    assert same_tensors(state(stage.run(tmp_path / "cut", 2, *POOL)), state(whole))
    made_of = json.loads((tmp_path / "cut" / "pool" / "pool.json").read_text())
    assert made_of["data_settings"]["pool"] == 12 and made_of["inputs"] == ["carried_rain"]


@pytest.mark.parametrize("change", [("--crop-size", "48"), ("--data.pool", "3")])
def test_other_crops_are_noticed_when_a_run_is_taken_up(stage, change, tmp_path, capsys) -> None:
    out = stage.run(tmp_path / "run", 1)
    name = "data.crop_size 32, now it is 48" if "48" in change else "data.pool 0, now it is 3"
    assert name in stage.fails(capsys, out, *change)
    path = out / "state.json"
    recorded = json.loads(path.read_text())
    del recorded["data_settings"]  # as runs recorded it before
    path.write_text(json.dumps(recorded))
    stage.run(out, 2)
