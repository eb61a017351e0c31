"""The training loop: build or resume, then collect -> learn -> log -> checkpoint until enough frames.

Random streams are three generators of their own (weights and environments are seeded apart), and all of
them are saved, so that N + M updates with a resume in between equal N + M without one, bit for bit on the
CPU, where the environments can save their state. With several ranks (`agents/distributed.py`) each runs this
loop on its part of the environments; rank 0 alone reads and writes the run directory.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from agents.checkpoint import load_checkpoint, load_weights, newest_whole
from agents.config import TrainConfig
from agents.curves import plot_curves
from agents.distributed import ALONE, Ranks, check_memory, make_generator, pick_device, restore_generator
from agents.episodes import WINDOW
from agents.files import refusing
from agents.held_out import HeldOut
from agents.learner import Learner
from agents.model import build_model
from agents.pretrained import weights_at
from agents.profile import PHASES, Stopwatch, region
from agents.progress import ProgressDisplay, number, print_table
from agents.rollout import Collector
from agents.run_dir import RunDirectory, config_to_dict
from envs import EnvLike, id_of, make_vec
from envs.errors import EnvFault, UserError
from memory.mnm.fast import implementation_in_use

ACTION_STREAM, MINIBATCH_STREAM = 1, 2
"""Numbers that tell the random streams of one seed apart."""


def learning_rate_at(rate: float, anneal: bool, frames: int, total_steps: int) -> float:
    """The learning rate of the update that begins after `frames`."""
    return rate * (1.0 - min(frames / total_steps, 1.0)) if anneal else rate


class Trainer:
    """One training run: everything it is made of, and the loop."""

    def __init__(
        self,
        config: TrainConfig,
        resume: bool = False,
        console: Console | None = None,
        ranks: Ranks = ALONE,
        env: EnvLike | None = None,
    ) -> None:
        """`env`: what a Python program gives instead of the id in `config`."""
        if env is not None:
            config = dataclasses.replace(config, env=id_of(env))
        if config.threads:
            torch.set_num_threads(config.threads)
        self.config, self.console, self.ranks = config, console or Console(quiet=True), ranks
        self.directory = RunDirectory(config.directory())
        saved = ranks.from_first(self._read_latest) if resume else None
        if resume:
            self.directory.find_modules()
        device = pick_device(config.device, ranks.local)
        check_memory(config.least_memory(), device)
        # Environments that cannot be restored must not play their first levels again after every resume.
        env_seed = config.seed if saved is None else config.seed + saved["updates"] * 1_000
        own = ranks.share(config.num_envs)
        self.env = make_vec(
            env or config.env,
            len(own),
            env_seed,
            config.backend,
            config.env_arguments(),
            first=own.start,
            timeout=config.env_timeout,
        )
        self.model = build_model(config, self.env.observation_space, self.env.action_space).to(device)
        ranks.copy_from_first([*self.model.parameters(), *self.model.buffers()])
        self.stopwatch = Stopwatch()
        self.action_generator = make_generator(config.seed, ACTION_STREAM, device)
        self.collector = Collector(
            self.env,
            self.model,
            config.rollout_steps,
            self.action_generator,
            ranks,
        )
        minibatch_generator = make_generator(config.seed, MINIBATCH_STREAM, torch.device("cpu"))
        self.learner = Learner(self.model, config, minibatch_generator, ranks)
        self.held_out = HeldOut(config, self.model, ranks)
        self.updates, self.wall_s, self.best_return, self.good_rows = 0, 0.0, -math.inf, 0
        self._saved_at: int | None = None
        if saved is None:
            if config.warm_start is not None:
                source = Path(config.warm_start)
                load_weights(self.model, weights_at(source), source)
            ranks.from_first(lambda: self.directory.create(config))
            self.collector.start()
            self.save()  # From here on the run can be resumed, whatever happens to it.
        else:
            with refusing(self.directory.checkpoint("latest")):
                self._load(saved)
            ranks.from_first(lambda: self._take_over(config))

    def run(
        self,
        stop: Callable[[], bool] = lambda: False,
        stop_after_updates: int | None = None,
        save_asked: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Train to the end; True if it was reached, False if `stop()` or the update limit came first.

        Either way the run is left with a checkpoint from which it continues exactly.
        """
        self._print_header()
        begun, wall_before = time.monotonic(), self.wall_s
        log_time, log_frames = begun, self.collector.frames
        finished = self.finished
        with ProgressDisplay(self.console, self.config.total_steps, "frames") as display:
            while not finished and not self.ranks.any(stop()) and self.updates != stop_after_updates:
                metrics = self.advance()
                self.wall_s = wall_before + time.monotonic() - begun
                finished = self.finished
                episodes = self.collector.episodes.summary()
                now = time.monotonic()
                fps = (self.collector.frames - log_frames) / (now - log_time)
                status = (
                    f"{fps:,.0f} frames/s  return {number(episodes['return_mean'])}  "
                    f"success {number(episodes['success_rate'])}{self.collector.episodes.unfinished()}"
                )
                display.show(self.collector.frames, status, last=finished)
                evaluated = self.held_out.play(self.collector.frames, finished)
                if self.updates % self.config.log_every == 0 or finished or evaluated is not None:
                    log_time, log_frames = time.monotonic(), self.collector.frames
                    self._log(metrics, episodes | self.held_out.columns(evaluated), fps)
                    self._keep_best(episodes, evaluated)
                    finished = finished or self._is_enough(episodes)
                if self.updates % self.config.checkpoint_every == 0 or self.ranks.any(save_asked()):
                    self.save()
        self.save()
        if self.ranks.leads:
            plot_curves(self.directory.metrics_path, self.directory.curves_path)
            self.directory.close()
        return finished

    @property
    def finished(self) -> bool:
        """Whether all frames are played."""
        return self.collector.frames >= self.config.total_steps

    def close(self) -> None:
        """Release the environments and the run directory."""
        self.env.close()
        self.directory.close()

    def save(self) -> None:
        """Write `latest`: everything that an exact continuation of every rank needs, in one file."""
        collectors = self.ranks.gather_on_first(self.collector.state_dict())
        if collectors:
            self._write_latest(collectors)

    def save_after_fault(self) -> None:
        """Write `latest` without the environments, which failed in mid-rollout: episodes will start anew.

        The agent is that of the last update; no other rank is asked for anything.
        """
        if self.ranks.leads and self.updates != self._saved_at:
            self._write_latest([self.collector.state_dict(environments=False)])

    def _write_latest(self, collectors: list[dict[str, Any]]) -> None:
        keep = None if self.updates == self._saved_at else self.config.keep_checkpoints
        self._saved_at = self.updates
        self.directory.save(
            "latest",
            {
                **self._agent(),
                "updates": self.updates,
                "wall_s": self.wall_s,
                "collector": collectors[0],
                "collectors_of_other_ranks": collectors[1:],
                "action_generator": self.action_generator.get_state(),
                "learner": self.learner.state_dict(),
            },
            keep,
        )

    def _agent(self) -> dict[str, Any]:
        return {
            "config": config_to_dict(self.config),
            "model": self.model.state_dict(),
            "frames": self.collector.frames,
            "best_return": self.best_return,
            "held_out": self.held_out.state_dict(),
        }

    def _read_latest(self) -> dict[str, Any]:
        path, best = self.directory.checkpoint("latest"), self.directory.checkpoint("best")
        self.directory.take()
        saved, said = newest_whole(path)
        if said:
            self.console.print(said, markup=False)
        if "learner" not in saved:
            raise UserError(f"{path} holds an agent alone and cannot be resumed")
        with refusing(path):
            if best.exists():
                saved["best_return"] = self._best_return(best, saved["best_return"])
            saved["updates"], saved["frames"]  # what is needed before the model is built
        return saved

    def _best_return(self, best: Path, otherwise: float) -> float:
        """Of `best`, or of `latest` if that is damaged: then the next good row replaces it."""
        try:
            return float(load_checkpoint(best)["best_return"])
        except UserError as error:
            self.console.print(f"{error}; it will be written again.", markup=False)
            return otherwise

    def _load(self, saved: dict[str, Any]) -> None:
        load_weights(self.model, saved["model"], self.directory.checkpoint("latest"))
        self.updates, self.wall_s = saved["updates"], saved["wall_s"]
        same_measure = self.held_out.load_state_dict(saved.get("held_out"))
        self.best_return = saved["best_return"] if same_measure else -math.inf
        self.learner.load_state_dict(saved["learner"])
        if not restore_generator(self.action_generator, saved["action_generator"]):
            make = self.config.seed * 1_000_003 + ACTION_STREAM + 7_919 * self.updates
            self.action_generator.manual_seed(make)
            self.console.print("The run was saved on another kind of device: its random stream begins anew.")
        collectors = [saved["collector"], *saved.get("collectors_of_other_ranks", [])]
        own = dict(collectors[self.ranks.rank % len(collectors)])
        before, now = sum(len(c["action"]) for c in collectors), self.config.num_envs
        if (len(collectors), before) != (self.ranks.count, now):
            own["env"] = None
        exact = self.collector.load_state_dict(own)
        self._say_learning_rate(saved["config"])
        if len(collectors) != self.ranks.count:
            self.console.print(
                f"The run was saved by {len(collectors)} rank(s) and goes on with {self.ranks.count}: "
                "episodes start anew."
            )
        elif before != now:
            self.console.print(
                f"The run had {before} environments and goes on with {now}: episodes start anew."
            )
        elif not exact:
            why = (
                "The environments were not saved with the checkpoint"
                if self.env.resumable
                else f"The {self.env.backend} backend cannot save environments"
            )
            self.console.print(f"{why}: episodes start anew.")

    def _say_learning_rate(self, stored: dict[str, Any]) -> None:
        """Where other options make the learning rate jump at this point, say so."""
        before = learning_rate_at(
            stored["learning_rate"], stored["anneal"], self.collector.frames, stored["total_steps"]
        )
        config = self.config
        now = learning_rate_at(config.learning_rate, config.anneal, self.collector.frames, config.total_steps)
        if abs(now - before) > 0.01 * max(now, before):
            self.console.print(
                f"The learning rate jumps here from {before:.3g} to {now:.3g}: it is annealed over "
                "--total-steps, or was changed."
            )

    def _take_over(self, config: TrainConfig) -> None:
        if said := self.directory.forget_after(self.updates, self.collector.frames):
            self.console.print(said, markup=False)
        self._saved_at = self.updates
        if not self.finished:  # else nothing is trained by this code and these options
            self.directory.write_config(config)

    def advance(self) -> dict[str, float]:
        """One rollout and one update; returns the learner's metrics."""
        progress = min(self.collector.frames / self.config.total_steps, 1.0)
        with self.stopwatch:
            try:
                rollout = self.collector.collect()
            except EnvFault:
                self.save_after_fault()
                raise
            with region("learn"):
                metrics = self.learner.update(rollout, progress)
        self.updates += 1
        return metrics

    def _log(self, metrics: dict[str, float], episodes: dict[str, float], fps: float) -> None:
        if not self.ranks.leads:
            return
        row = {
            "updates": self.updates,
            "frames": self.collector.frames,
            "wall_s": round(self.wall_s, 2),
            "fps": round(fps),
            **episodes,
            **metrics,
            **{f"{phase}_s": self.stopwatch.seconds[phase] for phase in PHASES},
        }
        self.stopwatch.seconds.clear()
        self.directory.log(row)

    def _keep_best(self, episodes: dict[str, float], evaluated: dict[str, float] | None) -> None:
        """`best` has the highest mean return: on held-out episodes if there are any, else over 100 of training."""
        if self.held_out.is_on:
            found = -math.inf if evaluated is None else evaluated["eval_return_mean"]
        else:
            found = episodes["return_mean"] if episodes["episodes"] >= WINDOW else -math.inf
        if found > self.best_return:
            self.best_return = found
            if self.ranks.leads:
                self.directory.save("best", self._agent())

    def _is_enough(self, episodes: dict[str, float]) -> bool:
        """Whether `enough_success` was reached in this row of the log and in the one before."""
        wanted = self.config.enough_success
        good = wanted is not None and episodes["episodes"] >= WINDOW and episodes["success_rate"] >= wanted
        self.good_rows = self.good_rows + 1 if good else 0
        return self.good_rows >= 2

    def _print_header(self) -> None:
        parameters = sum(p.numel() for p in self.model.parameters())
        extra: dict[str, object] = {
            "run directory": self.directory.path,
            "backend in use": self.env.backend,
            "device in use": self.model.policy_head.weight.device,
            "ranks": self.ranks.count,
            "parameters": f"{parameters:,}",
        }
        in_use = implementation_in_use(self.model.core)
        if in_use is not None:
            extra["memory implementation"] = in_use
        if self.updates:
            extra["resumed at"] = f"{self.collector.frames:,} frames"
        print_table(self.console, "Training", {**config_to_dict(self.config), **extra})
