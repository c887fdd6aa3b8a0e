"""The model that ships with the package, and the command that a newcomer types first."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ldcast import LDCast
from ldcast.data.synthetic import synthetic_event
from ldcast.nowcast.model_folder import BUNDLED

ROOT = Path(__file__).parent.parent
DRY = np.zeros((4, 64, 64), dtype=np.float32)


def test_the_bundled_model_is_small_and_has_a_card() -> None:
    files = {path.name: path.stat().st_size for path in BUNDLED.iterdir()}
    assert set(files) == {"config.json", "model.safetensors", "MODEL_CARD.md"}
    assert sum(files.values()) <= 12 * 2**20


def test_the_bundled_model_follows_the_rain_it_sees() -> None:
    model = LDCast.from_pretrained("bundled", device="cpu")
    dry = model.predict(DRY, 2, num_sampling_steps=4)
    wet_past = synthetic_event(seed=7, num_frames=4, height=64, width=64).rain_rate
    wet = model.predict(wet_past, 2, num_sampling_steps=4)
    assert np.isfinite(dry).all()
    assert np.isfinite(wet).all()
    assert wet[:, :3].mean() > 10 * dry[:, :3].mean()
    near, far = (abs(wet[:, frame].mean() - wet_past[-1].mean()) for frame in (0, -1))
    assert near < wet_past[-1].mean()
    assert far < 5 * wet_past[-1].mean()


OTHERS = [pytest.param(num, marks=pytest.mark.slow) for num in (3, 5, 7, 10, 14, 19, 21, 23, 25)]


@pytest.mark.parametrize("num_steps", [1, 2, 4, *OTHERS])
def test_no_number_of_steps_makes_more_rain_of_a_dry_past_than_the_default(
    num_steps: int, default_of_dry: np.ndarray
) -> None:
    """Averaging the first two noises of one step made 118 mm/h of it, over half the domain."""
    model = LDCast.from_pretrained("bundled", device="cpu")
    made = model.predict(DRY, 2, num_sampling_steps=num_steps)
    assert made.mean() <= default_of_dry.mean()
    assert (made >= 0.1).mean() <= (default_of_dry >= 0.1).mean()
    assert made.max() <= 1.2 * default_of_dry.max()


@pytest.fixture(scope="module")
def default_of_dry() -> np.ndarray:
    return LDCast.from_pretrained("bundled", device="cpu").predict(DRY, 2)


def test_the_first_command_works_in_any_folder(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "infer.py"), "--members", "1", "--steps", "1"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert not result.stderr  # no bar where nobody watches
    assert "Rain forecast from" in result.stdout
    with np.load(tmp_path / "forecast.npz", allow_pickle=False) as forecast:
        assert forecast["rain_rate"].shape == (1, 20, 256, 256)
