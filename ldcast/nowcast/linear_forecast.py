"""A linear forecast of the latents, and how large its error is in each cell: networks start there.

Rain carried along its motion, and averaged over wider areas the further ahead, is a good forecast
already; and how wrong it will be is known well, too: hardly at all far from rain and in the first
minutes, much where it rains or where the past was not steady. Networks that need not learn this are
trained on what is left: the error, in units of its expected size.
Sources: a regression and the diffusion of its error, Mardani et al. 2025 (CorrDiff, Communications
Earth & Environment 6); errors that depend on the scale, Bowler et al. 2006 (STEPS).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from ldcast.diffusion.preconditioning import ChannelCovariance
from ldcast.errors import InputError
from ldcast.inputs.known import Known
from ldcast.models.blocks import cell_averages, each_example, spread_out
from ldcast.rain import RainScale, undo_transform

SCALES = (1, 2, 4, 8, 16)  # latent cells over which they are averaged
SIZE_SCALES = (1, 2, 4, 8)  # and of the features that say how large the error is
FLOOR = 0.03  # of features before their logarithm, in latents of mean square 1
LOG_LIMITS = (-4.0, 2.0)  # of the error's mean square over its average; beyond, logarithms run away
WORTH_SCALE = 4  # latent cells over which it is averaged
WORTH_FLOOR = 0.1  # mm/h, added to it: dry cells count as well
UNCUT_RATE = 1e4  # mm/h; errors of the heaviest rain are worth most
NUM_ROUNDS = 2  # the errors' sizes weigh the regression, whose errors they are
CHUNK = 50  # examples whose averages are in memory at once
NUM_FIT_CELLS = 200_000  # from which the sizes are fitted, for each latent frame


class LinearGuess(NamedTuple):
    """mean: (B, C, L, h, w), latents. size: (B, 1, L, h, w), expected deviation of their error, in
    latents of mean square 1."""

    mean: Tensor
    size: Tensor


class LinearForecast(nn.Module):
    """Weighted averages of the carried latents, and a weighted sum of logarithms for the error.

    The weights, of each latent frame, are not trained but measured, in seconds: least squares in
    which a cell counts by the inverse of its error's expected mean square, and by what errors are
    worth in it; the mean square is fitted by quasi-likelihood (Patton 2011), for errors that are
    far from normal. Buffers: they are saved with a model, averaged like its weights, and not seen
    by the optimizer.
    """

    def __init__(
        self,
        latent_channels: int,
        num_latent_frames: int,
        input_names: Sequence[str] = ("carried_frames",),
    ) -> None:
        super().__init__()
        self.input_names = tuple(input_names)
        channels, frames = latent_channels, num_latent_frames
        num_inputs = (2 + self._has_prognosis) * (channels + 1)
        num_features = 2 + (2 + self._has_prognosis) * len(SIZE_SCALES)
        self.register_buffer("weights", torch.zeros(frames, len(SCALES), num_inputs, channels))
        self.register_buffer("bias", torch.zeros(frames, channels))
        self.register_buffer("size_weights", torch.zeros(frames, num_features))
        self.register_buffer("mean_square", torch.ones(frames))  # of the error
        self.register_buffer("vectors", torch.eye(channels, device="cpu").repeat(frames, 1, 1))
        self.register_buffer("variances", torch.ones(frames, channels))
        self.register_buffer("dry", torch.zeros(channels))
        self.register_buffer("num_measured", torch.zeros(()))  # examples

    @property
    def is_measured(self) -> bool:
        return bool(self.num_measured > 0)

    @property
    def _has_prognosis(self) -> bool:
        """Whether its last channel of inputs is an expected deviation of rain."""
        return "carried_prognosis" in self.input_names

    def forward(self, known: Known, channel_sizes: Tensor) -> LinearGuess:
        """The forecast from what is known, float32, whatever autocast says.

        channel_sizes: (C,) of latents of mean square 1.
        """
        with torch.autocast(self.bias.device.type, enabled=False):
            return self._forecast(self._inputs(known), channel_sizes)

    def _forecast(self, inputs: Tensor, channel_sizes: Tensor) -> LinearGuess:
        size = inputs.shape[3:]
        mean = self.bias.T[None, :, :, None, None]
        for scale, weights in zip(SCALES, self.weights.unbind(1), strict=True):
            weighted = partial(torch.einsum, "lic,bilhw->bclhw", weights)
            part = each_example(weighted, cell_averages(inputs, scale))
            mean = mean + spread_out(part, scale, size)
        weighted = partial(torch.einsum, "lf,bflhw->blhw", self.size_weights)
        log_size = each_example(weighted, self._features(inputs, channel_sizes)).clamp(*LOG_LIMITS)
        mean_square = self.mean_square[:, None, None] * log_size.exp()
        return LinearGuess(mean, mean_square.sqrt()[:, None])

    def covariance(self) -> ChannelCovariance:
        """Of the error's channels in units of its expected size."""
        return ChannelCovariance(self.vectors, self.variances)

    def relative(self, size: Tensor) -> Tensor:
        """The size of an error (B, 1, L, h, w) over that of its latent frame in the mean."""
        return size / self.mean_square.sqrt()[:, None, None]

    @torch.no_grad()
    def measure(
        self,
        known: Known,
        z_future: Tensor,
        weight: Tensor,
        worth: Tensor,
        channel_sizes: Tensor,
        dry: Tensor,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        """Fits all of it to N training examples.

        z_future: (N, C, L, h, w). weight: (N, 1, L, h, w), how much each cell counts.
        worth: (N, 1, L, h, w), mm/h that an error of one model unit is there, see `worth_of_rain`.
        channel_sizes: (C,). dry: (C,), the latent of a dry cell.
        progress: called every few seconds; what it raises ends the fit, which then counts as none.
        """
        is_empty = weight.sum((0, 1, 3, 4)) == 0
        if is_empty.any():
            raise InputError(
                f"no training crop has data in latent frame {int(is_empty.nonzero()[0]) + 1} of "
                f"the future, expected some of {len(weight)}: give data without such gaps"
            )
        self.dry.copy_(dry)
        inputs = self._inputs(known)
        parts = inputs.split(CHUNK)
        features = torch.cat([self._features(part, channel_sizes) for part in parts])
        counts = weight[:, 0]  # (N, L, h, w)
        worth = spread_out(cell_averages(worth, WORTH_SCALE), WORTH_SCALE, counts.shape[2:])
        worth = worth[:, 0] + WORTH_FLOOR
        certainty = torch.ones_like(counts)
        for _ in range(NUM_ROUNDS):
            for frame in range(inputs.shape[2]):
                progress()
                solution = _least_squares(
                    inputs[:, :, frame : frame + 1],
                    z_future[:, :, frame],
                    (counts * worth * certainty)[:, frame],
                )
                shape = self.weights[frame].shape
                self.weights[frame] = solution[:-1].reshape(shape)
                self.bias[frame] = solution[-1]
            mean = self._guess_in_chunks(parts, channel_sizes).mean
            square = _natural(z_future - mean, channel_sizes).square().mean(1)  # (N, L, h, w)
            self.mean_square.copy_((square * counts).sum((0, 2, 3)) / counts.sum((0, 2, 3)))
            relative = square / self.mean_square[:, None, None]
            for frame in range(inputs.shape[2]):
                progress()
                self.size_weights[frame] = _fit_log_size(
                    features[:, :, frame], relative[:, frame], counts[:, frame]
                )
            size = self._guess_in_chunks(parts, channel_sizes).size
            certainty = self.relative(size)[:, 0].square().reciprocal()
        error = _natural(z_future - mean, channel_sizes) / size
        products = torch.einsum("nilhw,njlhw->lij", error * counts[:, None], error)
        covariance = products / counts.sum((0, 2, 3))[:, None, None]
        variances, vectors = torch.linalg.eigh(covariance.double())
        self.variances.copy_(variances.clamp(min=1e-6))
        self.vectors.copy_(vectors)
        self.num_measured.fill_(len(z_future))

    def _guess_in_chunks(self, parts: Sequence[Tensor], channel_sizes: Tensor) -> LinearGuess:
        """Of inputs in parts, whose averages together would take a few gigabytes."""
        guesses = [self._forecast(part, channel_sizes) for part in parts]
        return LinearGuess(*(torch.cat(of) for of in zip(*guesses, strict=True)))

    def _inputs(self, known: Known) -> Tensor:
        return torch.cat([known.future[name] for name in self.input_names], dim=1)

    def _features(self, inputs: Tensor, channel_sizes: Tensor) -> Tensor:
        """(B, F, L, h, w): 1, the known share, logarithms of rain, of its unsteadiness, and of the
        deviation that is expected of it, where a prognosis says one."""
        num = len(self.dry)
        rain, share, before = inputs[:, : 2 * num + 1].split([num, 1, num], dim=1)
        wetness = _norm(_natural(rain - _per_channel(self.dry), channel_sizes))
        change = _norm(_natural(rain - before, channel_sizes))
        deviation = [inputs[:, -1:]] if self._has_prognosis else []
        logs = [
            spread_out((FLOOR + cell_averages(value, scale)).log(), scale, inputs.shape[3:])
            for value in (wetness, change, *deviation)
            for scale in SIZE_SCALES
        ]
        return torch.cat([torch.ones_like(share), share, *logs], dim=1)


def worth_of_rain(rain_norm: Tensor, scale: RainScale) -> Tensor:
    """mm/h that an error of one model unit is, where rain is as in rain_norm (any shape).

    In logarithms that is next to nothing where it is nearly dry, and much in heavy rain.
    """
    uncut = replace(scale, max_rain_rate=UNCUT_RATE)
    return undo_transform(rain_norm + 0.5, uncut) - undo_transform(rain_norm - 0.5, uncut)


def as_input(guess: LinearGuess) -> Tensor:
    """What networks see of a guess, (B, C + 1, L, h, w): its mean, and the log of its size."""
    return torch.cat([guess.mean, guess.size.log()], dim=1)


def guess_of(value: Tensor) -> LinearGuess:
    """The guess of `as_input`."""
    return LinearGuess(value[:, :-1], value[:, -1:].exp())


def _per_channel(values: Tensor) -> Tensor:
    return values[None, :, None, None, None]


def _natural(z: Tensor, channel_sizes: Tensor) -> Tensor:
    return z * _per_channel(channel_sizes)


def _norm(z: Tensor) -> Tensor:
    return z.square().sum(1, keepdim=True).sqrt()


def _all_averages(inputs: Tensor) -> Tensor:
    """(B, scales x inputs, L, h, w)."""
    size = inputs.shape[3:]
    averages = (spread_out(cell_averages(inputs, scale), scale, size) for scale in SCALES)
    return torch.cat(list(averages), dim=1)


def _least_squares(inputs: Tensor, wanted: Tensor, counts: Tensor) -> Tensor:
    """Weights (K + 1, C), the last of which is the bias, of all averages of inputs (N, I, 1, h, w).

    wanted: (N, C, h, w). counts: (N, h, w).
    """
    square = product = 0.0
    for chunk in zip(*(value.split(CHUNK) for value in (inputs, wanted, counts)), strict=True):
        x, y, count = chunk
        x = rearrange(_all_averages(x)[:, :, 0], "n k h w -> k (n h w)")
        x = torch.cat([x, torch.ones_like(x[:1])])
        y, count = rearrange(y, "n c h w -> c (n h w)"), count.flatten()
        square = square + ((x * count) @ x.T).double()
        product = product + ((x * count) @ y.T).double()
    ridge = 1e-6 * square.diagonal().mean() * torch.eye(len(square), device=square.device)
    return torch.linalg.solve(square + ridge, product).float()


def _fit_log_size(features: Tensor, relative: Tensor, counts: Tensor) -> Tensor:
    """Weights (F,) of the features (N, F, h, w) for the logarithm of relative (N, h, w).

    The first feature is 1.
    """
    x = rearrange(features, "n f h w -> (n h w) f")
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(x), generator=generator)[:NUM_FIT_CELLS].to(x.device)
    x, y, count = (value[chosen].double() for value in (x, relative.flatten(), counts.flatten()))
    scale = torch.cat([torch.ones_like(x[0, :1]), x[:, 1:].std(0).clamp(min=1e-3)])
    x = x / scale
    weights = torch.zeros_like(scale, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights], max_iter=200, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        log_size = (x @ weights).clamp(*LOG_LIMITS)
        value = (count * (log_size + y * (-log_size).exp())).mean()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return (weights.detach() / scale).float()
