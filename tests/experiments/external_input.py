"""A coarse forecast: events must carry it, and what it says of a lead time decides that one."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tiny_models import rain, tiny_config

import infer
from ldcast.errors import run_script
from ldcast.nowcast.ldcast import build

model_folder = Path("runs/coarse")
assert json.loads((model_folder / "config.json").read_text())["model"]["inputs"] == [
    "coarse_forecast"
]
with np.load("coarse.npz") as forecast:
    assert np.isfinite(forecast["rain_rate"]).all()
without = ["--model", str(model_folder), "--data", "synthetic:1", "--crop", "0", "0", "32", "32"]
assert run_script(lambda: infer.main(without)) == 2  # an event without model_rain

torch.manual_seed(1)
model = build(replace(tiny_config(), inputs=("coarse_forecast",))).eval()
for parameter in model.latent_nowcaster.denoiser.parameters():
    if not parameter.any():
        parameter.data = 0.1 * torch.randn_like(parameter)
assert model.latent_nowcaster.denoiser.enter[0].in_channels == 4 + 4 + 1
foreseen = {"model_rain": 5 * torch.rand(24, 1, 32, 48)}
before = model.predict(rain(), 1, fields=foreseen)
past_changed = {"model_rain": torch.cat([torch.zeros(4, 1, 32, 48), foreseen["model_rain"][4:]])}
assert torch.equal(model.predict(rain(), 1, fields=past_changed), before)
dry = {"model_rain": torch.zeros(24, 1, 32, 48)}
assert not torch.allclose(model.predict(rain(), 1, fields=dry), before, atol=0.1)
