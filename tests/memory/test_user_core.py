"""A core of the user's own, `module:Class`: every mistake is one line; a right one trains, resumes, evaluates."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from checks import refusal
from torch import nn

import evaluate
import train_rl
import train_task
from agents.evaluation import load_agent
from envs.errors import UserError
from examples.gated_delta import GatedDelta
from memory import CoreConfig, make_core, reset_state

GOOD = """
from typing import NamedTuple
import torch
from memory import MemoryCore, output_without_writes

class State(NamedTuple):
    trace: torch.Tensor

class Leaky(MemoryCore):
    def __init__(self, input_size, size=8):
        super().__init__()
        self.output_size = size
        self.layer = torch.nn.Linear(input_size, size)

    def initial_state(self, batch_size):
        return State(self._zeros(batch_size, self.output_size))

    def step(self, x_t, state, record=False, noise=None):
        trace = 0.9 * state.trace + torch.tanh(self.layer(x_t))
        return output_without_writes(trace), State(trace)
"""
ZEROS = "State(self._zeros(batch_size, self.output_size)"
WRONG = {
    "class Leaky:": ("class Leaky(MemoryCore):", "is no torch module; derive it from memory.MemoryCore"),
    "class Leaky(torch.nn.Module):": ("class Leaky(MemoryCore):", "it has no writes; derive it"),
    "class Leaks(MemoryCore):": ("class Leaky(MemoryCore):", "has no class 'Leaky'; did you mean Leaks?"),
    "import torhc\n": ("import torch\n", "cannot import module .*: ModuleNotFoundError: No module named 'torhc'"),
    "def __init__(self, input_size, width=8":
        ("def __init__(self, input_size, size=8", "refuses --core-kwargs {'size': 6}: .*'size'; it takes width=8"),
    "output_without_writes(trace[:, 1:])":
        ("output_without_writes(trace)", r"must return features \[2, 6\] from step, not \[2, 5\]"),
    "initial_state(self)": ("initial_state(self, batch_size)", "failed in initial_state.*TypeError"),
    "State(self._zeros(self.output_size, batch_size)": (ZEROS, r"has the state trace \[6, 2\] for a batch of 2"),
    f"{ZEROS} + 1": (ZEROS, "has an initial_state that is not all zeros"),
    "(self._zeros(batch_size, self.output_size),": (ZEROS, "a named tuple of tensors as state, not tuple"),
    "0.9 * state.trace.T": ("0.9 * state.trace", r"failed in step on inputs \[2, 5\]: RuntimeError.*line 19\)"),
    "return trace, State":
        ("return output_without_writes(trace), State", r"must return \(CoreOutput, state\) from step, not tuple"),
    "State(trace[:, :1])": ("State(trace)", r"changes its state in step from \[2, 6\] .* to \[2, 1\]"),
    "output_without_writes((-trace.abs()).log())":
        ("output_without_writes(trace)", "returns features from step that are not finite"),
    "writes = True\n    def step": ("def step", "sets writes = True, which takes"),
    "addresses = True\n    def step": ("def step", "must return a record of AddressRecord"),
    "def unroll(self, xs, state, is_first, noise=None):\n"
    "        return MemoryCore.unroll(self, xs, state, 0 * is_first.int() > 0, noise)\n    def step":
        ("def step", "does not compute the same in unroll as in repeated reset_state and step"),
}  # fmt: skip
"""What is wrong: what it takes the place of in GOOD, and what the error says."""
RUN = [
    "--num-envs", "4", "--rollout-steps", "9", "--minibatches", "2", "--embedding-size", "16", "--log-every", "1",
    "--core-kwargs", '{"size": 6}',
]  # fmt: skip
TMAZE = ["--env", "mnm/TMaze-v0", "--env-kwargs", '{"length": 3}', "--backend", "sync", *RUN]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A working directory of the user's own, that no later test sees."""
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield folder
    for name in [name for name in sys.modules if name.startswith("cores_of_")]:
        del sys.modules[name]


def forget(monkeypatch: pytest.MonkeyPatch, elsewhere: Path) -> None:
    """As a new process in another directory: nothing imported, nothing on the path."""
    elsewhere.mkdir(exist_ok=True)
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if "project" not in entry])
    for name in [name for name in sys.modules if name.startswith("cores_of_")]:
        del sys.modules[name]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.splitlines()[0][:40])
def test_a_core_that_is_none_is_refused_in_one_line(wrong: str, home: Path) -> None:
    right, message = WRONG[wrong]
    assert right in GOOD
    (home / "cores_of_mine.py").write_text(GOOD.replace(right, wrong, 1))
    with pytest.raises(UserError, match=message) as caught:
        make_core(CoreConfig(name="cores_of_mine:Leaky", kwargs={"size": 6}), 5)
    assert "\n" not in str(caught.value)
    assert "cores_of_mine" in str(caught.value)


def test_names_and_kwargs_are_refused_before_anything_is_imported(home: Path) -> None:
    assert refusal(train_rl.main, "--core", "lstmm").startswith(
        "unknown core 'lstmm' (did you mean lstm?); valid: none,"
    )
    assert "lstm has options instead" in refusal(train_rl.main, "--core", "lstm", "--core-kwargs", '{"a": 1}')
    assert "must be a JSON object" in refusal(train_rl.main, "--core", "a:B", "--core-kwargs", "[1]")
    assert "No module named 'nowhere'" in refusal(train_rl.main, "--core", "nowhere:Core")
    assert "write module:Class" in refusal(train_rl.main, "--core", ":Core")
    assert "is no torch module" in refusal(train_rl.main, "--core", "collections:OrderedDict")
    assert "No module named 'nowhere'" in refusal(train_task.main, "copy", "--core", "nowhere:Core")
    assert not (home / "runs").exists()


def test_trying_it_out_changes_no_random_stream_and_no_mode(home: Path) -> None:
    (home / "cores_of_mine.py").write_text(GOOD)
    torch.manual_seed(0)
    core = make_core(CoreConfig(name="cores_of_mine:Leaky", kwargs={"size": 6}), 5)
    after = torch.rand(3)
    torch.manual_seed(0)
    kind = sys.modules["cores_of_mine"].Leaky
    assert torch.equal(kind(5, size=6).layer.weight, core.layer.weight)
    assert torch.equal(torch.rand(3), after)
    assert core.training


def test_a_core_need_not_derive_from_ours(home: Path) -> None:
    bare = GOOD.replace("class Leaky(MemoryCore)", "class Leaky(torch.nn.Module)").replace(
        "    def initial_state",
        "    writes = addresses = False\n    noise_shape = None\n    unroll = MemoryCore.unroll\n"
        "    _zeros = MemoryCore._zeros\n    set_progress = MemoryCore.set_progress\n"
        "    parameters_changed = MemoryCore.parameters_changed\n\n    def initial_state",
    )
    (home / "cores_of_mine.py").write_text(bare)
    core: nn.Module = make_core(CoreConfig(name="cores_of_mine:Leaky"), 5)
    assert type(core).__name__ == "Leaky"


@pytest.mark.slow
def test_it_trains_resumes_and_plays_from_anywhere(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "cores_of_mine.py").write_text(GOOD)
    core = [*TMAZE, "--core", "cores_of_mine:Leaky"]
    assert train_rl.main([*core, "--total-steps", "36", "--run-dir", "runs/parts"]) == 0
    stored = json.loads((home / "runs/parts/config.json").read_text())
    assert (stored["config"]["core"], stored["modules"]) == (
        "cores_of_mine:Leaky",
        {"cores_of_mine": str(home)},
    )
    forget(monkeypatch, home.parent / "elsewhere")
    parts = home / "runs" / "parts"
    assert "cannot change the architecture option --core-kwargs" in refusal(
        train_rl.main, "--run-dir", str(parts), "--resume", "--core-kwargs", '{"size": 7}'
    )
    assert train_rl.main(["--run-dir", str(parts), "--resume", "--total-steps", "72"]) == 0
    assert evaluate.main([str(parts), "--episodes", "2", "--gif", "a.gif", "--tape", "a.npz"]) == 0
    assert Path("a.gif").stat().st_size > 0


@pytest.mark.slow
def test_it_learns_tasks_and_resumes_them(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "cores_of_mine.py").write_text(GOOD)
    small = ["--batch-size", "4", "--valid-examples", "4", "--test-examples", "4", "--log-every", "1"]
    argv = ["copy", "--core", "cores_of_mine:Leaky", "--core-kwargs", '{"size": 6}', "--steps", "1", *small]
    assert train_task.main(argv) == 0
    run = home / "runs" / "copy-cores_of_mine-Leaky-s0"
    forget(monkeypatch, home.parent / "elsewhere")
    assert train_task.main(["--run-dir", str(run), "--resume", "--steps", "2"]) == 0


def test_a_module_that_has_left_is_one_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "cores_of_mine.py").write_text(GOOD)
    train_rl.main([*TMAZE, "--core", "cores_of_mine:Leaky", "--total-steps", "36", "--run-dir", "run"])
    forget(monkeypatch, home.parent / "elsewhere")
    (home / "cores_of_mine.py").unlink()
    with pytest.raises(UserError, match="cannot import module 'cores_of_mine' of 'cores_of_mine:Leaky'"):
        load_agent(home / "run", "latest", torch.device("cpu"))


@pytest.mark.slow
def test_the_example_recalls_what_it_saw_first() -> None:
    """A sign is shown once among four steps of noise and asked for at the end; forgetting every step cannot answer."""
    torch.manual_seed(0)
    accuracy = {}
    for memory in (True, False):
        core = make_core(
            CoreConfig(name="examples.gated_delta:GatedDelta", kwargs={"heads": 1, "size": 8}), 4
        )
        head = nn.Linear(core.output_size, 1)
        optimizer = torch.optim.Adam([*core.parameters(), *head.parameters()], 1e-2)
        for _ in range(100):
            sign = torch.randint(2, (64,)) * 2.0 - 1.0
            xs = torch.zeros(6, 64, 4)
            xs[0, :, 0], xs[0, :, 1], xs[1:5, :, 2], xs[5, :, 3] = sign, 1.0, torch.randn(4, 64), 1.0
            is_first = torch.full((6, 64), not memory)
            answer = head(core.unroll(xs, core.initial_state(64), is_first)[0].features[-1]).squeeze(1)
            optimizer.zero_grad()
            nn.functional.softplus(-sign * answer).mean().backward()
            optimizer.step()
        accuracy[memory] = float((sign * answer > 0).float().mean())
    assert accuracy[True] > 0.95
    assert accuracy[False] < 0.8


def test_the_example_is_the_gated_delta_rule() -> None:
    """Against its equations, one example and one head at a time in NumPy."""
    torch.manual_seed(1)
    core = GatedDelta(5, heads=2, size=3, output_size=4).double()
    xs, state = torch.randn(4, 1, 5, dtype=torch.float64), core.initial_state(1)
    w, out = np.zeros((2, 3, 3)), np.zeros((4, 4))
    for t, x in enumerate(xs[:, 0].numpy()):
        rows = (core.project.weight.detach().numpy() @ x + core.project.bias.detach().numpy()).reshape(2, 11)
        reads = []
        for i, row in enumerate(rows):
            k, q, v = row[:3] / np.linalg.norm(row[:3]), row[3:6] / np.linalg.norm(row[3:6]), row[6:9]
            forget_gate, write_gate = 1 / (1 + np.exp(-row[9:]))
            w[i] = forget_gate * (w[i] - write_gate * np.outer(w[i] @ k - v, k))
            reads.append(w[i] @ q)
        out[t] = (
            core.output.weight.detach().numpy() @ np.concatenate(reads) + core.output.bias.detach().numpy()
        )
        out[t] += core.skip.weight.detach().numpy() @ x + core.skip.bias.detach().numpy()
    output, last = core.unroll(xs, state, torch.zeros(4, 1, dtype=torch.bool))
    np.testing.assert_allclose(output.features[:, 0].detach().numpy(), out, rtol=1e-12)
    np.testing.assert_allclose(last.w[0].detach().numpy(), w, rtol=1e-12)
    assert not reset_state(last, torch.ones(1, dtype=torch.bool)).w.any()
