"""The study of ordinary tasks: its commands, its table, and the page that shows what the CSV says."""

from __future__ import annotations

from checks import refusal

from agents.config import TrainConfig
from agents.files import read_csv
from benchmarks.studies.ordinary_tasks import PAGE, RESULTS, TASKS, Run, main, table
from train_rl import read_command


def test_every_run_is_a_command_with_the_defaults() -> None:
    for name, task in TASKS.items():
        for core in task.cores:
            config, _ = read_command(Run(name, core, 2).options)
            assert (config.env, config.core, config.seed, config.total_steps) == (
                task.env,
                core,
                2,
                task.frames,
            )
            if not task.options:
                assert config.learning_rate == TrainConfig().learning_rate


def test_a_line_holds_every_seed_of_a_task_and_core() -> None:
    rows = [
        {
            "task": "CartPole",
            "core": "lstm",
            "seed": seed,
            "value": value,
            "sampled": sampled,
            "best": "500",
            "commit": "abc",
        }
        for seed, value, sampled in (("1", "499.5", "470"), ("0", "500", "480"))
    ]
    assert (
        "| CartPole | 150,000 | lstm | return | 500.0, 499.5 | 480.0, 470.0 | 500.0, 500.0 | 475 |  |"
        in table(rows)
    )


def test_a_core_that_does_not_run_in_a_task_is_refused() -> None:
    assert "LunarLander has none of the cores lstm; it has none" in refusal(
        main, "--tasks", "LunarLander", "--cores", "lstm"
    )


def test_the_page_shows_what_the_csv_says() -> None:
    rows = read_csv(RESULTS)
    assert not rows or table(rows) in PAGE.read_text()
