"""Turns the weights that MeteoSwiss published, or retrained ones of that code, into a model folder.

    python -m ldcast.published autoenc-32-0.01.pt genforecast-radaronly-256x256-20step.pt \\
        --out models/ldcast-256
    python infer.py --model models/ldcast-256 --data PATH

Takes state dicts and Lightning checkpoints. Sizes are read from the tensors. Forecasts use the
averaged weights; --keep-raw writes the others as well, as the model folder DIR/raw. What to
download, and what equals the original: docs/published.md.
"""

import argparse
import contextlib
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from ldcast.config import ModelConfig
from ldcast.errors import InputError, run_script
from ldcast.machine.folders import check_writable, clear_unfinished, lock_folder
from ldcast.nowcast.model_folder import CONFIG_NAME
from ldcast.published.importing import (
    PublishedModel,
    Weights,
    check_finite,
    count_bytes,
    match,
    write_models,
)
from ldcast.published.reading import read_checkpoint
from ldcast.training.checkpoint import STATE_NAME

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
RAW_NAME = "raw"


def parse_flags(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m ldcast.published",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("autoencoder", type=Path, metavar="AUTOENC", help="the autoencoder, .pt or .ckpt")
    add("diffusion", type=Path, metavar="LDM", help="the latent diffusion model, .pt or .ckpt")
    add("--out", type=Path, required=True, metavar="DIR", help="model folder to write")
    add(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="of the written file; bfloat16 halves it and rounds the weights (%(default)s)",
    )
    add("--keep-raw", action="store_true", help=f"write the raw weights too, as DIR/{RAW_NAME}")
    return parser.parse_args(argv)


def check_paths(flags: argparse.Namespace) -> None:
    """Checks before the work what would fail after it or overwrite something."""
    for path in (flags.autoencoder, flags.diffusion):
        if not path.is_file():
            what = "no file" if path.exists() else "missing"
            raise InputError(
                f"{path} is {what}, expected a file of weights such as autoenc-32-0.01.pt: "
                "docs/published.md says where they are"
            )
    for name in (CONFIG_NAME, f"{RAW_NAME}/{CONFIG_NAME}", STATE_NAME):
        if (flags.out / name).exists():
            raise InputError(f"--out {flags.out} has a {name} already: name another folder")


def describe(config: ModelConfig) -> str:
    """The sizes that were read from the tensors, a line for each network."""
    autoencoder, conditioner, denoiser = config.autoencoder, config.conditioner, config.denoiser
    return "\n".join(
        [
            f"autoencoder: channels per level {autoencoder.level_channels}, latent "
            f"{autoencoder.latent_channels}",
            f"conditioner: channels per level {conditioner.context_channels}, AFNO blocks "
            f"{conditioner.num_analysis_blocks} on the past, {conditioner.num_forecast_blocks} on "
            "the future",
            f"denoiser: channels per level {denoiser.level_channels}, residual blocks "
            f"{denoiser.num_res_blocks} per level, attention at levels {denoiser.attention_levels}",
        ]
    )


def progress_bar(what: str, num_bytes: int) -> tqdm:
    return tqdm(total=num_bytes, desc=what, unit="B", unit_scale=True, disable=None)


def raw_weights(model: PublishedModel, path: Path) -> Weights:
    if model.raw is None:
        raise InputError(
            f"{path} holds no averaged weights, so the raw ones are what is imported: leave "
            "--keep-raw out"
        )
    return model.raw


def main(argv: list[str] | None = None) -> None:
    flags = parse_flags(argv)
    check_paths(flags)
    dtype = DTYPES[flags.dtype]
    paths = flags.autoencoder, flags.diffusion
    with progress_bar("read", sum(path.stat().st_size for path in paths)) as bar:
        model = match(*(read_checkpoint(path, bar.update) for path in paths))
    for line in model.notes:
        print(line)
    print(describe(model.config))
    if model.warning:
        print(f"warning: {model.warning}")
    folders = {flags.out: model.weights}
    if flags.keep_raw:
        folders[flags.out / RAW_NAME] = raw_weights(model, flags.diffusion)

    total = sum(count_bytes(weights, dtype) for weights in folders.values())
    with progress_bar("write", total) as bar:
        for weights in folders.values():
            check_finite(weights, dtype, bar.update)
        for folder in folders:
            check_writable(folder)
        with contextlib.ExitStack() as locks:
            for folder in folders:
                locks.enter_context(lock_folder(folder))
                clear_unfinished(folder)
            write_models(model, folders, dtype, bar.update)
    for folder in folders:
        print(f"wrote {folder}: python infer.py --model {folder} --data PATH")


if __name__ == "__main__":
    sys.exit(run_script(main))
