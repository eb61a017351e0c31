"""What the tape and the scores cost.

    python -m benchmarks.speed.recall_cost

Acting: episodes of the Grid World maze, 200 steps, played alternately with and without the tape (one
environment, one thread, untrained agents). Scores: all scores of one such episode, and R5 of one of 1,000 steps too.
Processor time, medians, so that a busy machine disturbs little. Writes benchmarks/results/recall_cost.csv and the table
of docs/validity.md.
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
from benchmarks.common import RESULTS_DIR, ROOT, machine_columns, require_clean_tree
from benchmarks.report.speed_page import put_table
from envs import make_single
from recall.record.recorder import TapeObserver
from recall.record.tape import Tape, walk_weights
from recall.scores.decision import decision_effect
from recall.scores.from_tape import keep_only_one, key_match, last_layer_contribution, leave_one_write_out
from recall.scores.reapplied import reapplied_removal
from recall.scores.registry import SCORES, Sources
from recall.scores.steps import step_effect

RESULTS = RESULTS_DIR / "recall_cost.csv"
PAGE = ROOT / "docs" / "validity.md"
SLOWER = 0.1
"""Acting with the tape may be slower by this share."""
ACTING = (("none", 64), ("lstm", 64), ("gru", 64), ("hard", 64), ("mnm-p", 64), ("mnm-p", 128), ("mnm-g", 64),
          ("mnm-g", 128))  # fmt: skip
"""Cores, and d of those with a memory."""
BARS_S = {"R2 removal": 0.2, "all but R5": 1.0}
"""Bars for scores of every step of a 200-step episode at d = 128, H = 1."""
STEP_REMOVAL_S: dict[tuple[str, int], float] = {
    ("lstm", 200): 2.0, ("lstm", 1000): 60.0, ("mnm-p", 200): 5.0, ("mnm-p", 1000): 60.0,
}  # fmt: skip
"""Bars for R5 of all pairs of an episode: core, steps -> seconds, at 128 hidden units and d = 64."""
WINDOW = 200


@dataclass(frozen=True)
class CostConfig:
    """Options of the command."""

    rounds: int = option(15, "episodes played with and without the tape, each")


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


def measure_acting(core: Any, size: int, rounds: int, steps: int = 200) -> tuple[dict[str, Any], Tape, Any]:
    """Microseconds per step with and without the tape; a tape and its agent."""
    settings = TrainConfig(core=core, memory_size=size, device="cpu")
    env = make_single("mnm/GridMaze9-v0", {"max_steps": steps})
    model = build_model(settings, env.observation_space, env.action_space).eval()
    with_tape, without = [], []
    for number in range(rounds + 1):
        tapes = TapeObserver(model, core, [0])
        seconds = seconds_per_step(model, env, None), seconds_per_step(model, env, tapes)
        if number:  # the first round warms up
            without.append(seconds[0])
            with_tape.append(seconds[1])
    on, off = np.array(with_tape), np.array(without)
    row = {
        "what": "acting with the tape",
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
    total = sum(row["all_steps_s"] for row in rows if "float64" not in row["what"])
    rows.append({"what": "all but R5", "core": core, "d": size, "all_steps_s": round(total, 3)})
    for found in rows:
        found["bar"] = BARS_S.get(found["what"])
    return rows


def measure_step_removal(core: str, steps: int) -> list[dict[str, Any]]:
    """Seconds for R5 of all pairs of an episode, or of those in a window."""
    _, tape, model = measure_acting(core, 64, rounds=1, steps=steps)
    repeats, row = 3 if steps < 1000 else 1, {"core": core, "d": 64}
    whole = seconds_of(lambda: step_effect(model, tape), repeats)
    rows = [
        row
        | {"what": f"R5, {steps:,} steps", "all_steps_s": round(whole, 2), "bar": STEP_REMOVAL_S[core, steps]}
    ]
    if steps > WINDOW:
        near = seconds_of(lambda: step_effect(model, tape, window=WINDOW), repeats)
        rows.append(row | {"what": f"R5, {steps:,} steps, window {WINDOW}", "all_steps_s": round(near, 2)})
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """One line per figure."""
    lines = ["| what | core | d | measured | target |", "|---|---|---|---|---|"]
    for row in rows:
        size = row["d"] if row["core"] not in ("none", "lstm", "gru") else ""
        if row.get("slower") not in (None, ""):
            found, bar = f"{float(row['slower']):+.1%}", f"+{float(row['bar']):.0%}"
        else:
            found = f"{float(row['all_steps_s']):.2f} s"
            bar = f"{float(row['bar']):g} s" if row.get("bar") else ""
        lines.append(f"| {row['what']} | {row['core']} | {size} | {found} | {bar} |")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    config = parse(CostConfig(), argv, description=__doc__ or "")
    require_clean_tree()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for core, size in ACTING:
        row, tape, model = measure_acting(core, size, config.rounds)
        print(row, flush=True)
        rows.append(row)
        if size == 128:
            rows += measure_scores(core, size, tape, model)
    for core, steps in STEP_REMOVAL_S:
        rows += measure_step_removal(core, steps)
        print(rows[-1], flush=True)
    machine = machine_columns()
    write_csv(RESULTS, [{**row, **machine} for row in rows])
    about = f"{machine['date']}, {machine['cpu']}, torch {machine['torch']}, commit {machine['commit']}"
    put_table("recall_cost", f"{about}\n\n{table(rows)}", PAGE)
    return 0


if __name__ == "__main__":
    run_command(main)
