"""Calibration of a model's forecasts: what it is (maps), its fit, and how it is judged."""

from ldcast.calibration.maps import (
    CALIBRATION_NAME,
    Calibration,
    read_calibration,
    write_calibration,
)

__all__ = ["CALIBRATION_NAME", "Calibration", "read_calibration", "write_calibration"]
