"""Turns the weights that MeteoSwiss published, or retrained ones of that code, into a model folder.

    python -m ldcast.published autoenc-32-0.01.pt genforecast-radaronly-256x256-20step.pt \\
        --out models/ldcast-256
    python infer.py --model models/ldcast-256 --data PATH

Takes state dicts and Lightning checkpoints. Sizes are read from the tensors. Forecasts use the
averaged weights; --keep-raw writes the others as well, as the model folder DIR/raw. What to
download, and what equals the original: docs/published.md.
"""

import argparse
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from ldcast.errors import InputError, run_script
from ldcast.model_folder import CONFIG_NAME
from ldcast.published.importing import (
    PublishedModel,
    Weights,
    count_bytes,
    match,
    write_model,
)
from ldcast.published.reading import read_checkpoint
from ldcast.training.run import check_writable

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
        help="of the file: bfloat16 halves it and rounds weights; forecasts compute as ever "
        "(%(default)s)",
    )
    add("--keep-raw", action="store_true", help=f"write the raw weights too, as DIR/{RAW_NAME}")
    return parser.parse_args(argv)


def check_out(folder: Path) -> None:
    """Finds out before the work starts what would fail after it, or destroy something."""
    if (folder / CONFIG_NAME).exists():
        raise InputError(f"--out {folder} holds a model already: name another folder")
    check_writable(folder)


def describe(model: PublishedModel) -> str:
    """The sizes that were read from the tensors, in a line."""
    autoencoder, conditioner, denoiser = (
        model.config.autoencoder,
        model.config.conditioner,
        model.config.denoiser,
    )
    num_parameters = sum(tensor.numel() for tensor in model.weights.tensors.values())
    return (
        f"autoencoder {autoencoder.level_channels} -> {autoencoder.latent_channels}, conditioner "
        f"{conditioner.context_channels}, {conditioner.num_analysis_blocks} + "
        f"{conditioner.num_forecast_blocks} blocks, denoiser {denoiser.level_channels}, "
        f"{denoiser.num_res_blocks} blocks per level: {num_parameters:,} parameters"
    )


def raw_weights(model: PublishedModel, path: Path) -> Weights:
    if model.raw is None:
        raise InputError(
            f"{path} holds no averaged weights, so the raw ones are what is imported: leave "
            "--keep-raw out"
        )
    return model.raw


def main(argv: list[str] | None = None) -> None:
    flags = parse_flags(argv)
    check_out(flags.out)
    dtype = DTYPES[flags.dtype]
    model = match(read_checkpoint(flags.autoencoder), read_checkpoint(flags.diffusion))
    for line in model.notes:
        print(line)
    print(describe(model))
    if model.warning:
        print(f"warning: {model.warning}")
    folders = {flags.out: model.weights}
    if flags.keep_raw:
        folders[flags.out / RAW_NAME] = raw_weights(model, flags.diffusion)

    total = sum(count_bytes(weights, dtype) for weights in folders.values())
    with tqdm(total=total, desc="import", unit="B", unit_scale=True, disable=None) as bar:
        for folder, weights in folders.items():
            write_model(model, weights, folder, dtype, progress=bar.update)
    for folder in folders:
        print(f"wrote {folder}")


if __name__ == "__main__":
    sys.exit(run_script(main))
