"""Past latents to future latents: conditioner, denoiser and samplers wired together."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ldcast.config import ModelConfig
from ldcast.diffusion import DDPMLoss, Denoiser, Prediction, Sampler
from ldcast.diffusion.registry import build_sampler
from ldcast.diffusion.schedule import PREDICTIONS, SCHEDULES
from ldcast.inputs.known import Input, Known, num_channels_beside
from ldcast.inputs.registry import build_inputs
from ldcast.models import AFNOConditioner, DenoiserUNet
from ldcast.seeds import draw_noise


class LatentNowcaster(nn.Module):
    """Past latents -> future latents: conditioner, denoiser, and a sampler for each of two uses.

    training_sampler: owns the loss, `DDPMLoss`. inference_sampler: `PLMSSampler`. They must share
    one `NoiseSchedule` object.
    prediction: what the denoiser's output is, one of `PREDICTIONS`; samplers receive the clean
        latent and the noise that it implies.
    inputs: what the networks take besides past latents, by name; `known_at_issue_time` makes them.
    """

    def __init__(
        self,
        conditioner: AFNOConditioner,
        denoiser: DenoiserUNet,
        training_sampler: Sampler,
        inference_sampler: Sampler,
        prediction: str = "noise",
        inputs: Mapping[str, Input] | None = None,
    ) -> None:
        super().__init__()
        if training_sampler.schedule is not inference_sampler.schedule:
            raise ValueError("the two samplers must be built on one NoiseSchedule object")
        if prediction not in PREDICTIONS:
            raise ValueError(f"got prediction {prediction!r}, expected one of {PREDICTIONS}")
        self.conditioner = conditioner
        self.denoiser = denoiser
        self.training_sampler = training_sampler
        self.inference_sampler = inference_sampler
        self.prediction = prediction
        self.inputs = dict(inputs or {})

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
        return self.training_sampler(self.denoiser_given(known), z_future, generators, weight)

    @torch.no_grad()
    def infer(self, known: Known, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """Future latents (B, C, L_future, h, w), one draw for each of B domains."""
        batch, channels, _, height, width = known.z_past.shape
        shape = (batch, channels, self.conditioner.num_future_latent_frames, height, width)
        noise = draw_noise(shape, generators, known.z_past.device)
        return self.inference_sampler(self.denoiser_given(known), noise, generators)

    def denoiser_given(self, known: Known) -> Denoiser:
        """The denoiser with all that is known closed over, float32; the conditioner runs once.

        known: of B examples, or of one domain that all examples share.
        """
        schedule = self.training_sampler.schedule
        context = self.conditioner(known.for_conditioner())
        inputs = known.for_denoiser(self.conditioner.num_future_latent_frames)

        def predict(z_noisy: Tensor, diffusion_step: Tensor) -> Prediction:
            def shared(value: Tensor) -> Tensor:
                return value.expand(len(z_noisy), -1, -1, -1, -1)

            levels = [shared(level) for level in context]
            beside = () if inputs is None else (shared(inputs),)
            output = self.denoiser(z_noisy, diffusion_step, levels, *beside).float()
            return schedule.predict(self.prediction, output, z_noisy, diffusion_step)

        return predict


def build_latent_nowcaster(
    config: ModelConfig, loss_norm: str = "l2", noise_levels: tuple[float, ...] = ()
) -> LatentNowcaster:
    """Networks with fresh weights and the two samplers, as the settings say.

    Raises InputError for numbers of frames that the autoencoder does not divide.
    """
    config.frames.check_divisible(config.compression)
    schedule = SCHEDULES[config.diffusion.schedule]()
    inputs = build_inputs(config.inputs)
    conditioner, denoiser = build_networks(config, inputs)
    return LatentNowcaster(
        conditioner,
        denoiser,
        training_sampler=DDPMLoss(schedule, loss_norm, config.diffusion.prediction, noise_levels),
        inference_sampler=build_sampler(
            config.diffusion.sampler,
            schedule,
            config.diffusion.num_sampling_steps,
            config.diffusion.sampler_settings,
        ),
        prediction=config.diffusion.prediction,
        inputs=inputs,
    )


def build_networks(
    config: ModelConfig, inputs: Mapping[str, Input]
) -> tuple[AFNOConditioner, DenoiserUNet]:
    """Conditioner and denoiser with fresh weights, wide enough for the inputs."""
    latent_channels = config.autoencoder.latent_channels
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
        num_channels_beside("future", inputs, latent_channels),
    )
    return conditioner, denoiser
