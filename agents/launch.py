"""All cores by one command: `--ranks N` starts the ranks of a run itself, on the launcher that torchrun is made of.

    python train_rl.py --preset maze --ranks auto --run-dir runs/maze

What the ranks do together is in `agents/distributed.py`; here they are only started, stopped and waited for.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

from envs.errors import UserError

RANK_TIMEOUT = 600.0
"""Seconds that a rank waits for the others; one whose process ended is noticed at once."""
TOPOLOGY = Path("/sys/devices/system/cpu")


def physical_cores(topology: Path = TOPOLOGY) -> int:
    """Cores that this process may use; two hardware threads of one core count once."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    siblings = [topology / f"cpu{cpu}" / "topology" / "thread_siblings_list" for cpu in usable]
    try:
        return len({path.read_text().strip() for path in siblings})
    except OSError:
        return len(usable)


def rank_count(asked: str, num_envs: int, device: str) -> int:
    """How many ranks `--ranks` asks for; `auto`: one per GPU, else one per core, as far as they share the environments.

    Raises UserError.
    """
    if asked != "auto":
        if not asked.isdecimal() or int(asked) < 1:
            raise UserError(f"--ranks must be a whole number from 1, or auto, got {asked!r}")
        return int(asked)
    import torch

    on_gpu = device != "cpu" and torch.cuda.is_available()
    most = torch.cuda.device_count() if on_gpu else physical_cores()
    return max(count for count in range(1, max(1, most) + 1) if num_envs % count == 0)


def is_rank() -> bool:
    """Whether this process is a rank already, started by torchrun or by `launch`."""
    return "TORCHELASTIC_RUN_ID" in os.environ


LAUNCHER = "MNM_LAUNCHER"
"""Environment variable of a rank that `launch` started: the process that did."""


def stay_with_launcher() -> bool:
    """From now on this rank ends when its launcher does, else it would wait for the others; False if that is gone."""
    from envs.door import end_with_parent

    end_with_parent()
    parent = str(os.getppid())
    return os.environ.get(LAUNCHER, parent) == parent


def launch(count: int, argv: Sequence[str]) -> int:
    """Run this program with `argv` in `count` ranks; returns the exit code that the ranks ended with."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # The launcher reports what each rank has said already.
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ[LAUNCHER] = str(os.getpid())
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
    )
    try:
        elastic_launch(config, sys.executable)("-u", sys.argv[0], *argv)
    except SignalException as error:
        # Ctrl-C and its like: the ranks have saved and ended.
        return 128 + int(error.sigval)
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        return code if code > 0 else 128 - code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0
