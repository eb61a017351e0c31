"""The compiled kernel: which compiler, a damaged library, no home; and what a run says it uses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from memory import CoreConfig, make_core
from memory.mnm.cpp_backend import build as module
from memory.mnm.cpp_backend.build import KernelUnavailable, find_compiler, find_kernel, library_path, load
from memory.mnm.fast import implementation_in_use


def test_the_compiler_is_split_as_a_shell_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("ccache", "g++"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_compiler("ccache g++ -m64") == [f"{tmp_path}/ccache", "g++", "-m64"]
    assert find_compiler("") == [f"{tmp_path}/g++"]
    assert find_compiler("nonesuch") == []
    assert find_compiler("'") == []


@pytest.mark.parametrize("harm", ["cut", "flipped", "empty", "a folder"])
def test_a_damaged_library_is_built_anew(harm: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if isinstance(find_kernel(), KernelUnavailable):
        pytest.skip("no compiled kernel here")
    whole, path = library_path().read_bytes(), tmp_path / "memory.so"
    built: list[Path] = []

    def build(target: Path) -> None:
        built.append(target)
        target.write_bytes(whole)

    monkeypatch.setattr(module, "build", build)
    path.write_bytes(whole)
    assert load(path).mnm_vector_bytes() > 0
    assert not built
    if harm == "a folder":
        path.unlink()
        path.mkdir()
        with pytest.raises((KernelUnavailable, OSError)):
            load(path)
        return
    path.unlink()
    path.write_bytes({"cut": whole[:-100], "flipped": whole[:999] + b"?" + whole[1000:], "empty": b""}[harm])
    assert load(path).mnm_vector_bytes() > 0
    assert built == [path]


def test_a_user_without_a_home_builds_in_a_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert library_path().name.endswith(".so")


@pytest.mark.parametrize(
    ("asked", "said"), [("plain", "plain, as asked for"), ("fused", "fused, as asked for")]
)
def test_the_implementation_in_use_is_said(asked: str, said: str) -> None:
    core = make_core(CoreConfig(name="mnm-p", hidden_size=8, memory_size=4, implementation=asked), 3)  # type: ignore
    assert implementation_in_use(core) == said


def test_why_nothing_faster_is_used_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = KernelUnavailable("no C++ compiler was found")
    for place in ("memory.mnm.fast.find_kernel", "memory.mnm.cpp_backend.bindings.find_kernel"):
        monkeypatch.setattr(place, lambda: reason)
    core = make_core(CoreConfig(name="mnm-p", hidden_size=8, memory_size=4), 3)
    assert implementation_in_use(core.to(torch.float32)) == "fused, because no C++ compiler was found"
    assert implementation_in_use(make_core(CoreConfig(name="lstm", hidden_size=8), 3)) is None
