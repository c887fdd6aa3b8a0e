"""Past latents to future latents: conditioner, denoiser and samplers wired together."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ldcast.config import ModelConfig
from ldcast.diffusion import DDPMLoss, Denoiser, Prediction, Sampler
from ldcast.diffusion.registry import build_sampler
from ldcast.diffusion.schedule import PREDICTIONS, SCHEDULES
from ldcast.models import AFNOConditioner, DenoiserUNet
from ldcast.seeds import draw_noise


class LatentNowcaster(nn.Module):
    """Past latents -> future latents: conditioner, denoiser, and a sampler for each of two uses.

    training_sampler: owns the loss, `DDPMLoss`. inference_sampler: `PLMSSampler`. They must share
    one `NoiseSchedule` object.
    prediction: what the denoiser's output is, one of `PREDICTIONS`; samplers receive the clean
        latent and the noise that it implies.
    """

    def __init__(
        self,
        conditioner: AFNOConditioner,
        denoiser: DenoiserUNet,
        training_sampler: Sampler,
        inference_sampler: Sampler,
        prediction: str = "noise",
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

    def forward(
        self,
        z_past: Tensor,
        z_future: Tensor,
        generators: Sequence[torch.Generator] | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Training loss per example (B,).

        z_past: (B, C, L_past, h, w), z_future: (B, C, L_future, h, w), clean latents.
        generators: one per example, see `DDPMLoss`. weight: (B, 1, L_future, h, w).
        """
        denoiser = self.denoiser_given(self.conditioner(z_past))
        return self.training_sampler(denoiser, z_future, generators, weight)

    @torch.no_grad()
    def infer(self, z_past: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """Future latents (B, C, L_future, h, w), one draw for each z_past (B, C, L_past, h, w)."""
        batch, channels, _, height, width = z_past.shape
        shape = (batch, channels, self.conditioner.num_future_latent_frames, height, width)
        noise = draw_noise(shape, generators, z_past.device)
        denoiser = self.denoiser_given(self.conditioner(z_past))
        return self.inference_sampler(denoiser, noise, generators)

    def denoiser_given(self, context: Sequence[Tensor]) -> Denoiser:
        """The denoiser with its context closed over, float32.

        context: the conditioner's, for B examples, or for one that all examples share.
        """
        schedule = self.training_sampler.schedule

        def predict(z_noisy: Tensor, diffusion_step: Tensor) -> Prediction:
            shared = [level.expand(len(z_noisy), -1, -1, -1, -1) for level in context]
            output = self.denoiser(z_noisy, diffusion_step, shared).float()
            return schedule.predict(self.prediction, output, z_noisy, diffusion_step)

        return predict


def build_latent_nowcaster(config: ModelConfig, loss_norm: str) -> LatentNowcaster:
    """Networks with fresh weights and the two samplers, as the settings say.

    Raises InputError for numbers of frames that the autoencoder does not divide.
    """
    config.frames.check_divisible(config.compression)
    schedule = SCHEDULES[config.diffusion.schedule]()
    conditioner = AFNOConditioner(
        config.conditioner,
        config.autoencoder.latent_channels,
        config.frames.future_frames // config.compression,
        config.compression,
    )
    denoiser = DenoiserUNet(
        config.denoiser, config.autoencoder.latent_channels, config.conditioner.context_channels
    )
    return LatentNowcaster(
        conditioner,
        denoiser,
        training_sampler=DDPMLoss(schedule, loss_norm, target=config.diffusion.prediction),
        inference_sampler=build_sampler(
            config.diffusion.sampler,
            schedule,
            config.diffusion.num_sampling_steps,
            config.diffusion.sampler_settings,
        ),
        prediction=config.diffusion.prediction,
    )
