"""Packages that load a file when one of its names is first asked for.

Most commands end before they need PyTorch or Gymnasium: they print --help, or refuse an option. Seconds of loading
would come before that if every package loaded all of its files.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any


def lazy(package: str, homes: Mapping[str, str]) -> tuple[list[str], Callable[[str], Any]]:
    """`__all__` and `__getattr__` of `package`, whose public names come from other files: `homes` is file -> names."""
    home_of = {name: home for home, names in homes.items() for name in names.split()}

    def load(name: str) -> Any:
        if name in home_of:
            found = getattr(importlib.import_module(home_of[name]), name)
        elif not name.startswith("_") and find_spec(f"{package}.{name}") is not None:
            found = importlib.import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, found)
        return found

    return sorted(home_of), load
