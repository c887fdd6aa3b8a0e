"""The examples in the documents run."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent


def test_the_examples_for_users_of_mlcast_run() -> None:
    text = (ROOT / "docs/from_mlcast.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names: dict = {}
    exec("\n".join(blocks), names)
    assert names["rain"].shape == (2, 20, 60, 90)
    assert torch.isfinite(names["rain"]).all()


@pytest.mark.parametrize(
    "page", ["README.md", "docs/products.md", "docs/published.md", "docs/results.md"]
)
def test_links_between_the_documents_lead_somewhere(page) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)\s]+)\)", text)
    assert links
    for link in links:
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def anchors(page: Path) -> list[str]:
    """What a heading is called in links: lower case, no punctuation, hyphens for blanks."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
