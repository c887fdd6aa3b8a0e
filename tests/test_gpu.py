"""A CUDA device computes what a CPU computes; skipped where there is none."""

import json
from pathlib import Path

import pytest
import torch
from tiny_models import rain, tiny_model

import train_autoenc
import train_diffusion
from ldcast.models.blocks import AFNOFilter
from ldcast.models.slices import decode_in_slices
from ldcast.motion import forecast_quality, mean_motion
from ldcast.verification.scoring import whole_scores

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture
def exact_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions in float32: by default the device rounds their inputs to 10 bits (TF32)."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize(("height", "width"), [(6, 13), (12, 10)])
def test_the_filter_treats_a_spectrum_without_symmetry_alike(height: int, width: int) -> None:
    torch.manual_seed(0)
    afno_filter = AFNOFilter(16)
    x = torch.randn(1, 3, height, width, 16)
    on_cpu, on_gpu = afno_filter(x), afno_filter.cuda()(x.cuda()).cpu()
    torch.testing.assert_close(on_gpu, on_cpu, atol=1e-5, rtol=1e-5)


def test_a_forecast_agrees_with_that_of_a_cpu(exact_convolutions: None) -> None:
    model, past = tiny_model(), rain(32, 48)
    on_cpu = model.predict(past, 2, amp="off")
    on_gpu = model.cuda().predict(past, 2, amp="off")
    assert on_gpu.device == past.device
    torch.testing.assert_close(on_gpu, on_cpu, atol=1e-3, rtol=1e-2)


def test_a_long_forecast_in_windows_agrees_with_that_of_a_cpu(exact_convolutions: None) -> None:
    model, past = tiny_model(), rain(64, 96)
    settings = {"amp": "off", "window": 64, "lead_minutes": 105}
    on_cpu = model.predict(past, 2, **settings)
    on_gpu = model.cuda().predict(past, 2, **settings)
    torch.testing.assert_close(on_gpu, on_cpu, atol=1e-2, rtol=5e-2)  # the second round magnifies


def test_slices_agree_with_those_of_a_cpu(exact_convolutions: None) -> None:
    autoencoder = tiny_model().autoencoder
    z = torch.randn(1, autoencoder.config.latent_channels, 2, 10, 13)
    with torch.no_grad():
        on_cpu = decode_in_slices(autoencoder, z, whole_bytes=0, slice_bytes=2**14)
        on_gpu = decode_in_slices(autoencoder.cuda(), z.cuda(), whole_bytes=0, slice_bytes=2**14)
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, atol=1e-4, rtol=1e-4)


def test_scores_agree_with_those_of_a_cpu() -> None:
    members = torch.stack([rain(70, 90, seed)[0] for seed in range(5)])
    observation = rain(70, 90, seed=9)[0]
    members[:, :8], observation[:8] = torch.nan, torch.nan
    for score in whole_scores():
        on_cpu, on_gpu = (
            score.statistics(members.to(device), observation.to(device), torch.Generator())
            for device in ("cpu", "cuda")
        )
        assert on_gpu.is_cuda and on_gpu.dtype == torch.float64
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-5, atol=1e-6)
    motions = [mean_motion(rain(70, 90).to(device)) for device in ("cpu", "cuda")]
    assert motions[1] == pytest.approx(motions[0], abs=1e-3)
    quality = [forecast_quality(rain(70, 90).to(device), 3) for device in ("cpu", "cuda")]
    assert (quality[1].cpu() != quality[0]).float().mean() < 0.01  # a pixel's border may round


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_a_training_runs_and_resumes(tmp_path: Path, amp: str) -> None:
    arguments = ["--preset", "tiny", "--data", "synthetic:3", "--device", "cuda", "--amp", amp]
    arguments += ["--out", str(tmp_path / "run"), "--loop.log-interval", "1"]
    train_autoenc.main([*arguments, "--iterations", "2"])
    train_autoenc.main([*arguments, "--iterations", "4"])
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["iteration"] == 4


def test_stage_2_saves_memory_and_resumes(tmp_path: Path) -> None:
    common = ["--preset", "tiny", "--data", "synthetic:3", "--device", "cuda"]
    common += ["--loop.use-activation-checkpointing", "true", "--loop.num-micro-batches", "2"]
    first = tmp_path / "autoenc"
    train_autoenc.main([*common, "--out", str(first), "--iterations", "1"])
    second = [*common, "--autoencoder", str(first), "--encoder-dtype", "bfloat16"]
    second += ["--out", str(tmp_path / "run"), "--forecast-score.num-cases", "1"]
    train_diffusion.main([*second, "--iterations", "2"])
    train_diffusion.main([*second, "--iterations", "4"])
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["iteration"] == 4
    assert json.loads(lines[-1])["val_crps_ema"] > 0
