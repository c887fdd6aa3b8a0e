"""The model that ships with the package, and the command that a newcomer types first."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ldcast import LDCast
from ldcast.data.synthetic import synthetic_event
from ldcast.errors import InputError
from ldcast.nowcast.model_folder import BUNDLED

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def model() -> LDCast:
    return LDCast.from_pretrained("bundled", device="cpu")


def test_the_bundled_model_is_small_and_has_a_card() -> None:
    files = {path.name: path.stat().st_size for path in BUNDLED.iterdir()}
    assert set(files) == {"config.json", "model.safetensors", "MODEL_CARD.md"}
    assert sum(files.values()) <= 12 * 2**20


def test_the_bundled_model_follows_the_rain_it_sees(model: LDCast) -> None:
    wet_past = synthetic_event(seed=7, num_frames=4, height=128, width=128).rain_rate
    made = model.predict(wet_past, 4)
    assert np.isfinite(made).all()
    fallen = wet_past[-1].mean()
    assert made[:, 0].mean() == pytest.approx(fallen, rel=0.25)
    assert 0.25 * fallen < made[:, -1].mean() < 3 * fallen
    persistent = np.corrcoef(made[:, 0].mean(0).ravel(), wet_past[-1].ravel())[0, 1]
    assert persistent > 0.8


def test_a_dry_past_stays_dry(model: LDCast) -> None:
    """Another model made 118 mm/h of it, over half the domain, with a wrong number of steps."""
    made = model.predict(np.zeros((4, 128, 128), dtype=np.float32), 4)
    assert (made[:, :12] >= 0.1).mean() < 0.01
    assert (made >= 0.1).mean() < 0.02
    assert made.max() < 5


def test_another_number_of_steps_is_refused(model: LDCast) -> None:
    with pytest.raises(InputError, match="got 4 sampling steps, expected 1: this model"):
        model.predict(np.zeros((4, 64, 64), dtype=np.float32), 1, num_sampling_steps=4)


def test_the_first_command_works_in_any_folder(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "infer.py"), "--members", "1"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert not result.stderr  # no bar where nobody watches
    assert "Rain forecast from" in result.stdout
    with np.load(tmp_path / "forecast.npz", allow_pickle=False) as forecast:
        assert forecast["rain_rate"].shape == (1, 20, 256, 256)
