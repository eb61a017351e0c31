"""Play a trained agent on held-out levels; report its return, and render what it recalls.

    python evaluate.py runs/maze --episodes 100
    python evaluate.py runs/maze --episodes 200 --policy sample --checkpoint best --json result.json
    python evaluate.py runs/maze --episodes 20 --gif recall.gif --html recall.html --gif-episodes 1
    python evaluate.py runs/tmaze --check-recall --episodes 200 --json recall.json
    python evaluate.py runs/maze --forget memory                 how well does it do without what it wrote?
    python evaluate.py pretrained/maze-mnm-p --gif recall.gif
    python evaluate.py --agent my_module:make_agent --env MiniGrid-MemoryS7-v0 --html recall.html   trained elsewhere
    python evaluate.py --agent sb3:model.zip --trust --env CartPole-v1 --html recall.html
    python evaluate.py runs/a --against runs/b --html both.html    the same episodes, and who is better

The run knows its environment and its agent, so no option of the training has to be repeated.
"""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Literal

from agents.config import MOST_STEPS, TrainConfig
from agents.files import check_writable, write_json
from agents.hints import is_elsewhere
from agents.options import check_numbers, json_object, option, parse, run_command
from envs.errors import UserError
from recall.names import MOST_TILES, SCORE_NAMES, check_score, steps_shown

if TYPE_CHECKING:
    from rich.console import Console

    from agents.evaluation import EpisodeResult, LoadedAgent


@dataclass(frozen=True)
class EvaluateConfig:
    """Options of the command."""

    run_dir: str = option("", "directory of a training run, or a published agent", optional=True)
    checkpoint: str = option(
        "latest", "latest, best, the path of a checkpoint, or untrained (fresh weights)", metavar="NAME"
    )
    env: str | None = option(
        None, "play another environment than that of the training, with the same observations", metavar="ID"
    )
    agent: str | None = option(
        None,
        "an agent trained elsewhere in place of a run: module:make_agent (see agents/elsewhere.py), or sb3:PATH.zip "
        "of sb3-contrib's RecurrentPPO; needs --env",
        metavar="NAME",
    )
    agent_kwargs: str = option("{}", "arguments of --agent as a JSON object", metavar="JSON")
    trust: bool = option(False, "run the code that the file of --agent sb3:PATH.zip holds", switch=True)
    wrapper: tuple[str, ...] = option(
        (), "with --agent: a wrapper of the environment, module:Class; may be repeated", metavar="WRAPPER"
    )
    against: str | None = option(
        None,
        "a second agent (a run, a published agent, or what --agent takes): both play the same episodes, and the page "
        "of --html shows them beside each other, where their actions part and what each recalled there",
        metavar="NAME",
    )
    against_checkpoint: str = option("latest", "--checkpoint of --against", metavar="NAME")
    against_kwargs: str = option("{}", "--agent-kwargs of --against", metavar="JSON")
    env_kwargs: str = option(
        "{}",
        "arguments of the environment as a JSON object, in place of those stored; to another --env the stored ones "
        "do not go along",
        metavar="JSON",
    )
    max_episode_steps: int = option(MOST_STEPS, "cut episodes after this many steps of the agent")
    episodes: int = option(100, "held-out episodes to play", most=10**7)
    policy: Literal["greedy", "sample"] = option("greedy", "take the most probable action, or draw one")
    seed: int = option(0, "which block of held-out levels")
    num_envs: int = option(
        16, "episodes in play at the same time; the result does not depend on it", most=100_000
    )
    device: Literal["auto", "cpu", "cuda"] = option("auto", "where the agent lives")
    threads: int = option(1, "threads of PyTorch on the CPU; 0 lets PyTorch choose")
    json: str | None = option(None, "write the result to this file", metavar="FILE")
    gif: str | None = option(
        None, "write an annotated .gif or .mp4 of the first episodes to this file", metavar="FILE"
    )
    html: str | None = option(None, "write a viewer of the first episodes, one HTML page", metavar="FILE")
    tape: str | None = option(None, "write the raw tape of the first episodes to this .npz", metavar="FILE")
    similarity: str | None = option(
        None, "write maps of the similarity of write keys and target values to this PNG", metavar="FILE"
    )
    gif_episodes: int = option(1, "episodes in the GIF, the page, the tapes and the maps")
    gif_fps: float = option(6.0, "frames per second of the GIF")
    gif_steps: str = option(":", "steps of each episode in the GIF, from A up to, without, B", metavar="A:B")
    check_recall: bool = option(
        False, "experiments on whether the recalls can be trusted, instead of the evaluation", switch=True
    )
    forget: Literal["nothing", "memory", "controller", "both"] = option(
        "nothing",
        "cores that write: what is lost after every step, the written memory, what the controller itself "
        "carries, or both",
    )
    control: str | None = option(
        None, "for --check-recall: a run trained where the cue stays visible", metavar="DIR"
    )
    score: str | None = option(
        None,
        "what ranks the recalls (None: removal for cores that write, address for hard, step for every other core): "
        + ", ".join(SCORE_NAMES),
        metavar="NAME",
    )
    window: int | None = option(
        None, "how many steps back the scores of whole steps look; None: to the beginning of the episode"
    )
    top_k: int = option(5, "recalls shown at every step")

    def __post_init__(self) -> None:
        check_numbers(self)
        for name in ("episodes", "num_envs", "gif_episodes", "top_k", "max_episode_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        if self.window is not None and self.window < 1:
            raise UserError(f"--window must be at least 1, got {self.window}")
        if self.seed < 0:
            raise UserError(f"--seed must be 0 or more, got {self.seed}")
        if self.top_k > MOST_TILES:
            raise UserError(f"--top-k must be at most {MOST_TILES} to fit a picture, got {self.top_k}")
        if self.score is not None:
            check_score(self.score)
        steps_shown(self.gif_steps)
        self._check_agent()
        self._check_combinations()
        self._check_against()

    def plays_as_trained(self) -> bool:
        """Whether a run is where it was at the end of its training, but for the greedy policy."""
        there = (self.policy, self.checkpoint, self.env, self.env_kwargs, self.forget)
        return bool(self.run_dir) and there == ("greedy", "latest", None, "{}", "nothing")

    def _check_agent(self) -> None:
        if self.agent is None:
            from_elsewhere = self.against is not None and is_elsewhere(self.against)
            for name in ("agent_kwargs",) if from_elsewhere else ("agent_kwargs", "trust", "wrapper"):
                if getattr(self, name) not in ("{}", False, ()):
                    raise UserError(f"--{name.replace('_', '-')} is for --agent; a run knows its own")
            return
        if self.run_dir:
            raise UserError(f"--agent takes the place of a run; leave out {self.run_dir}")
        if self.env is None:
            raise UserError("--agent needs --env: the environment that it plays")
        if self.checkpoint != "latest":
            raise UserError("--checkpoint is for runs; an agent trained elsewhere has none")

    def _check_combinations(self) -> None:
        asked = [name for name in ("gif", "html", "tape", "similarity") if getattr(self, name) is not None]
        if self.check_recall and asked:
            raise UserError(f"--check-recall writes no --{asked[0]}; ask for it without --check-recall")
        if self.check_recall and self.policy != "greedy":
            raise UserError("--check-recall plays greedily; leave out --policy sample")
        if self.control is not None and not self.check_recall:
            raise UserError("--control is for --check-recall; give both")
        if self.forget != "nothing" and (asked or self.check_recall):
            other = asked[0] if asked else "check-recall"
            raise UserError(
                f"--forget changes what the agent carries, which --{other} does not show; "
                "ask for one of them at a time"
            )

    def _check_against(self) -> None:
        if self.against is None:
            for name in ("against_checkpoint", "against_kwargs"):
                if getattr(self, name) not in ("latest", "{}"):
                    raise UserError(f"--{name.replace('_', '-')} is for --against; give both")
            return
        if self.html is None:
            raise UserError("--against shows two agents on one page: say where with --html FILE")
        for name in ("gif", "tape", "similarity"):
            if getattr(self, name) is not None:
                raise UserError(f"--against writes --html and --json alone; leave out --{name}")
        if is_elsewhere(self.against) and self.against_checkpoint != "latest":
            raise UserError("--against-checkpoint is for runs; an agent trained elsewhere has none")
        if not is_elsewhere(self.against) and self.against_kwargs != "{}":
            raise UserError("--against-kwargs is for an agent trained elsewhere; a run knows its own")


def play(agent: LoadedAgent, config: EvaluateConfig, console: Console) -> list[EpisodeResult]:
    """Play the episodes under a progress bar."""
    import numpy as np

    from agents.evaluation import play_episodes
    from agents.progress import ProgressDisplay, number
    from recall.scores.intervene import FORGET

    with ProgressDisplay(console, config.episodes, "episodes") as display:

        def show(results: list[EpisodeResult]) -> None:
            mean_return = float(np.mean([result.episode_return for result in results]))
            success = float(np.mean([result.success for result in results]))
            status = f"return {number(mean_return)}  success {number(success)}"
            display.show(len(results), status, last=len(results) == config.episodes)

        return play_episodes(
            agent, config.episodes, config.policy, config.seed, config.num_envs, show, FORGET[config.forget],
            config.max_episode_steps, config.against is not None,
        )  # fmt: skip


def render(agent: LoadedAgent, config: EvaluateConfig, console: Console) -> None:
    """Record the first episodes once and write everything that was asked for."""
    from agents.evaluation import action_rng
    from agents.progress import ProgressDisplay
    from envs import held_out_seed, make_shown
    from recall.render.outputs import Outputs, numbered, render_recalls

    train, episodes = agent.config, range(config.gif_episodes)
    with ProgressDisplay(console, 100, "%") as display:
        display.last_shown = time.monotonic()  # what is done at once needs no line
        summary = render_recalls(
            agent.model,
            lambda: make_shown(train.env, train.env_arguments()),
            [held_out_seed(config.seed, episode) for episode in episodes],
            Outputs(config.gif, config.html, config.tape, config.similarity, steps_shown(config.gif_steps)),
            policy=config.policy,
            score=config.score,
            window=config.window,
            top_k=config.top_k,
            fps=config.gif_fps,
            title=f"{train.core} in {train.env}",
            core=train.core,
            rngs=[action_rng(config.seed, episode) for episode in episodes],
            most_steps=config.max_episode_steps,
            progress=lambda done, total, what: display.show(100 * done // total, what),
        )
    longest = max(episode["steps"] for episode in summary["episodes"])
    if config.top_k >= longest and summary["score"] is not None:
        console.print(
            f"--top-k {config.top_k}: the longest episode has {longest} steps, so {longest - 1} earlier ones can be "
            "recalled at most; the other frames stay empty"
        )
    if config.gif is not None:
        console.print(f"{config.gif}: {summary['frames']} frames, {summary['bytes'] / 1e6:.2f} MB")
    if config.html is not None:
        console.print(f"{config.html}: {summary['html_bytes'] / 1e6:.2f} MB")
    for path in (config.tape, config.similarity):
        if path is not None:
            console.print(", ".join(str(numbered(path, e + 1, len(episodes))) for e in episodes))


def compare(
    agents: tuple[LoadedAgent, LoadedAgent], names: tuple[str, str], config: EvaluateConfig, console: Console
) -> None:
    """Play both agents, say who is better, and show the first episodes of both on one page."""
    from recall.render.against import compare_and_show

    assert config.html is not None
    compare_and_show(
        agents,
        names,
        (play(agents[0], config, console), play(agents[1], config, console)),
        console,
        config.html,
        json=config.json,
        shown=config.gif_episodes,
        policy=config.policy,
        seed=config.seed,
        score=config.score,
        window=config.window,
        top_k=config.top_k,
        most_steps=config.max_episode_steps,
    )


def check(agent: LoadedAgent, control: LoadedAgent | None, config: EvaluateConfig, console: Console) -> None:
    """Make the experiments of the validity report and print it; --json then writes the report."""
    from recall.validate.validity import check_recall

    found = check_recall(
        agent, config.episodes, config.seed, control, progress=lambda s: console.print(f"{s} ...")
    )
    found.print(console)
    if config.json is not None:
        write_json(config.json, found.to_json())


def load(config: EvaluateConfig) -> LoadedAgent:
    """The agent of a run, or one trained elsewhere."""
    from agents.distributed import pick_device
    from agents.elsewhere import load_elsewhere
    from agents.evaluation import load_agent

    device = pick_device(config.device)
    if config.agent is not None:
        assert config.env is not None
        env = TrainConfig(env=config.env, env_kwargs=config.env_kwargs, wrapper=config.wrapper)
        return load_elsewhere(config.agent, env, config.agent_kwargs, device, config.trust)
    if not config.run_dir:
        raise UserError("which agent? Give the directory of a run, a published agent, or --agent and --env")
    return in_its_place(load_agent(Path(config.run_dir), config.checkpoint, device), config)


def load_second(config: EvaluateConfig, first: LoadedAgent) -> tuple[LoadedAgent, tuple[str, str]]:
    """The agent of --against, and what the two are called; one trained elsewhere plays the environment of the first."""
    from agents.compare import check_comparable, names_of
    from agents.distributed import pick_device
    from agents.elsewhere import load_elsewhere
    from agents.evaluation import load_agent

    assert config.against is not None
    device = pick_device(config.device)
    if is_elsewhere(config.against):
        env = dataclasses.replace(first.config, wrapper=config.wrapper or first.config.wrapper)
        second = load_elsewhere(config.against, env, config.against_kwargs, device, config.trust)
    else:
        second = in_its_place(load_agent(Path(config.against), config.against_checkpoint, device), config)
    names = names_of(
        (config.agent or config.run_dir, config.against),
        (first, second),
        ((config.checkpoint, config.against_checkpoint), (config.agent_kwargs, config.against_kwargs)),
    )
    check_comparable(names, (first, second))
    return second, names


def in_its_place(agent: LoadedAgent, config: EvaluateConfig) -> LoadedAgent:
    """The agent where --env and --env-kwargs put it."""
    from agents.evaluation import moved_to

    if config.env is None and config.env_kwargs == "{}":
        return agent
    return moved_to(agent, config.env, json_object("env-kwargs", config.env_kwargs))


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    config = parse(EvaluateConfig(), argv, description=__doc__ or "", positional="run_dir")
    for path in (config.json, config.html, config.tape, config.similarity):
        if path is not None:
            check_writable(path)
    if config.gif is not None:
        from recall.render.movie import check_movie

        check_movie(config.gif, config.gif_fps)
    # Only now, when the options are known to be right: these load PyTorch and the environments.
    import torch

    from agents.distributed import pick_device
    from agents.evaluation import load_agent, report, why_so_low
    from agents.progress import make_console, print_table
    from recall.scores.registry import check_applies, kind_of

    if config.threads:
        torch.set_num_threads(config.threads)
    console = make_console()
    agent = load(config)
    against = None if config.against is None else load_second(config, agent)
    control = None
    if config.control is not None:
        control = load_agent(Path(config.control), "latest", pick_device(config.device))
    memory = agent.model.core
    if config.forget != "nothing" and not memory.writes:
        raise UserError(f"--forget takes apart cores that write (mnm-g, mnm-p); this is {agent.config.core}")
    if config.score is not None:
        check_applies(config.score, agent.config.core, kind_of(memory))
    extra = {
        "agent": f"{agent.config.core}, {agent.config.algo}, {agent.frames:,} frames",
        "playing": agent.config.env,
    }
    print_table(console, "Evaluation", {**dataclasses.asdict(config), **extra})
    if config.check_recall:
        check(agent, control, config, console)
        return 0
    if against is not None:
        compare((agent, against[0]), against[1], config, console)
        return 0
    result = report(agent, play(agent, config, console), config.policy, config.seed)
    result["forget"] = config.forget
    low, high = result["return_interval_95"]
    success = "" if result["success_rate"] is None else f"  success {result['success_rate']:.3f}"
    console.print(
        f"return {result['return_mean']:.3f} (95% interval {low:.3f} to {high:.3f}){success}  "
        f"length {result['length_mean']:.1f}  over {result['episodes']} held-out episodes, {config.policy} policy"
    )
    if result["episodes_cut"]:
        console.print(
            f"{result['episodes_cut']} of them were cut after {config.max_episode_steps:,} steps "
            "(--max-episode-steps)"
        )
    if (
        success
        and config.plays_as_trained()
        and (line := why_so_low(Path(config.run_dir), result["success_rate"]))
    ):
        console.print(line)
    if config.json is not None:
        write_json(config.json, result)
    if any((config.gif, config.html, config.tape, config.similarity)):
        render(agent, config, console)
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    run_command(main)
