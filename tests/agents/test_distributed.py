"""Several ranks: the same update as one, checkpoints of all of them, and what happens when one is killed."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from checks import same
from forked import Command
from rich.console import Console
from test_resume import SMALL, state_of

import train_rl
from agents.checkpoint import load_checkpoint
from agents.config import TrainConfig
from agents.distributed import ALONE, RankLost, Ranks
from agents.learner import Learner
from agents.metrics import read_metrics
from agents.rollout import Collector, split_evenly
from agents.trainer import Trainer, build_model, make_generator
from envs import make_vec
from envs.errors import UserError

pytestmark = pytest.mark.slow

MAZE: dict[str, Any] = {**SMALL, "env": "mnm/GridMaze9-v0", "env_kwargs": '{"max_steps": 13}', "core": "lstm"}
"""Episodes of 13 steps in rollouts of 9: they end inside rollouts and reach across them."""

CASES: dict[str, dict[str, Any]] = {
    "ppo, six minibatches of one environment": {"core": "mnm-p", "num_envs": 6, "minibatches": 6},
    "ppo, an even cut": {"core": "gru", "num_envs": 6, "minibatches": 3, "minibatch_cut": "even"},
    "a2c": {"core": "mnm-g", "algo": "a2c"},
    "addresses drawn at random": {"core": "hard", "num_envs": 6, "minibatches": 3},
    "rows that only reset": {
        "env": "MiniGrid-Empty-5x5-v0",
        "env_kwargs": '{"actions": [0, 1, 2]}',
        "backend": "sync",
        "rollout_steps": 40,
    },
    "normalized": {"normalize_observations": "on", "normalize_rewards": True},
}


def _enter(function: Callable[..., Any], rank: int, folder: Path, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(function(Ranks(rank, 2, rank), *arguments), folder / f"{rank}.pt")


def as_two_ranks(folder: Path, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function(ranks, *arguments)` returns in each of two processes that are connected."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["agents.trainer"])
    folder.mkdir()
    processes = [context.Process(target=_enter, args=(function, r, folder, arguments)) for r in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
        process.kill()
        assert process.exitcode == 0
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def learn(ranks: Ranks, case: str) -> dict[str, Any]:
    """Three updates in float64, and everything that they led to."""
    config = TrainConfig(**{**MAZE, **CASES[case]})
    own = ranks.share(config.num_envs)
    env = make_vec(
        config.env,
        len(own),
        config.seed,
        config.backend,
        config.env_arguments(),
        "next_step",
        first=own.start,
    )
    model = build_model(config, env.observation_space, env.action_space).double()
    torch.nn.init.normal_(model.policy_head.weight, generator=torch.Generator().manual_seed(0))
    cpu = torch.device("cpu")
    collector = Collector(env, model, config.rollout_steps, make_generator(0, 1, cpu), ranks)
    collector.start()
    learner = Learner(model, config, make_generator(0, 2, cpu), ranks)
    valid = []
    for update in range(3):
        rollout = collector.collect()
        valid.append(int(rollout.valid.sum()))
        metrics = learner.update(rollout, progress=update / 3)
    return {
        "weights": model.state_dict(),
        "metrics": metrics,
        "frames": collector.frames,
        "episodes": collector.episodes.summary(),
        "valid": valid,
    }


def learn_all(ranks: Ranks) -> dict[str, dict[str, Any]]:
    return {case: learn(ranks, case) for case in CASES}


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Any]]]:
    """All cases in one pair of processes."""
    return as_two_ranks(tmp_path_factory.mktemp("pair") / "learn", learn_all)


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_with_half_of_the_environments_each_make_the_update_of_one_with_all(
    case: str, two_ranks: list[dict[str, dict[str, Any]]]
) -> None:
    """Weights, every logged figure and the episodes; in float64, so that only the order of sums differs."""
    first, second = (results[case] for results in two_ranks)
    whole = learn(ALONE, case)
    for name, weight in whole["weights"].items():
        torch.testing.assert_close(first["weights"][name], weight, rtol=0, atol=1e-10)
    assert same(first["weights"], second["weights"])
    for figures in ("metrics", "episodes"):
        assert first[figures].keys() == whole[figures].keys()
        for name, value in whole[figures].items():
            assert first[figures][name] == pytest.approx(value, abs=1e-9, nan_ok=True), name
    assert first["frames"] == second["frames"] == whole["frames"]
    assert [a + b for a, b in zip(first["valid"], second["valid"], strict=True)] == whole["valid"]


def test_the_cases_are_hard_enough(two_ranks: list[dict[str, dict[str, Any]]]) -> None:
    """Ranks with unequal numbers of valid rows, where a mean of means would be wrong, and ended episodes."""
    first, second = (results["rows that only reset"] for results in two_ranks)
    assert first["valid"] != second["valid"]
    assert all(first["episodes"] for first in two_ranks[0].values())


def test_an_even_cut_gives_every_rank_equally_many_columns_of_every_minibatch() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = split_evenly(24, 4, generator)
    assert sorted(torch.cat(parts).tolist()) == list(range(24))
    for ranks in (1, 2, 3, 6):
        for part in parts:
            assert torch.bincount(part // (24 // ranks), minlength=ranks).tolist() == [6 // ranks] * ranks
    again = split_evenly(24, 4, generator)
    assert any(not torch.equal(a.sort().values, b.sort().values) for a, b in zip(parts, again, strict=True))
    ragged = split_evenly(10, 4, generator)
    assert sorted(torch.cat(ragged).tolist()) == list(range(10))
    assert {len(part) for part in ragged} == {2, 3}


def test_environments_that_the_ranks_cannot_share_equally_are_refused() -> None:
    assert list(Ranks(1, 4).share(12)) == [3, 4, 5]
    with pytest.raises(
        UserError, match=r"--num-envs 16 .* 3 ranks cannot share it equally; nearest: 15 or 18"
    ):
        Ranks(0, 3).share(16)
    with pytest.raises(UserError, match=r"nearest: 4$"):
        Ranks(0, 4).share(3)


def run_config(run_dir: Path, updates: int = 6) -> TrainConfig:
    return TrainConfig(**MAZE, total_steps=updates * 4 * 9, run_dir=str(run_dir))


def interrupt_and_resume(ranks: Ranks, folder: Path) -> dict[str, float]:
    """Six updates at once, and three, a new trainer, three; left on disk."""
    trainer = Trainer(run_config(folder / "whole"), ranks=ranks)
    for update in range(6):
        if update == 3:
            trainer.save()
            if ranks.leads:
                shutil.copytree(folder / "whole", folder / "parts")
                shutil.copytree(folder / "whole", folder / "half")
        trainer.advance()
    trainer.save()
    Trainer(run_config(folder / "parts"), resume=True, ranks=ranks).run()
    return {}


def test_a_resume_of_all_ranks_is_exact_and_of_another_number_says_so(tmp_path: Path) -> None:
    as_two_ranks(tmp_path / "pair", interrupt_and_resume, tmp_path)
    whole, parts = (
        load_checkpoint(tmp_path / name / "checkpoints" / "latest.pt") for name in ("whole", "parts")
    )
    assert len(whole["collectors_of_other_ranks"]) == 1
    keys = (
        "model",
        "learner",
        "collector",
        "collectors_of_other_ranks",
        "action_generator",
        "frames",
        "updates",
    )
    assert same([whole[key] for key in keys], [parts[key] for key in keys])
    updates = [row["updates"] for row in read_metrics(tmp_path / "parts" / "metrics.csv")]
    assert updates == [4, 5, 6]  # one rank wrote them, once

    printed = StringIO()
    alone = Trainer(run_config(tmp_path / "half"), resume=True, console=Console(file=printed, width=200))
    assert "saved by 2 rank(s) and goes on with 1: episodes start anew" in printed.getvalue()
    assert alone.collector.frames == 3 * 4 * 9
    assert alone.run()


def meet_failures(ranks: Ranks) -> dict[str, str]:
    """A mistake that rank 0 finds, then a rank that is gone."""

    def fail() -> None:
        raise UserError("what was wrong")

    seen = {}
    try:
        ranks.from_first(fail)
    except (UserError, SystemExit) as error:
        seen["mistake"] = repr(error)
    if ranks.leads:
        try:
            ranks.sum(torch.ones(3))
        except RankLost as error:
            seen["lost"] = str(error)
    return seen


def test_a_mistake_is_reported_by_one_rank_and_a_lost_rank_by_those_that_remain(tmp_path: Path) -> None:
    first, second = as_two_ranks(tmp_path / "pair", meet_failures)
    assert first["mistake"] == "UserError('what was wrong')"
    assert second["mistake"] == "SystemExit(2)"
    assert first["lost"].startswith("rank 0 of 2: another rank has stopped")


def test_resume_or_start_starts_first_and_resumes_then(tmp_path: Path) -> None:
    argv = ["--env", "mnm/GridMaze9-v0", "--core", "none", "--num-envs", "4", "--rollout-steps", "25",
            "--threads", "1", "--resume-or-start", "--run-dir", str(tmp_path / "run"), "--total-steps"]  # fmt: skip
    assert train_rl.read_command([*argv, "200"])[1].resume is False
    assert train_rl.main([*argv, "200"]) == 0
    assert train_rl.main([*argv, "400"]) == 0
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "latest.pt")["frames"] == 400
    with pytest.raises(UserError, match="cannot change the option --seed"):
        train_rl.main([*argv, "400", "--seed", "8"])


def workers(launcher: int) -> list[int]:
    """Process ids of the ranks that a launcher has started, in their order."""
    return [int(pid) for pid in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()]


def updates_logged(run_dir: Path) -> list[float]:
    path = run_dir / "metrics.csv"
    return [row["updates"] for row in read_metrics(path)] if path.exists() else []


def wait_for_updates(count: int, run_dir: Path, job: Command) -> None:
    deadline = time.monotonic() + 120
    while len(updates_logged(run_dir)) < count:
        assert job.poll() is None, "the job ended early"
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the ranks in /proc")
def test_a_killed_rank_ends_the_job_with_the_checkpoint_whole_and_torchrun_resumes_it(tmp_path: Path) -> None:
    """Killed twice with one restart allowed: the first time the run goes on, the second time it ends."""
    path = tmp_path / "run"
    options = {**MAZE, "total_steps": 10**9, "checkpoint_every": 1, "run_dir": path}
    command = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1",
               f"--master-port={free_port()}", "train_rl.py",
               *(f"--{name.replace('_', '-')}={value}" for name, value in options.items())]  # fmt: skip
    job = Command(*command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        for _ in range(2):
            wait_for_updates(len(updates_logged(path)) + 3, path, job)
            os.kill(workers(job.pid)[1], signal.SIGKILL)
        _, errors = job.communicate(timeout=60)
    finally:
        job.terminate()
        job.wait(timeout=60)
    assert job.returncode != 0
    assert errors.count("another rank has stopped") == 2
    assert "the latest checkpoint is whole" in errors
    updates = updates_logged(path)
    assert updates == list(range(1, len(updates) + 1))  # the restart went on where the checkpoint was
    assert state_of(path)["updates"] in (len(updates) - 1, len(updates))


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the ranks in /proc")
def test_a_rank_that_stops_answering_ends_the_job_after_the_timeout(tmp_path: Path) -> None:
    path = tmp_path / "run"
    options = {**MAZE, "total_steps": 10**9, "checkpoint_every": 1, "run_dir": path, "rank_timeout": 5}
    command = ["-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}",
               "train_rl.py", *(f"--{name.replace('_', '-')}={value}" for name, value in options.items())]  # fmt: skip
    job = Command(*command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        wait_for_updates(2, path, job)
        ranks = workers(job.pid)
        os.kill(ranks[1], signal.SIGSTOP)
        deadline = time.monotonic() + 60
        while Path(f"/proc/{ranks[0]}").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        os.kill(ranks[1], signal.SIGCONT)  # a stopped process does not heed the launcher
        _, errors = job.communicate(timeout=60)
    finally:
        job.terminate()
        job.wait(timeout=60)
    assert job.returncode != 0
    assert "rank 0 of 2: another rank has stopped" in errors
    assert "the latest checkpoint is whole" in errors
    assert state_of(path)["updates"] >= 1
