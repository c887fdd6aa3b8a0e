"""How files of rain are read, where flags say more than the files do; for every command."""

from dataclasses import dataclass

from ldcast.frames import FrameConfig


@dataclass(frozen=True)
class Reading:
    """What a reader is asked for besides a path.

    zr: (a, b) of Z = a R^b, by which reflectivity becomes rain; None: as the format has it, which
        is an error where it has none.
    crop: (row, column, height, width) in pixels from the north-west corner; None for all.
    box: (west, south, east, north) in degrees; None for all. Not both of crop and box.
    minutes: how far apart the frames should be, so those of a model: times near the grid of whole
        `minutes` are rounded to it.
    """

    zr: tuple[float, float] | None = None
    crop: tuple[int, int, int, int] | None = None
    box: tuple[float, float, float, float] | None = None
    minutes: int = FrameConfig.minutes_per_frame


AS_STATED = Reading()
