"""What ends early loads little: --help and a wrong option need neither PyTorch nor Gymnasium nor matplotlib."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import envs
import memory
from memory import CORES
from recall.names import SCORE_NAMES
from recall.scores.registry import SCORES
from tasks import TASKS

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "gymnasium", "minigrid", "matplotlib", "numpy", "tensorboard", "rich", "PIL")
RUN = """
import sys
command, *argv = sys.argv[1:]
code = 0
try:
    __import__(command).main(argv)
except SystemExit as end:
    code = end.code
except ValueError as error:
    code = error.code
print("loaded:", *(name for name in {heavy} if name in sys.modules), "code:", code)
"""


def fresh(program: str, *argv: str) -> str:
    """The last line that a program prints in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-c", program, *argv], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "code"),
    [
        ("train_rl --help", 0),
        ("train_rl --preset maze --core lstn", 2),
        ("train_rl --larning-rate 1", 2),
        ("train_rl --preset mase", 2),
        ("train_rl --ranks two", 2),
        ("train_rl --resume --run-dir /nowhere", 2),
        ("evaluate --help", 0),
        ("evaluate runs/maze --score removel", 2),
        ("evaluate runs/maze --top-k 99", 2),
        ("train_task --help", 0),
        ("train_task dictionary --help", 0),
        ("train_task prototypes --help", 0),
        ("train_task dictionnary", 2),
        ("train_task dictionary --larning-rate 1", 2),
        ("train_task copy --core lstn", 2),
        ("train_task curve-fit --tau-end 0", 2),
        ("train_task babi --tasks 3", 2),
        ("train_task --steps 1", 2),
        ("train_task --resume --run-dir /nowhere", 2),
    ],
)
def test_what_ends_early_loads_little(argv: str, code: int) -> None:
    assert fresh(RUN.format(heavy=HEAVY), *argv.split()) == f"loaded: code: {code}"


@pytest.mark.parametrize("package", [envs, memory])
def test_names_that_are_loaded_when_asked_for_are_those_that_type_checkers_see(package: object) -> None:
    tree = ast.parse(Path(package.__file__).read_text())  # type: ignore[attr-defined]
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {part.module: sorted(name.name for name in part.names) for part in block.body}  # type: ignore[attr-defined]
    assert seen == {home: sorted(names.split()) for home, names in package.HOMES.items()}  # type: ignore[attr-defined]
    assert all(hasattr(package, name) for names in seen.values() for name in names)
    assert not hasattr(package, "nothing_of_the_kind")


@pytest.mark.parametrize("name", CORES)
def test_every_core_stands_where_the_registry_says(name: str) -> None:
    module, _, builder = CORES[name].place.partition(":")
    assert callable(getattr(importlib.import_module(module), builder))


@pytest.mark.parametrize("name", TASKS)
def test_every_task_stands_where_the_list_of_tasks_says(name: str) -> None:
    module, _, builder = TASKS[name].place.partition(":")
    assert callable(getattr(importlib.import_module(module), builder))


def test_the_names_of_scores_are_those_of_the_registry() -> None:
    assert tuple(SCORES) == SCORE_NAMES


@pytest.mark.slow
def test_an_optimizer_step_does_not_load_the_compiler() -> None:
    program = """
import sys, torch
from agents.optimizer import Adam
x = torch.nn.Parameter(torch.ones(3))
optimizer = Adam([x], lr=0.1, fused=True)
x.sum().backward()
optimizer.step()
optimizer.load_state_dict(optimizer.state_dict())
optimizer.zero_grad()
print(x.tolist() != [1.0] * 3, x.grad, "torch._dynamo" in sys.modules)
"""
    assert fresh(program) == "True None False"


@pytest.mark.slow
@pytest.mark.parametrize("order", ["import envs, gymnasium", "import gymnasium, envs"])
def test_importing_envs_registers_whatever_is_imported_first(order: str) -> None:
    ids = "MiniGrid-MemoryS7-v0", "mnm/GridMaze9-v0"
    assert fresh(f"{order}; print(*(i in gymnasium.registry for i in {ids}))") == "True True"
