"""The studies of the results table: which agents are trained on what, for how long, with how many seeds.

A study is one environment under one set of options, trained with several cores and seeds. Every option is
the same for all cores but for what `per_core` says.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from memory import CORE_NAMES

ALL_CORES = CORE_NAMES
CORES = tuple(core for core in ALL_CORES if core != "hard")


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
    """A core, or a core and after a blank what `per_core` changes in it, such as "mnm-p 4-heads"."""
    seeds: int = 3
    options: tuple[str, ...] = ()
    """Further options of train_rl.py."""
    per_core: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Options that one entry of `cores` has and the others do not."""
    episodes: int = 1_000
    """Held-out episodes, played greedily and sampled."""
    figure: str = "success"
    """What the curves show and the table reports: "success" or "return"."""
    after: str = ""
    """Study whose run of the same core and seed gives the first weights (a curriculum); empty: none."""

    def command(self, core: str, seed: int) -> list[str]:
        """The options of train_rl.py for one run, --run-dir left out."""
        return [
            "--preset", self.preset, "--env", self.env, "--core", core.split()[0], "--seed", str(seed),
            "--total-steps", str(self.total_steps), *self.options, *self.per_core.get(core, ()),
        ]  # fmt: skip

    def rows_in(self, directory: Path) -> Path:
        """The file with a row per run."""
        return directory / f"{self.name}.csv"

    def curves_in(self, directory: Path) -> Path:
        """The file with the learning curves."""
        return directory / f"{self.name}_curves.csv"


WHOLE_EPISODES = ("--rollout-steps", "200", "--num-envs", "32")
"""Rollouts as long as an episode of the maze, so that gradients reach every write that a later read needs."""
BINDING = ("--meta-coef", "0", "--interaction-gain", "3")
"""The setting of the symbol tasks: large keys at once, and no reward for small target values."""


A2C = ("--algo", "a2c", "--rollout-steps", "20")
"""One update per rollout: short rollouts give as many updates as A2C can use."""
CALMER = ("--learning-rate", "2e-3", "--entropy-coef", "0.03", "--entropy-coef-final", "0.01")
"""At the preset's step and entropy bonus, made for PPO, some policies of MNM became certain and earned nothing."""


def maze(
    side: int, total_steps: int, name: str = "", algo: str = "ppo", options: tuple[str, ...] = (), **more: Any
) -> Study:
    """A study of the Grid World maze."""
    if algo == "a2c":
        options = (*A2C, *options)
    title = f"Grid World maze, side {side}, {algo.upper()}, {total_steps / 1e6:g} M frames"
    return Study(
        name or f"maze-{side}-{algo}", title, "maze", f"mnm/GridMaze{side}-v0", total_steps,
        options=options, figure="return", **more,
    )  # fmt: skip


STAGE = ("--enough-success", "0.98")
LATER_STAGE = (*STAGE, "--learning-rate", "1e-3", "--entropy-coef", "0.04")
"""A stage that begins with a trained agent takes smaller steps and needs less noise."""
LAST_STAGE = ("--learning-rate", "1e-3", "--anneal", "--entropy-coef", "0.03")
"""What is learnt by now must only stretch over longer ways, and become steady: it takes all its frames."""


VIEW_3 = ("--backend", "sync", "--env-kwargs", '{"actions": [0, 1, 2], "agent_view_size": 3}')
"""The smallest view, from which no place shows the cue and an exit; EnvPool has only the default one."""
MORE_UPDATES = (
    "--num-envs", "32", "--epochs", "8", "--learning-rate", "1e-3", "--entropy-coef-final", "0.01", "--log-every", "20",
)  # fmt: skip
"""Four times the preset's gradient steps per frame, for what it does not learn in a million frames."""


def memory(size: str, total_steps: int, after: str = "", options: tuple[str, ...] = (), **more: Any) -> Study:
    """A study of MiniGrid's memory task at its default view and step limit, alone or as a stage of a curriculum."""
    env, name = f"MiniGrid-Memory{size}-v0", f"memory-{size.lower()}"
    title = f"{env}, a stage after {after}" if after else env
    return Study(
        f"{name}-staged" if after else name, title, "minigrid-memory", env, total_steps, after=after,
        # Run before the preset had eight passes.
        options=("--epochs", "4", *options), **more,
    )  # fmt: skip


T_MAZE = (
    "--embedding-size", "64", "--hidden-size", "64", "--memory-size", "32", "--learning-rate", "3e-3",
    "--num-envs", "128", "--gamma", "0.98", "--gae-lambda", "1.0", "--no-normalize-advantages",
)  # fmt: skip
"""The T-maze pays once, at the end: full returns, and raw advantages, which vanish when it is solved."""


T_MAZE_SHORT = (
    "--embedding-size", "64", "--hidden-size", "64", "--memory-size", "32", "--learning-rate", "3e-3",
    "--num-envs", "256", "--rollout-steps", "32", "--gamma", "0.98", "--gae-lambda", "1.0",
    "--no-normalize-advantages", "--minibatches", "4",
)  # fmt: skip
"""What the T-maze was first tried with: half the gradient steps per frame, over shorter stretches."""


def t_maze(length: int, total_steps: int, episodes: int = 1_000) -> Study:
    """A study of the T-maze: the cue at the start decides the turn `length` steps later."""
    kwargs = ("--env-kwargs", f'{{"length": {length}}}')
    return Study(
        f"t-maze-{length}", f"T-maze, corridor of {length}", "popgym", "mnm/TMaze-v0", total_steps, ALL_CORES,
        options=(*T_MAZE, *kwargs), episodes=episodes,
    )  # fmt: skip


def t_maze_short(length: int, **more: Any) -> Study:
    """The same with the options and the budget that were tried first."""
    study = t_maze(length, 300_000, episodes=200)
    options = (*T_MAZE_SHORT, *study.options[len(T_MAZE) :])
    title = f"{study.title}, 0.3 M frames"
    return replace(study, **{"name": f"{study.name}-short", "title": title, "options": options, **more})


GENTLE = ("--learning-rate", "1e-3")
"""Half the preset's step, for the hard core: it solves repeat-previous at once, and a seed may lose it again."""


def repeat_previous(
    lag: int,
    total_steps: int,
    name: str = "",
    title: str = "Repeat-previous",
    per_core: dict[str, tuple[str, ...]] | None = None,
    options: tuple[str, ...] = (),
    **more: Any,
) -> Study:
    """A study of repeat-previous: answer the symbol shown `lag` steps ago, 32 steps long."""
    kwargs = ("--env-kwargs", f'{{"lag": {lag}, "length": 32}}')
    # The answer must come from memory, not from the agent's own previous action.
    options = ("--no-previous-inputs", "--rollout-steps", "32", "--gamma", "0", *options, *kwargs)
    return Study(
        name or f"repeat-previous-{lag}", f"{title}, lag {lag}", "popgym", "mnm/RepeatPrevious-v0", total_steps,
        options=options, per_core=per_core or {"hard": GENTLE}, figure="return", **more,
    )  # fmt: skip


LAST_LAYER = ("--written-layers", "last")
"""A linear memory over features that training shapes: what its writes add to a read sums up."""
ADDITIVE = (*LAST_LAYER, "--meta-coef", "0", "--interaction-gain", "3", "--num-envs", "64")
"""The same where it has to bind: its writes are small, so that its own loss would shrink the target values to fit, and
it begins later than a memory that is written as a whole, hence more updates."""
SWITCHED_OFF: dict[str, tuple[str, ...]] = {
    "mnm-p writes-off": ("--written-layers", "none"),
    "mnm-p reads-off": ("--no-read-memory",),
    "mnm-p last-layer": LAST_LAYER,
    "mnm-p memory-only": ("--controller", "feedforward", "--no-read-feedback"),
}
"""A part of mnm-p at a time, and with `memory-only` everything but what is written."""
ABLATIONS: dict[str, tuple[str, ...]] = {
    "mnm-p": (),
    "mnm-p meta-0": ("--meta-coef", "0"),
    "mnm-p fixed-phi": ("--initial-weights", "fixed"),
    "mnm-p 4-heads": ("--heads", "4"),
    "mnm-p feedforward": ("--controller", "feedforward"),
    **SWITCHED_OFF,
    "mnm-p binding": BINDING,
    "mnm-p binding memory-only": (*BINDING, *SWITCHED_OFF["mnm-p memory-only"]),
    "mnm-p binding writes-off": (*BINDING, *SWITCHED_OFF["mnm-p writes-off"]),
    "mnm-p per-layer": ("--update-rate", "per-layer"),
    "mnm-g": (),
    "mnm-g binding": BINDING,
    "lstm": (),
}
T_MAZE_ABLATIONS = (
    "mnm-p", "mnm-p meta-0", "mnm-p fixed-phi", "mnm-p 4-heads", "mnm-p feedforward", "mnm-p memory-only", "lstm",
)  # fmt: skip
MAZE_ABLATIONS: dict[str, tuple[str, ...]] = {
    "mnm-p": BINDING,
    **{name: (*BINDING, *SWITCHED_OFF[name]) for name in ("mnm-p writes-off", "mnm-p reads-off")},
    "mnm-p no-feedback": (*BINDING, "--no-read-feedback"),
    "mnm-p gru": (*BINDING, "--controller", "gru"),
    "mnm-p gru no-feedback": (*BINDING, "--controller", "gru", "--no-read-feedback"),
    "mnm-p gru reads-off": (*BINDING, "--controller", "gru", *SWITCHED_OFF["mnm-p reads-off"]),
    "lstm": (),
    "gru": (),
}

PUBLISHED = ("--interaction-window", "0")
"""Keys, values and rate made from the controller's output alone."""
GATED_DELTA = "examples.gated_delta:GatedDelta"
"""Control: one linear layer of fast weights, from the examples."""


def pair_bandit(
    contexts: int,
    total_steps: int,
    *options: str,
    symbols: int | None = None,
    feedback: str = "told",
    codes: str = "symbol",
    doors: int = 4,
    **more: Any,
) -> Study:
    """A study of the pair bandit: bind signs to doors, the right door told after each choice or only rewarded."""
    name, title, kwargs = f"pair-bandit-{contexts}", f"{contexts} signs", dict[str, Any](contexts=contexts)
    if codes == "random":
        name, title, kwargs["codes"] = f"{name}-random", f"{contexts} random signs", codes
    elif symbols is not None:
        name, title, kwargs["symbols"] = f"{name}-of-{symbols}", f"{title} of {symbols}", symbols
    if feedback != "told":
        name, kwargs["feedback"], kwargs["rounds"] = f"{name}-{feedback}", feedback, REWARD_ROUNDS
    if doors != 4:
        name, title, kwargs["doors"] = f"{name}-{doors}-doors", f"{title}, {doors} doors", doors
    return Study(
        name, f"Pair bandit, {title}, {feedback}", "pair-bandit", "mnm/PairBandit-v0", total_steps,
        options=("--env-kwargs", json.dumps(kwargs), *options), figure="return", **more,
    )  # fmt: skip


REWARD_ROUNDS = 6
"""How often a sign is shown where only the reward tells: all four doors can be tried, and the right one be used."""


def pair_bandit_stages(
    *stages: tuple[int, int], cores: tuple[str, ...], feedback: str = "told", **more: Any
) -> list[Study]:
    """A curriculum: (signs of an episode, frames) of each stage, all of one alphabet; the last one shows it whole.
    Random signs (`codes`) have no alphabet.

    Rollouts hold one episode, or two where it is short. The rate is constant but in the last stage.
    """
    symbols, found = stages[-1][0], list[Study]()
    for contexts, frames in stages:
        steps = max(48, 3 * contexts) if feedback == "told" else REWARD_ROUNDS * symbols
        options = ["--rollout-steps", str(steps)]
        if contexts < symbols:
            options.append("--no-anneal")
        after = found[-1].name if found else ""
        found.append(
            pair_bandit(
                contexts,
                frames,
                *options,
                symbols=symbols,
                feedback=feedback,
                cores=cores,
                after=after,
                **more,
            )
        )
    return found


SAME_SIZE: dict[str, tuple[str, ...]] = {"lstm": ("--hidden-size", "208"), "gru": ("--hidden-size", "248")}
"""Hidden units with which these cores have as many parameters as mnm-p, 281,000."""


def treasure(side: int, objects: int, steps: int, total_steps: int, seeds: int = 3) -> Study:
    """A study of the treasure maze: carried past all objects once, then fetch the one that is asked for.

    The agent sees its own cell alone, and after twelve steps in vain it is asked for another object: without that
    an agent that knows nothing practises one or two look-ups per episode.
    """
    kwargs = {
        "side": side, "objects": objects, "tour": True, "view": 1, "shaping": 0.2, "max_steps": steps, "patience": 12,
    }  # fmt: skip
    return Study(
        f"treasure-{side}", f"Treasure maze, side {side}, {objects} objects", "treasure", "mnm/TreasureMaze-v0",
        total_steps, ("none", "lstm", "gru", "mnm-p"), seeds=seeds, figure="return", per_core=SAME_SIZE,
        options=("--env-kwargs", json.dumps(kwargs), "--rollout-steps", str(steps)),
    )  # fmt: skip


SMALLER_STEPS = ("--learning-rate", "5e-4")
"""For the later stages of the island graph."""


def island(islands: int, total_steps: int, *options: str, after: str = "") -> Study:
    """A study of the island graph, a stage of a curriculum: so many islands, with names of five."""
    return Study(
        f"island-{islands}-of-5", f"Island graph, {islands} islands of 5", "island", "mnm/IslandGraph-v0", total_steps,
        ("lstm", "mnm-p"), options=("--env-kwargs", json.dumps({"islands": islands, "names": 5}), *options),
        per_core=SAME_SIZE, figure="return", after=after,
    )  # fmt: skip


BACKWARDS = ("--rollout-steps", "206", "--gamma", "0", "--learning-rate", "1e-3", "--interaction-window", "1")
"""A rollout of two episodes of AutoencodeEasy, an answer that is paid at once, and keys that see the card."""
SYMBOLS_AGO = ("--gamma", "0", "--interaction-window", "4")
"""An answer is paid at once."""
PAIRS_OF_CARDS = ("--rollout-steps", "104", "--gamma", "0.5", "--interaction-window", "1")
"""A rollout of one episode; a card turned over is paid for with the next."""


def popgym(name: str, total_steps: int, *options: str) -> Study:
    """A study of a task of POPGym, whose published runs took 15 M frames."""
    found = re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()
    return Study(
        f"popgym-{found}", f"POPGym {name}", "popgym", f"popgym-{name}-v0", total_steps, ("gru", "mnm-p"), seeds=2,
        options=options, per_core=SAME_SIZE, figure="return",
    )  # fmt: skip


STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        maze(9, 1_000_000),
        maze(11, 4_000_000, options=WHOLE_EPISODES, per_core={"mnm-p": BINDING}, seeds=5),
        maze(13, 1_000_000, options=WHOLE_EPISODES, per_core={"mnm-p": BINDING}),
        maze(
            11,
            1_000_000,
            "ablation-maze",
            options=WHOLE_EPISODES,
            cores=tuple(MAZE_ABLATIONS),
            per_core=MAZE_ABLATIONS,
        ),
        maze(9, 3_000_000, algo="a2c", options=CALMER),
        maze(11, 4_000_000, algo="a2c", options=CALMER),
        maze(9, 3_000_000, "maze-9-a2c-preset", algo="a2c"),
        maze(11, 4_000_000, "maze-11-a2c-preset", algo="a2c"),
        *(repeat_previous(lag, 200_000, cores=ALL_CORES) for lag in (4, 8, 16)),
        repeat_previous(
            8,
            200_000,
            "ablation-repeat",
            "Ablations in repeat-previous",
            cores=tuple(ABLATIONS),
            per_core=ABLATIONS,
            # Half the preset's gradient steps: nothing is solved yet, and what helps shows.
            options=("--minibatches", "4"),
        ),
        t_maze(6, 300_000),
        t_maze(12, 600_000),
        t_maze(24, 1_500_000),
        *(t_maze_short(length) for length in (6, 12, 24)),
        t_maze_short(
            12,
            name="ablation-t-maze",
            title="Ablations in the T-maze, corridor of 12",
            cores=T_MAZE_ABLATIONS,
            per_core=ABLATIONS,
        ),
        pair_bandit(
            16,
            500_000,
            cores=(
                "none",
                "lstm",
                "gru",
                "mnm-g",
                "mnm-p",
                "hard",
                "mnm-p published",
                "mnm-p last-layer",
                GATED_DELTA,
            ),
            per_core={"mnm-p published": PUBLISHED, "mnm-p last-layer": LAST_LAYER},
            seeds=5,
        ),
        pair_bandit(32, 2_000_000, "--rollout-steps", "96", cores=("mnm-p",)),
        *pair_bandit_stages((8, 400_000), (16, 400_000), (32, 1_000_000), cores=("lstm", "mnm-p")),
        *pair_bandit_stages(
            (8, 600_000), (16, 400_000), (32, 600_000), (64, 1_200_000), cores=("lstm", "mnm-p")
        ),
        *pair_bandit_stages(
            (4, 500_000), (8, 400_000), (16, 600_000), cores=("lstm", "mnm-p"), feedback="reward"
        ),
        *pair_bandit_stages(
            (4, 200_000), (8, 200_000), (16, 500_000), cores=("lstm", "mnm-p"), codes="random"
        ),
        *pair_bandit_stages(
            (4, 500_000),
            (8, 400_000),
            (16, 600_000),
            cores=("lstm", "mnm-p"),
            feedback="reward",
            codes="random",
        ),
        *pair_bandit_stages(
            (4, 200_000),
            (8, 200_000),
            (16, 500_000),
            cores=("mnm-p last-layer",),
            doors=8,
            per_core={"mnm-p last-layer": ADDITIVE},
        ),
        treasure(7, 6, 48, 400_000),
        treasure(9, 8, 64, 600_000, seeds=5),
        treasure(11, 10, 96, 800_000),
        island(3, 700_000),
        island(4, 800_000, *SMALLER_STEPS, after="island-3-of-5"),
        island(5, 2_000_000, "--anneal", *SMALLER_STEPS, after="island-4-of-5"),
        popgym("AutoencodeEasy", 15_000_000, *BACKWARDS),
        popgym("ConcentrationEasy", 1_000_000, *PAIRS_OF_CARDS),
        popgym("RepeatPreviousEasy", 1_000_000, *SYMBOLS_AGO),
        popgym("RepeatPreviousMedium", 1_000_000, *SYMBOLS_AGO, "--rollout-steps", "104"),
        Study(
            "memory-s7-view3",
            "MiniGrid-MemoryS7-v0, view 3, Python backend",
            "minigrid-memory",
            "MiniGrid-MemoryS7-v0",
            2_000_000,
            options=(*STAGE, *VIEW_3, *MORE_UPDATES),
            seeds=5,
        ),
        memory("S9", 2_000_000, options=STAGE, seeds=5),
        memory("S11", 2_000_000, after="memory-s9", options=LATER_STAGE, seeds=5),
        memory("S13", 800_000, after="memory-s11-staged", options=LATER_STAGE, seeds=5),
        memory("S17Random", 800_000, after="memory-s13-staged", options=LAST_STAGE, seeds=5),
    )
}
