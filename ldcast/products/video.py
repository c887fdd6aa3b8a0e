"""Films as MP4, which any player and any slide shows, made by ffmpeg."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from ldcast.errors import InputError

ENCODER = "libx264"
TICK_MS = 50  # a picture is repeated to stay longer: not every player heeds times of their own
_OR_GIF = "or name a .gif instead, which needs no ffmpeg"


def require_ffmpeg() -> str:
    """Where ffmpeg is; raises InputError where it is missing, to be called before the work."""
    program = shutil.which("ffmpeg")
    if program is None:
        raise InputError(
            "an .mp4 needs ffmpeg, which is not on the PATH; install it with: apt install ffmpeg "
            f"(or conda install -c conda-forge ffmpeg), {_OR_GIF}"
        )
    listing = subprocess.run(
        [program, "-hide_banner", "-encoders"], capture_output=True, text=True, check=False
    )
    if ENCODER not in listing.stdout:
        raise InputError(f"{program} lacks the encoder {ENCODER}; install another, {_OR_GIF}")
    return program


def save_mp4(pictures: Iterable[np.ndarray], durations: Sequence[int], path: Path) -> None:
    """Write pictures (rows, columns, 3) uint8, each for so many milliseconds, to `path`.

    durations: multiples of `TICK_MS`.
    Raises InputError if ffmpeg is missing or fails; `path` is then incomplete.
    """
    program = require_ffmpeg()
    pictures = iter(pictures)
    first = next(pictures)
    with tempfile.TemporaryFile() as messages:  # a pipe that nobody reads could fill and block
        process = subprocess.Popen(
            [program, *_arguments(first.shape, path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=messages,
        )
        # A broken pipe means that it has ended; its status says more.
        with suppress(BrokenPipeError), process:
            for picture, duration in zip([first, *pictures], durations, strict=True):
                num_ticks, rest = divmod(duration, TICK_MS)
                assert rest == 0, f"{duration} ms is no multiple of {TICK_MS} ms"
                for _ in range(num_ticks):
                    process.stdin.write(picture.tobytes())
        if process.returncode != 0:
            messages.seek(0)
            lines = messages.read().decode("utf-8", "replace").strip().splitlines()
            reason = lines[0] if lines else "no message"  # the others follow from the first
            raise InputError(
                f"ffmpeg could not make the .mp4 (status {process.returncode}: {reason}); "
                f"see whether the disk is full, {_OR_GIF}"
            )


def _arguments(shape: tuple[int, int, int], path: Path) -> list[str]:
    height, width, _ = shape
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
    source += ["-r", str(1000 // TICK_MS), "-i", "pipe:0"]
    # 4:2:0 is what every player shows; it needs even sides. Colours here are data, so they are
    # converted by a matrix that the file also names.
    filters = "pad=ceil(iw/2)*2:ceil(ih/2)*2:color=white,scale=out_color_matrix=bt709:out_range=tv"
    colours = [f"-{name}" for name in ("colorspace", "color_primaries", "color_trc")]
    target = ["-vf", filters, "-pix_fmt", "yuv420p", "-c:v", ENCODER, "-crf", "18"]
    for name in colours:
        target += [name, "bt709"]
    # "file:", or a colon in the name would make it a protocol.
    target += ["-movflags", "+faststart", "-f", "mp4", "-y", f"file:{path}"]
    return ["-hide_banner", "-loglevel", "error", *source, *target]
