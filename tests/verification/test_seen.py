"""A model that is judged by the rain it was trained on: said in a line, and only when sure."""

from dataclasses import replace

import numpy as np
import pytest
from tiny_models import tiny_model

from ldcast.data.synthetic import synthetic_event
from ldcast.verification.seen import is_trained_on, warn_of_training

pytestmark = pytest.mark.usefixtures("small_synthetic")


@pytest.mark.parametrize(
    ("trained_on", "expected"),
    [
        ({"data": ["synthetic:0"]}, True),
        ({"data": ["synthetic:1"]}, False),
        ({"autoencoder": {"data": ["synthetic:0"]}}, True),
        ({"data": ["synthetic:0@2000-01-01T00:00/2000-01-01T00:05"]}, True),
        ({"data": ["synthetic:0@1999-12-31T00:00/2000-01-01T00:00"]}, False),
        ({"data": ["synthetic:0@some day"]}, False),
        ({"data": "synthetic:0", "autoencoder": "published"}, False),
        ({}, False),
        ("synthetic:0", False),
    ],
)
def test_what_the_model_was_trained_on_is_known_by_file_and_time(trained_on, expected):
    event = synthetic_event(0, 24, 32, 32)
    time = np.datetime64("2000-01-01T00:00:00") + np.arange(24) * np.timedelta64(300, "s")
    assert is_trained_on(replace(event, time=time), trained_on) is expected


def test_a_line_names_the_events(tmp_path):
    model = tiny_model()
    model.trained_on = {"data": ["synthetic:0", "synthetic:2"]}
    model.save_pretrained(tmp_path)
    events = [synthetic_event(seed, 24, 32, 32) for seed in range(3)]
    (line,) = warn_of_training(str(tmp_path), events)
    assert "was trained on rain of synthetic:0, synthetic:2: give rain" in line
    assert warn_of_training(str(tmp_path), events[1:2]) == []
