"""Stage 1: train the autoencoder on crops of rain.

  python train_autoenc.py --data radar/*.npz                   one GPU, or the CPU without one
  torchrun --nproc_per_node=4 train_autoenc.py --data ...      four GPUs
  python train_autoenc.py --data synthetic:0 synthetic:1       no radar data at hand
  python train_autoenc.py --data radar/*.npz --preset paper    the published sizes and recipe

Writes a run folder (default runs/autoenc) that train_diffusion.py starts from. Running the
same command again resumes; Ctrl-C and SIGTERM save and exit. docs/training.md has the rest.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from ldcast.config import (
    AUTOENCODER_PRESETS,
    AutoencoderTraining,
    ModelConfig,
)
from ldcast.data.crops import Example, TrainingCrops, ValidationCrops, driest_first, wet_share
from ldcast.data.event import RainEvent, notes_of
from ldcast.data.fields import notes_of_unused
from ldcast.data.picking import describe_draws
from ldcast.errors import run_script
from ldcast.frames import FrameConfig, check_divisible
from ldcast.machine.code_version import command_line
from ldcast.machine.device import amp_dtype, autocast, choose_device
from ldcast.machine.half_precision import checked_half_precision
from ldcast.machine.heap import keep_freed_memory
from ldcast.machine.processes import Processes, join_processes, process_device, summing_gradients
from ldcast.machine.stopping import StopRequest
from ldcast.models import Autoencoder, autoencoder_loss, mean_absolute_error
from ldcast.models.registry import autoencoder_class, build_autoencoder
from ldcast.nowcast.model_folder import (
    ModelDescription,
    load_weights,
    write_description,
    write_weights,
)
from ldcast.rain import drop_impossible_rain, from_model_units, to_model_units, valid_mask
from ldcast.seeds import (
    STREAM_LATENT,
    STREAM_VALIDATION,
    draw_noise,
    keyed_generator,
    keyed_generators,
)
from ldcast.training.activations import checkpoint_activations
from ldcast.training.arguments import (
    SPLIT_NAME,
    held_out_frames,
    names_of,
    parse_train_arguments,
    read_run_events,
    run_arguments,
)
from ldcast.training.batches import Batches
from ldcast.training.checkpoint import TrainState
from ldcast.training.ema import EMA
from ldcast.training.pictures import Comparison, drawn_indices
from ldcast.training.run import open_run
from ldcast.training.update import Update

NUM_MEASURED = 64  # crops that latents are standardised over


def sized_like(settings: AutoencoderTraining, start: ModelDescription) -> AutoencoderTraining:
    """The settings with the network, the units and the cadence of a model to start from."""
    model = start.model
    frames = replace(settings.frames, minutes_per_frame=model.frames.minutes_per_frame)
    return replace(settings, autoencoder=model.autoencoder, rain=model.rain, frames=frames)


def training_crops(
    events: list[RainEvent], settings: AutoencoderTraining, seed: int
) -> TrainingCrops:
    """The examples that are trained on."""
    data = settings.data
    return TrainingCrops(
        events,
        settings.frames.num_frames,
        data.crop_size,
        data.crop_picker,
        seed,
        data.use_augmentation,
        crop_motion=data.crop_motion,
        rain_factor_db=data.rain_factor_db,
        max_rain_rate=data.max_rain_rate,
        minutes=settings.frames.minutes_per_frame,
        multiple=autoencoder_class(settings.autoencoder.kind).compression,
    )


def validation_crops(
    events: list[RainEvent], settings: AutoencoderTraining, seed: int
) -> Sequence[Example]:
    """The examples that each validation uses, driest first."""
    data = settings.data
    return driest_first(
        ValidationCrops(
            events,
            settings.frames.num_frames,
            data.crop_size,
            settings.loop.num_validation_examples,
            seed,
            data.max_rain_rate,
            minutes=settings.frames.minutes_per_frame,
            multiple=autoencoder_class(settings.autoencoder.kind).compression,
        )
    )


def drawn_frames(num_frames: int) -> list[int]:
    """Those of an example that pictures show: the first, the middle and the last one."""
    return sorted({0, (num_frames - 1) // 2, num_frames - 1})


def training_loss(
    autoencoder: nn.Module,
    settings: AutoencoderTraining,
    rain_rate: Tensor,
    generators: list[torch.Generator],
) -> Tensor:
    """Loss per example (B,) for rain_rate (B, 1, T, H, W) mm/h, NaN = no data.

    autoencoder: called as `AutoencoderKL` is.
    generators: one per example, for its draw from the latent distribution.
    """
    rain_norm = to_model_units(rain_rate, settings.rain)
    compression = autoencoder_class(settings.autoencoder.kind).compression
    latent_sizes = [size // compression for size in rain_rate.shape[2:]]
    shape = (len(rain_rate), settings.autoencoder.latent_channels, *latent_sizes)
    noise = draw_noise(shape, generators, rain_rate.device)
    reconstruction, z_mean, z_log_var = autoencoder(rain_norm, noise)
    kl_weight, rain_weight = settings.autoencoder.kl_weight, settings.autoencoder.rain_weight
    is_valid = valid_mask(rain_rate)
    loss = autoencoder_loss(rain_norm, reconstruction, z_mean, z_log_var, kl_weight, is_valid)
    if rain_weight:
        rain_made = from_model_units(reconstruction, settings.rain)
        loss = loss + rain_weight * mean_absolute_error(rain_rate, rain_made, is_valid)
    return loss


@torch.no_grad()
def validation_scores(
    autoencoder: Autoencoder,
    settings: AutoencoderTraining,
    crops: Sequence[Example],
    seed: int,
    processes: Processes,
    stop: StopRequest,
) -> tuple[dict[str, float], list[Comparison]]:
    """Means over the crops, with the same draws each time, and reconstructions to draw.

    crops: driest first.
    loss: as in training. mae_log, mae_mmh: mean absolute error, where there is data, of log10 mm/h
    (or the square root, with that transform) and of the rain in mm/h when the latent mean is
    decoded.
    """
    scale, device = settings.rain, processes.device
    totals = torch.zeros(3, dtype=torch.float64)
    comparisons = {}
    for index in stop.until(processes.share(len(crops))):
        rain_rate = crops[index].rain_rate[None].to(device)
        generators = keyed_generators(seed, STREAM_VALIDATION, indices=[index])
        loss = training_loss(autoencoder, settings, rain_rate, generators)
        rain_norm = to_model_units(rain_rate, scale)
        reconstruction, _, _ = autoencoder(rain_norm)
        rain_made = from_model_units(reconstruction, scale)
        is_valid = valid_mask(rain_rate)
        log_error = (reconstruction - rain_norm)[is_valid].abs() * scale.unit
        rain_error = (rain_made - rain_rate)[is_valid].abs()
        totals += torch.stack([loss.mean(), log_error.mean(), rain_error.mean()]).double().cpu()
        if index in drawn_indices(len(crops)):
            drawn = drawn_frames(rain_rate.shape[2])
            radar, made = (x[0, 0, drawn].cpu().numpy() for x in (rain_rate, rain_made))
            comparisons[index] = Comparison(f"crop {index}", radar, made, "reconstruction")
    means = (processes.sum(totals) / len(crops)).tolist()
    comparisons = processes.gather(comparisons)
    scores = dict(zip(("loss", "mae_log", "mae_mmh"), means, strict=True))
    return scores, [comparisons[index] for index in sorted(comparisons)]


def validate(
    autoencoder: Autoencoder,
    ema: EMA,
    settings: AutoencoderTraining,
    crops: Sequence[Example],
    seed: int,
    processes: Processes,
    stop: StopRequest,
) -> tuple[dict[str, float], list[Comparison]]:
    """`validation_scores` of raw and averaged weights, val_NAME and val_NAME_ema.

    The reconstructions to draw are those of the averaged weights.
    """
    raw, _ = validation_scores(autoencoder, settings, crops, seed, processes, stop)
    with ema.averaged():
        averaged, comparisons = validation_scores(
            autoencoder, settings, crops, seed, processes, stop
        )
    scores = {f"val_{name}": value for name, value in raw.items()}
    return scores | {f"val_{name}_ema": value for name, value in averaged.items()}, comparisons


@torch.no_grad()
def measure_latents(
    autoencoder: Autoencoder, settings: AutoencoderTraining, crops: TrainingCrops
) -> None:
    """Standardises its latents over `NUM_MEASURED` crops, the same ones each time."""
    device = autoencoder.latent_scale.mean.device
    latents = []
    for index in range(NUM_MEASURED):
        rain_rate = crops[0, 0, index].rain_rate
        rain_rate, _ = drop_impossible_rain(rain_rate, settings.data.max_rain_rate)
        z, _ = autoencoder.encode(to_model_units(rain_rate[None].to(device), settings.rain))
        latents.append(autoencoder.latent_scale.undo(z)[0].flatten(1))
    autoencoder.latent_scale.measure(torch.cat(latents, dim=1))  # (C, latent cells)


def save_model(state: TrainState, settings: AutoencoderTraining, about: dict, out: Path) -> None:
    """Writes the model folder that train_diffusion.py reads, with the averaged weights."""
    with state.ema.averaged():
        write_weights(out, **state.networks)
    frames = FrameConfig(minutes_per_frame=settings.frames.minutes_per_frame)
    model = ModelConfig(frames=frames, rain=settings.rain, autoencoder=settings.autoencoder)
    write_description(out, "autoencoder", model, {**about, "iteration": state.iteration})


def main(argv: list[str] | None = None) -> int:
    # ---- parse
    settings, flags = parse_train_arguments(
        __doc__, AUTOENCODER_PRESETS, "runs/autoenc", sized_like, argv=argv
    )
    loop, data, seed, out = settings.loop, settings.data, flags.seed, flags.out
    num_frames, minutes = settings.frames.num_frames, settings.frames.minutes_per_frame
    compression = autoencoder_class(settings.autoencoder.kind).compression
    check_divisible("frames.num_frames", num_frames, compression)
    data.check_crop_size(compression)
    device = process_device(choose_device(flags.device))
    dtype = amp_dtype(flags.amp, device)
    arguments = run_arguments(settings, flags)
    arguments["held_out_frames"] = held_out_frames(flags.init, arguments, num_frames)

    # ---- data
    train_events, validation_events, arguments[SPLIT_NAME] = read_run_events(
        flags, flags.init, settings.frames, arguments["held_out_frames"]
    )
    crops = training_crops(train_events, settings, seed)
    if validation_events:
        fixed_crops = validation_crops(validation_events, settings, seed)

    # ---- networks and what trains them
    torch.manual_seed(seed)
    autoencoder = build_autoencoder(settings.autoencoder)
    if flags.init:
        load_weights(flags.init, autoencoder=autoencoder)
    autoencoder.to(device)
    if hasattr(autoencoder, "latent_scale") and not flags.init:
        measure_latents(autoencoder, settings, crops)
    networks = {"autoencoder": autoencoder}
    if loop.use_activation_checkpointing:
        checkpoint_activations(autoencoder)
    parameters = list(autoencoder.parameters())
    optimizer = torch.optim.AdamW(
        parameters,
        betas=settings.optimizer.betas,
        weight_decay=settings.optimizer.weight_decay,
        fused=True,
    )
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    state = TrainState(networks, EMA(networks, loop.ema_decay), optimizer, scaler)

    about = {
        "data": names_of(train_events),
        "batch_size": loop.batch_size,
        "command": command_line(argv, "train_autoenc.py"),
    }

    # ---- loop
    with (
        join_processes(device) as processes,
        checked_half_precision(networks.values(), dtype, processes) as precision_notes,
        open_run(out, arguments, processes, tqdm.write) as run,
        StopRequest() as stop,
        tqdm(
            total=loop.iterations, desc="autoencoder", disable=None if processes.is_main else True
        ) as bar,
    ):
        events = train_events + validation_events
        for note in [*notes_of(events), *notes_of_unused(events), *precision_notes]:
            run.say(f"note: {note}")
        if processes.is_main:
            run.say(describe_draws(crops.picker, train_events, num_frames, data.crop_size))
        batches = Batches(crops, loop, data.num_workers, processes)
        run.resume(state, flags.tensorboard)
        bar.initial = state.iteration
        trained = autoencoder
        if processes.num > 1:
            trained = DistributedDataParallel(autoencoder, gradient_as_bucket_view=True)

        # Dry run: what would fail in hours, at a validation or a checkpoint, fails now.
        if validation_events:
            validate(autoencoder, state.ema, settings, [fixed_crops[0]], seed, processes, stop)
        else:
            run.say("no event is long enough to hold frames out: the run trains without validation")
        run.rehearse_save(state)
        if state.validated_at < 0 and processes.is_main:
            save_model(state, settings, about, out)  # a model folder from the start

        batches.restart(state.attempt, state.iteration)
        while not (must_stop := processes.any(stop.is_set or not batches.read())):
            bar.update(state.iteration - bar.n)
            is_done = state.iteration == loop.iterations
            if state.is_validation_due(loop.validation_interval, is_done):
                scores, comparisons = {}, []
                if validation_events:
                    scores, comparisons = validate(
                        autoencoder, state.ema, settings, fixed_crops, seed, processes, stop
                    )
                    if processes.any(stop.is_set):  # cut short: made again when resumed
                        continue
                    bar.set_postfix(scores)
                if not run.take_validation(state, scores, loop.max_loss_ratio):  # rolled back
                    batches.restart(state.attempt, state.iteration)
                    continue
                if state.record_best(scores, "val_loss_ema") and processes.is_main:
                    save_model(state, settings, about, out)
                run.save(state)
                titles = [f"{minutes * frame} min" for frame in drawn_frames(num_frames)]
                run.draw(state, comparisons, titles)
            if is_done:
                break

            # One update; every draw is keyed by (seed, attempt, iteration, index in the batch).
            update = Update(loop.num_micro_batches, processes)
            lr = state.lr_factor * settings.optimizer.lr_at(state.iteration, run.phase_ends)
            for group in optimizer.param_groups:
                group["lr"] = lr
            for micro_batch in range(loop.num_micro_batches):
                example, keys = batches.take()
                rain_rate, num_impossible = drop_impossible_rain(  # (B, 1, T, H, W) mm/h
                    example.rain_rate.to(device), data.max_rain_rate
                )
                generators = [keyed_generator(seed, STREAM_LATENT, *key) for key in keys]
                is_last = micro_batch == loop.num_micro_batches - 1
                with summing_gradients(trained, is_last):
                    with autocast(device, dtype):
                        loss = training_loss(trained, settings, rain_rate, generators)
                    loss = (example.draw_weight.to(device) * loss).sum() / loop.batch_size
                    scaler.scale(loss * processes.num).backward()  # they are averaged, not summed
                update.add(loss, wet_share(rain_rate), num_impossible)
            scaler.unscale_(optimizer)
            grad_norm = torch.nn.utils.clip_grad_norm_(
                parameters, settings.optimizer.clip_norm
            ).item()
            wait_seconds = batches.take_wait_seconds()
            if update.judge(state, grad_norm, wait_seconds, loop.max_loss_ratio):
                scaler.step(optimizer)
                state.ema.update()
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            state.iteration += 1

            if state.num_bad_in_a_row == loop.max_bad_updates:
                run.roll_back(state, f"{loop.max_bad_updates} bad updates in a row")
                batches.restart(state.attempt, state.iteration)
            elif state.iteration % loop.log_interval == 0 or state.iteration == loop.iterations:
                run.log(state, "training", lr=lr, **state.take_figures(loop.batch_size))
        if not state.is_validated:
            run.save(state)
        batches.check_read(f"saved at iteration {state.iteration}; repeat to resume")
        if must_stop:
            run.say(f"stopped at iteration {state.iteration} by {stop.name}; repeat to resume")
    return stop.status if must_stop else 0


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(run_script(main))
