"""What an installed toolkit needs beyond a checkout: hints, modules of the user, names, published agents.

The wheel itself is built, installed and used by `.ci/wheel`.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import mnm_rl
from agents import hints, pretrained
from agents.hints import ROOT, hint
from envs.errors import UserError
from envs.user_modules import import_user_module

TEXT = "python evaluate.py runs/a; torchrun --nproc-per-node 2 train_rl.py"


def test_hints_in_a_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    assert hint(TEXT, "train_rl.py") == TEXT
    monkeypatch.chdir(tmp_path)
    assert hint("python evaluate.py a", "train_rl.py") == f"python {ROOT / 'evaluate.py'} a"


@pytest.mark.parametrize("installed", [True, False])
def test_hints_once_installed(installed: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hints, "INSTALLED", installed)
    monkeypatch.setenv("PATH", "")
    program = str(tmp_path / "mnm-train")
    assert hint(TEXT, program) == "mnm-evaluate runs/a; torchrun --nproc-per-node 2 --no-python mnm-train"
    (tmp_path / "mnm-evaluate").touch()
    assert hint("python evaluate.py a", program) == f"{tmp_path / 'mnm-evaluate'} a"


def test_a_module_of_the_working_directory_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (tmp_path / "only_here_module.py").write_text("X = 3\n")
    assert import_user_module("only_here_module", "only_here_module:X").X == 3
    assert sys.path[-1] == str(tmp_path)


@pytest.mark.parametrize("name", ["memory.py", "envs/__init__.py", "json.py"])
def test_a_hidden_module_is_refused(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    top = Path(name).parts[0].removesuffix(".py")
    with pytest.raises(UserError, match=f"^'{top}' in '{top}:X' means .* hides {name} .*rename yours"):
        import_user_module(top, f"{top}:X")


def test_a_name_that_is_taken_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "memory.py").touch()
    run = (
        "import sys; sys.path.insert(0, {0!r}); {1}; sys.path.insert(0, {2!r}); import mnm_rl; import memory"
    )
    for first, code in (("import memory", 1), ("pass", 0)):
        script = run.format(str(tmp_path), first, str(ROOT))
        done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        if code:
            assert f"'memory', which {tmp_path / 'memory.py'} has taken" in done.stderr.splitlines()[-1]


def test_no_module_has_two_names() -> None:
    with pytest.raises(ModuleNotFoundError):
        __import__("mnm_rl.agents")


def test_the_wheel_holds_every_name() -> None:
    content = (ROOT / "hatch_build.py").read_text()
    assert all(f'"{name}"' in content or f'"{name}.py"' in content for name in mnm_rl.NAMES)
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(scripts) == set(hints.COMMANDS.values())
    assert all(callable(getattr(mnm_rl, target.split(":")[1])) for target in scripts.values())


def test_published_agents_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    there = ROOT / "pretrained" / "maze-mnm-p"
    assert pretrained.find_agent(Path("maze-mnm-p")) == there
    assert pretrained.find_agent(Path("pretrained/maze-mnm-p")) == there
    with pytest.raises(UserError, match=r"maze-mnm-q is neither a run .*did you mean maze-mnm-p"):
        pretrained.find_agent(Path("maze-mnm-q"))
    (tmp_path / "maze-mnm-p").mkdir()
    assert pretrained.find_agent(Path("maze-mnm-p")) == Path("maze-mnm-p")
