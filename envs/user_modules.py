"""Modules that a user names on a command line (`--env my_envs:MyEnv-v0`): found in the working directory too.

The folder that such a module came from is stored with a run (`folders_of`), so that the run finds its module
again when it is resumed or evaluated from elsewhere (`look_in`).

Neither an installed command nor `python /elsewhere/train_rl.py` has the working directory on its path. It is
added at the end, so that no file there takes the place of a package that the toolkit needs.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from envs.errors import UserError, first_line


def import_user_module(name: str, asked: str) -> ModuleType:
    """The module `name`, for the option value `asked`; raises UserError if it is hidden by another of that name."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    importlib.invalidate_caches()
    try:
        _refuse_hidden(name.partition(".")[0], asked)
        return importlib.import_module(name)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"cannot import module {name!r} of {asked!r}: {type(error).__name__}: {first_line(error)} "
            "(is it in this directory, installed, or on PYTHONPATH?)"
        ) from error


def folders_of(*asked: str) -> dict[str, str]:
    """For the module of every imported `module:Name`: its top-level name, and the folder it was found in."""
    tops = {name.partition(":")[0].partition(".")[0] for name in asked if ":" in name}
    folders = {}
    for top in sorted(tops & set(sys.modules)):
        module = sys.modules[top]
        # A package without __init__.py has no file, a notebook neither file nor path.
        place = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
        path = Path(place or ".").resolve()
        if place and not {"site-packages", "dist-packages"} & set(path.parts):
            folders[top] = str(path.parents[path.name == "__init__.py"])
    return folders


def look_in(folders: Mapping[str, str]) -> None:
    """Make modules importable from the folders where `folders_of` found them, unless they are found without."""
    here = Path.cwd()
    for top, folder in folders.items():
        known = top in sys.modules or importlib.util.find_spec(top) or here.joinpath(top).is_dir()
        place = Path(folder)
        if known or here.joinpath(f"{top}.py").is_file() or not place.is_absolute():
            continue
        if place.joinpath(f"{top}.py").is_file() or place.joinpath(top).is_dir():
            sys.path.append(folder)


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
