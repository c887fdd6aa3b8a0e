"""Optical flow: a motion of blocks refined from place to place, so that newest rain is met exactly.

Source: Lucas and Kanade 1981 (IJCAI), with Gaussian windows and repeated warping.
"""

import torch
from torch import Tensor, nn

from ldcast.motion.carrying import rain_at
from ldcast.rain import WET_THRESHOLD, smooth, valid_mask

# Chosen by the absolute error of rain carried over 5 to 100 minutes (docs/bundled-model.md).
NUM_WARPS = 2
SMOOTHING = 1.0  # pixels, standard deviation, of log rain before its gradients are taken
CELL = 4  # pixels along which sums are taken at once
WINDOW = 16.0  # pixels, standard deviation, of the surrounding that has one motion
# Of the field's mean gradients, how much the first guess counts: it stays where nothing varies.
GUESS_WEIGHT = 0.2
MAX_CHANGE = 2.0  # pixels per frame and warp, along each axis


def refine_motion(rain_rate: Tensor, motion: Tensor) -> Tensor:
    """Motion (2, H, W), down and right in pixels per frame, that carries earlier frames best into
    the newest, in a window around each pixel.

    rain_rate: (T, H, W) mm/h, oldest first, NaN = no data.
    motion: the first guess, (2, H, W), which is kept where there is nothing to follow.
    """
    height, width = rain_rate.shape[1:]
    log_rain = (rain_rate.float().clamp(min=WET_THRESHOLD) / WET_THRESHOLD).log10()
    is_valid = valid_mask(rain_rate)
    log_rain = smooth(log_rain.where(is_valid, 0.0), SMOOTHING).where(is_valid, torch.nan)
    guess = _cell_means(motion.float())
    refined = guess
    for _ in range(NUM_WARPS):
        flow = nn.functional.interpolate(refined[None], (height, width), mode="bilinear")[0]
        change = _least_squares(_windowed(_products(log_rain, flow)), guess - refined)
        refined = refined + change.clamp(-MAX_CHANGE, MAX_CHANGE)
    return nn.functional.interpolate(refined[None], (height, width), mode="bilinear")[0]


def _products(log_rain: Tensor, flow: Tensor) -> Tensor:
    """Of the equations `gradient * change = difference` of each pixel, what least squares sums.

    Returns (5, H, W): down * down, down * right, right * right, down * difference, right *
    difference; summed over the earlier frames, 0 where either frame is not known.
    """
    *earlier, newest = log_rain
    rows, columns = (torch.arange(size, device=flow.device) for size in newest.shape)
    pixels = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
    total = newest.new_zeros(5, *newest.shape)
    for lag, frame in enumerate(reversed(earlier), start=1):
        warped = rain_at((pixels - lag * flow)[None], frame)[0]
        is_known = ~(warped.isnan() | newest.isnan())
        middle = ((warped + newest) / 2).where(is_known, 0.0)
        down, right = (lag * is_known * slope for slope in torch.gradient(middle))
        difference = (warped - newest).where(is_known, 0.0)
        products = (down * down, down * right, right * right, down * difference, right * difference)
        total += torch.stack(products)
    return total


def _least_squares(sums: Tensor, to_guess: Tensor) -> Tensor:
    """The change of motion (2, h, w) that solves the windows' equations (5, h, w).

    to_guess: (2, h, w), the change that leads back to the first guess.
    """
    weight = (GUESS_WEIGHT * sums[[0, 2]].mean()).clamp(min=1e-9)
    (down_down, right_right), down_right = sums[[0, 2]] + weight, sums[1]
    down, right = sums[3:] + weight * to_guess
    determinant = down_down * right_right - down_right.square()
    solution = right_right * down - down_right * right, down_down * right - down_right * down
    return torch.stack(solution) / determinant


def _windowed(products: Tensor) -> Tensor:
    """Gaussian sums of (N, H, W) around each cell of `CELL` pixels, (N, h, w)."""
    deviation = WINDOW / CELL
    reach = round(3 * deviation)
    offset = torch.arange(-reach, reach + 1, device=products.device)
    line = torch.exp(-0.5 * (offset / deviation).square())[None, None]  # (1, 1, 2 reach + 1)
    cells = _cell_means(products)[:, None]
    columns = nn.functional.conv2d(cells, line[..., None, :], padding=(0, reach))
    return nn.functional.conv2d(columns, line[..., None], padding=(reach, 0))[:, 0]


def _cell_means(fields: Tensor) -> Tensor:
    """(N, H, W) -> (N, ceil(H / CELL), ceil(W / CELL))."""
    cells = [-(-size // CELL) for size in fields.shape[1:]]
    return nn.functional.adaptive_avg_pool2d(fields, cells)
