"""The motion of rain, rain carried along it, and what that says about a forecast."""

from ldcast.motion.accumulation import amounts_between
from ldcast.motion.carrying import (
    carry,
    carry_mirrored,
    data_box,
    follow_upstream,
    rain_at,
)
from ldcast.motion.estimate import far_motion, motion_of_known
from ldcast.motion.field import mean_motion, motion_field
from ldcast.motion.gaps import fill_gaps
from ldcast.motion.optical_flow import refine_motion
from ldcast.motion.quality import (
    MIN_INTERIOR_SHARE,
    NO_FORECAST,
    PAST_INCOMPLETE,
    QUALITY_MEANINGS,
    UPSTREAM_OBSERVED,
    UPSTREAM_UNKNOWN,
    forecast_quality,
    interior_mask,
)
from ldcast.motion.scales import prognosis

__all__ = [
    "MIN_INTERIOR_SHARE",
    "NO_FORECAST",
    "PAST_INCOMPLETE",
    "QUALITY_MEANINGS",
    "UPSTREAM_OBSERVED",
    "UPSTREAM_UNKNOWN",
    "amounts_between",
    "carry",
    "carry_mirrored",
    "data_box",
    "far_motion",
    "fill_gaps",
    "follow_upstream",
    "forecast_quality",
    "interior_mask",
    "mean_motion",
    "motion_field",
    "motion_of_known",
    "prognosis",
    "rain_at",
    "refine_motion",
]
