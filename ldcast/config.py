"""What a model is and how it is trained: settings composed from their owners, and the presets."""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ldcast.data.picking import PICKERS
from ldcast.data.variations import MAX_RAIN_FACTOR_DB
from ldcast.diffusion.registry import ONE_CALL, all_settings
from ldcast.diffusion.schedule import PREDICTIONS, SCHEDULES
from ldcast.errors import InputError
from ldcast.frames import CropFrames, FrameConfig
from ldcast.inputs.registry import INPUTS, build_inputs
from ldcast.models import AutoencoderConfig, ConditionerConfig, DenoiserConfig
from ldcast.models.cosine_autoencoder import CosineAutoencoderConfig
from ldcast.models.registry import autoencoder_class, config_class
from ldcast.rain import MAX_RAIN_RATE, RainScale
from ldcast.settings import Settings, setting

CHANNEL_SIZES = ("unit", "natural")
MEMBER_NOISES = ("white", "correlated")
JUDGED = ("all", "past")
# A linear forecast is made of the first, and of the second where a model takes it.
LINEAR_FORECAST_INPUTS = ("carried_frames", "carried_prognosis")
INPUTS_HELP = f"what the networks see besides the past, with commas, of {', '.join(INPUTS)}"


@dataclass(frozen=True)
class DiffusionConfig(Settings):
    """What the denoiser predicts on which schedule, and how it is sampled by default."""

    schedule: str = setting("sqrt_linear", "noise schedule", choices=tuple(SCHEDULES))
    prediction: str = setting("noise", "what the denoiser predicts", choices=PREDICTIONS)
    channel_sizes: str = setting(
        "unit",
        "size of latent channels beside the noise: equal, or as in rain",
        choices=CHANNEL_SIZES,
    )
    around_linear_forecast: bool = setting(
        False, "diffuse the error of a linear forecast, in units of its size, not the latents"
    )
    member_noise: str = setting(
        "white",
        "what members start from; correlated, for one call: as errors of the linear forecast are",
        choices=MEMBER_NOISES,
    )
    sampler: str = setting("plms", "default sampler, of ldcast/diffusion/registry.py")
    num_sampling_steps: int = setting(50, "default number of sampling steps", low=1)
    sampler_settings: dict = field(
        default_factory=dict, metadata={"help": "the sampler's own, such as spacing=full_range"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        # Written out, so that a folder keeps its meaning where a default changes.
        complete = all_settings(self.sampler, self.sampler_settings)
        object.__setattr__(self, "sampler_settings", complete)
        needs_v = {
            "channel_sizes: got natural": self.channel_sizes == "natural",
            "around_linear_forecast: got true": self.around_linear_forecast,
        }
        is_fit = self.prediction == "v" and SCHEDULES[self.schedule]().preserves_variance
        for got, is_wanted in needs_v.items():
            if is_wanted and not is_fit:
                raise InputError(
                    f"{got} with prediction {self.prediction} on the schedule {self.schedule}, "
                    "expected prediction v on a schedule that preserves variance, such as cosine"
                )
        can_correlate = self.around_linear_forecast and self.sampler == ONE_CALL
        if self.member_noise == "correlated" and not can_correlate:
            is_around = str(self.around_linear_forecast).lower()
            raise InputError(
                f"member_noise: got correlated with around_linear_forecast {is_around} and the "
                f"sampler {self.sampler}, expected true and {ONE_CALL}, or member_noise white: "
                "what is denoised step by step has white noise in it"
            )


def check_inputs(inputs: Sequence[str], diffusion: DiffusionConfig) -> None:
    """Raises InputError for unknown inputs, and where a linear forecast lacks what it needs."""
    build_inputs(inputs)  # raises
    if diffusion.around_linear_forecast:
        linear_forecast_inputs(inputs)  # raises


def linear_forecast_inputs(inputs: Sequence[str]) -> tuple[str, ...]:
    """Those of a model's inputs that its linear forecast is made of; InputError without frames."""
    if LINEAR_FORECAST_INPUTS[0] not in inputs:
        raise InputError(
            f"around_linear_forecast: got inputs {','.join(inputs) or 'none'}, expected --inputs "
            f"{LINEAR_FORECAST_INPUTS[0]} or {','.join(LINEAR_FORECAST_INPUTS)}"
        )
    return tuple(name for name in LINEAR_FORECAST_INPUTS if name in inputs)


@dataclass(frozen=True)
class ModelConfig(Settings):
    """All that is needed to rebuild a trained model around its weights."""

    frames: FrameConfig = field(default_factory=FrameConfig)
    rain: RainScale = field(default_factory=RainScale)
    autoencoder: AutoencoderConfig = field(
        default_factory=AutoencoderConfig, metadata={"choose": config_class}
    )
    conditioner: ConditionerConfig = field(default_factory=ConditionerConfig)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    inputs: tuple[str, ...] = setting((), INPUTS_HELP)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_inputs(self.inputs, self.diffusion)

    @property
    def compression(self) -> int:
        """Frames, rows and columns of a latent cell."""
        return autoencoder_class(self.autoencoder.kind).compression

    @property
    def rain_multiple(self) -> int:
        """Height and width that the networks take are multiples of so many pixels."""
        return self.denoiser.rain_multiple(self.compression)


@dataclass(frozen=True)
class OptimizerConfig(Settings):
    """AdamW, gradient clipping and the learning-rate curve."""

    lr: float = setting(1e-4, "highest learning rate", low=0)
    betas: tuple[float, ...] = setting((0.5, 0.9), "AdamW averaging of gradient and square", low=0)
    weight_decay: float = setting(1e-3, "AdamW weight decay", low=0)
    clip_norm: float = setting(1.0, "largest gradient norm", low=1e-9)
    warmup_iterations: int = setting(500, "iterations of linear learning-rate warm-up", low=0)
    lr_curve: str = setting("inverse_sqrt", "how it falls", choices=("inverse_sqrt", "cosine"))
    decay_after: int = setting(20_000, "inverse_sqrt: iteration from which it falls", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.betas) != 2 or max(self.betas) >= 1:
            raise InputError(f"betas: got {self.betas}, expected two numbers below 1")

    def lr_at(self, iteration: int, phase_ends: Sequence[int]) -> float:
        """Learning rate of the update that follows `iteration` updates.

        phase_ends: iterations at which the run was planned to end, first to last; rising. Cosine
            falls to nearly 0 at each of them, and rises again where a run was extended. The other
            curve is a function of the iteration alone: 1/sqrt(iteration) after `decay_after`.
        """
        if self.lr_curve == "inverse_sqrt":
            decay = (self.decay_after / max(iteration + 1, self.decay_after)) ** 0.5
            return self.lr * self._warmup(iteration) * decay
        starts = (0, *phase_ends)
        phase = bisect.bisect_right(phase_ends[:-1], iteration)
        start, end = starts[phase], phase_ends[phase]
        progress = (iteration - start) / (end - start)
        return self.lr * self._warmup(iteration - start) * (1 + math.cos(math.pi * progress)) / 2

    def _warmup(self, num_updates: int) -> float:
        return min(1.0, (num_updates + 1) / max(self.warmup_iterations, 1))


@dataclass(frozen=True)
class DataConfig(Settings):
    """How training examples are cut from events."""

    crop_size: int = setting(128, "pixels, height and width of a crop", low=1)
    crop_picker: str = setting("equal_frequency", "how crops are drawn", choices=PICKERS)
    judged_by: str = setting(
        "all",
        "frames by whose rain crops are drawn: all, or the past of a forecast",
        choices=JUDGED,
    )
    use_augmentation: bool = setting(True, "flip and transpose crops at random")
    crop_motion: int = setting(
        0, "pixels per frame; crops move by up to so many; 0: they stand still", low=0
    )
    rain_factor_db: float = setting(
        0.0, "dB; deviation of a factor on the rain of each example; 0: none", low=0
    )
    max_rain_rate: float = setting(
        MAX_RAIN_RATE, "mm/h; a batch with more is taken for faulty", low=1
    )
    num_workers: int = setting(0, "processes that prepare batches; 0: the training process", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rain_factor_db > MAX_RAIN_FACTOR_DB:
            raise InputError(
                f"rain_factor_db: got {self.rain_factor_db:g}, expected up to "
                f"{MAX_RAIN_FACTOR_DB:g}; 0.6 is 1 dB of reflectivity"
            )

    def check_crop_size(self, multiple: int) -> None:
        """Raises InputError for crops that the networks to be trained do not take.

        multiple: pixels; the latents' grid and its halvings divide crops.
        """
        if self.crop_size % multiple:
            below = self.crop_size // multiple * multiple
            fits = [str(size) for size in (below, below + multiple) if size]
            raise InputError(
                f"crop_size: got {self.crop_size}, expected a multiple of {multiple}, as the "
                f"networks need: {' or '.join(fits)}"
            )


@dataclass(frozen=True)
class LoopConfig(Settings):
    """The training loop; every interval counts iterations, that is weight updates."""

    iterations: int = setting(100_000, "updates in all; raise it to extend a run", low=1)
    batch_size: int = setting(64, "examples per update", low=1)
    num_micro_batches: int = setting(
        1, "parts of a batch, one after another, to save memory", low=1
    )
    ema_decay: float = setting(0.9999, "highest decay of the averaged weights", low=0)
    log_interval: int = setting(50, "iterations between lines of metrics.jsonl", low=1)
    validation_interval: int = setting(
        1000, "iterations between validations and checkpoints", low=1
    )
    num_validation_examples: int = setting(64, "fixed crops that each validation uses", low=1)
    max_loss_ratio: float = setting(10.0, "loss over the usual one that is a jump", low=1)
    max_bad_updates: int = setting(10, "bad updates in a row that roll the run back", low=1)
    use_activation_checkpointing: bool = setting(
        False, "compute again instead of keeping in memory"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ema_decay >= 1:
            raise InputError(f"ema_decay: got {self.ema_decay}, expected less than 1")
        if self.batch_size % self.num_micro_batches:
            raise InputError(
                f"num_micro_batches: got {self.num_micro_batches}, expected a divisor of the batch "
                f"size {self.batch_size}"
            )


@dataclass(frozen=True)
class ForecastScoreConfig(Settings):
    """The forecasts of each validation, whose CRPS chooses the best averaged weights."""

    num_cases: int = setting(8, "fixed cases, the wettest among them", low=1)
    num_members: int = setting(4, "members of each; the score is the fair CRPS", low=1)
    num_sampling_steps: int = setting(0, "sampling steps; 0: the model's own number", low=0)


@dataclass(frozen=True)
class CRPSLossConfig(Settings):
    """The loss `crps` of stage 2, see `EnsembleLoss`."""

    num_members: int = setting(2, "members of each example", low=2)
    block_sizes: tuple[int, ...] = setting((1, 4, 16), "pixels; blocks whose means count", low=1)
    transformed_weight: float = setting(0.3, "weight of the CRPS in the networks' units", low=0)
    latent_weight: float = setting(0.0, "weight of the CRPS of the latents' channels", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.block_sizes:
            raise InputError("block_sizes: got none, expected at least one, such as 1")


@dataclass(frozen=True)
class AutoencoderTraining(Settings):
    """Settings of stage 1, `train_autoenc.py`."""

    frames: CropFrames = field(default_factory=CropFrames)
    autoencoder: AutoencoderConfig = field(
        default_factory=AutoencoderConfig, metadata={"choose": config_class}
    )
    rain: RainScale = field(default_factory=RainScale)
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=1e-3))
    data: DataConfig = field(default_factory=DataConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data.judged_by != "all":
            raise InputError(
                f"data.judged_by: got {self.data.judged_by} for an autoencoder, whose crops have "
                "no past, expected all"
            )


@dataclass(frozen=True)
class DiffusionTraining(Settings):
    """Settings of stage 2, `train_diffusion.py`; the autoencoder's come with its folder."""

    frames: FrameConfig = field(default_factory=FrameConfig)
    conditioner: ConditionerConfig = field(default_factory=ConditionerConfig)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    inputs: tuple[str, ...] = setting((), INPUTS_HELP)
    loss: str = setting(
        "denoising",
        "of latents that are denoised, or of forecasts in one call",
        choices=("denoising", "crps"),
    )
    crps: CRPSLossConfig = field(default_factory=CRPSLossConfig)
    loss_norm: str = setting("l2", "error of the prediction", choices=("l1", "l2"))
    noise_levels: tuple[float, ...] = setting(
        (),
        "mean and deviation of log(signal^2/sigma^2) that training draws, as in "
        "--noise-levels=-1,1.8; none: all equally likely",
    )
    pool: int = setting(
        0, "examples that are encoded once and drawn from; 0: encode in the loop", low=0
    )
    encoder_dtype: str = setting(
        "float32", "weights and work of the frozen encoder", choices=("float32", "bfloat16")
    )
    forecast_score: ForecastScoreConfig = field(default_factory=ForecastScoreConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_inputs(self.inputs, self.diffusion)
        if self.noise_levels and (len(self.noise_levels) != 2 or self.noise_levels[1] <= 0):
            raise InputError(
                f"noise_levels: got {self.noise_levels}, expected a mean and a deviation above 0"
            )
        self._check_loss()

    def model_config(self, first_stage: "AutoencoderTraining | ModelConfig") -> ModelConfig:
        """Of the whole model: the autoencoder of stage 1, and networks as these settings say."""
        return ModelConfig(
            frames=self.frames,
            rain=first_stage.rain,
            autoencoder=first_stage.autoencoder,
            conditioner=self.conditioner,
            denoiser=self.denoiser,
            diffusion=self.diffusion,
            inputs=self.inputs,
        )

    def _check_loss(self) -> None:
        """Raises InputError for settings of one loss with the other, where they do nothing."""
        is_crps, sampler = self.loss == "crps", self.diffusion.sampler
        if is_crps != (sampler == ONE_CALL):
            raise InputError(
                f"loss: got {self.loss} with the sampler {sampler}, expected crps with {ONE_CALL}, "
                "or denoising with another (--loss, --diffusion.sampler, --diffusion.num-sampling-"
                "steps): networks of one call are trained by their forecasts"
            )
        if is_crps and self.forecast_score.num_sampling_steps > 1:
            raise InputError(
                f"forecast_score.num_sampling_steps: got {self.forecast_score.num_sampling_steps} "
                "with loss crps, expected 0: its models forecast in one call"
            )
        if is_crps and (self.noise_levels or self.loss_norm != "l2"):
            raise InputError("got noise_levels or loss_norm with loss crps, expected none of them")
        if not is_crps and self.crps != CRPSLossConfig():
            raise InputError("got settings of crps with loss denoising, expected --loss crps")
        if is_crps and max(self.crps.block_sizes) > self.data.crop_size:
            raise InputError(
                f"block_sizes: got {max(self.crps.block_sizes)} pixels with crops of "
                f"{self.data.crop_size}, expected no larger ones"
            )


# Published sizes and recipe, 128-px crops first and 256-px ones to finish.
PAPER_AUTOENCODER = AutoencoderTraining()
PAPER_DIFFUSION = DiffusionTraining()
PAPER_256_DIFFUSION = DiffusionTraining(
    optimizer=OptimizerConfig(lr=2.5e-5),
    data=DataConfig(crop_size=256),
    loop=LoopConfig(iterations=10_000, batch_size=24),
)

# Sizes of the bundled model, and the last step of its training: a few megabytes, one denoiser call
# a member.
SMALL_AUTOENCODER = AutoencoderTraining(
    autoencoder=CosineAutoencoderConfig(decoder="linear", lapped=True),
    rain=RainScale(smoothing_sigma=0.0),
    optimizer=OptimizerConfig(
        lr=1e-3, betas=(0.9, 0.99), warmup_iterations=50, lr_curve="cosine"
    ),
    data=DataConfig(crop_picker="wet"),
    loop=LoopConfig(
        iterations=400, batch_size=4, ema_decay=0.99, validation_interval=200,
        num_validation_examples=16,
    ),
)  # fmt: skip
SMALL_DIFFUSION = DiffusionTraining(
    conditioner=ConditionerConfig(
        channels=32, num_analysis_blocks=2, num_forecast_blocks=2, num_heads=4, head_channels=16
    ),
    denoiser=DenoiserConfig(
        channels=32, channel_multipliers=(1, 2, 2), num_res_blocks=1, attention_levels=(1,),
        use_linear_path=True, linear_path_scales=(2, 4, 8, 16),
    ),
    diffusion=DiffusionConfig(
        schedule="cosine", prediction="v", channel_sizes="natural", around_linear_forecast=True,
        member_noise="correlated", sampler=ONE_CALL, num_sampling_steps=1,
    ),
    inputs=("carried_frames", "carried_prognosis"),
    loss="crps",
    crps=CRPSLossConfig(transformed_weight=0.15, latent_weight=1.1),
    optimizer=OptimizerConfig(
        lr=1e-3, betas=(0.9, 0.99), warmup_iterations=300, lr_curve="cosine"
    ),
    data=DataConfig(crop_picker="mixed", judged_by="past", rain_factor_db=1.5),
    loop=LoopConfig(
        iterations=3600, batch_size=4, ema_decay=0.998, validation_interval=1000,
        num_validation_examples=16,
    ),
    forecast_score=ForecastScoreConfig(num_cases=8, num_members=8),
)  # fmt: skip

# For tests: seconds on a CPU.
TINY_AUTOENCODER = AutoencoderTraining(
    autoencoder=AutoencoderConfig(channels=8, latent_channels=4),
    optimizer=OptimizerConfig(lr=2e-3, betas=(0.9, 0.99), warmup_iterations=10, decay_after=1000),
    data=DataConfig(crop_size=64),
    loop=LoopConfig(
        iterations=100, batch_size=2, ema_decay=0.99, log_interval=5, validation_interval=50,
        num_validation_examples=4,
    ),
)  # fmt: skip
TINY_DIFFUSION = DiffusionTraining(
    conditioner=ConditionerConfig(
        channels=8, num_analysis_blocks=1, num_forecast_blocks=1, num_heads=2, head_channels=4
    ),
    denoiser=DenoiserConfig(channels=8, channel_multipliers=(1, 1, 2), num_res_blocks=1),
    diffusion=DiffusionConfig(num_sampling_steps=4, sampler_settings={"spacing": "full_range"}),
    optimizer=OptimizerConfig(lr=1e-3, betas=(0.9, 0.99), warmup_iterations=10, decay_after=1000),
    data=DataConfig(crop_size=64),
    loop=LoopConfig(
        iterations=100, batch_size=2, ema_decay=0.99, log_interval=5, validation_interval=50,
        num_validation_examples=4,
    ),
    forecast_score=ForecastScoreConfig(num_cases=2, num_members=2),
)  # fmt: skip

AUTOENCODER_PRESETS = {
    "tiny": TINY_AUTOENCODER,
    "small": SMALL_AUTOENCODER,
    "paper": PAPER_AUTOENCODER,
    "paper_256": PAPER_AUTOENCODER,  # the published autoencoder was trained at 128 px only
}
DIFFUSION_PRESETS = {
    "tiny": TINY_DIFFUSION,
    "small": SMALL_DIFFUSION,
    "paper": PAPER_DIFFUSION,
    "paper_256": PAPER_256_DIFFUSION,
}
