"""Stage 2: train conditioner and denoiser in the latent space of a trained autoencoder.

  python train_diffusion.py                                after train_autoenc.py: its run and data
  python train_diffusion.py --autoencoder DIR --data radar/*.npz
  python train_diffusion.py --init MODEL --data radar/*.npz        fine-tune a trained model

Writes a run folder (default runs/ldcast) that infer.py --model takes, during the run as well: its
model.safetensors holds the best averaged weights so far. Running the same command again resumes;
Ctrl-C saves and leaves.
"""

import argparse
import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from ldcast.config import (
    DIFFUSION_PRESETS,
    FUTURE_FRAMES,
    PAST_FRAMES,
    DiffusionTraining,
    ModelConfig,
)
from ldcast.data.crops import BatchKeys, TrainingCrops, ValidationCrops, valid_share, wet_share
from ldcast.device import amp_dtype, autocast, choose_device
from ldcast.errors import INTERRUPTED, InputError, run_script
from ldcast.model_folder import (
    ModelDescription,
    fingerprint,
    load_weights,
    locate,
    read_description,
)
from ldcast.nowcaster import LDCast, build
from ldcast.rain import to_model_units
from ldcast.seeds import STREAM_NOISE, STREAM_VALIDATION, keyed_generators
from ldcast.training.arguments import parse_train_arguments, read_events, run_arguments
from ldcast.training.checkpoint import TrainState, load_state, save_state
from ldcast.training.ema import EMA
from ldcast.training.run import (
    ARGUMENTS_NAME,
    MetricsLog,
    StopRequest,
    divergence,
    lock_run,
    open_run,
    read_arguments,
    record_arguments,
)

DEFAULT_AUTOENCODER = Path("runs/autoenc")


def sized_like(settings: DiffusionTraining, start: ModelDescription) -> DiffusionTraining:
    """The settings with the networks and the diffusion of a model to start from."""
    if start.stage == "autoencoder":
        raise InputError(
            "--init names an autoencoder only, expected a trained nowcaster: give it as "
            "--autoencoder instead"
        )
    model = start.model
    return replace(
        settings,
        conditioner=model.conditioner,
        denoiser=model.denoiser,
        diffusion=model.diffusion,
    )


def recorded_data(autoencoder: Path) -> tuple[list[str], list[str]]:
    """Training and validation data of the run that trained the autoencoder."""
    if not (autoencoder / ARGUMENTS_NAME).is_file():
        raise InputError(f"{autoencoder} does not say what data to train on: give --data PATH")
    recorded = read_arguments(autoencoder)
    return recorded["data"], recorded["validation_data"]


def training_loss(model: LDCast, rain_rate: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Loss per example (B,) for rain_rate (B, 1, 24, H, W) mm/h, NaN = no data.

    generators: one per example, for its diffusion step and noise.
    Each latent cell counts by its share of pixels with data.
    """
    past, future = rain_rate.split([PAST_FRAMES, FUTURE_FRAMES], dim=2)
    with torch.no_grad():  # the autoencoder is frozen; each part is encoded in one piece
        z_past, _ = model.autoencoder.encode(to_model_units(past, model.rain_scale))
        z_future, _ = model.autoencoder.encode(to_model_units(future, model.rain_scale))
    return model.latent_nowcaster(z_past, z_future, generators, weight=valid_share(future))


@torch.no_grad()
def validate(model: LDCast, crops: ValidationCrops, seed: int) -> float:
    """Mean loss over the validation crops, with the same diffusion steps and noise each time."""
    total = 0.0
    for index in range(len(crops)):
        generators = keyed_generators(seed, STREAM_VALIDATION, indices=[index])
        total += training_loss(model, crops[index][None].to(model.device), generators).item()
    return total / len(crops)


def save_model(state: TrainState, model: LDCast, out: Path) -> None:
    """Writes the model folder, with the averaged weights."""
    model.trained_on["iteration"] = state.iteration
    with state.ema.averaged():
        model.save_pretrained(out)


def main(argv: list[str] | None = None) -> int:
    # ---- parse
    extra = argparse.ArgumentParser(add_help=False)
    extra.add_argument(
        "--autoencoder", type=Path, metavar="DIR", help=f"default: {DEFAULT_AUTOENCODER}, or --init"
    )
    settings, flags = parse_train_arguments(
        __doc__, DIFFUSION_PRESETS, "runs/ldcast", sized_like, extra, argv
    )
    flags.autoencoder = flags.autoencoder or flags.init or DEFAULT_AUTOENCODER
    loop, data, seed, out = settings.loop, settings.data, flags.seed, flags.out
    device = choose_device(flags.device)
    dtype = amp_dtype(flags.amp, device)
    first_stage = read_description(flags.autoencoder)
    if not flags.data:
        flags.data, recorded_validation = recorded_data(flags.autoencoder)
        flags.validation_data = flags.validation_data or recorded_validation
    arguments = run_arguments(settings, flags)
    arguments["autoencoder"] = str(locate(flags.autoencoder).resolve())
    arguments["autoencoder_sha256"] = fingerprint(flags.autoencoder)
    is_resuming = open_run(out, arguments)

    # ---- data
    num_frames = PAST_FRAMES + FUTURE_FRAMES
    train_events, validation_events = read_events(flags.data, flags.validation_data)
    crops = TrainingCrops(
        train_events, num_frames, data.crop_size, data.crop_picker, seed, data.use_augmentation
    )
    validation_crops = None
    if validation_events:
        validation_crops = ValidationCrops(
            validation_events, num_frames, data.crop_size, loop.num_validation_examples, seed
        )
    else:
        print("no event is long enough to hold frames out: the run trains without validation")

    # ---- networks and what trains them
    torch.manual_seed(seed)
    config = ModelConfig(
        rain=first_stage.model.rain,
        autoencoder=first_stage.model.autoencoder,
        conditioner=settings.conditioner,
        denoiser=settings.denoiser,
        diffusion=settings.diffusion,
    )
    model = build(config, loss_norm=settings.loss_norm)
    model.trained_on = {
        "data": [event.name for event in train_events],
        "batch_size": loop.batch_size,
        "autoencoder": first_stage.trained_on,
    }
    load_weights(flags.autoencoder, autoencoder=model.autoencoder)
    nowcaster = model.latent_nowcaster
    networks = {"conditioner": nowcaster.conditioner, "denoiser": nowcaster.denoiser}
    if flags.init:
        load_weights(flags.init, **networks)
    model.to(device)
    model.autoencoder.requires_grad_(False)
    parameters = list(nowcaster.parameters())
    optimizer = torch.optim.AdamW(
        parameters,
        betas=settings.optimizer.betas,
        weight_decay=settings.optimizer.weight_decay,
        fused=True,
    )
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    state = TrainState(networks, EMA(networks, loop.ema_decay), optimizer, scaler)
    if is_resuming:
        load_state(state, out)

    # ---- loop
    keys = BatchKeys(
        state.iteration,
        max(loop.iterations - state.iteration, 0),
        loop.batch_size,
        loop.num_micro_batches,
    )
    batches = iter(DataLoader(crops, batch_sampler=keys, num_workers=data.num_workers))
    micro_batch_size = loop.batch_size // loop.num_micro_batches
    bar = tqdm(total=loop.iterations, initial=state.iteration, desc="diffusion", disable=None)
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
                    raw = validate(model, validation_crops, seed)
                    with state.ema.averaged():
                        averaged = validate(model, validation_crops, seed)
                    metrics.write(state.iteration, val_loss=raw, val_loss_ema=averaged)
                    bar.set_postfix(val_loss_ema=averaged)
                    if not math.isfinite(averaged):
                        raise divergence(out, 1, saved_iteration)
                    is_best = averaged < state.best_score
                    state.best_score = min(averaged, state.best_score)
                elif state.num_bad_in_a_row:
                    raise divergence(out, state.num_bad_in_a_row, saved_iteration)
                if is_best or state.iteration == 0:
                    save_model(state, model, out)
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
                generators = keyed_generators(seed, STREAM_NOISE, state.iteration, indices=indices)
                with autocast(device, dtype):
                    loss = training_loss(model, rain_rate, generators)
                loss = loss.sum() / loop.batch_size
                scaler.scale(loss).backward()
                batch_loss += loss.item()
                batch_wet_share += wet_share(rain_rate).item() / loop.num_micro_batches
            scaler.unscale_(optimizer)
            grad_norm = torch.nn.utils.clip_grad_norm_(
                parameters, settings.optimizer.clip_norm
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
