"""Keeps test runs from fighting for cores; what the tests of training start from."""

import functools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from pages import launched, open_page
from stages import LOOP, Stage
from tiny_models import tiny_model

import train_autoenc
from ldcast.data.event import RainEvent
from ldcast.data.event_files import write_event
from ldcast.data.readers import specs
from ldcast.data.synthetic import synthetic_event
from ldcast.machine import half_precision
from ldcast.training.run import Run


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)  # tensors are tiny: more threads only wait for one another


@pytest.fixture(autouse=True)
def no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings draw nothing, which saves half of their time, unless marked with `draws`."""
    if "draws" not in request.keywords:
        monkeypatch.setattr(Run, "draw", lambda *_: None)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut is nothing that a test can see, and flushing takes a third of a tiny training."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


MEASURED = functools.cache(half_precision.measure)


@pytest.fixture(autouse=True)
def half_precision_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For all trainings of a test run: it takes as long as they do."""
    monkeypatch.setattr(half_precision, "measure", MEASURED)


@pytest.fixture
def small_synthetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `synthetic:SEED` names is of 32 x 32 pixels: 256 x 256 take seconds."""
    small = functools.partial(synthetic_event, height=32, width=32)
    monkeypatch.setattr(specs, "synthetic_event", small)


@pytest.fixture(scope="module")
def browser():
    """For tests marked with `pages.needs_browser`."""
    with launched() as chromium:
        yield chromium


@pytest.fixture
def opened(browser):
    """Opens pages; at the end none may have said anything in its console or asked for more."""
    said: list[str] = []
    yield lambda path, **settings: open_page(browser, path, said, **settings)
    assert said == []


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained nowcaster; not to be written into."""
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def event_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """52 frames of 64 x 80 pixels: 24 to hold out, 28 to train on; a corner without data."""
    event = synthetic_event(seed=3, num_frames=52, height=64, width=80)
    rain_rate = event.rain_rate.astype(np.float16)
    rain_rate[:, :8, :8] = np.nan
    path = tmp_path_factory.mktemp("data") / "event.npz"
    write_event(RainEvent(rain_rate, event.time, event.grid, "event"), path)
    return path


@pytest.fixture(scope="session")
def short_event_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 frames of 64 x 64 pixels: too few to hold any out."""
    path = tmp_path_factory.mktemp("data") / "short.npz"
    write_event(synthetic_event(seed=3, num_frames=36, height=64, width=64), path)
    return path


@pytest.fixture(scope="session")
def autoencoder_run(event_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "autoenc"
    arguments = [*LOOP, "--data", str(event_path), "--out", str(out), "--iterations", "2"]
    train_autoenc.main(arguments)
    return out


@pytest.fixture(params=["autoencoder", "diffusion"])
def stage(request: pytest.FixtureRequest, event_path: Path, autoencoder_run: Path) -> Stage:
    return Stage(request.param, event_path, autoencoder_run)
