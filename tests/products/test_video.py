"""MP4 films: the right pictures for the right times, and nothing half written when ffmpeg fails."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ldcast.errors import InputError
from ldcast.products.maps import CHANCE_SCALE, RAIN_SCALE
from ldcast.products.video import ENCODER, require_ffmpeg, save_mp4

needs_ffmpeg = pytest.mark.skipif(
    shutil.which("ffmpeg") is None, reason="ffmpeg makes and here also reads .mp4, an extra"
)


def decode(path: Path, height: int, width: int) -> np.ndarray:
    """(n, height, width, 3) uint8, as a player that heeds the file's colour matrix shows them."""
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-vf", "scale=in_color_matrix=bt709"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"]
    pixels = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(pixels, np.uint8).reshape(-1, height, width, 3)


def rgb(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


@needs_ffmpeg
def test_pictures_stay_as_long_as_asked_in_their_colours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Odd sides, which 4:2:0 has not, get a white line at the right and at the bottom."""
    colours = [rgb(colour) for colour in (*RAIN_SCALE.colours, *CHANCE_SCALE.colours)]
    pictures = [np.full((33, 41, 3), colour, np.uint8) for colour in colours]
    durations = [100 + 50 * (i % 3) for i in range(len(colours))]
    monkeypatch.chdir(tmp_path)
    save_mp4(pictures, durations, Path("film:1.mp4"))  # to ffmpeg alone, a protocol called film
    frames = decode(tmp_path / "film:1.mp4", 34, 42)
    expected = np.repeat(colours, [duration // 50 for duration in durations], axis=0)
    assert len(frames) == len(expected)
    middles = frames[:, 16, 20].astype(int)
    assert np.abs(middles - expected).max() <= 4  # 8 bits of Y, Cb and Cr round
    assert (frames[:, 33, 41] > 200).all()


@needs_ffmpeg
def test_every_player_shows_it(tmp_path: Path) -> None:
    save_mp4([np.zeros((32, 32, 3), np.uint8)], [100], tmp_path / "film.mp4")
    command = ["ffmpeg", "-hide_banner", "-i", str(tmp_path / "film.mp4")]
    described = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    assert "h264" in described
    assert "yuv420p(tv, bt709" in described
    content = (tmp_path / "film.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # a browser starts before it has all


@pytest.fixture
def fake_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name that knows the encoder and then fails without reading a picture."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "ffmpeg"
    program.write_text(
        f'#!/bin/sh\ncase "$*" in *-encoders*) echo {ENCODER}; exit 0;; esac\n'
        "echo 'no space, says the fake' >&2\necho 'so it stops' >&2\nexit 3\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return program


def test_a_failing_ffmpeg_is_one_line(fake_ffmpeg: Path, tmp_path: Path) -> None:
    pictures = [np.zeros((200, 300, 3), np.uint8)] * 20  # more than a pipe holds
    with pytest.raises(InputError, match="status 3: no space, says the fake") as caught:
        save_mp4(pictures, [400] * 20, tmp_path / "film.mp4")
    assert "\n" not in str(caught.value)


def test_a_missing_ffmpeg_or_encoder_is_found_before_the_work(
    fake_ffmpeg: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert require_ffmpeg() == str(fake_ffmpeg)
    fake_ffmpeg.write_text("#!/bin/sh\necho mpeg4\n")
    with pytest.raises(InputError, match=rf"lacks the encoder {ENCODER}.*name a \.gif"):
        require_ffmpeg()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match=r"apt install ffmpeg.*name a \.gif"):
        require_ffmpeg()
