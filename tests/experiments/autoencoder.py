"""The linear autoencoder: linear, the same for a crop as for the field, and learnt."""

import json
from pathlib import Path

import numpy as np
import torch

from ldcast import LDCast

for run in ("runs/linear", "runs/linear_ldcast"):
    config = json.loads(Path(run, "config.json").read_text())["model"]["autoencoder"]
    assert (config["kind"], config["latent_channels"]) == ("linear", 4)
with np.load("linear.npz") as forecast:
    assert np.isfinite(forecast["rain_rate"]).all()

autoencoder = LDCast.from_pretrained("runs/linear_ldcast", device="cpu").autoencoder
rain_norm, other = torch.randn(2, 1, 1, 8, 16, 24, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    zero, z, z_other, z_sum = (
        autoencoder.encode(x)[0] for x in (0 * other, rain_norm, other, rain_norm + 2 * other)
    )
    torch.testing.assert_close(z_sum - zero, z - zero + 2 * (z_other - zero), atol=1e-4, rtol=1e-4)
    cut = autoencoder.encode(rain_norm[:, :, 4:, 4:12, 8:20])[0]
    torch.testing.assert_close(cut, z[:, :, 1:, 1:3, 2:5], atol=1e-5, rtol=1e-5)
    assert autoencoder.decode(z).shape == rain_norm.shape

# Trained on patches that two patterns make, two channels suffice.
torch.manual_seed(0)
patterns = torch.linalg.qr(torch.randn(64, 2))[0].T.reshape(2, 1, 4, 4, 4)
small = type(autoencoder)(autoencoder.Config(latent_channels=2))
optimizer = torch.optim.Adam(small.parameters(), 0.02)
for _ in range(300):
    made = torch.nn.functional.conv_transpose3d(torch.randn(8, 2, 1, 4, 4), 8 * patterns, stride=4)
    loss = (small(made)[0] - made).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
assert loss < 0.02 * made.square().mean(), (loss, made.square().mean())
