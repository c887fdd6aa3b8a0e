"""Ten minutes: both runs and the forecast say so."""

import json
from pathlib import Path

import numpy as np

frames = json.loads(Path("runs/ten/config.json").read_text())["model"]["frames"]
assert frames == {"past_frames": 4, "future_frames": 12, "minutes_per_frame": 10}
with np.load("ten.npz") as forecast:
    assert forecast["lead_minutes"].tolist() == list(range(10, 121, 10))
    assert np.isfinite(forecast["rain_rate"]).all()
