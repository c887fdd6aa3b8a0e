"""The command line that both training scripts share."""

import argparse
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ldcast.config import CropFrames
from ldcast.data.archive.days import (
    RULE,
    TRAINING,
    VALIDATION,
    DaySplit,
    check_days_apart,
)
from ldcast.data.archive.events import (
    Archive,
    check_found,
    check_is_split,
    check_not_in,
    describe_lack,
    find_archive,
    with_lacks,
)
from ldcast.data.cadence import check_cadence
from ldcast.data.event import RainEvent, check_apart
from ldcast.data.readers.specs import absolute_spec, read_event
from ldcast.data.reading import Reading
from ldcast.data.spans import hold_out
from ldcast.diffusion.registry import ONE_CALL
from ldcast.errors import InputError
from ldcast.frames import FrameConfig
from ldcast.machine.device import AMP_MODES
from ldcast.models.registry import config_class
from ldcast.nowcast.model_folder import ModelDescription, locate, read_description
from ldcast.settings import Settings, add_flags, leaves, override, to_dict
from ldcast.training.run import ARGUMENTS_NAME, read_arguments

MIN_HELD_OUT = 24  # frames
SPLIT_NAME = "split_days"  # of a run's arguments
COMMON = {
    "iterations": ("loop.iterations", "updates in all; a larger number extends a finished run"),
    "batch_size": ("loop.batch_size", "examples per update"),
    "crop_size": ("data.crop_size", "pixels, height and width of a training crop"),
    "lr": ("optimizer.lr", "highest learning rate"),
}


class TrainArguments(NamedTuple):
    """What the command line of a training script says."""

    settings: Settings
    flags: argparse.Namespace


def parse_train_arguments(
    description: str,
    presets: dict[str, Settings],
    default_out: str,
    sized_like: Callable[[Settings, ModelDescription], Settings],
    extra: argparse.ArgumentParser | None = None,
    argv: list[str] | None = None,
) -> TrainArguments:
    """Parses the flags of a training script.

    description: the script's docstring. extra: flags of this script alone.
    sized_like: gives a preset the network sizes of the model that `--init` names.
    Raises InputError for values that do not fit; argparse itself exits with status 2.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", choices=presets, default="small")
    first.add_argument("--init")
    first.add_argument("--autoencoder.kind", dest="kind")
    first.add_argument("--loss")
    early, _ = first.parse_known_args(argv)
    preset = settings = presets[early.preset]
    if early.init:
        settings = sized_like(settings, read_description(early.init))
    if early.kind is not None:
        settings = with_kind(settings, early.kind)
    if early.loss is not None:
        settings = with_loss(settings, early.loss, preset)

    parser = argparse.ArgumentParser(
        description=textwrap.dedent(description),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[extra] if extra else [],
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--preset", choices=presets, default="small", help="sizes and recipe (%(default)s)")
    add(
        "--data",
        nargs="+",
        action="extend",
        metavar="PATH[@START/END]",
        help="event files, archives, or synthetic:SEED",
    )
    add(
        "--validation-data",
        nargs="+",
        action="extend",
        metavar="PATH[@START/END]",
        help="default: ends of events, days of archives",
    )
    add(
        "--split-days",
        type=float,
        nargs=3,
        metavar=("TRAIN", "VALIDATE", "TEST"),
        help="shares of an archive's days, by the calendar (0.8 0.1 0.1); event files have none",
    )
    add("--out", type=Path, default=Path(default_out), help="the run's folder (%(default)s)")
    add("--init", type=Path, metavar="DIR", help="start from this model folder's weights")
    add("--seed", type=int, default=0, help="of weights, crops and noise (%(default)s)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (%(default)s)")
    add("--amp", choices=AMP_MODES, default="auto", help="auto: bf16 on CUDA, off on a CPU")
    add("--tensorboard", action="store_true", help="also write the metrics for TensorBoard")
    for flag, (_, text) in COMMON.items():
        add(f"--{flag.replace('_', '-')}", metavar="X", default=argparse.SUPPRESS, help=text)
    group = parser.add_argument_group(f"every setting (value in preset {early.preset})")
    add_flags(group, settings)
    flags = parser.parse_args(argv)

    names = [leaf.name for leaf in leaves(settings)]
    changes = {name: getattr(flags, name) for name in names if name in flags}
    for flag, (name, _) in COMMON.items():
        if flag in flags:
            changes[name] = getattr(flags, flag)
    sampler = changes.get("diffusion.sampler")
    if sampler is not None and sampler != settings.diffusion.sampler:
        if settings.diffusion.sampler == ONE_CALL:
            raise InputError(
                f"got the sampler {sampler} with the loss crps, expected crps with {ONE_CALL}; "
                "for networks that denoise, give --loss denoising"
            )
        changes.setdefault("diffusion.sampler_settings", {})  # another one has its own
    return TrainArguments(override(settings, changes), flags)


def with_kind(settings: Settings, kind: str) -> Settings:
    """The settings with an autoencoder of that kind, where they have one.

    Another kind starts from its own defaults, since a width means something else there.
    Raises InputError for an unknown kind.
    """
    before = getattr(settings, "autoencoder", None)
    if before is None or before.kind == kind:
        return settings
    return replace(settings, autoencoder=config_class({"kind": kind})())


def with_loss(settings: Settings, loss: str, preset: Settings) -> Settings:
    """The settings with that loss, where they have another, and what goes with it alone.

    The sampler, what members start from, and of the CRPS the preset's own settings.
    """
    before = getattr(settings, "loss", None)
    if before is None or loss == before or loss not in ("crps", "denoising"):
        return settings
    if loss == "crps":
        sampling, crps = {"sampler": ONE_CALL, "num_sampling_steps": 1}, preset.crps
        if settings.diffusion.around_linear_forecast:
            sampling["member_noise"] = preset.diffusion.member_noise
    else:
        sampling = {"sampler": "dpm_solver", "num_sampling_steps": 12, "member_noise": "white"}
        crps = type(settings.crps)()
    diffusion = replace(settings.diffusion, sampler_settings={}, **sampling)
    return replace(settings, loss=loss, diffusion=diffusion, crps=crps)


def held_out_frames(start: Path | None, arguments: dict[str, Any], num_frames: int) -> int:
    """How many frames at the end of each event, at least, are held out of a run's training.

    As many as were held out of the run that trained the weights in `start`, where the two share
    data: else frames that those were trained on could be validated on. Where there is no such run,
    24, or the `num_frames` of an example where it has more.

    arguments: of the run that is to start.
    """
    if start and (start / ARGUMENTS_NAME).is_file():
        before = read_arguments(start)
        shared = set(before["data"]) & set(arguments["data"])
        if shared and not before["validation_data"]:
            # Not recorded at first, when runs knew no other run's.
            counts = {**before.get("frames", {}), "minutes_per_frame": 0}
            return before.get("held_out_frames", max(MIN_HELD_OUT, sum(counts.values())))
    return max(MIN_HELD_OUT, num_frames)


def day_split(start: Path | None, flags: argparse.Namespace) -> DaySplit:
    """Which days of archives train and validate: as flagged, else as a run before did it, which
    trained the weights in `start`; else as by default.

    Raises InputError where both --split-days and --validation-data are given.
    """
    if flags.split_days:
        if flags.validation_data:
            raise InputError(
                "got --split-days and --validation-data, expected one of them: leave one out"
            )
        return DaySplit(tuple(flags.split_days))
    if start and (start / ARGUMENTS_NAME).is_file():
        before = read_arguments(start).get(SPLIT_NAME)
        if before:
            return DaySplit(tuple(before["shares"]))
    return DaySplit()


class RunEvents(NamedTuple):
    """What a run trains and validates on. split: for the run's folder, see `describe_split`."""

    train: list[RainEvent]
    validation: list[RainEvent]
    split: dict[str, Any] | None


def read_run_events(
    flags: argparse.Namespace,
    start: Path | None,
    frames: FrameConfig | CropFrames,
    num_held_out: int,
) -> RunEvents:
    """The events that the flags name, split as a run before split them; see `day_split`.

    start: folder of weights that the run starts from. frames: of an example.
    num_held_out: see `held_out_frames`.
    Raises InputError as `day_split` and `read_split_events` do.
    """
    split = day_split(start, flags)
    train, validation = read_split_events(
        flags.data,
        flags.validation_data,
        frames.minutes_per_frame,
        frames.num_frames,
        num_held_out,
        split,
    )
    described = describe_split(split, train + validation)
    check_is_split(split if flags.split_days else None, described is not None)
    return RunEvents(train, validation, described)


def describe_split(split: DaySplit, events: list[RainEvent]) -> dict[str, Any] | None:
    """For the run's folder; None where no day was split."""
    if not any("#" in event.name for event in events):
        return None
    return {"shares": list(split.shares), "rule": RULE}


def read_split_events(
    data: list[str],
    validation_data: list[str] | None,
    minutes: int,
    num_frames: int,
    num_held_out: int,
    split: DaySplit | None = None,
) -> tuple[list[RainEvent], list[RainEvent]]:
    """Training and validation events; without validation_data the ends of long events are held out,
    and the days of archives are split.

    minutes: how far apart the frames are. num_frames: of an example. num_held_out: see `hold_out`.
    Of an archive each run of frames is an event.
    Raises InputError where an event cannot be read, frames are of another cadence or shared, or
    archives share a day. Of several archives some may have no day to train on, which a note says.
    """
    how, split = Reading(minutes=minutes), split or DaySplit()
    files: list[RainEvent] = []
    train: list[RainEvent] = []
    validation: list[RainEvent] = []
    archives: dict[str, list[Archive]] = {TRAINING: [], VALIDATION: []}
    lacking: list[str] = []
    for spec in data:
        archive = find_archive(spec, how)
        if archive is None:
            files.append(read_event(spec, how))
            continue
        archives[TRAINING].append(archive)
        if validation_data:
            train += check_found(archive.events(num_frames, minutes), archive, num_frames)
            continue
        parts = (TRAINING, VALIDATION)
        found, held_out = (archive.events(num_frames, minutes, part, split) for part in parts)
        train += found
        validation += held_out
        if not found:
            lacking.append(describe_lack(archive, TRAINING, split, num_frames))
    files_of_validation: list[RainEvent] = []
    for spec in validation_data or []:
        archive = find_archive(spec, how)
        if archive is None:
            files_of_validation.append(read_event(spec, how))
            continue
        archives[VALIDATION].append(archive)
        validation += check_found(archive.events(num_frames, minutes), archive, num_frames)
    validation += files_of_validation
    for archive in archives[TRAINING]:
        check_not_in(archive, files_of_validation if validation_data else files)
    for archive in archives[VALIDATION]:
        check_not_in(archive, files)
    kept, held_out = files, []
    if not validation_data:
        kept, held_out = hold_out(files, minutes, num_held_out, num_frames)
    train, validation = with_lacks(kept + train, lacking), held_out + validation
    check_apart(train, validation)
    check_days_apart(
        *([event.time for event in of if event.is_stored] for of in (train, validation))
    )
    for event in train + validation:
        check_cadence(event, minutes, "--frames.minutes-per-frame")
    return train, validation


def names_of(events: list[RainEvent]) -> list[str]:
    """Each name once: the runs of an archive share theirs."""
    return list(dict.fromkeys(event.name for event in events))


def run_arguments(settings: Settings, flags: argparse.Namespace) -> dict[str, Any]:
    """All that decides a run's results, for `open_run`; paths hold from any working folder.

    Raises InputError where there is no data.
    """
    if not flags.data:
        raise InputError("no training data: give --data PATH [PATH ...], or --data synthetic:0")
    table = to_dict(settings)
    return {
        **table,
        "data_settings": table["data"],  # the name was taken
        "data": [absolute_spec(spec) for spec in flags.data],
        "validation_data": [absolute_spec(spec) for spec in flags.validation_data or []],
        "init": str(locate(flags.init).resolve()) if flags.init else None,
        "seed": flags.seed,
        "amp": flags.amp,
    }
