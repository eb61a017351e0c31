"""Which room may import which: the layers are written down here, and no imports run in a circle.

Every import counts, also one inside a function or under TYPE_CHECKING: a reader follows them all.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

PACKAGES = ("envs", "memory", "agents", "recall", "tasks", "benchmarks")
"""From the lowest to the highest: a package imports itself and those before it."""
COMMANDS = ("train_rl", "train_task", "evaluate")
"""The scripts at the top; only other scripts and benchmarks may import them."""
ROOMS_OF_MEMORY = (
    ("memory.options",),
    ("memory.core",),
    ("memory.recurrent", "memory.mnm.neural"),
    ("memory.hard", "memory.mnm.reference", "memory.mnm.tape"),
    ("memory.mnm.torch_backend", "memory.mnm.cpp_backend"),
    ("memory.mnm.fast",),
    ("memory.user_core",),
    ("memory.config",),
    ("memory.__init__",),
)
"""Rooms of one line may import each other."""


def files() -> dict[str, Path]:
    """Module name -> file; a package is `name.__init__`, so that its own imports are its own."""
    found = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    found += [ROOT / f"{name}.py" for name in COMMANDS]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in found}


def imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of this project that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = (name, name.rpartition(".")[0])
            yield from [x for part in parts for x in (part, f"{part}.__init__") if x in known][:1]


KNOWN = files()
GRAPH = {name: set(imports(path, KNOWN)) for name, path in KNOWN.items()}


def layer(name: str) -> int:
    """The place of a module's package; the commands stand above recall and tasks."""
    return PACKAGES.index("benchmarks") if name in COMMANDS else PACKAGES.index(name.split(".")[0])


def room(name: str) -> int:
    """The line of ROOMS_OF_MEMORY that a module stands in; a package's own file stands with its room."""
    for number, rooms in enumerate(ROOMS_OF_MEMORY):
        if any(name == r or name.startswith(f"{r}.") for r in rooms):
            return number
    return -1


def test_the_search_for_imports_finds_them() -> None:
    assert "memory.core" in GRAPH["memory.recurrent.cores"]
    assert "memory.__init__" in GRAPH["agents.model"]
    assert sum(map(len, GRAPH.values())) > 300


def test_no_package_imports_a_higher_one() -> None:
    upward = [(a, b) for a, targets in GRAPH.items() for b in targets if layer(b) > layer(a)]
    assert upward == []


def test_no_room_of_memory_imports_a_higher_one() -> None:
    inside = {a: targets for a, targets in GRAPH.items() if a.startswith("memory.")}
    lost = [name for name in inside if room(name) < 0 and inside[name]]
    upward = [(a, b) for a, targets in inside.items() for b in targets if room(b) > room(a)]
    assert (lost, upward) == ([], [])


@pytest.mark.parametrize("package", PACKAGES)
def test_no_imports_run_in_a_circle(package: str) -> None:
    inside = {a: targets for a, targets in GRAPH.items() if a.startswith(f"{package}.")}
    try:
        TopologicalSorter(inside).prepare()
    except CycleError as error:
        pytest.fail(f"imports in a circle: {' -> '.join(error.args[1])}")
