"""The examples in the documents run."""

import ast
import pkgutil
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
PAGES = [page.relative_to(ROOT) for page in (ROOT / "docs").rglob("*.md")]


def test_the_examples_for_users_of_mlcast_run() -> None:
    text = (ROOT / "docs/from_mlcast.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names: dict = {}
    exec("\n".join(blocks), names)
    assert names["rain"].shape == (2, 20, 60, 90)
    assert torch.isfinite(names["rain"]).all()


@pytest.mark.parametrize("page", ["README.md", *sorted(map(str, PAGES))])
def test_links_between_the_documents_lead_somewhere(page) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        links = re.findall(r"\]\((?!https?:)([^)#\s]+\.md)", page.read_text(encoding="utf-8"))
        found = {(page.parent / link).resolve() for link in links}
        waiting += found - seen
        seen |= found
    assert {(ROOT / page).resolve() for page in PAGES} <= seen


@pytest.mark.parametrize("page", ["README.md", *sorted(map(str, PAGES))])
def test_what_examples_import_exists(page) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        for name in imported(ast.parse(block)):
            if name.split(".")[0] in ("ldcast", "train_diffusion", "train_autoenc"):
                pkgutil.resolve_name(name)


def imported(tree: ast.Module) -> list[str]:
    """Dotted names of all that a program imports, those of `from` imports with their module's."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def anchors(page: Path) -> list[str]:
    """What a heading is called in links: lower case, no punctuation, hyphens for blanks."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
