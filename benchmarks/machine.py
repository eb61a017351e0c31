"""Where and when a measurement was made: columns that every timing table carries."""

from __future__ import annotations

import datetime
import os

import torch

from agents.run_dir import cpu_model, source_commit


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_columns() -> dict[str, str | int]:
    """Date, processor, cores, PyTorch and commit."""
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "torch": torch.__version__,
        "commit": source_commit(),
    }
