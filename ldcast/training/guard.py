"""What stops an update or a run: impossible rain, and unusable losses, gradients and scores."""

import math
import statistics

# What is wrong with an update -> its words in the log. NaN in the rain, no data, is never wrong.
PROBLEMS = {
    "rain": "rain that is infinite, negative or above data.max_rain_rate",
    "loss": "a loss that is not finite",
    "gradient": "a gradient that is not finite",
    "overflow": "a gradient beyond the range of fp16",
    "jump": "a loss many times its running median",
}
MIN_RECENT = 20  # fewer say nothing about what is usual


def find_problem(
    loss: float,
    grad_norm: float,
    num_impossible_pixels: float,
    recent_losses: list[float],
    max_loss_ratio: float,
    is_fp16: bool,
) -> str | None:
    """The key in `PROBLEMS` of why an update must be skipped, or None.

    loss, grad_norm: of the global batch, the norm before clipping.
    recent_losses: of the last good updates.
    max_loss_ratio: a loss beyond so many of their medians is a jump.
    """
    if num_impossible_pixels:
        return "rain"
    if not math.isfinite(loss):
        return "loss"
    if not math.isfinite(grad_norm):
        return "overflow" if is_fp16 else "gradient"
    is_usual_known = len(recent_losses) >= MIN_RECENT
    if is_usual_known and loss > max_loss_ratio * statistics.median(recent_losses):
        return "jump"
    return None


def find_validation_problem(
    scores: dict[str, float], last_loss: float, max_loss_ratio: float
) -> str | None:
    """Why a checkpoint must not be kept, in words, or None.

    scores: of a validation, none without one. last_loss: `val_loss` of the validation before.
    max_loss_ratio: a loss beyond so many times the last one is a jump.
    """
    if not all(map(math.isfinite, scores.values())):
        return "a validation score that is not finite"
    if scores and scores["val_loss"] > max_loss_ratio * last_loss:
        return f"a validation loss that jumped from {last_loss:.3g} to {scores['val_loss']:.3g}"
    return None


def describe(skipped: dict[str, int]) -> str:
    """What was skipped in words: "3 x a loss that is not finite, 1 x ..."."""
    return ", ".join(f"{num} x {PROBLEMS[problem]}" for problem, num in skipped.items())
