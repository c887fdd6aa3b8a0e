"""One stretch of future frames of all members: what is known and noise -> latents -> rain."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ldcast.diffusion import Denoiser, Prediction, Sampler
from ldcast.diffusion.windows import cover, denoise_together
from ldcast.errors import NonFiniteError
from ldcast.frames import FrameConfig
from ldcast.inputs.known import Known, LatentGrid, Observed, known_at_issue_time
from ldcast.models import Autoencoder
from ldcast.models.slices import decode_in_slices, encode_in_slices
from ldcast.nowcast.latent_nowcaster import LatentNowcaster
from ldcast.nowcast.request import (
    MAX_WINDOW_PIXELS,
    MemberNoise,
    batches,
    fitting,
)
from ldcast.rain import RainScale, from_model_units, pad_to_multiple, to_model_units


class CallCounter:
    """Wraps a denoiser to report (calls done, calls in all) and to stop at the first bad value."""

    def __init__(self, progress: Callable[[int, int], None] | None, num_calls: int) -> None:
        self.progress, self.num_calls, self.num_done = progress, num_calls, 0

    def __call__(self, denoiser: Denoiser) -> Denoiser:
        def counted(z_noisy: Tensor, diffusion_step: Tensor) -> Prediction:
            prediction = denoiser(z_noisy, diffusion_step)
            _check_finite(prediction.output)  # at full size the rest would take many minutes
            self.num_done += 1
            self.report()
            return prediction

        return counted

    def report(self) -> None:
        if self.progress is not None:
            self.progress(self.num_done, self.num_calls)


@dataclass(frozen=True)
class Stretch:
    """How a model makes the frames of one stretch (20); a longer forecast has several.

    autoencoder, latent_nowcaster, rain_scale, frames: of the model.
    multiple: of which height and width are made multiples, in pixels.
    sampler, window: of the forecast, see `LDCast.predict`. count: of its denoiser calls.
    """

    autoencoder: Autoencoder
    latent_nowcaster: LatentNowcaster
    rain_scale: RainScale
    frames: FrameConfig
    multiple: int
    sampler: Sampler
    window: int | None
    count: CallCounter

    @property
    def device(self) -> torch.device:
        return next(self.latent_nowcaster.parameters()).device

    def sample(
        self,
        observed: Observed,
        member_batches: list[range],
        member_noise: MemberNoise,
        round_: int,
    ) -> Tensor:
        """Latents of all members (E, C, L, h, w) of the round_-th stretch, from 0.

        observed: of E members, or of 1 for all.
        Nothing but the latents is held when it returns: decoding needs the memory.
        """
        is_shared = len(observed.past) == 1
        denoiser, known = self._denoiser(observed) if is_shared else (None, None)
        z = []
        for members in member_batches:
            if not is_shared:
                denoiser = known = None  # frees its context before the next is made
                own = replace(observed, past=observed.past[members.start : members.stop])
                denoiser, known = self._denoiser(own)
            noise = member_noise.of(members, round_).to(self.device)
            generators = member_noise.sampler_generators(members, round_)
            counted = self.count(denoiser)
            z.append(self.latent_nowcaster.sample(self.sampler, counted, known, noise, generators))
        return torch.cat(z)

    def _denoiser(self, observed: Observed) -> tuple[Denoiser, Known]:
        """The denoiser of a whole domain's latents, and what is known of it.

        It is of one example where there are windows.
        """
        nowcaster, window = self.latent_nowcaster, self.window
        known = known_at_issue_time(self._padded(observed), self._latent_grid(), nowcaster.inputs)
        known = nowcaster.complete(known)
        if window is None:
            return nowcaster.denoiser_given(known), known
        windows = cover(*known.z_past.shape[-2:], window // self.autoencoder.compression)
        groups = []
        for indices in batches(len(windows), fitting(window, window, MAX_WINDOW_PIXELS)):
            group = [windows[index] for index in indices]
            groups.append((group, nowcaster.denoiser_given(known.cut(group))))
        return denoise_together(groups), known

    def _padded(self, observed: Observed) -> Observed:
        """On the model's device, of a height and width that the networks take."""

        def pad(values: Tensor) -> Tensor:
            return pad_to_multiple(values.to(self.device), self.multiple)

        fields = {
            name: pad(values).expand(len(observed.past), -1, -1, -1, -1)
            for name, values in observed.fields.items()
        }
        return Observed(pad(observed.past), fields)

    def _latent_grid(self) -> LatentGrid:
        def encode(rain_rate: Tensor) -> Tensor:
            return encode_in_slices(self.autoencoder, to_model_units(rain_rate, self.rain_scale))

        return LatentGrid(encode, self.autoencoder.compression, self.frames)

    def decode(self, z: Tensor, size: tuple[int, int, int]) -> Tensor:
        """Rain mm/h from one member's latents (1, C, L, h, w), cut to (T, H, W) `size`.

        Raises NonFiniteError where a value is not finite.
        """
        num_frames, height, width = size
        rain = from_model_units(decode_in_slices(self.autoencoder, z)[0, 0], self.rain_scale)
        rain = rain[:num_frames, :height, :width]
        _check_finite(rain)
        return rain


def newest_frames(latest: Tensor, made: Tensor) -> Tensor:
    """What a further stretch starts from: the newest frames of those it was and those made.

    latest: (E, past_frames, H, W), or E = 1 for all. made: (E, T, H, W), where T may be less.
    """
    num_past = latest.shape[1]
    if made.shape[1] >= num_past:
        return made[:, -num_past:]
    return torch.cat([latest.expand(len(made), -1, -1, -1), made], dim=1)[:, -num_past:]


def _check_finite(values: Tensor) -> None:
    if not torch.isfinite(values).all():
        raise NonFiniteError(
            "the networks gave values that are not finite: forecast with amp off if it is on, or "
            "with another model; this one may have diverged in training"
        )
