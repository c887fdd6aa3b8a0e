"""How files of rain are read, where the user says more than they do: the flags of every command."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reading:
    """What a reader is asked for besides a path.

    zr: (a, b) of Z = a R^b, by which reflectivity becomes rain; None: as the format has it, which
        is an error where it has none.
    crop: (row, column, height, width) in pixels from the north-west corner; None for all.
    box: (west, south, east, north) in degrees; None for all. Not both of crop and box.
    """

    zr: tuple[float, float] | None = None
    crop: tuple[int, int, int, int] | None = None
    box: tuple[float, float, float, float] | None = None


AS_STATED = Reading()
