"""Modules that a user names on a command line (`--env my_envs:MyEnv-v0`): found in the working directory too.

Neither an installed command nor `python /elsewhere/train_rl.py` has the working directory on its path. It is
added at the end, so that no file there takes the place of a package that the toolkit needs.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from envs.errors import UserError


def import_user_module(name: str, asked: str) -> ModuleType:
    """The module `name`, for the option value `asked`; raises UserError if it is hidden by another of that name."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    importlib.invalidate_caches()
    _refuse_hidden(name.partition(".")[0], asked)
    return importlib.import_module(name)


def _refuse_hidden(top: str, asked: str) -> None:
    """A file `top.py` or package `top/` of the working directory that the import would not take."""
    local = next((p for p in (Path(top, "__init__.py"), Path(f"{top}.py")) if p.is_file()), None)
    if local is None:
        return
    loaded = sys.modules.get(top)
    spec = importlib.util.find_spec(top) if loaded is None else loaded.__spec__
    origin = None if spec is None else spec.origin
    if origin is not None and not (Path(origin).exists() and local.samefile(origin)):
        raise UserError(
            f"{top!r} in {asked!r} means {origin}, which hides {local} of this directory: rename yours, for "
            f"example to my_{top}"
        )
