"""Stage 2: train conditioner and denoiser in the latent space of a trained autoencoder.

  python train_diffusion.py                                after train_autoenc.py: its run and data
  torchrun --nproc_per_node=4 train_diffusion.py           on four GPUs
  python train_diffusion.py --autoencoder DIR --data radar/*.npz
  python train_diffusion.py --init MODEL --data radar/*.npz        fine-tune a trained model

Writes a run folder (default runs/ldcast) that infer.py --model takes, during the run as well: its
model.safetensors holds the averaged weights that forecast best so far. Running the same command
again resumes; Ctrl-C and SIGTERM save and exit. docs/training.md has the rest.
"""

import argparse
import copy
import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import default_collate
from tqdm import tqdm

from ldcast.config import (
    DIFFUSION_PRESETS,
    CRPSLossConfig,
    DiffusionTraining,
    ModelConfig,
)
from ldcast.data.crops import Example, TrainingCrops, ValidationCrops
from ldcast.data.event import RainEvent, notes_of
from ldcast.data.fields import notes_of_unused
from ldcast.data.picking import describe_draws
from ldcast.diffusion.registry import ONE_CALL
from ldcast.errors import InputError, run_script
from ldcast.inputs.known import LatentGrid, fields_of, margin_of
from ldcast.inputs.registry import build_inputs, inputs_code
from ldcast.machine.code_version import command_line
from ldcast.machine.device import amp_dtype, autocast, choose_device
from ldcast.machine.half_precision import checked_half_precision
from ldcast.machine.heap import keep_freed_memory
from ldcast.machine.processes import Processes, join_processes, process_device, summing_gradients
from ldcast.machine.stopping import StopRequest
from ldcast.models import Autoencoder
from ldcast.nowcast.ldcast import LDCast, build
from ldcast.nowcast.model_folder import (
    ModelDescription,
    fingerprint,
    load_weights,
    locate,
    read_description,
)
from ldcast.rain import to_model_units
from ldcast.seeds import STREAM_NOISE, STREAM_VALIDATION, keyed_generator, keyed_generators
from ldcast.settings import override, to_dict
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
from ldcast.training.ensemble_loss import EnsembleLoss
from ldcast.training.forecasts import FixedCases, drawn_titles
from ldcast.training.latents import LatentExample, encode_example, measure_from_crops
from ldcast.training.pictures import Comparison
from ldcast.training.pool import pool_batches
from ldcast.training.run import ARGUMENTS_NAME, INPUTS_CODE, open_run, read_arguments
from ldcast.training.update import Update
from ldcast.verification.seen import warn_of_training

DEFAULT_AUTOENCODER = Path("runs/autoenc")
NO_VALIDATION = (
    "no event is long enough to hold frames out that the autoencoder was not trained on: the run "
    "trains without validation; for one, name --validation-data to both training scripts"
)


def sized_like(settings: DiffusionTraining, start: ModelDescription) -> DiffusionTraining:
    """The settings with the frames, networks and diffusion of a model to start from."""
    if start.stage == "autoencoder":
        raise InputError(
            "--init names an autoencoder only, expected a trained nowcaster: give it as "
            "--autoencoder instead"
        )
    model = start.model
    is_one_call = model.diffusion.sampler == ONE_CALL
    return replace(
        settings,
        frames=model.frames,
        conditioner=model.conditioner,
        denoiser=model.denoiser,
        diffusion=model.diffusion,
        inputs=model.inputs,
        loss="crps" if is_one_call else "denoising",
        crps=settings.crps if is_one_call else CRPSLossConfig(),
    )


def parse(
    argv: list[str] | None,
) -> tuple[DiffusionTraining, argparse.Namespace, ModelDescription]:
    """Settings, flags and stage 1, whose minutes per frame are taken where none are given."""
    extra = argparse.ArgumentParser(add_help=False)
    extra.add_argument(
        "--autoencoder", type=Path, metavar="DIR", help=f"default: {DEFAULT_AUTOENCODER}, or --init"
    )
    settings, flags = parse_train_arguments(
        __doc__, DIFFUSION_PRESETS, "runs/ldcast", sized_like, extra, argv
    )
    flags.autoencoder = flags.autoencoder or flags.init or DEFAULT_AUTOENCODER
    first_stage = read_description(flags.autoencoder)
    if not flags.init and "frames.minutes_per_frame" not in flags:
        minutes = first_stage.model.frames.minutes_per_frame
        settings = override(settings, {"frames.minutes_per_frame": minutes})
    return settings, flags, first_stage


def all_arguments(settings: DiffusionTraining, flags: argparse.Namespace) -> dict[str, Any]:
    """`run_arguments` with what comes from stage 1: its data where none are named, its weights."""
    if not flags.data:
        flags.data, recorded_validation = recorded_data(flags.autoencoder)
        flags.validation_data = flags.validation_data or recorded_validation
    arguments = run_arguments(settings, flags)
    num_frames = settings.frames.num_frames
    return {
        **arguments,
        "autoencoder": str(locate(flags.autoencoder).resolve()),
        "autoencoder_sha256": fingerprint(flags.autoencoder),
        "held_out_frames": held_out_frames(flags.autoencoder, arguments, num_frames),
        INPUTS_CODE: inputs_code() if settings.inputs else None,
    }


def training_crops(
    events: list[RainEvent], settings: DiffusionTraining, config: ModelConfig, seed: int
) -> TrainingCrops:
    """The examples that are trained on, with the surroundings and fields that inputs look at."""
    frames, data, inputs = config.frames, settings.data, build_inputs(config.inputs)
    return TrainingCrops(
        events,
        frames.num_frames,
        data.crop_size,
        data.crop_picker,
        seed,
        data.use_augmentation,
        fields_of(inputs, frames),
        margin_of(inputs),
        crop_motion=data.crop_motion,
        rain_factor_db=data.rain_factor_db,
        max_rain_rate=data.max_rain_rate,
        minutes=frames.minutes_per_frame,
        multiple=config.rain_multiple,
        num_judged_frames=frames.past_frames if data.judged_by == "past" else 0,
    )


def validation_crops(
    events: list[RainEvent], settings: DiffusionTraining, config: ModelConfig, seed: int
) -> ValidationCrops:
    """The examples that each validation uses."""
    frames, data = config.frames, settings.data
    return ValidationCrops(
        events,
        frames.num_frames,
        data.crop_size,
        settings.loop.num_validation_examples,
        seed,
        data.max_rain_rate,
        fields_of(build_inputs(config.inputs), frames),
        minutes=frames.minutes_per_frame,
        multiple=config.rain_multiple,
    )


def load_start(
    model: LDCast,
    networks: dict[str, nn.Module],
    settings: DiffusionTraining,
    flags: argparse.Namespace,
) -> None:
    """Fills the autoencoder, which stays frozen, and with --init the networks to be trained.

    Noise that the start did not have is measured.
    """
    load_weights(flags.autoencoder, autoencoder=model.autoencoder)
    model.autoencoder.requires_grad_(False)
    if flags.init:
        start = read_description(flags.init)
        check_same_inputs(settings, start)
        if start.model.diffusion.member_noise == "white":
            networks = {name: of for name, of in networks.items() if name != "error_noise"}
        load_weights(flags.init, **networks)


def check_same_inputs(settings: DiffusionTraining, start: ModelDescription) -> None:
    """Raises InputError where networks with other inputs than a model's would take its weights."""
    if settings.inputs != start.model.inputs:
        raise InputError(
            f"got --inputs {','.join(settings.inputs) or 'none'} for the weights of --init, which "
            f"take {','.join(start.model.inputs) or 'none'}: expected the same; leave one out"
        )


def recorded_data(autoencoder: Path) -> tuple[list[str], list[str]]:
    """Training and validation data of the run that trained the autoencoder."""
    if not (autoencoder / ARGUMENTS_NAME).is_file():
        raise InputError(f"{autoencoder} does not say what data to train on: give --data PATH")
    recorded = read_arguments(autoencoder)
    return recorded["data"], recorded["validation_data"]


def loss_module(model: LDCast, settings: DiffusionTraining) -> nn.Module:
    """What `training_loss` calls: the networks, to denoise or to forecast."""
    if settings.loss == "crps":
        return EnsembleLoss(model, settings.crps)
    return model.latent_nowcaster


def training_loss(
    module: nn.Module, latents: LatentExample, generators: list[torch.Generator]
) -> Tensor:
    """Loss per example (B,).

    module: of `loss_module`.
    generators: one per example, for its diffusion step and noise.
    Each latent cell counts by its share of pixels with data; of rain, pixels with data do.
    """
    known, z_future, weight = latents.known, latents.z_future, latents.weight
    if latents.rain_rate.numel():
        return module(known, latents.rain_rate, z_future, weight, generators)
    return module(known, z_future, generators, weight)


def latent_grid(model: LDCast, encoder: Autoencoder) -> LatentGrid:
    """The latents that a model is trained on: means of the frozen encoder, of rain in one piece.

    Computed in the type of the encoder's weights, whatever autocast says: these are the targets.
    """

    @torch.no_grad()
    def encode(rain_rate: Tensor) -> Tensor:
        with torch.autocast(rain_rate.device.type, enabled=False):
            rain_norm = to_model_units(rain_rate, model.rain_scale)
            z_mean, _ = encoder.encode(rain_norm.to(next(encoder.parameters()).dtype))
        return z_mean.float()

    return LatentGrid(encode, encoder.compression, model.frames)


def encoder_of(model: LDCast, settings: DiffusionTraining) -> Callable[[Example], LatentExample]:
    """What makes latent examples of crops, on the model's device; its encoder is a copy."""
    encoder = copy.deepcopy(model.autoencoder).to(getattr(torch, settings.encoder_dtype))
    inputs = model.latent_nowcaster.inputs
    return functools.partial(
        encode_example,
        grid=latent_grid(model, encoder),
        inputs=inputs,
        margin=margin_of(inputs),
        max_rain_rate=settings.data.max_rain_rate,
        device=model.device,
        keep_rain=settings.loss == "crps",
    )


@torch.no_grad()
def validation_loss(
    model: LDCast,
    settings: DiffusionTraining,
    crops: Sequence[Example],
    seed: int,
    processes: Processes,
    stop: StopRequest,
) -> float:
    """Mean loss over the crops, with the same diffusion steps and noise each time."""
    total = torch.zeros(1, dtype=torch.float64)
    module, inputs = loss_module(model, settings), model.latent_nowcaster.inputs
    grid = latent_grid(model, model.autoencoder)
    for index in stop.until(processes.share(len(crops))):
        example = default_collate([crops[index]]).to(model.device)
        latents = encode_example(
            example, grid, inputs, device=model.device, keep_rain=settings.loss == "crps"
        )
        generators = keyed_generators(seed, STREAM_VALIDATION, indices=[index])
        total += training_loss(module, latents, generators).cpu()
    return processes.sum(total).item() / len(crops)


def validate(
    model: LDCast,
    ema: EMA,
    settings: DiffusionTraining,
    crops: Sequence[Example],
    cases: FixedCases,
    seed: int,
    processes: Processes,
    stop: StopRequest,
) -> tuple[dict[str, float], list[Comparison]]:
    """Scores by name, those of the averaged weights end in _ema, and forecasts to draw.

    loss: as in training. crps: of forecasts of the fixed cases, mm/h.
    """
    scores = {"val_loss": validation_loss(model, settings, crops, seed, processes, stop)}
    with ema.averaged():
        scores["val_loss_ema"] = validation_loss(model, settings, crops, seed, processes, stop)
        crps, comparisons = cases.score(model, processes, stop)
    scores["val_crps_ema"] = crps
    return scores, comparisons


def save_model(state: TrainState, model: LDCast, out: Path) -> None:
    """Writes the model folder, with the averaged weights."""
    model.trained_on["iteration"] = state.iteration
    with state.ema.averaged():
        model.save_pretrained(out)


def main(argv: list[str] | None = None) -> int:
    # ---- parse
    settings, flags, first_stage = parse(argv)
    loop, data, seed, out = settings.loop, settings.data, flags.seed, flags.out
    device = process_device(choose_device(flags.device))
    dtype = amp_dtype(flags.amp, device)
    config = settings.model_config(first_stage.model)
    frames = config.frames
    frames.check_divisible(config.compression)
    data.check_crop_size(config.rain_multiple)
    arguments = all_arguments(settings, flags)

    # ---- data
    train_events, validation_events, arguments[SPLIT_NAME] = read_run_events(
        flags, flags.autoencoder, frames, arguments["held_out_frames"]
    )
    crops = training_crops(train_events, settings, config, seed)
    if validation_events:
        fixed_crops = validation_crops(validation_events, settings, config, seed)
        cases = FixedCases(
            validation_events, frames, settings.forecast_score, data, seed, flags.amp
        )

    # ---- networks and what trains them
    torch.manual_seed(seed)
    model = build(config, loss_norm=settings.loss_norm, noise_levels=settings.noise_levels)
    model.trained_on = {
        "data": names_of(train_events),
        "batch_size": loop.batch_size,
        "command": command_line(argv, "train_diffusion.py"),
        "autoencoder": first_stage.trained_on,
    }
    nowcaster = model.latent_nowcaster
    networks = nowcaster.networks()
    load_start(model, networks, settings, flags)
    model.to(device)
    encode = encoder_of(model, settings)
    if loop.use_activation_checkpointing:
        checkpoint_activations(*networks.values())
    parameters = list(nowcaster.parameters())
    optimizer = torch.optim.AdamW(
        parameters,
        betas=settings.optimizer.betas,
        weight_decay=settings.optimizer.weight_decay,
        fused=True,
    )
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    state = TrainState(networks, EMA(networks, loop.ema_decay), optimizer, scaler)

    # ---- loop
    with (
        join_processes(device) as processes,
        checked_half_precision(networks.values(), dtype, processes) as precision_notes,
        open_run(out, arguments, processes, tqdm.write) as run,
        StopRequest() as stop,
        tqdm(
            total=loop.iterations, desc="diffusion", disable=None if processes.is_main else True
        ) as bar,
    ):
        events = train_events + validation_events
        notes = notes_of(events) + notes_of_unused(events, model.fields) + precision_notes
        notes += warn_of_training(str(flags.autoencoder), validation_events)
        for note in [*notes, *(cases.notes if validation_events else [])]:
            run.say(f"note: {note}")
        if processes.is_main:
            run.say(describe_draws(crops.picker, train_events, frames.num_frames, data.crop_size))
        batches = Batches(crops, loop, data.num_workers, processes)
        run.resume(state, flags.tensorboard)
        measure_from_crops(model, crops, encode, state.ema, stop, run.say)
        bar.initial = state.iteration
        trained = loss_module(model, settings)
        if processes.num > 1:
            trained = DistributedDataParallel(trained, gradient_as_bucket_view=True)

        # Dry run: what would fail in hours, at a validation or a checkpoint, fails now.
        if validation_events:
            wettest = cases.wettest()
            validate(model, state.ema, settings, [fixed_crops[0]], wettest, seed, processes, stop)
        else:
            run.say(NO_VALIDATION)
        run.rehearse_save(state)
        if state.validated_at < 0 and processes.is_main:
            save_model(state, model, out)  # a model folder from the start

        if settings.pool:
            about = arguments | {"rain": to_dict(config.rain)}
            batches = pool_batches(out, crops, settings, about, encode, processes, stop)
        batches.restart(state.attempt, state.iteration)
        while not (must_stop := processes.any(stop.is_set or not batches.read())):
            bar.update(state.iteration - bar.n)
            is_done = state.iteration == loop.iterations
            if state.is_validation_due(loop.validation_interval, is_done):
                scores, comparisons = {}, []
                if validation_events:
                    scores, comparisons = validate(
                        model, state.ema, settings, fixed_crops, cases, seed, processes, stop
                    )
                    if processes.any(stop.is_set):  # cut short: made again when resumed
                        continue
                    bar.set_postfix(scores)
                if not run.take_validation(state, scores, loop.max_loss_ratio):  # rolled back
                    batches.restart(state.attempt, state.iteration)
                    continue
                if state.record_best(scores, "val_crps_ema") and processes.is_main:
                    save_model(state, model, out)
                run.save(state)
                run.draw(state, comparisons, drawn_titles(frames))
            if is_done:
                break

            # One update; every draw is keyed by (seed, attempt, iteration, index in the batch).
            update = Update(loop.num_micro_batches, processes)
            lr = state.lr_factor * settings.optimizer.lr_at(state.iteration, run.phase_ends)
            for group in optimizer.param_groups:
                group["lr"] = lr
            for micro_batch in range(loop.num_micro_batches):
                example, keys = batches.take()
                latents = example.to(device) if settings.pool else encode(example)
                generators = [keyed_generator(seed, STREAM_NOISE, *key) for key in keys]
                is_last = micro_batch == loop.num_micro_batches - 1
                with summing_gradients(trained, is_last):
                    with autocast(device, dtype):
                        loss = training_loss(trained, latents, generators)
                    loss = (latents.draw_weight * loss).sum() / loop.batch_size
                    scaler.scale(loss * processes.num).backward()  # they are averaged, not summed
                update.add(loss, latents.wet_share, latents.num_impossible.sum())
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
