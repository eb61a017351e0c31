"""Builds the C++ kernel of the memory (memory/mnm/cpp_backend/kernel/) once per machine and loads it.

The library is a plain one, without Python's or torch's headers, so that it compiles in seconds. It is kept
where torch keeps its extensions, under a name made of the source, the flags and the processor: a changed
source or another machine that shares the folder builds its own. It is written beside its place and then
renamed, so that two processes that build at once cannot harm each other.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from envs.errors import UserError

SOURCE = Path(__file__).resolve().parent / "kernel"
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-shared", "-pthread")
"""Nothing here lets the compiler forget NaN or infinity; -march=native is added where it is known."""
TIMEOUT = 300
DIGEST_BYTES = 32


class KernelUnavailable(Exception):
    """Why there is no compiled kernel, in words that follow "because"."""


@functools.cache
def find_kernel() -> ctypes.CDLL | KernelUnavailable:
    """The library, built if need be, or the reason why there is none; asked once per process."""
    try:
        return load(library_path())
    except KernelUnavailable as reason:
        return reason


def require_kernel() -> None:
    """Raises UserError if the kernel was asked for by name and cannot be had."""
    found = find_kernel()
    if isinstance(found, KernelUnavailable):
        raise UserError(
            f"implementation 'compiled' cannot be used because {found}; install a C++ compiler or choose 'fused'"
        )


def load(path: Path) -> ctypes.CDLL:
    """The library at `path`, built anew where it is missing or damaged."""
    if not is_whole(path):
        build(path)
    try:
        library = ctypes.CDLL(str(path))
        library.mnm_vector_bytes.restype = ctypes.c_int64
    except (OSError, AttributeError) as error:
        raise KernelUnavailable(f"{path} cannot be loaded ({error})") from None
    return library


def is_whole(path: Path) -> bool:
    """Whether the file ends with the digest of what comes before; loading half a library may end the process."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return content[-DIGEST_BYTES:] == hashlib.sha256(content[:-DIGEST_BYTES]).digest()


def seal(path: Path) -> None:
    """Append the digest that `is_whole` looks for; whoever loads a library ignores what follows it."""
    digest = hashlib.sha256(path.read_bytes()).digest()
    with path.open("ab") as file:
        file.write(digest)


def library_path() -> Path:
    """Where the library for this source on this processor belongs."""
    key = hashlib.sha256("\n".join([*FLAGS, os.environ.get("CXX", ""), processor()]).encode())
    for source in sorted(SOURCE.iterdir()):
        key.update(source.read_bytes())
    root = os.environ.get("TORCH_EXTENSIONS_DIR")
    try:
        folder = Path(root) if root else Path.home() / ".cache" / "torch_extensions"
    except RuntimeError:  # a user without a home
        folder = Path(tempfile.gettempdir()) / f"torch_extensions-{os.getuid()}"
    return folder / "mnm_rl" / f"memory-{key.hexdigest()[:16]}.so"


def processor() -> str:
    """What -march=native depends on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    told = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return "\n".join(sorted(set(told))) or f"{platform.machine()} {platform.processor()}"


def find_compiler(asked: str) -> list[str]:
    """The words that start the compiler: CXX as a shell would split it ("ccache g++"), else a usual one; or nothing."""
    try:
        candidates = [shlex.split(asked)] if asked else [["c++"], ["g++"], ["clang++"]]
    except ValueError:
        return []
    for words in candidates:
        program = shutil.which(words[0]) if words else None
        if program is not None:
            return [program, *words[1:]]
    return []


def build(path: Path) -> None:
    """Compile to `path`; with the general instruction set where the compiler does not know the native one."""
    asked = os.environ.get("CXX", "").strip()
    compiler = find_compiler(asked)
    if not compiler:
        raise KernelUnavailable(
            f"the C++ compiler {asked!r} was not found" if asked else "no C++ compiler was found"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    except OSError as error:
        raise KernelUnavailable(f"{path.parent} cannot be written ({error.strerror})") from None
    os.close(handle)
    print("compiling the memory kernel (some seconds, once per machine) ...", file=sys.stderr, flush=True)
    try:
        for native in (["-march=native"], []):
            command = [*compiler, *FLAGS, *native, str(SOURCE / "kernel.cpp"), "-o", temporary]
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
            if done.returncode == 0:
                seal(Path(temporary))
                os.chmod(temporary, 0o755)
                os.replace(temporary, path)
                return
        said = done.stderr.strip().splitlines() or ["no message"]
        raise KernelUnavailable(f"{' '.join(compiler)} failed ({said[0]})")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelUnavailable(f"{' '.join(compiler)} could not be run ({error})") from None
    finally:
        Path(temporary).unlink(missing_ok=True)
