"""The peak of each cell: counted right, taken by the networks, and a difference to the forecast."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tiny_models import rain, tiny_config

from ldcast.frames import FrameConfig
from ldcast.inputs.known import LatentGrid, Observed
from ldcast.inputs.registry import build_inputs
from ldcast.nowcast.ldcast import build

assert json.loads(Path("runs/peak/config.json").read_text())["model"]["inputs"] == ["cell_peak"]
with np.load("peak.npz") as forecast:
    assert np.isfinite(forecast["rain_rate"]).all()

(peak,) = build_inputs(["cell_peak"]).values()
past = torch.zeros(1, 4, 8, 8)
past[0, 2, 1, 6] = 10.0  # one pixel of the upper right cell
past[0, :, 4:, :4] = torch.nan
past[0, 0, 7, 7] = 0.05  # below the threshold
found = peak(Observed(past), LatentGrid(lambda rain_rate: rain_rate, 4, FrameConfig()))
torch.testing.assert_close(found, torch.tensor([[0.0, 2.0], [0.0, 0.0]])[None, None, None])

torch.manual_seed(1)
model = build(replace(tiny_config(), inputs=("cell_peak",))).eval()
for parameter in model.latent_nowcaster.denoiser.parameters():
    if not parameter.any():
        parameter.data = 0.1 * torch.randn_like(parameter)
assert model.latent_nowcaster.conditioner.proj.in_channels == 4 + 1
before = model.predict(rain(), 1)
type(peak).__call__ = lambda self, observed, grid: torch.zeros(1, 1, 1, 8, 12)
assert not torch.allclose(model.predict(rain(), 1), before, atol=0.1)
