"""How soon is a task learnt? The defaults against stable-baselines3, sb3-contrib and torch-ac.

    pip install -e '.[bench]'
    python -m benchmarks.studies.side_by_side                                  all that is missing
    python -m benchmarks.studies.side_by_side --tasks CartPole --seeds 0
    python -m benchmarks.studies.side_by_side --tasks none                     only writes the table again

The peers train with the settings that rl-baselines3-zoo publishes for the task (hyperparams/ppo.yml, ppo_lstm.yml),
their falling rates over the budget given here, and torch-ac in MiniGrid with those of its starter files; ours with what
docs/defaults.md says. Where the zoo has none for a task of MiniGrid, its peer has those of DoorKey-5x5; in the memory
task every side has those of the study memory-s7-view3, the peer in the sizes of ours (benchmarks/speed/peers.py). Every
run is a process of its own with one thread, one at a time, ours and theirs in turn. Every so many frames
(`Contest.every`) 20 episodes are played with the greedy policy; a task is learnt at the first of these evaluations that
reaches its target, and given up after an hour. Seconds are those of the processor, from the making of the environments
on, without imports and without those evaluations. A row per run goes to benchmarks/results/side_by_side.csv.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

import gymnasium
import torch

import train_rl
from agents.config import TrainConfig
from agents.evaluation import LoadedAgent, play_episodes
from agents.files import read_csv, renew_csv
from agents.options import option, parse, run_command
from agents.trainer import Trainer
from benchmarks.common import (
    RESULTS_DIR,
    ROOT,
    check_takes_part,
    machine_columns,
    names_in,
    numbers_in,
    require_clean_tree,
)
from benchmarks.report.speed_page import put_table
from benchmarks.speed.peers import FlatOneHot, make_sb3
from benchmarks.speed.torch_ac_peer import images, make_torch_ac
from benchmarks.studies import ordinary_tasks
from benchmarks.studies.ordinary_tasks import MEMORIES, Task
from benchmarks.studies.studies import MORE_UPDATES, VIEW_3
from envs import held_out_seed, make_single
from envs.errors import UserError
from envs.make import make_plain

RESULTS = RESULTS_DIR / "side_by_side.csv"
PAGE = ROOT / "docs" / "defaults.md"
EPISODES = 20
LIMIT_S = 3_600.0
"""Processor time after which a run that has not learnt is given up."""
PEER, PEER_LSTM, PEER_MINIGRID = "sb3 PPO", "sb3 RecurrentPPO", "torch-ac PPO"
TASKS = ordinary_tasks.TASKS | {
    "DoorKey-6x6": Task("MiniGrid-DoorKey-6x6-v0", 500_000, 0.9, figure="success"),
    "MultiRoom-N2-S4": Task("MiniGrid-MultiRoom-N2-S4-v0", 200_000, 0.9, figure="success"),
    "FourRooms": Task("MiniGrid-FourRooms-v0", 500_000, 0.9, figure="success"),
    "GoToRedBall": Task("BabyAI-GoToRedBall-v0", 500_000, 0.9, figure="success"),
    "MemoryS7": Task(
        "MiniGrid-MemoryS7-v0", 2_000_000, 0.9, ("--preset", "minigrid-memory", *VIEW_3, *MORE_UPDATES),
        cores=MEMORIES, figure="success",
    ),
}  # fmt: skip
"""The ordinary tasks, four larger ones, and one where the defaults are those of a preset."""


def falling(start: float) -> Callable[[float], float]:
    """The zoo's linear schedule: `start` times the part of the run that is left."""
    return lambda left: left * start


@dataclass(frozen=True)
class Contest:
    """A task of `ordinary_tasks`, and how the zoo has the peers train on it."""

    frames: int
    """Budget of every side."""
    envs: int
    """Environments of the peer."""
    settings: dict[str, Any] | None
    """Arguments of the peer's algorithm; those not named are its defaults. None: the settings and sizes of ours."""
    normalize: bool = False
    """Observations and rewards, by VecNormalize."""
    recurrent: bool = False
    """Whether the peer needs memory: RecurrentPPO, and ours without `none`."""
    starter_files: bool = False
    """Whether torch-ac takes part, with the settings of its starter files."""
    every: int = 1_900
    """Frames between two evaluations; this is just below two updates of ours, whose resets are not counted."""

    @property
    def peers(self) -> list[str]:
        """Names of the peers; the first is the measure of the others."""
        return [PEER_LSTM if self.recurrent else PEER, *([PEER_MINIGRID] if self.starter_files else [])]


CARTPOLE: dict[str, Any] = {
    "n_steps": 32, "batch_size": 256, "n_epochs": 20, "gamma": 0.98, "gae_lambda": 0.8,
    "learning_rate": falling(1e-3), "clip_range": falling(0.2),
}  # fmt: skip
PENDULUM: dict[str, Any] = {
    "n_steps": 1024, "gamma": 0.9, "learning_rate": 1e-3, "use_sde": True, "sde_sample_freq": 4,
}  # fmt: skip
"""With and without the velocity."""
MINIGRID: dict[str, Any] = {"n_steps": 128, "batch_size": 64, "learning_rate": 2.5e-4}
"""The zoo's for DoorKey-5x5. Those for FourRooms have longer rollouts; for other tasks of MiniGrid it has none."""
CONTESTS = {
    "CartPole": Contest(200_000, 8, CARTPOLE),
    "CartPole-positions": Contest(300_000, 8, CARTPOLE, recurrent=True, every=8_000),
    "Acrobot": Contest(300_000, 16, {"n_steps": 256, "n_epochs": 4, "gae_lambda": 0.94}, normalize=True),
    "Pendulum": Contest(300_000, 4, PENDULUM),
    "Pendulum-angle": Contest(600_000, 4, PENDULUM, recurrent=True, every=8_000),
    "MountainCar": Contest(
        500_000, 16, {"n_steps": 16, "n_epochs": 4, "gae_lambda": 0.98}, normalize=True, every=16_384
    ),
    "DoorKey-5x5": Contest(200_000, 8, MINIGRID, normalize=True, starter_files=True, every=8_000),
    "DoorKey-6x6": Contest(500_000, 8, MINIGRID, normalize=True, starter_files=True, every=16_000),
    "MultiRoom-N2-S4": Contest(200_000, 8, MINIGRID, normalize=True, starter_files=True, every=8_000),
    "FourRooms": Contest(
        500_000, 8, MINIGRID | {"n_steps": 512}, normalize=True, starter_files=True, every=16_000
    ),
    "GoToRedBall": Contest(500_000, 8, MINIGRID, normalize=True, starter_files=True, every=16_000),
    "LunarLander": Contest(
        1_000_000,
        16,
        {"n_steps": 1024, "n_epochs": 4, "gamma": 0.999, "gae_lambda": 0.98, "ent_coef": 0.01},
        every=16_384,
    ),
    "MemoryS7": Contest(2_000_000, 32, None, recurrent=True, every=65_536),
}


def sides(task: str) -> list[str]:
    """The peers, then our cores."""
    contest = CONTESTS[task]
    return [
        *contest.peers,
        *(core for core in TASKS[task].cores if not (contest.recurrent and core == "none")),
    ]


@dataclass
class Clock:
    """Time on the clock and of the processor, but for what happens while it stands still."""

    wall: float = field(default_factory=lambda: -time.perf_counter())
    cpu: float = field(default_factory=lambda: -time.process_time())

    def stop(self) -> None:
        """Let it stand still."""
        self.wall, self.cpu = self.wall + time.perf_counter(), self.cpu + time.process_time()

    def go_on(self) -> None:
        """Let it run again."""
        self.wall, self.cpu = self.wall - time.perf_counter(), self.cpu - time.process_time()


@dataclass
class Course:
    """What is seen of a training: evaluates it when that is due, and knows when it is over."""

    bar: float
    play: Callable[[], float]
    every: int
    clock: Clock = field(default_factory=Clock)
    frames: int = 0
    best: float = float("-inf")
    next_at: int = 0

    def is_over(self, frames: int) -> bool:
        """Whether the target is reached, or the time is up. To be asked after every rollout; plays the episodes where
        they are due."""
        self.frames = frames
        if self.best < self.bar and frames >= max(self.next_at, self.every):
            self.next_at = frames + self.every
            self.clock.stop()
            self.best = max(self.best, self.play())
            self.clock.go_on()
        return self.best >= self.bar or self.clock.cpu + time.process_time() > LIMIT_S

    def row(self) -> dict[str, Any]:
        """What is kept; the clock stands still from now on."""
        self.clock.stop()
        return {
            "learnt": int(self.best >= self.bar), "frames": self.frames, "best": round(self.best, 3),
            "seconds": round(self.clock.wall, 1), "cpu_s": round(self.clock.cpu, 1),
        }  # fmt: skip


def our_config(task: str, core: str, seed: int, run_dir: str) -> TrainConfig:
    """What a core of ours trains with."""
    words = ["--env", TASKS[task].env, "--core", core, "--seed", str(seed), *TASKS[task].options]
    words += ["--total-steps", str(CONTESTS[task].frames), "--threads", "1", "--device", "cpu"]
    return train_rl.read_command([*words, "--run-dir", run_dir])[0]


def run_ours(task: str, core: str, seed: int) -> dict[str, Any]:
    """Train a core of ours until it has learnt the task, or for the whole budget."""
    with tempfile.TemporaryDirectory() as folder:
        config = our_config(task, core, seed, f"{folder}/run")

        def play() -> float:
            agent = LoadedAgent(trainer.model, trainer.config, trainer.collector.frames, "in training")
            results = play_episodes(agent, EPISODES)
            by_success = TASKS[task].figure == "success"
            return sum(r.success if by_success else r.episode_return for r in results) / EPISODES

        course = Course(TASKS[task].bar, play, CONTESTS[task].every)
        trainer = Trainer(config)
        trainer.run(stop=lambda: course.is_over(trainer.collector.frames))
        found = course.row()
        trainer.close()
    return found


def make_env(task: str) -> gymnasium.Env[Any, Any]:
    """One environment as the peer sees it."""
    name, arguments = TASKS[task].env, our_config(task, "lstm", 0, "").env_arguments()
    if name.startswith(("MiniGrid", "BabyAI")):
        return FlatOneHot(make_single(name, arguments))
    return make_plain(name, arguments)


def make_peer(task: str, seed: int) -> Any:
    """The peer's algorithm with its environments."""
    from sb3_contrib import RecurrentPPO
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    contest = CONTESTS[task]
    if contest.settings is None:
        return make_sb3(our_config(task, "lstm", seed, ""))
    vector: Any = DummyVecEnv([lambda: make_env(task)] * contest.envs)
    if contest.normalize:
        vector = VecNormalize(vector, gamma=contest.settings.get("gamma", 0.99))
    algorithm = partial(RecurrentPPO, "MlpLstmPolicy") if contest.recurrent else partial(PPO, "MlpPolicy")
    return algorithm(vector, seed=seed, device="cpu", **contest.settings)


def play_peer(task: str, env: gymnasium.Env[Any, Any], act: Callable[[Any, bool], Any]) -> float:
    """What an agent that is told of the first observation of an episode earns in ours; or how often it succeeds."""
    total = 0.0
    for number in range(EPISODES):
        obs, _ = env.reset(seed=held_out_seed(0, number))
        begins, done, earned = True, False, 0.0
        while not done:
            obs, reward, terminated, truncated, _ = env.step(act(obs, begins))
            begins, done, earned = False, terminated or truncated, earned + float(reward)
        total += float(earned > 0) if TASKS[task].figure == "success" else earned
    return total / EPISODES


def run_sb3(task: str, seed: int) -> dict[str, Any]:
    """The same for a peer of stable-baselines3."""
    try:
        from stable_baselines3.common.callbacks import BaseCallback
        from stable_baselines3.common.vec_env import VecNormalize
    except ImportError:
        raise UserError("sb3-contrib is not installed: pip install 'mnm-rl[bench]'") from None

    torch.set_num_threads(1)
    contest = CONTESTS[task]
    ours = our_config(task, "lstm", seed, "") if contest.settings is None else None

    state: Any = None

    def act(obs: Any, begins: bool) -> Any:
        nonlocal state
        vector = model.get_env()
        seen = vector.normalize_obs(obs) if isinstance(vector, VecNormalize) else obs
        action, state = model.predict(
            seen, None if begins else state, episode_start=begins, deterministic=True
        )
        return action

    class Watch(BaseCallback):  # type: ignore[misc, unused-ignore]
        """Looks after every rollout, as ours does after every update."""

        def _on_rollout_start(self) -> None:
            if ours is not None:  # sb3 has no schedule for the entropy
                last = ours.entropy_coef if ours.entropy_coef_final is None else ours.entropy_coef_final
                progress = self.num_timesteps / contest.frames
                model.ent_coef = ours.entropy_coef + (last - ours.entropy_coef) * progress
            self.over = course.is_over(self.num_timesteps)

        def _on_step(self) -> bool:
            return not self.over

    course = Course(TASKS[task].bar, partial(play_peer, task, make_env(task), act), contest.every)
    model = make_peer(task, seed)
    model.learn(contest.frames, callback=Watch(), log_interval=None)
    return course.row()


def run_torch_ac(task: str, seed: int) -> dict[str, Any]:
    """The same for torch-ac."""
    torch.set_num_threads(1)
    contest = CONTESTS[task]

    def act(obs: dict[str, Any], begins: bool) -> int:
        with torch.no_grad():
            return int(agent.acmodel(images([obs]))[0].probs.argmax())

    play = partial(play_peer, task, make_single(TASKS[task].env), act)
    course = Course(TASKS[task].bar, play, contest.every)
    agent = make_torch_ac(TASKS[task].env, seed)
    while course.frames < contest.frames:
        agent.update_parameters(agent.collect_experiences()[0])
        if course.is_over(course.frames + agent.num_frames):
            break
    return course.row()


def run(task: str, side: str, seed: int) -> dict[str, Any]:
    """One run, in a process of its own."""
    if side == PEER_MINIGRID:
        found = run_torch_ac(task, seed)
    else:
        found = run_sb3(task, seed) if side in CONTESTS[task].peers else run_ours(task, side, seed)
    return {
        "task": task,
        "side": side,
        "seed": seed,
        "bar": TASKS[task].bar,
        "budget": CONTESTS[task].frames,
        **found,
    }


def table(rows: Sequence[dict[str, str]]) -> str:
    """One line per task and side."""
    lines = [
        "| task | target | side | frames, each seed | processor seconds, each seed | frames | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for task in CONTESTS:
        by_side = {
            side: sorted(
                (r for r in rows if (r["task"], r["side"]) == (task, side)), key=lambda r: int(r["seed"])
            )
            for side in sides(task)
        }
        peers = by_side[CONTESTS[task].peers[0]]
        for side, found in by_side.items():
            if found:
                shown = [
                    ", ".join(f"{float(r[name]):,.0f}" if r["learnt"] == "1" else "-" for r in found)
                    for name in ("frames", "cpu_s")
                ]
                ratios = (
                    ["1", "1"] if found is peers else [ratio(found, peers, n) for n in ("frames", "cpu_s")]
                )
                lines.append(f"| {task} | {TASKS[task].bar:g} | {side} | {' | '.join([*shown, *ratios])} |")
    where = [", ".join(sorted({row[name] for row in rows})) for name in ("commit", "cpu", "torch")]
    return "\n".join([*lines, "", "Commit {}; {}, torch {}, one thread.".format(*where)])


def ratio(ours: Sequence[dict[str, str]], peers: Sequence[dict[str, str]], name: str) -> str:
    """Median over seeds of a figure against the peer's; where a run has not learnt, all that it took is a bound."""
    if not ours or not peers:
        return ""
    mine, theirs = (median(float(row[name]) for row in rows) for rows in (ours, peers))
    we, they = (all(row["learnt"] == "1" for row in rows) for rows in (ours, peers))
    if not we and not they:
        return "-"
    sign = "" if we and they else "< " if we else "> "
    return f"{sign}{mine / theirs:.2f}"


@dataclass(frozen=True)
class SideBySideConfig:
    """Options of the command."""

    tasks: str = option("all", "names separated by commas, all or none", metavar="NAMES")
    sides: str = option("", "only these cores and peers, separated by commas", metavar="NAMES")
    seeds: str = option("0,1,2", "training seeds, separated by commas", metavar="SEEDS")


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    config = parse(SideBySideConfig(), argv, description=__doc__ or "")
    named = names_in(config.tasks, CONTESTS, "task")
    known = dict.fromkeys(side for name in CONTESTS for side in sides(name))
    wanted = names_in(config.sides or "all", known, "side")
    for name in named:
        check_takes_part(name, wanted, sides(name), "sides")
    seeds = numbers_in(config.seeds, "seeds")
    if named:
        require_clean_tree()
    done = {(row["task"], row["side"], int(row["seed"])) for row in read_csv(RESULTS)}
    spawn = multiprocessing.get_context("spawn")
    for name in named:
        for seed in seeds:
            for side in sides(name):
                if side not in wanted or (name, side, seed) in done:
                    continue
                with ProcessPoolExecutor(1, mp_context=spawn) as process:
                    row = process.submit(run, name, side, seed).result()
                print(
                    {key: row[key] for key in ("task", "side", "seed", "learnt", "frames", "cpu_s")},
                    flush=True,
                )
                renew_csv(
                    RESULTS,
                    [row | machine_columns()],
                    ["task", "side", "seed"],
                    lambda r: list(CONTESTS).index(r["task"]),
                )
    put_table("side_by_side", table(read_csv(RESULTS)), PAGE)
    return 0


if __name__ == "__main__":
    run_command(main)
