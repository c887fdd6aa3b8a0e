"""Fills the templates in `web`: pages of one file, which fetch nothing from anywhere."""

from __future__ import annotations

import html
import json
import re
from importlib.resources import files
from typing import Any

STYLES = ("uPlot.min.css", "page.css")
SCRIPTS = ("uPlot.iife.min.js", "packing.js", "maps.js")


def fill_page(
    name: str, title: str, about: dict[str, Any], data: str, scripts: tuple[str, ...]
) -> bytes:
    """The page `name`.html with its own style and scripts, after those that pages share.

    about: what the script is to know; no NaN. data: images packed by `packing.pack`, or nothing.
    """
    parts = {
        "title": html.escape(title),
        "style": "".join(map(_read, (*STYLES, f"{name}.css"))),
        "about": json.dumps(about, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        "data": data,
        "script": "\n".join(map(_read, (*SCRIPTS, *scripts))),
    }
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _read(f"{name}.html"))
    return page.encode()


def _read(name: str) -> str:
    return (files("ldcast.products") / "web" / name).read_text(encoding="utf-8")
