"""Past latents to future latents: conditioner, denoiser and samplers wired together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ldcast.config import DiffusionConfig, ModelConfig, linear_forecast_inputs
from ldcast.diffusion import DDPMLoss, Denoiser, Prediction, Sampler
from ldcast.diffusion.preconditioning import ChannelSizes, Spread, preconditioned_v
from ldcast.diffusion.registry import build_sampler
from ldcast.diffusion.schedule import PREDICTIONS, SCHEDULES
from ldcast.errors import InputError
from ldcast.inputs.known import Input, Known, num_channels_beside
from ldcast.inputs.registry import build_inputs
from ldcast.models import AFNOConditioner, Autoencoder, DenoiserUNet
from ldcast.nowcast.error_noise import ErrorNoise
from ldcast.nowcast.linear_forecast import LinearForecast, LinearGuess, as_input, guess_of
from ldcast.seeds import draw_noise

LINEAR_FORECAST = "linear_forecast"  # among the inputs of the denoiser


class LatentNowcaster(nn.Module):
    """Past latents -> future latents: conditioner, denoiser, and a sampler for each of two uses.

    training_sampler: owns the loss, `DDPMLoss`. inference_sampler: one of the registry. They must
    share one `NoiseSchedule` object.
    prediction: what the denoiser's output is, one of `PREDICTIONS`; samplers receive the clean
        latent and the noise that it implies.
    inputs: what the networks take besides past latents, by name; `known_at_issue_time` makes them.
    channel_sizes: gives (C,), the deviation that each latent channel has beside the noise, while
        latents have deviation 1 everywhere else; None: 1 for all, as published.
    linear_forecast: what is diffused is then its error, in units of its expected size, instead of
        the latents; the denoiser sees it as a further input.
    error_noise: what members start from instead of white noise, where they are made in one call;
        as its errors are.
    """

    def __init__(
        self,
        conditioner: AFNOConditioner,
        denoiser: DenoiserUNet,
        training_sampler: Sampler,
        inference_sampler: Sampler,
        prediction: str = "noise",
        inputs: Mapping[str, Input] | None = None,
        channel_sizes: Callable[[], Tensor] | None = None,
        linear_forecast: LinearForecast | None = None,
        error_noise: ErrorNoise | None = None,
    ) -> None:
        super().__init__()
        if training_sampler.schedule is not inference_sampler.schedule:
            raise ValueError("the two samplers must be built on one NoiseSchedule object")
        if prediction not in PREDICTIONS:
            raise ValueError(f"got prediction {prediction!r}, expected one of {PREDICTIONS}")
        has_sizes = channel_sizes is not None or linear_forecast is not None
        if has_sizes and prediction != "v":
            raise ValueError(
                f"got channel_sizes or linear_forecast with prediction {prediction!r}, expected 'v'"
            )
        if error_noise is not None and linear_forecast is None:
            raise ValueError("got error_noise without the linear_forecast whose errors it is like")
        self.conditioner = conditioner
        self.denoiser = denoiser
        self.training_sampler = training_sampler
        self.inference_sampler = inference_sampler
        self.prediction = prediction
        self.inputs = dict(inputs or {})
        self.channel_sizes = channel_sizes
        self.linear_forecast = linear_forecast
        self.error_noise = error_noise

    def networks(self) -> dict[str, nn.Module]:
        """What training fills, under the names that files use."""
        networks = {"conditioner": self.conditioner, "denoiser": self.denoiser}
        if self.linear_forecast is not None:
            networks["linear_forecast"] = self.linear_forecast
        if self.error_noise is not None:
            networks["error_noise"] = self.error_noise
        return networks

    def forward(
        self,
        known: Known,
        z_future: Tensor,
        generators: Sequence[torch.Generator] | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Training loss per example (B,).

        known: past latents (B, C, L_past, h, w) and inputs.
        z_future: (B, C, L_future, h, w), clean latents.
        generators: one per example, see `DDPMLoss`. weight: (B, 1, L_future, h, w).
        """
        known = self.complete(known)
        if self.linear_forecast is not None:
            size = self._guess(known).size  # errors count by their size, not by its square
            weight = self.linear_forecast.relative(size) * (1.0 if weight is None else weight)
        denoiser, y = self.denoiser_given(known), self._to_diffused(z_future, known)
        return self.training_sampler(denoiser, y, generators, weight)

    @torch.no_grad()
    def infer(self, known: Known, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """Future latents (B, C, L_future, h, w), one draw for each of B domains."""
        return self.draw_members(known, 1, generators)[0]

    def draw_members(
        self, known: Known, num_members: int, generators: Sequence[torch.Generator] | None = None
    ) -> Tensor:
        """Future latents (E, B, C, L_future, h, w), E draws for each of B domains.

        generators: B of them; a domain's members are drawn one after the other from its own.
        """
        batch, channels, _, height, width = known.z_past.shape
        shape = (batch, channels, self.conditioner.num_future_latent_frames, height, width)
        known = self.complete(known)
        denoiser, sampler = self.denoiser_given(known), self.inference_sampler
        members = []
        for _ in range(num_members):
            noise = draw_noise(shape, generators, known.z_past.device)
            members.append(self.sample(sampler, denoiser, known, noise, generators))
        return torch.stack(members)

    def sample(
        self,
        sampler: Sampler,
        denoiser: Denoiser,
        known: Known,
        noise: Tensor,
        generators: Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        """Future latents like noise, which is standard normal (B, C, L, h, w).

        denoiser: of `denoiser_given`. known: of the whole domain, of `complete`.
        """
        if self.error_noise is not None:
            noise = self.error_noise(noise)
        return self._from_diffused(sampler(denoiser, noise, generators), known)

    def complete(self, known: Known) -> Known:
        """With the linear forecast, where there is one, among what is known of the future."""
        if self.linear_forecast is None:
            return known
        guess = self.linear_forecast(known, self.sizes_of_channels(known.z_past))
        return replace(known, future={**known.future, LINEAR_FORECAST: as_input(guess)})

    def measure_linear_forecast(
        self,
        known: Known,
        z_future: Tensor,
        weight: Tensor,
        worth: Tensor,
        dry: Tensor,
        progress: Callable[[], None],
    ) -> None:
        """Fits the linear forecast to training examples, see `LinearForecast.measure`."""
        sizes = self.sizes_of_channels(z_future)
        self.linear_forecast.measure(known, z_future, weight, worth, sizes, dry, progress)

    @torch.no_grad()
    def measure_error_noise(self, known: Known, z_future: Tensor, weight: Tensor) -> None:
        """Takes the correlations of the linear forecast's error, see `ErrorNoise.measure`.

        Of its principal components, turned back, so that each channel has deviation 1.
        """
        error = self._to_diffused(z_future, self.complete(known))
        error = self.linear_forecast.covariance().scaled(error, torch.rsqrt)
        self.error_noise.measure(error, weight)

    def _guess(self, known: Known) -> LinearGuess:
        return guess_of(known.future[LINEAR_FORECAST])

    def sizes_of_channels(self, z: Tensor) -> Tensor:
        """(C,) of `channel_sizes`, or 1, for latents like z."""
        return z.new_ones(z.shape[1]) if self.channel_sizes is None else self.channel_sizes()

    def _to_diffused(self, z: Tensor, known: Known) -> Tensor:
        """What is diffused, of unit size but for `_spread`, from latents z (B, C, L, h, w)."""
        sizes = self.sizes_of_channels(z)[:, None, None, None]
        if self.linear_forecast is None:
            return z * sizes
        mean, size = self._guess(known)
        return (z - mean) * sizes / size

    def _from_diffused(self, y: Tensor, known: Known) -> Tensor:
        sizes = self.sizes_of_channels(y)[:, None, None, None]
        if self.linear_forecast is None:
            return y / sizes
        mean, size = self._guess(known)
        return mean + y * size / sizes

    def _spread(self) -> Spread | None:
        if self.linear_forecast is not None:
            return self.linear_forecast.covariance()
        return None if self.channel_sizes is None else ChannelSizes(self.channel_sizes())

    def denoiser_given(self, known: Known) -> Denoiser:
        """The denoiser with all that is known closed over, float32; the conditioner runs once.

        known: of B examples, or of one domain that all examples share; of `complete`.
        """
        schedule = self.training_sampler.schedule
        known = known.in_order(self.inputs)  # a pool of files has another
        context = self.conditioner(known.for_conditioner())
        inputs = known.for_denoiser(self.conditioner.num_future_latent_frames)
        beside = () if inputs is None else (inputs,)
        spread = self._spread()

        def predict(z_noisy: Tensor, diffusion_step: Tensor) -> Prediction:
            def network(z_in: Tensor) -> Tensor:
                return self.denoiser(z_in, diffusion_step, context, *beside).float()

            if spread is None:
                output = network(z_noisy)
            else:
                output = preconditioned_v(network, schedule, spread, z_noisy, diffusion_step)
            return schedule.predict(self.prediction, output, z_noisy, diffusion_step)

        return predict


def build_latent_nowcaster(
    config: ModelConfig,
    autoencoder: Autoencoder,
    loss_norm: str = "l2",
    noise_levels: tuple[float, ...] = (),
    samplers: tuple[Sampler, Sampler] | None = None,
) -> LatentNowcaster:
    """Networks with fresh weights and the two samplers, as the settings say.

    autoencoder: whose latents they are. samplers: of training and inference, in place of those of
        the settings.
    Raises InputError for numbers of frames that the autoencoder does not divide, and for natural
    sizes of latent channels that it does not know.
    """
    config.frames.check_divisible(config.compression)
    inputs = build_inputs(config.inputs)
    conditioner, denoiser = build_networks(config, inputs)
    training_sampler, inference_sampler = samplers or build_samplers(
        config.diffusion, loss_norm, noise_levels
    )
    channel_sizes = None
    if config.diffusion.channel_sizes == "natural":
        if not hasattr(autoencoder, "latent_scale"):
            raise InputError(
                f"channel_sizes: got natural with an autoencoder of kind {config.autoencoder.kind},"
                " which has no latent_scale: expected --diffusion.channel-sizes unit, or the kind "
                "cosine"
            )
        channel_sizes = autoencoder.latent_scale.sizes  # read when used: weights come later
    sizes = config.autoencoder.latent_channels, conditioner.num_future_latent_frames
    linear_forecast = None
    if config.diffusion.around_linear_forecast:
        linear_forecast = LinearForecast(*sizes, linear_forecast_inputs(config.inputs))
    is_correlated = config.diffusion.member_noise == "correlated"
    return LatentNowcaster(
        conditioner,
        denoiser,
        training_sampler,
        inference_sampler,
        prediction=config.diffusion.prediction,
        inputs=inputs,
        channel_sizes=channel_sizes,
        linear_forecast=linear_forecast,
        error_noise=ErrorNoise(*sizes) if is_correlated else None,
    )


def build_samplers(
    config: DiffusionConfig, loss_norm: str, noise_levels: tuple[float, ...]
) -> tuple[Sampler, Sampler]:
    """Of training and inference, on one schedule."""
    schedule = SCHEDULES[config.schedule]()
    loss = DDPMLoss(schedule, loss_norm, config.prediction, noise_levels)
    steps = config.num_sampling_steps
    return loss, build_sampler(config.sampler, schedule, steps, config.sampler_settings)


def build_networks(
    config: ModelConfig, inputs: Mapping[str, Input]
) -> tuple[AFNOConditioner, DenoiserUNet]:
    """Conditioner and denoiser with fresh weights, wide enough for the inputs."""
    latent_channels = config.autoencoder.latent_channels
    num_linear = latent_channels + 1 if config.diffusion.around_linear_forecast else 0
    conditioner = AFNOConditioner(
        config.conditioner,
        latent_channels,
        config.frames.future_frames // config.compression,
        config.compression,
        num_channels_beside("past", inputs, latent_channels),
    )
    denoiser = DenoiserUNet(
        config.denoiser,
        latent_channels,
        config.conditioner.context_channels,
        num_channels_beside("future", inputs, latent_channels) + num_linear,
    )
    return conditioner, denoiser
