"""What a page holds, and what it shows in a headless Chromium, where there is one.

The fixtures `browser` and `opened` are in conftest.py.
"""

from __future__ import annotations

import base64
import functools
import json
import re
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FETCHES = r'(src|href)="|@import|url\(|fetch\(|XMLHttpRequest'  # none may be in a page


@functools.cache
def reason_for_none() -> str:
    """Why there is no browser; nothing where there is one."""
    try:
        import playwright.sync_api  # noqa: F401
    except ModuleNotFoundError:
        return "playwright is not installed"
    return "" if shutil.which("chromium") else "there is no chromium"


needs_browser = pytest.mark.skipif(bool(reason_for_none()), reason=reason_for_none())


@contextmanager
def launched() -> Iterator[Any]:
    """A browser, to be shared: it takes a second to start."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        yield chromium
        chromium.close()


def open_page(chromium: Any, path: Path, said: list[str], **settings: Any) -> Any:
    """The page, ready; what it says in its console, or asks from elsewhere, goes to `said`."""
    asked: list[str] = []
    page = chromium.new_context(**settings).new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on(
        "request",
        lambda request: None if request.url == path.as_uri() else said.append(request.url),
    )
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready=yes]", timeout=60_000)
    said += [url for url in asked if url != path.as_uri()]
    return page


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """The images (N, h, w) of codes that a page holds, undone as its script does."""
    about, page = about_of(path), path.read_text(encoding="utf-8")
    packed = base64.b64decode(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    height, width = about["shape"]
    images = np.frombuffer(zlib.decompress(packed, -15), np.uint8).reshape(-1, height, width)
    codes = np.zeros((len(images), height + 1, width + 1), int)
    for row in range(height):
        for column in range(width):
            left, above = codes[:, row + 1, column], codes[:, row, column + 1]
            plane = left + above - codes[:, row, column]
            expected = np.clip(plane, np.minimum(left, above), np.maximum(left, above))
            codes[:, row + 1, column + 1] = (images[:, row, column] + expected) % 256
    codes, arrays, start = codes[:, 1:, 1:], {}, 0
    for name, count in about["arrays"]:
        arrays[name] = codes[start : start + count]
        start += count
    return arrays


def rates(codes: np.ndarray, about: dict[str, Any]) -> np.ndarray:
    """mm/h of codes (...)"""
    wet = about["lowest_rate"] * 10 ** ((codes - 1) * about["step_db"] / 10)
    return np.where(codes == 255, np.nan, np.where(codes == 0, 0, wet))


def about_of(path: Path) -> dict[str, Any]:
    """What a page holds as JSON."""
    page = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="about">(.*?)</script>', page, re.DOTALL)[1])
