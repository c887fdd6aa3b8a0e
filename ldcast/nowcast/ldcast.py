"""The trained parts wired together: past rain in, an ensemble of future rain out."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ldcast.config import DiffusionConfig, ModelConfig
from ldcast.data.fields import FieldNeed
from ldcast.diffusion import Sampler
from ldcast.diffusion.registry import ONE_CALL, build_sampler, name_of, settings_of
from ldcast.errors import InputError, check_count
from ldcast.frames import FrameConfig
from ldcast.inputs.known import Observed, fields_of
from ldcast.inputs.registry import check_inputs_registered
from ldcast.machine.device import autocast, choose_device
from ldcast.machine.half_precision import check_half_precision, forecast_dtype
from ldcast.models import Autoencoder
from ldcast.models.registry import build_autoencoder, check_autoencoder_registered
from ldcast.motion import fill_gaps
from ldcast.nowcast.latent_nowcaster import LatentNowcaster, build_latent_nowcaster
from ldcast.nowcast.model_folder import (
    give_memory,
    load_weights,
    locate,
    read_nowcaster,
    write_description,
    write_weights,
)
from ldcast.nowcast.request import (
    MemberNoise,
    as_tensor,
    batches,
    check_past,
    check_window,
    checked_fields,
    count_frames,
    fields_of_round,
    fitting,
)
from ldcast.nowcast.stretch import CallCounter, Stretch, newest_frames
from ldcast.rain import RainScale, valid_mask

if TYPE_CHECKING:  # an extra
    from xarray import DataArray


class LDCast(nn.Module):
    """A nowcasting system: the last radar images in, an ensemble of the next ones out.

    autoencoder: rain in model units <-> latents. latent_nowcaster: past -> future latents.
    rain_scale: the transform that the networks were trained with.
    trained_on: free text and numbers for `config.json`.
    frames: how many images go in and come out, and how far apart they are; None: 4, 5 minutes
        apart, and as many out as the conditioner makes.
    Raises ValueError for frames that the conditioner does not make, or the autoencoder not divide.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        latent_nowcaster: LatentNowcaster,
        rain_scale: RainScale | None = None,
        trained_on: dict[str, Any] | None = None,
        frames: FrameConfig | None = None,
    ) -> None:
        super().__init__()
        num_made = latent_nowcaster.conditioner.num_future_latent_frames * autoencoder.compression
        self.frames = frames or FrameConfig(future_frames=num_made)
        if self.frames.future_frames != num_made:
            raise ValueError(
                f"got {self.frames.future_frames} future frames, but the conditioner makes latents "
                f"of {num_made}"
            )
        self.frames.check_divisible(autoencoder.compression)
        self.autoencoder = autoencoder
        self.latent_nowcaster = latent_nowcaster
        self.rain_scale = rain_scale or RainScale()
        self.trained_on = trained_on or {}

    @property
    def config(self) -> ModelConfig:
        """The settings from which `build` makes the same model.

        Raises InputError for an autoencoder, a sampler or an input that is not registered.
        """
        check_autoencoder_registered(self.autoencoder)
        check_inputs_registered(self.latent_nowcaster.inputs)
        nowcaster = self.latent_nowcaster
        return ModelConfig(
            frames=self.frames,
            rain=self.rain_scale,
            autoencoder=self.autoencoder.config,
            conditioner=nowcaster.conditioner.config,
            denoiser=nowcaster.denoiser.config,
            diffusion=DiffusionConfig(
                sampler=name_of(nowcaster.inference_sampler),
                schedule=nowcaster.training_sampler.schedule.name,
                prediction=nowcaster.prediction,
                channel_sizes="natural" if nowcaster.channel_sizes else "unit",
                around_linear_forecast=nowcaster.linear_forecast is not None,
                member_noise="white" if nowcaster.error_noise is None else "correlated",
                num_sampling_steps=nowcaster.inference_sampler.num_sampling_steps,
                sampler_settings=settings_of(nowcaster.inference_sampler),
            ),
            inputs=tuple(nowcaster.inputs),
        )

    @classmethod
    def from_pretrained(
        cls, folder: str | Path = "bundled", device: str | torch.device = "auto"
    ) -> "LDCast":
        """The model in a folder, or the one that ships with the package for "bundled".

        device: "auto", "cpu", "cuda" or "cuda:N".
        Raises InputError for a folder that is missing, incomplete, damaged or of stage 1 only.
        """
        folder, device = locate(folder), choose_device(device)
        description = read_nowcaster(folder)
        with torch.device("meta"):  # sizes only: no memory and no random weights
            model = build(description.model, description.trained_on)
        give_memory(model, device)
        load_weights(folder, **model.networks())
        return model.eval()

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Writes `config.json` and `model.safetensors` into the folder, made if need be.

        dtype: float type of the parameters in the file, torch.float32 or, for one of half the size,
            float16; None keeps theirs. The model itself stays as it is.
        Raises InputError, before anything is written, for a model that config.json cannot describe,
        another type than these and bfloat16, and parameters that are not finite in it.
        """
        folder, config = Path(folder), self.config
        write_weights(folder, dtype, **self.networks())
        write_description(folder, "nowcaster", config, self.trained_on)

    def networks(self) -> dict[str, nn.Module]:
        """The networks under the names that files use."""
        return {"autoencoder": self.autoencoder, **self.latent_nowcaster.networks()}

    @property
    def rain_multiple(self) -> int:
        """Height and width that the networks take are multiples of this: 16 pixels as published."""
        return self.latent_nowcaster.denoiser.config.rain_multiple(self.autoencoder.compression)

    @property
    def fields(self) -> dict[str, FieldNeed]:
        """What `predict` needs besides past rain for the model's inputs, by name."""
        return fields_of(self.latent_nowcaster.inputs, self.frames)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def precision(self, amp: str = "auto") -> torch.dtype | None:
        """What `predict` computes the networks in, see `forecast_dtype`; None is float32."""
        return forecast_dtype(self.networks().values(), amp, self.device)

    def precision_notes(self, amp: str = "auto") -> list[str]:
        """Lines for the user where `amp` is slow here. Raises InputError where it is garbage."""
        if amp == "auto" and self.device.type == "cpu":
            return []  # chosen where it is right and fast
        networks = self.networks().values()
        return check_half_precision(networks, self.device, self.precision(amp), False)

    @torch.no_grad()
    def predict(
        self,
        past: np.ndarray | Tensor,
        num_members: int = 16,
        seed: int = 0,
        num_sampling_steps: int | None = None,
        noise: Tensor | None = None,
        members_per_batch: int | None = None,
        amp: str = "auto",
        progress: Callable[[int, int], None] | None = None,
        lead_minutes: int | None = None,
        window: int | None = None,
        first_member: int = 0,
        fields: Mapping[str, np.ndarray | Tensor] | None = None,
    ) -> np.ndarray | Tensor:
        """Ensemble forecast, float32 mm/h, (num_members, T, H, W), frames as `frames` says.

        In parentheses: what that is for a model of 4 past and 20 future frames of 5 minutes.
        past: (past_frames, H, W), so (4, H, W), mm/h, oldest first, any float type, NaN = no data.
            A NumPy array gives an array, a tensor gives a tensor on its own device. Any H and W.
            What an earlier frame lacks of the newest one's data is filled from the others by
            `fill_gaps`.
        seed: member m's noise comes from its own generator, keyed by (seed, m), and what the
            sampler draws from another one, so that member 7 is the same alone.
        num_sampling_steps: exactly as many; None takes the model's default.
        noise: (E, C, L, h, w), so (E, C, 5, ceil(H/16)*4, ceil(W/16)*4), initial white noise
            instead of the seed's; L more latent frames for each further stretch (100 minutes).
        members_per_batch: members denoised at once; forecasts agree to rounding for any value, on
            a CPU. None: 8, fewer of large fields, one if there are windows.
        amp: "auto" (bf16 on CUDA and on CPUs that have it, see `precision`), "off", "bf16" or
            "fp16".
        progress: called with (denoiser calls done, denoiser calls in all), after each of them and
            after each member that is decoded; what it raises ends the forecast.
        lead_minutes: of the last frame (so T is a fifth of it); None: as far as the model reaches
            at once (100). Beyond, the forecast is autoregressive: each member starts again
            from its own last frames (4).
        window: pixels. Conditioner and denoiser see overlapping windows of that size, denoised
            together, instead of the whole field; for fields that memory does not hold.
        first_member: number of the first of the `num_members` members, for a part of an ensemble.
        fields: what the model's inputs need besides rain (`model.fields` names it), name ->
            (F, c, H, W), c = 2 for a vector (down, right); F = 1 for what does not change, else one
            for each past frame (4) of what is observed, for each past and future frame (24) of what
            is foreseen, and more for each further stretch (20).
        Returns NaN where the newest past frame has no data; `forecast_quality` says where else the
        past is unknown, or has a gap that nothing could fill.
        Raises InputError for wrong shapes or types, negative or infinite rain, no data at all,
        fields that are missing or end too soon, and as soon as the networks give values that are
        not finite.
        """
        past_rain = as_tensor(past)
        check_past(past_rain, self.frames)
        past_rain = fill_gaps(past_rain, self.frames.minutes_per_frame).rain_rate
        num_frames = num_future = self.frames.future_frames
        if lead_minutes is not None:
            num_frames = count_frames(lead_minutes, self.frames)
        num_rounds = -(-num_frames // num_future)
        height, width = past_rain.shape[1:]
        needs = self.fields
        given = checked_fields(fields or {}, needs, num_rounds, self.frames, (height, width))
        num_members = check_count("members", num_members)
        first_member = check_count("as first member", first_member, low=0)
        if members_per_batch is not None:
            members_per_batch = check_count("members per batch", members_per_batch)
        if window is not None:
            window = check_window(window, self.rain_multiple)
            if members_per_batch not in (None, 1):
                raise InputError(
                    f"got {members_per_batch} members per batch with windows, expected 1: the "
                    "windows of one member fill the batch"
                )
            members_per_batch = 1
        members = batches(num_members, members_per_batch or fitting(height, width))
        sampler = self._inference_sampler(num_sampling_steps)
        member_noise = self._member_noise(noise, seed, first_member, (height, width))
        member_noise.check_given(num_members, num_rounds)
        stretch = Stretch(
            self.autoencoder,
            self.latent_nowcaster,
            self.rain_scale,
            self.frames,
            self.rain_multiple,
            sampler,
            window,
            CallCounter(progress, num_rounds * len(members) * sampler.num_denoiser_calls),
        )

        has_data = valid_mask(past_rain[-1])
        shape = (num_members, num_frames, height, width)
        forecast = past_rain.new_empty(shape, dtype=torch.float32)
        latest = past_rain[None]  # (1, past_frames, H, W), for all; later each member's own
        with autocast(self.device, self.precision(amp)):
            for round_ in range(num_rounds):
                observed = Observed(latest, fields_of_round(given, needs, round_, self.frames))
                z = stretch.sample(observed, members, member_noise, round_)
                frames = slice(round_ * num_future, (round_ + 1) * num_future)
                for member, z_member in enumerate(z.split(1)):
                    rain = stretch.decode(z_member, (num_frames - frames.start, height, width))
                    rain = rain.to(forecast.device).where(has_data, torch.nan)
                    forecast[member, frames] = rain
                    stretch.count.report()  # a large field takes a while: a caller may wish to stop
                latest = newest_frames(latest, forecast[:, frames])
        return forecast.numpy() if isinstance(past, np.ndarray) else forecast

    def predict_xarray(
        self, rain: "DataArray", num_members: int = 16, seed: int = 0, **settings: Any
    ) -> "DataArray":
        """Ensemble forecast (realization, time, y, x) in mm/h, with coordinates, from a DataArray.

        rain: dimensions time, y and x in any order, with coordinates and `units`; spaced as
            `frames` says; the newest frame that has all before it is the issue time.
        settings: further arguments of `predict`, such as lead_minutes.
        Row 0 of the result is north. `quality` (time, y, x), `second_hand` (time) and, where it is
        known, the projection `crs` are coordinates of it; how it was made, such as the `seed`, is
        among its attributes.
        Raises InputError where rain is not that, or xarray is missing.
        """
        from ldcast.forecasting.dataarrays import predict_xarray  # needs extras

        return predict_xarray(self, rain, num_members, seed, **settings)

    def _member_noise(
        self, noise: Tensor | None, seed: int, first_member: int, size: tuple[int, int]
    ) -> MemberNoise:
        multiple = self.rain_multiple
        padded = (-(-pixels // multiple) * multiple for pixels in size)
        shape = (
            self.autoencoder.latent_channels,
            self.latent_nowcaster.conditioner.num_future_latent_frames,
            *(pixels // self.autoencoder.compression for pixels in padded),
        )
        given = None if noise is None else torch.as_tensor(noise).float()
        return MemberNoise(shape, seed, first_member, given)

    def use_sampler(self, name: str | None = None, num_sampling_steps: int | None = None) -> None:
        """Makes a sampler of that name and number of steps the default; None keeps what there is.

        Another sampler than the model's has its own default settings.
        Raises InputError for an unknown name, for a number of steps that the noise schedule does
        not have, and between one call and many, which are trained apart.
        """
        sampler = self._inference_sampler(num_sampling_steps)
        if name is not None and name != (own := name_of(sampler)):
            if ONE_CALL in (own, name):
                raise InputError(
                    f"got the sampler {name} for a model that was trained for {own}, expected that "
                    "one: networks of one call cannot denoise step by step, nor others in one call"
                )
            sampler = build_sampler(name, sampler.schedule, sampler.num_sampling_steps)
        self.latent_nowcaster.inference_sampler = sampler

    def _inference_sampler(self, num_sampling_steps: int | None) -> Sampler:
        sampler = self.latent_nowcaster.inference_sampler
        if num_sampling_steps is None:
            return sampler
        num_sampling_steps = check_count("sampling steps", num_sampling_steps)
        try:
            return replace(sampler, num_sampling_steps=num_sampling_steps)
        except ValueError as error:
            raise InputError(str(error)) from None


def build(
    config: ModelConfig,
    trained_on: dict[str, Any] | None = None,
    loss_norm: str = "l2",
    noise_levels: tuple[float, ...] = (),
) -> LDCast:
    """The whole system with fresh weights, as the settings say; training and forecasts use it.

    loss_norm, noise_levels: of the training loss, see `DDPMLoss`; forecasts have no use for them.
    """
    autoencoder = build_autoencoder(config.autoencoder)
    return LDCast(
        autoencoder,
        build_latent_nowcaster(config, autoencoder, loss_norm, noise_levels),
        config.rain,
        trained_on,
        config.frames,
    )
