"""README and docs tell the truth: every option is listed, every link, path, module and test they name exists."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import pytest

from agents.config import TrainConfig
from agents.files import read_csv
from docs.options import PAGE as OPTIONS
from docs.options import page, row

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]
FOLDERS = "agents|benchmarks|docs|envs|examples|memory|pretrained|recall|tasks|tests"
ENDINGS = "py|md|csv|png|gif|svg|h|cpp|js|css|html|json|txt"
WRITTEN_BY_THE_READER = {
    "my_envs.py",
    "my_module.py",
    "memory/NAME.py",
    "envs/NAME.py",
    "tests/envs/test_NAME.py",
}


def names_in(text: str) -> Iterator[str]:
    """Paths named in `text`: files, folders with a final /, published agents, scripts, modules to run."""
    yield from re.findall(rf"(?<![\w/.~-])((?:{FOLDERS})/[\w./*-]*(?:\.(?:{ENDINGS})\b|/(?![\w*.])))", text)
    yield from re.findall(r"(?<![\w/])(pretrained/[a-z0-9-]+)", text)
    yield from re.findall(r"\bpython ([\w/]+\.py)\b", text)
    modules = re.findall(rf"python -m ((?:{FOLDERS})[\w.]*\w)", text)
    yield from (module.replace(".", "/") for module in modules)


def exists(name: str) -> bool:
    """Whether a name from `names_in` is a file, a folder or a module; patterns must match at least one."""
    return name in WRITTEN_BY_THE_READER or any(
        any(ROOT.glob(name + suffix)) for suffix in ("", ".py", "/__init__.py")
    )


@pytest.mark.parametrize("field", dataclasses.fields(TrainConfig), ids=lambda field: field.name)
def test_every_option_is_in_the_table(field: dataclasses.Field[object]) -> None:
    assert row(field) in OPTIONS.read_text(), "run `python -m docs.options`"


def test_the_page_of_options_is_the_generated_one() -> None:
    assert OPTIONS.read_text() == page(), "run `python -m docs.options`"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_local_link_exists(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", path.read_text())
    assert [target for target in targets if not (path.parent / target).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_heading_that_is_linked_to_exists(path: Path) -> None:
    missing = []
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)#([^)]+)\)", path.read_text()):
        page_text = (path.parent / target if target else path).read_text()
        headings = re.findall(r"^#+ (.+)$", page_text, re.MULTILINE)
        slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
        missing += [f"{target}#{anchor}"] if anchor not in slugs else []
    assert missing == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_repository_path_that_is_named_exists(path: Path) -> None:
    text = path.read_text()
    missing = [name for name in names_in(text) if not exists(name)]
    for file, test in re.findall(r"(?:tests/\w+/)?(test_\w+\.py)::(test_\w+)", text):
        defined = "".join(found.read_text() for found in (ROOT / "tests").rglob(file))
        missing += [f"{file}::{test}"] if f"def {test}(" not in defined else []
    assert missing == []


def importable(name: str) -> bool:
    """Whether a dotted name such as `recall.scores.decision.decision_effect` is a module or part of one."""
    module, _, attribute = name.rpartition(".")
    try:
        parent = importlib.import_module(module)
        return hasattr(parent, attribute) or importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_dotted_name_can_be_imported(path: Path) -> None:
    text = path.read_text()
    names = re.findall(rf"`((?:{FOLDERS})(?:\.[A-Za-z_]\w*)+)[(`]", text)
    for module, imported in re.findall(rf"^from ((?:{FOLDERS})[\w.]*) import ([\w, ]+)$", text, re.MULTILINE):
        names += [f"{module}.{name.strip()}" for name in imported.split(",")]
    files = tuple(f".{ending}" for ending in ENDINGS.split("|"))
    assert [name for name in names if not name.endswith(files) and not importable(name)] == []


def test_a_path_that_does_not_exist_is_noticed() -> None:
    text = "`agents/nowhere.py`, `python nothing.py`, `python -m benchmarks.nowhere` and `agents/learner.py`"
    assert [name for name in names_in(text) if not exists(name)] == [
        "agents/nowhere.py", "nothing.py", "benchmarks/nowhere",
    ]  # fmt: skip
    assert importable("recall.scores")
    assert importable("agents.config.TrainConfig")
    assert not importable("agents.config.Nothing")
    assert not importable("agents.nowhere.Nothing")


RECIPES = (ROOT / "CONTRIBUTING.md").read_text().partition("## Recipes")[2]
STEPS = re.findall(r"^\d\. .*(?:\n   .*)*", RECIPES, re.MULTILINE)


def unknown_names(step: str) -> list[str]:
    """Names in backticks that stand in none of the files that the same step names, nor, without one, in any file."""
    quoted = re.findall(r"`([^`]+)`", step)
    files = [ROOT / name for name in quoted if name.endswith(".py") and (ROOT / name).is_file()]
    files = files or [*ROOT.glob("*/*.py"), *ROOT.glob("*/*/*.py")]
    text = "".join(file.read_text() for file in (*files, ROOT / "memory" / "core.py"))
    return [x for x in quoted if re.fullmatch(r"[A-Za-z_]\w+", x) and not re.search(rf"\b{x}\b", text)]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step[:40])
def test_what_a_recipe_names_stands_where_it_says(step: str) -> None:
    assert unknown_names(step) == []


def test_a_recipe_that_names_what_is_elsewhere_is_noticed() -> None:
    assert len(STEPS) > 15
    assert unknown_names("1. `memory/config.py`: `CORES` and `actions_for`") == ["actions_for"]
    nowhere = "_".join(("no", "such", "name"))
    assert unknown_names(f"1. The docs of `{nowhere}`") == [nowhere]


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    names = [path.name for path in PAGES if path.parent.name == "docs" and path.name != "README.md"]
    assert [name for name in names if f"({name})" not in index] == []


@pytest.mark.parametrize("package", ["agents", "memory"])
def test_the_layout_names_every_file(package: str) -> None:
    layout = (ROOT / "docs" / "architecture.md").read_text()
    tree = re.search(rf"^{package}/\n((?:  .*\n)+)```", layout, re.MULTILINE)
    assert tree is not None
    back_ends = {"torch_backend", "cpp_backend"}
    files = {path.name for path in (ROOT / package).rglob("*.py") if path.parent.name not in back_ends}
    assert set(re.findall(r"\w+\.py", tree[1])) == files - {"__init__.py"}


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


RESULTS_IN_README = {
    "doors, 0.5 M": ("pair-bandit-16", "return_greedy"),
    "treasure, 0.6 M": ("treasure-9", "return_greedy"),
    "islands, 3.5 M": ("island-5-of-5", "return_greedy"),
    "maze 9, 1 M frames": ("maze-9-ppo", "return_sample"),
    "maze 11, 4 M": ("maze-11-ppo", "return_sample"),
    "maze 13, 1 M": ("maze-13-ppo", "return_sample"),
}


@pytest.mark.parametrize("column", RESULTS_IN_README)
def test_the_table_of_results_is_that_of_the_committed_runs(column: str) -> None:
    study, figure = RESULTS_IN_README[column]
    found: dict[str, list[float]] = {}
    for run in read_csv(ROOT / "benchmarks" / "results" / "studies" / f"{study}.csv"):
        if run[figure]:
            found.setdefault(run["core"], []).append(float(run[figure]))
    head, _, *rows = re.findall(r"^\|(.+)\|$", README.read_text().split("\n## Results\n")[1], re.MULTILINE)
    place = [name.strip() for name in head.split("|")].index(column)
    said = {core.strip(): cells[place - 1].strip(" *") for core, *cells in (row.split("|") for row in rows)}
    compared = [core for core in found if re.fullmatch(r"[\d.]+", said.get(core, ""))]
    assert len(compared) >= 2
    for core in compared:
        assert said[core] == f"{fmean(found[core]):.1f}", core
