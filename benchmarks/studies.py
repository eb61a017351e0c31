"""The studies of the results table: which agents are trained on what, for how long, with how many seeds.

A study is one environment under one set of options, trained with several cores and seeds. Every option is
the same for all cores but for what `per_core` says.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CORES = ("none", "lstm", "gru", "mnm-g", "mnm-p")


@dataclass(frozen=True)
class Study:
    """One block of the results table."""

    name: str
    title: str
    """Heading of the block."""
    preset: str
    env: str
    total_steps: int
    cores: tuple[str, ...] = CORES
    seeds: int = 3
    options: tuple[str, ...] = ()
    """Further options of train_rl.py."""
    per_core: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Options that one core needs and the others do not get."""
    episodes: int = 1_000
    """Held-out episodes, played greedily and sampled."""
    figure: str = "success"
    """What the curves show and the table reports: "success" or "return"."""
    after: str = ""
    """Study whose run of the same core and seed gives the first weights (a curriculum); empty: none."""

    def command(self, core: str, seed: int) -> list[str]:
        """The options of train_rl.py for one run, --run-dir left out."""
        return [
            "--preset", self.preset, "--env", self.env, "--core", core, "--seed", str(seed),
            "--total-steps", str(self.total_steps), *self.options, *self.per_core.get(core, ()),
        ]  # fmt: skip

    def rows_in(self, directory: Path) -> Path:
        """The file with a row per run."""
        return directory / f"{self.name}.csv"

    def curves_in(self, directory: Path) -> Path:
        """The file with the learning curves."""
        return directory / f"{self.name}_curves.csv"


def maze(side: int, total_steps: int, name: str = "", algo: str = "ppo", **more: Any) -> Study:
    """A study of the Grid World maze."""
    # A2C makes one update per rollout: shorter rollouts give it as many updates as it can use.
    options = ("--algo", "a2c", "--rollout-steps", "20") if algo == "a2c" else ()
    title = f"Grid World maze, side {side}, {algo.upper()}"
    return Study(
        name or f"maze-{side}-{algo}", title, "maze", f"mnm/GridMaze{side}-v0", total_steps,
        options=options, figure="return", **more,
    )  # fmt: skip


FIRST_STAGE = ("--entropy-coef-final", "0.04")
LATER_STAGE = ("--learning-rate", "1e-3", "--entropy-coef", "0.04", "--entropy-coef-final", "0.02")
"""A stage that begins with a trained agent takes smaller steps and needs less noise."""


def memory(size: str, total_steps: int, after: str = "", **more: Any) -> Study:
    """A study of MiniGrid's memory task at its default view and step limit, alone or as a stage of a curriculum."""
    env, name = f"MiniGrid-Memory{size}-v0", f"memory-{size.lower()}"
    title = f"{env}, after {after}" if after else env
    return Study(
        f"{name}-staged" if after else name, title, "minigrid-memory", env, total_steps, after=after, **more
    )


STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        maze(9, 400_000),
        maze(11, 400_000),
        maze(9, 400_000, algo="a2c"),
        maze(11, 400_000, algo="a2c"),
        memory("S9", 800_000, options=FIRST_STAGE),
        memory("S11", 1_000_000, after="memory-s9", options=LATER_STAGE),
        memory("S13", 400_000, after="memory-s11-staged", options=LATER_STAGE),
        memory("S17Random", 400_000, after="memory-s13-staged", options=LATER_STAGE),
    )
}
