"""The examples in the documents run."""

import re
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent


def test_the_examples_for_users_of_mlcast_run() -> None:
    text = (ROOT / "docs/from_mlcast.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names: dict = {}
    exec("\n".join(blocks), names)
    assert names["rain"].shape == (2, 20, 60, 90)
    assert torch.isfinite(names["rain"]).all()
