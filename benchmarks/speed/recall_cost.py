"""What the tape and the scores cost.

    python -m benchmarks.speed.recall_cost

Acting: episodes of the Grid World maze, 200 steps, played alternately with and without the tape (one
environment, one thread, untrained agents). Scores: all scores of one such episode. Processor time, medians, so
that a busy machine disturbs little. Writes benchmarks/results/recall_cost.csv.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from agents.config import TrainConfig
from agents.files import write_csv
from agents.model import build_model
from agents.options import option, parse, run_command
from agents.play import Moment, Observer, Opening, play
from benchmarks.common import RESULTS_DIR, machine_columns, require_clean_tree
from envs import make_single
from recall.record.recorder import TapeObserver
from recall.record.tape import Tape, walk_weights
from recall.scores.decision import decision_effect
from recall.scores.from_tape import keep_only_one, key_match, last_layer_contribution, leave_one_write_out
from recall.scores.reapplied import reapplied_removal
from recall.scores.registry import SCORES, Sources

RESULTS = RESULTS_DIR / "recall_cost.csv"
SLOWER = 0.15
"""Acting with the tape may be slower by this share."""
ALL_SCORES_S, REMOVAL_S = 1.0, 0.2
"""Bars for the scores of every step of a 200-step episode at d = 128, H = 1."""


@dataclass(frozen=True)
class CostConfig:
    """Options of the command."""

    rounds: int = option(15, "episodes played with and without the tape, each")
    steps: int = option(200, "steps of an episode")


class _Counter(Observer):
    """Counts steps; nothing of the tape runs."""

    steps = 0

    def after(self, moment: Moment) -> None:
        self.steps += 1


def seconds_per_step(model: Any, env: Any, tapes: TapeObserver | None) -> float:
    """Play one episode; returns processor seconds per step."""
    counter, opening = _Counter(), Opening(0, np.random.default_rng(0))
    begun = time.process_time()
    play(model, [env], [opening], "sample", tapes or counter, record=tapes is not None)
    steps = len(tapes.recorders[0]) if tapes else counter.steps
    return (time.process_time() - begun) / steps


def measure_acting(core: Any, size: int, config: CostConfig) -> tuple[dict[str, Any], Tape, Any]:
    """Microseconds per step with and without the tape; a tape and its agent."""
    settings = TrainConfig(core=core, memory_size=size, device="cpu")
    env = make_single("mnm/GridMaze9-v0", {"max_steps": config.steps})
    model = build_model(settings, env.observation_space, env.action_space).eval()
    with_tape, without = [], []
    for number in range(config.rounds + 1):
        tapes = TapeObserver(model, core, [0])
        seconds = seconds_per_step(model, env, None), seconds_per_step(model, env, tapes)
        if number:  # the first round warms up
            without.append(seconds[0])
            with_tape.append(seconds[1])
    on, off = np.array(with_tape), np.array(without)
    row = {
        "what": "acting",
        "core": core,
        "d": size,
        "without_tape_us": round(float(np.median(off)) * 1e6, 1),
        "with_tape_us": round(float(np.median(on)) * 1e6, 1),
        # Of neighbouring episodes, because a shared machine is faster at one time than at another.
        "slower": round(float(np.median(on / off)) - 1.0, 3),
        "bar": SLOWER,
    }
    return row, tapes.recorders[0].tape(), model


def seconds_of(work: Callable[[], object], repeats: int = 3) -> float:
    """Least processor time of a few repeats."""
    found = []
    for _ in range(repeats):
        begun = time.process_time()
        work()
        found.append(time.process_time() - begun)
    return min(found)


def measure_scores(core: str, size: int, tape: Tape, model: Any) -> list[dict[str, Any]]:
    """Seconds for the scores of every step of an episode, and of the last step alone."""
    steps = range(tape.steps)
    everything: dict[str, Callable[[], object]] = {
        "R0 key match": lambda: [key_match(tape, t) for t in steps],
        "R1 last layer": lambda: [last_layer_contribution(tape, t) for t in steps],
        "R2 removal": lambda: [leave_one_write_out(tape, t, w) for t, w in enumerate(walk_weights(tape))],
        "keep only one": lambda: [keep_only_one(tape, t) for t in steps],
        "R3 re-applied": lambda: reapplied_removal(tape),
        "R3 re-applied, float64": lambda: reapplied_removal(tape, dtype=np.float64),
        "R4 decision": lambda: decision_effect(model, tape),
    }
    last, by_title = tape.steps - 1, {score.title: score for score in SCORES.values()}
    rows: list[dict[str, Any]] = []
    for name, work in everything.items():
        row = {"what": name, "core": core, "d": size, "all_steps_s": round(seconds_of(work), 3)}
        if (score := by_title.get(name)) is not None and not score.needs_agent:
            row["last_step_s"] = round(seconds_of(partial(score.at, Sources(tape), last)), 4)
        rows.append(row)
    cheap = sum(row["all_steps_s"] for row in rows[:4])
    rows.append({"what": "R0 + R1 + R2 + keep", "core": core, "d": size, "all_steps_s": round(cheap, 3)})
    return rows


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    config = parse(CostConfig(), argv, description=__doc__ or "")
    require_clean_tree()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for core in ("mnm-p", "mnm-g"):
        for size in (64, 128):
            row, tape, model = measure_acting(core, size, config)
            rows.append(row)
            print(row, flush=True)
            if size == 128:
                rows += measure_scores(core, size, tape, model)
                for found in rows[-8:]:
                    print(found, flush=True)
    write_csv(RESULTS, [{**row, **machine_columns()} for row in rows])
    return 0


if __name__ == "__main__":
    run_command(main)
