"""Search the options of a preset with Optuna: resumable, pruned, with as many workers as there are cores.

    python -m benchmarks.studies.tune maze --trials 40 --workers 2
    python -m benchmarks.studies.tune minigrid-memory --core lstm --env MiniGrid-MemoryS11-v0 --total-steps 2_000_000
    python -m benchmarks.studies.tune maze --report                      print what was found and write NAME.csv

The study is a database, the file runs/tune/NAME.db: every finished trial is in it as soon as it ends, so a
worker may be killed at any time and the command called again. On a cluster the same command runs on every
machine with `--storage` naming one database server. A trial whose worker died is tried again.

A trial is one training run from a tuning seed (100,000 and up, never a seed of the results), judged by the
mean training figure over its last quarter; no held-out level is played.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState

from agents.config import TrainConfig, preset
from agents.files import write_csv
from agents.options import option, parse, run_command, suggestion
from agents.trainer import Trainer
from benchmarks.common import ROOT, RUNS_DIR
from envs.errors import UserError
from memory import CORES
from memory.options import MNMOptions

FIRST_SEED = 100_000
REPORTS = 20
"""Times per trial at which the pruner may stop it."""

Space = dict[str, Callable[[optuna.Trial], Any]]

COMMON: Space = {
    "learning_rate": lambda trial: trial.suggest_float("learning_rate", 3e-4, 5e-3, log=True),
    "entropy_coef": lambda trial: trial.suggest_float("entropy_coef", 3e-3, 0.15, log=True),
    "entropy_coef_final": lambda trial: trial.suggest_float("entropy_coef_final", 1e-3, 1e-2, log=True),
    "value_coef": lambda trial: trial.suggest_float("value_coef", 0.1, 1.0, log=True),
    "num_envs": lambda trial: trial.suggest_categorical("num_envs", [32, 64, 128]),
    "minibatches": lambda trial: trial.suggest_categorical("minibatches", [2, 4, 8]),
}
SPACES: dict[str, Space] = {
    "maze": {
        **COMMON,
        "num_envs": lambda trial: trial.suggest_categorical("num_envs", [16, 32, 64]),
        "rollout_steps": lambda trial: trial.suggest_categorical("rollout_steps", [50, 100, 200]),
        "gamma": lambda trial: trial.suggest_float("gamma", 0.9, 0.99),
    },
    "minigrid-memory": {
        **COMMON,
        "rollout_steps": lambda trial: trial.suggest_categorical("rollout_steps", [64, 128, 256]),
        "epochs": lambda trial: trial.suggest_categorical("epochs", [4, 8]),
        "gamma": lambda trial: trial.suggest_categorical("gamma", [0.99, 0.995, 0.998]),
        "gae_lambda": lambda trial: trial.suggest_categorical("gae_lambda", [0.95, 0.97, 0.99]),
    },
    "popgym": {
        **COMMON,
        "gamma": lambda trial: trial.suggest_categorical("gamma", [0.9, 0.99]),
    },
}
"""What is searched, per preset; everything else stays as the preset has it."""

MNM: Space = {
    "meta_coef": lambda trial: trial.suggest_categorical("meta_coef", [0.0, 0.1, 1.0]),
    "interaction_gain": lambda trial: trial.suggest_categorical("interaction_gain", [1.0, 3.0]),
    "heads": lambda trial: trial.suggest_categorical("heads", [1, 2, 4]),
}
CORE_SPACES: dict[type, Space] = {MNMOptions: MNM}
"""What is searched beside it, for the cores that take these options."""


@dataclass(frozen=True)
class TuneConfig:
    """Options of the command."""

    preset: str = option("maze", f"preset to search around: {', '.join(SPACES)}")
    name: str | None = option(None, "name of the study; PRESET-CORE if not given", metavar="NAME")
    env: str | None = option(None, "environment id; the preset's if not given", metavar="ID")
    core: str = option("mnm-p", "memory core", metavar="NAME")
    total_steps: int = option(400_000, "frames of a trial that is not pruned")
    trials: int = option(40, "trials of the study, all workers and all calls together")
    workers: int = option(1, "processes that run trials at the same time, one thread each")
    directory: str = option(str(RUNS_DIR / "tune"), "where the study and its runs are kept", metavar="DIR")
    storage: str | None = option(
        None,
        "database of the study, as SQLAlchemy writes it; a file in --directory if not given",
        metavar="URL",
    )
    report: bool = option(False, "print the study's trials and stop", switch=True)

    def __post_init__(self) -> None:
        if self.core not in CORES:
            raise UserError(
                f"unknown core {self.core!r}{suggestion(self.core, CORES)}; valid: {', '.join(CORES)}"
            )

    def study_name(self) -> str:
        return self.name or f"{self.preset}-{self.core}"

    def database(self) -> str:
        return self.storage or f"sqlite:///{Path(self.directory) / self.study_name()}.db"


def quiet_optuna() -> None:
    """No line per trial, and no notice that heartbeats may change in a later Optuna."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)


def open_study(config: TuneConfig) -> optuna.Study:
    """The study in the database, made if it is new; its pruner stops trials below the median of the others."""
    Path(config.directory).mkdir(parents=True, exist_ok=True)
    storage = RDBStorage(
        config.database(),
        # How a worker that died is told from one that works; whoever starts a trial next looks.
        heartbeat_interval=10,
        grace_period=60,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
    )
    return optuna.create_study(
        storage=storage,
        study_name=config.study_name(),
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(multivariate=True, constant_liar=True),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=REPORTS // 4),
    )


def space_of(config: TuneConfig) -> Space:
    """What is searched for this preset with this core."""
    return {**SPACES[config.preset], **CORE_SPACES.get(CORES[config.core].options, {})}


def enqueue_preset(config: TuneConfig, study: optuna.Study) -> None:
    """Make the preset as it stands the first trial, so that a search never ends below where it began."""
    start = dataclasses.asdict(preset(config.preset))
    known = {name: start[name] for name in space_of(config) if start[name] is not None}
    study.enqueue_trial(known, skip_if_exists=True)


def train_config(config: TuneConfig, trial: optuna.Trial) -> TrainConfig:
    """The preset with the trial's draws; raises UserError if they cannot go together."""
    drawn = {name: draw(trial) for name, draw in space_of(config).items()}
    start = preset(config.preset)
    return dataclasses.replace(
        start,
        env=config.env or start.env,
        core=config.core,
        total_steps=config.total_steps,
        seed=FIRST_SEED + trial.number,
        run_dir=str(Path(config.directory) / config.study_name() / f"trial-{trial.number}"),
        # A trial that cannot be continued needs no checkpoint, only its log.
        checkpoint_every=10**9,
        **drawn,
    )


def objective(config: TuneConfig, trial: optuna.Trial) -> float:
    """Train once; the mean success (else return) of the training episodes over the last quarter."""
    trainer = Trainer(train_config(config, trial))
    figures: list[float] = []
    try:
        while trainer.collector.frames < config.total_steps:
            trainer.advance()
            step = trainer.collector.frames * REPORTS // config.total_steps
            summary = trainer.collector.episodes.summary()
            success = summary["success_rate"]
            figure = summary["return_mean"] if np.isnan(success) else success
            if step > len(figures) - 1 and not np.isnan(figure):
                figures += [figure] * (step + 1 - len(figures))
                trial.report(figure, step)
                if trial.should_prune():
                    raise optuna.TrialPruned
    finally:
        trainer.close()
    if not figures:
        raise UserError(
            f"no episode ended within --total-steps {config.total_steps}: give the trials more frames"
        )
    return float(np.mean(figures[-REPORTS // 4 :]))


def finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that ended or were pruned."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def work(config: TuneConfig) -> None:
    """Run trials until the study has enough of them."""
    quiet_optuna()
    study = open_study(config)
    while len(finished(study)) < config.trials:
        study.optimize(lambda trial: objective(config, trial), n_trials=1)


def report(study: optuna.Study, path: Path) -> None:
    """Every finished trial, best first: printed, and as a CSV file at `path`."""
    ended = sorted(finished(study), key=lambda trial: -(trial.value or -np.inf))
    write_csv(
        path,
        [
            {"trial": t.number, "state": t.state.name.lower(), "value": t.value, **t.params}
            for t in ended
            if t.value is not None
        ],
    )
    complete = sum(trial.state == TrialState.COMPLETE for trial in ended)
    print(f"{study.study_name}: {complete} trials ended, {len(ended) - complete} pruned")
    for trial in ended:
        if trial.value is not None:
            drawn = ", ".join(f"{name} {_short(value)}" for name, value in trial.params.items())
            print(f"  {trial.value:8.3f}  {trial.state.name.lower():8}  #{trial.number}  {drawn}")


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    config = parse(TuneConfig(), argv, description=__doc__ or "", positional="preset")
    if config.preset not in SPACES:
        raise UserError(
            f"no search space for {config.preset!r}{suggestion(config.preset, SPACES)}; valid: {', '.join(SPACES)}"
        )
    quiet_optuna()
    study = open_study(config)
    if not config.report:
        enqueue_preset(config, study)
        # One process per worker: PyTorch's threads and the environments do not share one well.
        command = [sys.executable, "-c", WORKER, json.dumps(dataclasses.asdict(config))]
        workers = [subprocess.Popen(command, cwd=ROOT) for _ in range(config.workers)]
        try:
            codes = [worker.wait() for worker in workers]
        finally:
            for worker in workers:
                worker.kill()
        if any(codes):
            raise UserError("a worker failed, see above; call the command again to go on")
    report(study, Path(config.directory) / f"{config.study_name()}.csv")
    return 0


WORKER = (
    "import json, sys; from benchmarks.studies.tune import TuneConfig, work; "
    "work(TuneConfig(**json.loads(sys.argv[1])))"
)
"""What a worker process runs."""


if __name__ == "__main__":
    run_command(main)
