"""Stage 1: train the autoencoder on crops of rain.

  python train_autoenc.py --data radar/*.npz                   one GPU, or the CPU without one
  python train_autoenc.py --data synthetic:0 synthetic:1       no radar data at hand
  python train_autoenc.py --data radar/*.npz --preset paper    the published sizes and recipe

Writes a run folder (default runs/autoenc) that train_diffusion.py takes up. Running the same
command again resumes; Ctrl-C saves and leaves.
"""

import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from ldcast.config import AUTOENCODER_PRESETS, AutoencoderTraining, ModelConfig
from ldcast.data.crops import BatchKeys, TrainingCrops, ValidationCrops, wet_share
from ldcast.device import amp_dtype, autocast, choose_device
from ldcast.errors import INTERRUPTED, run_script
from ldcast.model_folder import (
    ModelDescription,
    load_weights,
    write_description,
    write_weights,
)
from ldcast.models import AutoencoderKL, autoencoder_loss
from ldcast.rain import RainScale, from_model_units, to_model_units, valid_mask
from ldcast.seeds import STREAM_LATENT, STREAM_VALIDATION, draw_noise, keyed_generators
from ldcast.training.arguments import parse_train_arguments, read_events, run_arguments
from ldcast.training.checkpoint import TrainState, load_state, save_state
from ldcast.training.ema import EMA
from ldcast.training.run import (
    MetricsLog,
    StopRequest,
    divergence,
    lock_run,
    open_run,
    record_arguments,
)

NUM_FRAMES = 8  # of a training example, as published


def sized_like(settings: AutoencoderTraining, start: ModelDescription) -> AutoencoderTraining:
    """The settings with the network and units of a model to start from."""
    return replace(settings, autoencoder=start.model.autoencoder, rain=start.model.rain)


def training_loss(
    autoencoder: AutoencoderKL,
    rain_scale: RainScale,
    rain_rate: Tensor,
    generators: list[torch.Generator],
) -> Tensor:
    """Loss per example (B,) for rain_rate (B, 1, T, H, W) mm/h, NaN = no data.

    generators: one per example, for its draw from the latent distribution.
    """
    rain_norm = to_model_units(rain_rate, rain_scale)
    latent_sizes = [size // AutoencoderKL.COMPRESSION for size in rain_rate.shape[2:]]
    shape = (len(rain_rate), autoencoder.config.latent_channels, *latent_sizes)
    noise = draw_noise(shape, generators, rain_rate.device)
    reconstruction, z_mean, z_log_var = autoencoder(rain_norm, noise)
    kl_weight, is_valid = autoencoder.config.kl_weight, valid_mask(rain_rate)
    return autoencoder_loss(rain_norm, reconstruction, z_mean, z_log_var, kl_weight, is_valid)


@torch.no_grad()
def validate(
    autoencoder: AutoencoderKL, rain_scale: RainScale, crops: ValidationCrops, seed: int
) -> dict[str, float]:
    """Means over the validation crops, with the same draws each time.

    loss: as in training. mae_log, mae_mmh: mean absolute error, where there is data, of log10 mm/h
    and of the rain in mm/h when the latent mean is decoded.
    """
    device = next(autoencoder.parameters()).device
    totals = torch.zeros(3, dtype=torch.float64)
    for index in range(len(crops)):
        rain_rate = crops[index][None].to(device)
        generators = keyed_generators(seed, STREAM_VALIDATION, indices=[index])
        loss = training_loss(autoencoder, rain_scale, rain_rate, generators)
        rain_norm = to_model_units(rain_rate, rain_scale)
        reconstruction, _, _ = autoencoder(rain_norm)
        is_valid = valid_mask(rain_rate)
        log_error = (reconstruction - rain_norm)[is_valid].abs() * rain_scale.log_std
        rain_error = (from_model_units(reconstruction, rain_scale) - rain_rate)[is_valid].abs()
        totals += torch.stack([loss.mean(), log_error.mean(), rain_error.mean()]).double().cpu()
    means = (totals / len(crops)).tolist()
    return dict(zip(("loss", "mae_log", "mae_mmh"), means, strict=True))


def save_model(state: TrainState, settings: AutoencoderTraining, about: dict, out: Path) -> None:
    """Writes the model folder that train_diffusion.py reads, with the averaged weights."""
    with state.ema.averaged():
        write_weights(out, **state.networks)
    model = ModelConfig(rain=settings.rain, autoencoder=settings.autoencoder)
    write_description(out, "autoencoder", model, {**about, "iteration": state.iteration})


def main(argv: list[str] | None = None) -> int:
    # ---- parse
    settings, flags = parse_train_arguments(
        __doc__, AUTOENCODER_PRESETS, "runs/autoenc", sized_like, argv=argv
    )
    loop, data, seed, out = settings.loop, settings.data, flags.seed, flags.out
    device = choose_device(flags.device)
    dtype = amp_dtype(flags.amp, device)
    arguments = run_arguments(settings, flags)
    is_resuming = open_run(out, arguments)

    # ---- data
    train_events, validation_events = read_events(flags.data, flags.validation_data)
    crops = TrainingCrops(
        train_events, NUM_FRAMES, data.crop_size, data.crop_picker, seed, data.use_augmentation
    )
    validation_crops = None
    if validation_events:
        validation_crops = ValidationCrops(
            validation_events, NUM_FRAMES, data.crop_size, loop.num_validation_examples, seed
        )
    else:
        print("no event is long enough to hold frames out: the run trains without validation")

    # ---- networks and what trains them
    torch.manual_seed(seed)
    autoencoder = AutoencoderKL(settings.autoencoder)
    if flags.init:
        load_weights(flags.init, autoencoder=autoencoder)
    autoencoder.to(device)
    networks = {"autoencoder": autoencoder}
    optimizer = torch.optim.AdamW(
        autoencoder.parameters(),
        betas=settings.optimizer.betas,
        weight_decay=settings.optimizer.weight_decay,
        fused=True,
    )
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    state = TrainState(networks, EMA(networks, loop.ema_decay), optimizer, scaler)

    if is_resuming:
        load_state(state, out)
    about = {"data": [event.name for event in train_events], "batch_size": loop.batch_size}

    # ---- loop
    keys = BatchKeys(
        state.iteration,
        max(loop.iterations - state.iteration, 0),
        loop.batch_size,
        loop.num_micro_batches,
    )
    batches = iter(DataLoader(crops, batch_sampler=keys, num_workers=data.num_workers))
    micro_batch_size = loop.batch_size // loop.num_micro_batches
    bar = tqdm(total=loop.iterations, initial=state.iteration, desc="autoencoder", disable=None)
    with lock_run(out), StopRequest() as stop, bar:
        record_arguments(out, arguments)
        metrics = MetricsLog(out, state.iteration if is_resuming else None)
        saved_iteration = state.iteration
        while True:
            is_done = state.iteration == loop.iterations
            if state.num_bad_in_a_row >= loop.max_bad_updates:
                raise divergence(out, state.num_bad_in_a_row, saved_iteration)
            is_due = state.iteration % loop.validation_interval == 0 and not state.num_bad_in_a_row
            if (is_due or is_done) and state.validated_at < state.iteration:
                state.validated_at = state.iteration
                is_best = True
                if validation_crops is not None:
                    raw = validate(autoencoder, settings.rain, validation_crops, seed)
                    with state.ema.averaged():
                        averaged = validate(autoencoder, settings.rain, validation_crops, seed)
                    scores = {f"val_{name}": value for name, value in raw.items()}
                    scores |= {f"val_{name}_ema": value for name, value in averaged.items()}
                    metrics.write(state.iteration, **scores)
                    bar.set_postfix(val_loss_ema=averaged["loss"])
                    if not math.isfinite(averaged["loss"]):
                        raise divergence(out, 1, saved_iteration)
                    is_best = averaged["loss"] < state.best_score
                    state.best_score = min(averaged["loss"], state.best_score)
                elif state.num_bad_in_a_row:
                    raise divergence(out, state.num_bad_in_a_row, saved_iteration)
                if is_best or state.iteration == 0:
                    save_model(state, settings, about, out)
                save_state(state, out)
                saved_iteration = state.iteration
            if is_done or stop.is_set:
                break

            start = time.perf_counter()
            for group in optimizer.param_groups:
                group["lr"] = settings.optimizer.lr_at(state.iteration)
            batch_loss = batch_wet_share = 0.0
            for first in range(0, loop.batch_size, micro_batch_size):
                rain_rate = next(batches).to(device)  # (B, 1, T, H, W) mm/h
                indices = range(first, first + micro_batch_size)
                generators = keyed_generators(seed, STREAM_LATENT, state.iteration, indices=indices)
                with autocast(device, dtype):
                    loss = training_loss(autoencoder, settings.rain, rain_rate, generators)
                loss = loss.sum() / loop.batch_size
                scaler.scale(loss).backward()
                batch_loss += loss.item()
                batch_wet_share += wet_share(rain_rate).item() / loop.num_micro_batches
            scaler.unscale_(optimizer)
            grad_norm = torch.nn.utils.clip_grad_norm_(
                autoencoder.parameters(), settings.optimizer.clip_norm
            ).item()
            if math.isfinite(batch_loss) and math.isfinite(grad_norm):
                scaler.step(optimizer)
                state.ema.update()
                state.num_bad_in_a_row = 0
                state.add(
                    loss=batch_loss,
                    grad_norm=grad_norm,
                    wet_share=batch_wet_share,
                    seconds=time.perf_counter() - start,
                )
            else:  # the weights stay as they are
                state.num_skipped += 1
                state.num_bad_in_a_row += 1
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            state.iteration += 1
            bar.update()

            if state.iteration % loop.log_interval == 0 or state.iteration == loop.iterations:
                means = state.take_means()
                if means:
                    means["examples_per_s"] = loop.batch_size / means.pop("seconds")
                lr = optimizer.param_groups[0]["lr"]
                metrics.write(state.iteration, lr=lr, num_skipped=state.num_skipped, **means)
        save_state(state, out)
    return 0 if is_done else INTERRUPTED


if __name__ == "__main__":
    sys.exit(run_script(main))
