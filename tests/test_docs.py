"""The examples in the documents run."""

import ast
import inspect
import pkgutil
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
PAGES = [page.relative_to(ROOT) for page in (ROOT / "docs").rglob("*.md")]
HOMES = {  # of the names in docs/api.md that are not in `ldcast` itself
    "autoencoder_loss": "ldcast.models",
    "Known": "ldcast.inputs.known",
    "RainScale": "ldcast.rain",
    "from_model_units": "ldcast.rain",
    "to_model_units": "ldcast.rain",
}


def test_the_examples_for_users_of_mlcast_run() -> None:
    names = run_examples("docs/from_mlcast.md")
    assert names["rain"].shape == (2, 20, 60, 90)
    assert torch.isfinite(names["rain"]).all()


def test_the_examples_of_the_python_interface_run(capsys) -> None:
    names = run_examples("docs/api.md")
    assert "expected (4, H, W)" in capsys.readouterr().out
    assert names["rain"].shape == (2, 20, 64, 80)
    assert names["loss"].shape == (2,)
    assert names["output"].shape == names["z_future"].shape == (2, 4, 5, 16, 24)
    assert names["forecast"].shape == (2, 20, 50, 70)


def run_examples(page: str) -> dict:
    """The names that all Python blocks of a page leave, run one after the other."""
    text = (ROOT / page).read_text(encoding="utf-8")
    names: dict = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)), names)
    return names


def signatures() -> list[str]:
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    return "".join(re.findall(r"```text\n(.*?)```", text, flags=re.DOTALL)).splitlines()


@pytest.mark.parametrize("signature", signatures())
def test_signatures_of_the_python_interface_are_those_of_the_code(signature) -> None:
    call = ast.parse(signature, mode="eval").body
    assert isinstance(call, ast.Call)
    name = ast.unparse(call.func)
    function = pkgutil.resolve_name(f"{HOMES.get(name.split('.')[0], 'ldcast')}:{name}")
    parameters = inspect.signature(function).parameters.values()
    found = {parameter.name: parameter for parameter in parameters if parameter.name != "self"}
    written: dict = {ast.unparse(argument): inspect.Parameter.empty for argument in call.args}
    for word in call.keywords:
        written[word.arg or ast.unparse(word.value)] = (
            ast.literal_eval(word.value) if word.arg else inspect.Parameter.empty
        )
    assert list(written) == list(found)
    for key, default in written.items():
        if default != {}:  # of a dataclass, whose factory says so
            assert found[key].default == default, key


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


def commands() -> dict[str, set[str]]:
    """The flags that code blocks give to each script and module, by its name."""
    found: dict[str, set[str]] = {}
    for page in [ROOT / "README.md", *(ROOT / page for page in PAGES)]:
        pieces = page.read_text(encoding="utf-8").split("```")[1::2]  # what is between fences
        blocks = [piece for piece in pieces if piece.startswith("\n")]  # of no language
        for line in "".join(blocks).replace("\\\n", " ").splitlines():
            tool = None
            for word in line.split("#")[0].split():
                if re.fullmatch(r"\w+\.py|ldcast(\.\w+)+", word):
                    tool = word
                elif tool and word.startswith("--"):
                    found.setdefault(tool, set()).add(word.split("=")[0])
    return found


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize(("tool", "flags"), commands().items(), ids=list(commands()))
def test_flags_of_commands_exist(tool, flags, capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", [tool, "--help"])
    run = runpy.run_path if tool.endswith(".py") else runpy.run_module
    with pytest.raises(SystemExit) as ended:
        run(str(ROOT / tool) if tool.endswith(".py") else tool, run_name="__main__")
    assert not ended.value.code
    assert flags - set(re.findall(r"--[\w.-]+", capsys.readouterr().out)) == set()


def test_the_readme_counts_the_lines_of_what_to_read_first() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    given = re.search(
        r"Read these first, in this order \(about ([\d,]+) lines\): ([^:]*?)\.\n", text
    )
    assert given
    paths = re.findall(r"`([^`]+)`", given[2])
    num_lines = sum(len((ROOT / path).read_text().splitlines()) for path in paths)
    assert num_lines == pytest.approx(int(given[1].replace(",", "")), rel=0.05)


def test_the_readme_names_every_folder_of_the_package() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    folders = [path.parent.relative_to(ROOT) for path in ROOT.glob("ldcast/*/__init__.py")]
    assert [folder for folder in folders if f"\n{folder}/ " not in text] == []


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
