"""What a process and those that it started hold: memory, descriptors, threads; and whether that grows."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

PROC = Path("/proc")
GROWTH = 0.03
"""Share by which the memory may differ between the second and the last quarter."""


class Usage(NamedTuple):
    """Of a process and all its descendants."""

    memory: int
    """Bytes that are no other process's: the pages shared since a fork count once, with the parent."""
    descriptors: int
    threads: int


def descendants(pid: int) -> list[int]:
    """`pid` and every process that it or its children started."""
    found = [pid]
    with contextlib.suppress(OSError):
        for task in (PROC / str(pid) / "task").iterdir():
            for child in (task / "children").read_text().split():
                found += descendants(int(child))
    return found


def usage(pid: int) -> Usage | None:
    """What is held now; None if one of the processes just ended."""
    memory = descriptors = threads = 0
    try:
        for one in descendants(pid):
            place = PROC / str(one)
            told = dict(line.split(":", 1) for line in (place / "smaps_rollup").read_text().splitlines()[1:])
            memory += 1024 * sum(int(told[kind].split()[0]) for kind in ("Private_Dirty", "Private_Clean"))
            descriptors += len(list((place / "fd").iterdir()))
            threads += len(list((place / "task").iterdir()))
    except OSError:
        return None
    return Usage(memory, descriptors, threads)


def growth(samples: Sequence[Usage]) -> str:
    """What grew between the second and the last quarter of the samples, in words; empty if nothing did."""
    quarter = len(samples) // 4
    if quarter == 0:
        return f"{len(samples)} samples are too few"
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    before, after = (median(one.memory for one in part) for part in (early, late))
    found = []
    if after > before * (1 + GROWTH):
        found.append(f"memory {before / 2**20:.0f} -> {after / 2**20:.0f} MiB")
    for name in ("descriptors", "threads"):
        # The least: files are open for an instant now and then.
        least = [min(getattr(one, name) for one in part) for part in (early, late)]
        if least[1] > least[0]:
            found.append(f"{name} {least[0]} -> {least[1]}")
    return ", ".join(found)
