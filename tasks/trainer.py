"""The supervised loop: build or resume, then draw -> loss -> update, evaluate -> log, checkpoint, finish.

One random stream, saved with the optimizer and the running means, makes N + M updates with a resume in
between equal N + M without one, bit for bit on the CPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from agents.checkpoint import (
    check_finite_weights,
    load_checkpoint,
    load_weights,
    newest_whole,
)
from agents.curves import plot_curves
from agents.distributed import make_generator, pick_device
from agents.files import refusing, write_json
from agents.optimizer import Adam
from agents.progress import ProgressDisplay, number, print_table
from agents.run_dir import RunDirectory, config_to_dict, package_versions, source_commit
from envs.errors import Diverged, UserError
from tasks import TASKS
from tasks.config import TaskConfig
from tasks.task import Task

DRAW_STREAM = 1


def build_task(config: TaskConfig, device: torch.device) -> Task:
    """The task of a configuration, its weights drawn from the configuration's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return TASKS[config.task].build(config, device)


class TaskTrainer:
    """One run of a supervised task: everything it is made of, and the loop."""

    def __init__(self, config: TaskConfig, resume: bool = False, console: Console | None = None) -> None:
        if config.threads:
            torch.set_num_threads(config.threads)
        self.config, self.console = config, console or Console(quiet=True)
        self.directory = RunDirectory(config.directory())
        saved = self._read_latest() if resume else None
        if resume:
            self.directory.find_modules()
        self.device = pick_device(config.device)
        self.task = build_task(config, self.device)
        self.model = self.task.model
        self.optimizer = Adam(
            [p for p in self.model.parameters() if p.requires_grad], lr=config.learning_rate
        )
        self.generator = make_generator(config.seed, DRAW_STREAM, torch.device("cpu"))
        self.updates, self.wall_s, self.cpu_s, self.best_score = 0, 0.0, 0.0, -math.inf
        self._saved_at: int | None = None
        self.sums: dict[str, Tensor] = {}
        """Metrics accumulated since the last row of metrics.csv."""
        self.summed = 0
        if saved is None:
            self.directory.create(config)
            self.save()  # From here on the run can be resumed, whatever happens to it.
        else:
            with refusing(self.directory.checkpoint("latest")):
                self._load(saved)
            if said := self.directory.forget_after(self.updates, self.updates):
                self.console.print(said, markup=False)
            self._saved_at = self.updates
            if not self.finished:  # else nothing is trained by this code and these options
                self.directory.write_config(config)

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
        cpu_begun, cpu_before = time.process_time(), self.cpu_s
        log_time, log_updates = begun, self.updates
        score = math.nan
        with ProgressDisplay(self.console, self.config.steps, "updates") as display:
            while not self.finished and not stop() and self.updates != stop_after_updates:
                loss = self.advance()
                now = time.monotonic()
                self.wall_s = wall_before + now - begun
                self.cpu_s = cpu_before + time.process_time() - cpu_begun
                last = self.updates >= self.config.steps
                if self.updates % self.config.log_every == 0 or last:
                    speed = (self.updates - log_updates) / (now - log_time)
                    score = self._log(speed)
                    log_time, log_updates = time.monotonic(), self.updates
                if display.due(last):
                    status = f"loss {number(float(loss), 4)}  score {number(score, 4)}"
                    display.show(self.updates, status, last=last)
                if self.updates % self.config.checkpoint_every == 0 or save_asked():
                    self.save()
        self.save()
        plot_curves(self.directory.metrics_path, self.directory.curves_path, self._panels(), x="updates")
        self.directory.close()
        return self.finished

    @property
    def finished(self) -> bool:
        """Whether all updates are made or the score wanted is reached."""
        wanted = self.config.stop_at
        return self.updates >= self.config.steps or (wanted is not None and self.best_score >= wanted)

    def advance(self) -> Tensor:
        """One update; returns its loss."""
        progress = self.updates / self.config.steps
        learning_rate = self.config.learning_rate * (1.0 - progress if self.config.anneal else 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.model.train()
        loss, figures = self.task.loss(self.task.draw(self.generator), progress)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        if not grad_norm.isfinite():
            raise Diverged(
                f"the loss or its gradient is not finite in update {self.updates + 1} (loss {float(loss.detach()):g}); "
                "the weights of before are kept"
            )
        self.optimizer.step()
        self.updates += 1
        for name, value in {"loss": loss, **figures, "grad_norm": grad_norm}.items():
            total = torch.as_tensor(value).detach().double()
            self.sums[name] = self.sums[name] + total if name in self.sums else total
        self.summed += 1
        return loss.detach()

    @torch.no_grad()
    def finish(self) -> dict[str, Any]:
        """The result of a run that reached its end, with the best weights; also written to result.json."""
        best = self.directory.checkpoint("best")
        content = load_checkpoint(best)
        load_weights(self.model, content["model"], best)
        self.model.eval()
        found = dict(self.task.finish(self.directory.path))
        result = {
            "task": self.config.task,
            "config": config_to_dict(self.config),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "updates": self.updates,
            "wall_s": round(self.wall_s, 2),
            # On a machine that is shared, the time that a free core would have taken.
            "cpu_s": round(self.cpu_s, 2),
            "best_score": content["best_score"],
            "best_updates": content["updates"],
            **found,
            "commit": source_commit(),
            "versions": package_versions(),
        }
        write_json(self.directory.path / "result.json", result)
        return result

    def save(self) -> None:
        """Write `latest`: everything that an exact continuation needs."""
        keep = None if self.updates == self._saved_at else self.config.keep_checkpoints
        self._saved_at = self.updates
        self.directory.save(
            "latest",
            {
                **self._weights(),
                "wall_s": self.wall_s,
                "cpu_s": self.cpu_s,
                "optimizer": self.optimizer.state_dict(),
                "generator": self.generator.get_state(),
                "sums": self.sums,
                "summed": self.summed,
            },
            keep,
        )

    def _read_latest(self) -> dict[str, Any]:
        self.directory.take()
        saved, said = newest_whole(self.directory.checkpoint("latest"))
        if said:
            self.console.print(said, markup=False)
        return saved

    def _weights(self) -> dict[str, Any]:
        return {
            "config": config_to_dict(self.config),
            "model": self.model.state_dict(),
            "updates": self.updates,
            "best_score": self.best_score,
        }

    def _load(self, saved: dict[str, Any]) -> None:
        path = self.directory.checkpoint("latest")
        load_weights(self.model, saved["model"], path)
        if "optimizer" not in saved:
            raise UserError(f"{path} holds weights alone and cannot be resumed")
        self.updates, self.wall_s = saved["updates"], saved["wall_s"]
        self.cpu_s = saved.get("cpu_s", 0.0)
        best = self.directory.checkpoint("best")
        self.best_score = load_checkpoint(best)["best_score"] if best.exists() else saved["best_score"]
        self.optimizer.load_state_dict(saved["optimizer"])
        self.generator.set_state(saved["generator"])
        self.sums = {name: total.to(self.device) for name, total in saved["sums"].items()}
        self.summed = saved["summed"]

    @torch.no_grad()
    def _log(self, updates_per_s: float) -> float:
        """Evaluate, write a row, keep the best weights; returns the score."""
        means = {name: float(total) / self.summed for name, total in self.sums.items()}
        self.sums, self.summed = {}, 0
        check_finite_weights(self.model.state_dict(), f"update {self.updates}")
        self.model.eval()
        figures = {name: float(value) for name, value in self.task.evaluate().items()}
        score = figures.pop("score")
        row = {
            "updates": self.updates,
            "wall_s": round(self.wall_s, 2),
            "updates_per_s": round(updates_per_s, 2),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            **means,
            "score": score,
            **{f"valid_{name}": value for name, value in figures.items()},
        }
        self.directory.log(row)
        # Of equal scores the later weights: with a falling learning rate they are the better ones.
        if score >= self.best_score or not self.directory.checkpoint("best").exists():
            self.best_score = score
            self.directory.save("best", self._weights())
        return score

    def _panels(self) -> list[tuple[str, str]]:
        skipped = ("updates", "wall_s", "learning_rate", "updates_per_s")
        return [(name, name) for name in self.directory.columns() if name not in skipped]

    def _print_header(self) -> None:
        extra: dict[str, object] = {
            "run directory": self.directory.path,
            "device in use": self.device,
            "parameters": f"{sum(p.numel() for p in self.model.parameters()):,}",
        }
        if self.updates:
            extra["resumed at"] = f"{self.updates:,} updates"
        print_table(self.console, "Training", {**config_to_dict(self.config), **extra})
