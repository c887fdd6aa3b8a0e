"""The score that chooses the best weights."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from ldcast.config import DataConfig, ForecastScoreConfig
from ldcast.data.event import RainEvent
from ldcast.data.synthetic import synthetic_event
from ldcast.frames import FrameConfig
from ldcast.machine.processes import Processes
from ldcast.machine.stopping import StopRequest
from ldcast.training.forecasts import FixedCases


class Constant:
    """A model whose two members say 1 and 2 mm/h."""

    fields: ClassVar[dict] = {}

    def predict(self, past: Tensor, *_, **__) -> Tensor:
        return torch.tensor([1.0, 2.0])[:, None, None, None].expand(2, 20, *past.shape[1:])


def test_the_score_of_forecasts_is_the_fair_crps() -> None:
    """4 mm/h fall: a mean error of 2.5, less half the mean distance 1 of two different members."""
    event = synthetic_event(0, 24, 32, 32)
    event = RainEvent(np.full_like(event.rain_rate, 4.0), event.time, event.grid, "event")
    settings = ForecastScoreConfig(num_cases=1, num_members=2)
    cases = FixedCases([event], FrameConfig(), settings, DataConfig(crop_size=32), 0, "off")
    with StopRequest() as stop:
        scores = cases.score(Constant(), Processes(0, 1, torch.device("cpu")), stop)
    assert scores.crps == pytest.approx(2.5 - 0.5)
