"""The tuner: draws valid configurations, and loses no finished trial when it is killed."""

from __future__ import annotations

import dataclasses
import os
import signal
import sqlite3
import time
import warnings
from pathlib import Path

import optuna
import pytest
from forked import Command

from agents.config import TrainConfig, preset
from agents.files import read_csv
from benchmarks.studies import tune
from benchmarks.studies.tune import SPACES, TuneConfig

SMALL = dataclasses.replace(TuneConfig(), core="none", total_steps=60_000, trials=3)


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.mark.parametrize("name", SPACES)
def test_every_space_draws_valid_configurations_that_never_use_a_seed_of_the_results(
    name: str, tmp_path: Path
) -> None:
    config = dataclasses.replace(SMALL, preset=name, directory=str(tmp_path))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        drawn = tune.train_config(config, study.ask())
        assert isinstance(drawn, TrainConfig)
        assert drawn.seed >= tune.FIRST_SEED


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("core", ["lstm", "mnm-p"])
def test_the_first_trial_is_the_preset_as_it_stands(name: str, core: str, tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, preset=name, core=core, directory=str(tmp_path))
    study = optuna.create_study()
    for _ in range(2):
        tune.enqueue_preset(config, study)
    assert len(study.get_trials()) == 1, "asked for twice, queued once"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Optuna warns of a value outside its range, and takes another
        first = dataclasses.asdict(tune.train_config(config, study.ask()))
    start = dataclasses.asdict(preset(name))
    for option in tune.space_of(config):
        assert start[option] is None or first[option] == start[option]


def tuner(directory: Path) -> Command:
    options = ["--core", "none", "--total-steps", "20000", "--trials", "3", "--directory", str(directory)]
    return Command("-m", "benchmarks.studies.tune", "maze", *options, start_new_session=True)


def finished_in(database: Path) -> dict[int, float]:
    """Number and value of the complete trials, read past Optuna, so that looking takes no part in the study."""
    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            rows = connection.execute(
                "select number, value from trials join trial_values using (trial_id) where state = 'COMPLETE'"
            )
            return dict(rows.fetchall())
    except sqlite3.OperationalError:
        return {}


@pytest.mark.slow
def test_a_killed_tuner_loses_no_finished_trial(tmp_path: Path) -> None:
    database, process, deadline = tmp_path / "maze-none.db", tuner(tmp_path), time.monotonic() + 120
    while not finished_in(database) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = finished_in(database)
    assert 1 <= len(before) < 3, "killed after the first trial, before the last"

    output, errors = tuner(tmp_path).communicate(timeout=120)

    after = finished_in(database)
    assert len(after) == 3
    assert before.items() <= after.items()
    assert "3 trials ended" in output, output + errors
    values = [float(row["value"]) for row in read_csv(tmp_path / "maze-none.csv")]
    assert values == sorted(after.values(), reverse=True)
