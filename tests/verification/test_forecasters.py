"""Forecasters and the cache: nothing is made twice, and nothing stale is taken for new."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import rain, tiny_model
from torch import Tensor

from ldcast.data.pickers import Window
from ldcast.frames import FrameConfig
from ldcast.machine.files import code_fingerprint
from ldcast.verification.cases import Case
from ldcast.verification.forecasters import (
    ForecastCache,
    Forecaster,
    model_forecaster,
    simple_baselines,
)

CASE = Case(Window(0, 0, 0, 0), "storm", np.datetime64("2020-06-01T00:15:00"), 0.5, seed=3)


class Counting:
    """A forecaster that says how often it was called, and forecasts the seed."""

    def __init__(self) -> None:
        self.num_calls = 0

    def __call__(self, past: Tensor, case: Case) -> Tensor:
        self.num_calls += 1
        return past[-1].new_full((2, 3, *past.shape[1:]), case.seed)


def test_a_forecast_is_made_once(tmp_path):
    count = Counting()
    forecaster = Forecaster("slow", count, {"version": 1})
    cache, past = ForecastCache(tmp_path / "cache"), rain(4, 6)
    first, again = cache(forecaster, past, CASE), cache(forecaster, past, CASE)
    assert count.num_calls == 1
    assert torch.equal(first.members, again.members)
    assert first.members.shape == (2, 3, 4, 6)
    assert first.seconds == again.seconds > 0  # the time that it took when it was made
    assert cache.size() == sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) > 0


@pytest.mark.parametrize(
    "change",
    [
        lambda forecaster, past, case: (forecaster, past + 1, case),
        lambda forecaster, past, case: (forecaster, past[:, :, :5], case),
        lambda forecaster, past, case: (forecaster, past, dataclasses.replace(case, seed=4)),
        lambda forecaster, past, case: (forecaster, past, dataclasses.replace(case, pixel_km=2.0)),
        lambda forecaster, past, case: (
            *(forecaster, past),
            dataclasses.replace(case, frames=FrameConfig(minutes_per_frame=10)),
        ),
        lambda forecaster, past, case: (
            dataclasses.replace(forecaster, identity={"version": 2}),
            past,
            case,
        ),
    ],
)
def test_another_forecast_is_made_anew(tmp_path, change):
    count = Counting()
    cache, forecaster, past = (
        ForecastCache(tmp_path),
        Forecaster("slow", count, {"version": 1}),
        rain(),
    )
    cache(forecaster, past, CASE)
    cache(*change(forecaster, past, CASE))
    assert count.num_calls == 2
    assert len(list(tmp_path.iterdir())) == 2


def test_what_does_not_matter_is_not_in_the_key(tmp_path):
    count = Counting()
    cache, forecaster = ForecastCache(tmp_path), Forecaster("slow", count, {"version": 1})
    cache(forecaster, rain(), CASE)
    cache(forecaster, rain(), dataclasses.replace(CASE, event="the same file elsewhere"))
    assert count.num_calls == 1


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b""])
def test_a_damaged_file_is_made_again(tmp_path, damage):
    count = Counting()
    cache, forecaster = ForecastCache(tmp_path), Forecaster("slow", count, {"version": 1})
    cache(forecaster, rain(), CASE)
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert torch.equal(cache(forecaster, rain(), CASE).members, Counting()(rain(), CASE))
    assert count.num_calls == 2


def test_quick_forecasts_are_not_kept(tmp_path):
    for forecaster in simple_baselines():
        members, _ = ForecastCache(tmp_path / "cache")(forecaster, rain(4, 6), CASE)
        assert members.shape == (1, 20, 4, 6)
    assert not (tmp_path / "cache").exists()


def test_baselines_are_as_long_as_the_cases_frames():
    case = dataclasses.replace(CASE, frames=FrameConfig(future_frames=12))
    lengths = [baseline.forecast(rain(4, 6), case).shape[1] for baseline in simple_baselines()]
    assert lengths == [12, 12]


def test_baselines_and_their_names():
    past = rain(4, 6)
    forecasts = {baseline.name: baseline.forecast(past, CASE) for baseline in simple_baselines()}
    assert torch.equal(forecasts["persistence"][0, 7], past[-1])
    assert not forecasts["dry"].any()


def test_a_model_forecasts_as_predict_does(tmp_path):
    tiny_model().save_pretrained(tmp_path / "tiny")
    forecaster = model_forecaster(str(tmp_path / "tiny"), 2, 3, torch.device("cpu"), "off")
    expected = tiny_model().predict(rain(), 2, CASE.seed, 3, amp="off")
    torch.testing.assert_close(forecaster.forecast(rain(), CASE), expected)
    assert forecaster.name == str(tmp_path / "tiny")


def test_identity_of_a_model_tells_what_changes_its_forecasts(tmp_path):
    tiny_model().save_pretrained(tmp_path / "a")
    tiny_model(seed=1).save_pretrained(tmp_path / "b")
    tiny_model(num_sampling_steps=5).save_pretrained(tmp_path / "c")
    tiny_model().save_pretrained(tmp_path / "copy")

    def identity(folder: str, num_members: int = 2, steps: int | None = None, amp: str = "off"):
        folder = str(tmp_path / folder)
        return model_forecaster(folder, num_members, steps, torch.device("cpu"), amp).identity

    first = identity("a")
    assert first == identity("copy") == identity("a", steps=4)
    others = [identity("b"), identity("c"), identity("a", 3), identity("a", steps=3)]
    for other in [*others, identity("a", amp="bf16")]:
        assert other != first
    assert identity("a", amp="auto") in (first, identity("a", amp="bf16"))


def test_edited_code_is_another_forecaster(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "plms.py").write_text("step = 1\n")
    single = tmp_path / "rain.py"
    single.write_text("wet = 0.1\n")
    before = code_fingerprint(package, single)
    assert before == code_fingerprint(package, single)
    (package / "plms.py").write_text("step = 2\n")
    assert code_fingerprint(package, single) != before
    (package / "plms.py").write_text("step = 1\n")
    single.write_text("wet = 0.2\n")
    assert code_fingerprint(package, single) != before


def test_the_code_of_forecasts_is_all_there():
    from ldcast.verification.forecasters import FORECAST_CODE, PACKAGE

    assert all((Path(PACKAGE) / name).exists() for name in FORECAST_CODE)
