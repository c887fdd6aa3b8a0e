"""How a model counts time: how many radar images it sees and makes, and how far apart they are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ldcast.errors import InputError
from ldcast.settings import Settings, setting


@dataclass(frozen=True)
class FrameConfig(Settings):
    """The frames of a forecast, evenly spaced: the past ends at the issue time, then the future.

    The defaults are the published ones, and what a model folder without this entry means.
    """

    past_frames: int = setting(4, "radar images that a forecast starts from", low=2)
    future_frames: int = setting(20, "frames that are forecast at once", low=1)
    minutes_per_frame: int = setting(5, "minutes from one frame to the next", low=1)

    @property
    def num_frames(self) -> int:
        """Past and future together: those of a training example and of a case."""
        return self.past_frames + self.future_frames

    @property
    def step(self) -> np.timedelta64:
        """From one frame to the next, in seconds."""
        return np.timedelta64(60 * self.minutes_per_frame, "s")

    @property
    def lead_minutes(self) -> tuple[int, ...]:
        """Lead times of the frames that are forecast at once, in minutes."""
        return tuple(self.leads(self.future_frames).tolist())

    def leads(self, num_frames: int) -> np.ndarray:
        """(num_frames,) int: lead times of a forecast of any length, in minutes."""
        return self.minutes_per_frame * np.arange(1, num_frames + 1)

    def is_continued(self, num_frames: int) -> np.ndarray:
        """(num_frames,) bool: the frames of a forecast that are made from forecast frames."""
        return np.arange(num_frames) >= self.future_frames

    @property
    def ages(self) -> np.ndarray:
        """(past_frames,) timedelta64[s] of the past frames, oldest first; the last one is 0."""
        return self.step * np.arange(self.past_frames - 1, -1, -1)

    def check_divisible(self, compression: int) -> None:
        """Raises InputError where an autoencoder does not divide the number of past or future
        frames, naming the nearest that fit."""
        check_divisible("past_frames", self.past_frames, compression)
        check_divisible("future_frames", self.future_frames, compression)


@dataclass(frozen=True)
class CropFrames(Settings):
    """The frames of a training example of stage 1, which knows neither past nor future."""

    num_frames: int = setting(8, "frames of a training example", low=1)
    minutes_per_frame: int = setting(5, "minutes from one frame to the next", low=1)


def check_divisible(name: str, num_frames: int, compression: int) -> None:
    """Raises InputError unless the autoencoder divides that many frames, naming those that fit."""
    if num_frames % compression:
        below = num_frames // compression * compression
        fits = [str(number) for number in (below, below + compression) if number]
        raise InputError(
            f"{name}: got {num_frames}, expected a multiple of {compression}, which is how many "
            f"frames the autoencoder compresses into one: {' or '.join(fits)}"
        )


def nearest_leads(lead_minutes: Sequence[int] | np.ndarray, wanted: Sequence[int]) -> list[int]:
    """Indices of the lead times that are nearest to those wanted, in order, and of the last one.

    Of two as near, the earlier one. Each counts once, so there may be fewer than are wanted.
    """
    minutes = np.asarray(lead_minutes)
    nearest = {int(np.abs(minutes - lead).argmin()) for lead in wanted}
    return sorted({*nearest, len(minutes) - 1})
