"""The contest with other toolkits: who takes part, when the clock runs, and the table."""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import pytest
from checks import refusal
from gymnasium import spaces

from agents.files import read_csv
from benchmarks.common import names_in, numbers_in
from benchmarks.studies import side_by_side
from benchmarks.studies.side_by_side import (
    CONTESTS,
    EPISODES,
    PAGE,
    RESULTS,
    TASKS,
    Course,
    falling,
    make_env,
    play_peer,
    run_ours,
    sides,
    table,
)
from envs.errors import UserError


def test_ours_take_part_with_every_core_of_the_task_but_none_where_memory_is_needed() -> None:
    assert set(CONTESTS) <= set(TASKS)
    assert sides("CartPole") == ["sb3 PPO", "none", "lstm", "mnm-p"]
    assert sides("CartPole-positions") == ["sb3 RecurrentPPO", "lstm", "mnm-p"]
    assert sides("DoorKey-5x5") == ["sb3 PPO", "torch-ac PPO", "none", "lstm", "mnm-p"]


def test_a_task_is_learnt_at_the_first_evaluation_that_reaches_the_target_and_its_time_does_not_count() -> (
    None
):
    returns = iter([100.0, 480.0])

    def play() -> float:
        time.sleep(0.05)
        return next(returns)

    course = Course(475.0, play, every=8_192)
    assert not course.is_over(8_000)
    assert not course.is_over(8_200)
    assert not course.is_over(16_300), "the next is due 8,192 frames after the last"
    assert course.is_over(16_400)
    assert course.is_over(16_500), "once learnt, nothing is played any more"
    row = course.row()
    assert (row["learnt"], row["frames"], row["best"]) == (1, 16_500, 480.0)
    assert row["seconds"] < 0.05


def test_a_run_that_has_not_learnt_is_given_up_when_its_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    course = Course(475.0, lambda: 100.0, every=1)
    assert not course.is_over(1)
    monkeypatch.setattr(side_by_side, "LIMIT_S", 0.0)
    assert course.is_over(2)
    assert course.row()["learnt"] == 0


class Countdown(gymnasium.Env[int, int]):
    """Pays 1 per step for three steps, or nothing from the second episode on."""

    observation_space, action_space = spaces.Discrete(4), spaces.Discrete(2)
    episodes = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        self.steps, self.episodes = 0, self.episodes + 1
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self.steps, float(self.episodes == 1), self.steps == 3, False, {}


def test_a_peer_sees_what_the_options_of_ours_leave_of_an_observation() -> None:
    whole, angle = (make_env(task).reset(seed=5)[0] for task in ("Pendulum", "Pendulum-angle"))
    assert whole.shape == (3,)
    assert angle.tolist() == whole[:2].tolist()
    near, far = (make_env(task).observation_space.shape[0] for task in ("MemoryS7", "DoorKey-5x5"))
    assert near < far, "a view of 3 cells, and one of 7"


@pytest.mark.parametrize(("task", "earned"), [("CartPole", 3.0), ("DoorKey-5x5", 1.0)])
def test_a_peer_is_told_of_first_observations_and_judged_by_return_or_success(
    task: str, earned: float
) -> None:
    told: list[tuple[int, bool]] = []
    mean = play_peer(task, Countdown(), lambda obs, begins: told.append((obs, begins)) or 0)
    assert mean == earned / EPISODES
    assert told == [(0, True), (1, False), (2, False)] * EPISODES


def test_the_schedule_of_the_peer_falls_to_zero() -> None:
    assert [falling(0.2)(left) for left in (1.0, 0.5, 0.0)] == [0.2, 0.1, 0.0]


@pytest.mark.slow
def test_a_run_of_ours_ends_where_the_task_is_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any agent balances the pole for ten steps."""
    monkeypatch.setitem(TASKS, "CartPole", TASKS["CartPole"].__class__("CartPole-v1", 150_000, 9.0))
    monkeypatch.setattr(side_by_side, "EPISODES", 2)
    row = run_ours("CartPole", "none", 0)
    assert row["learnt"] == 1
    every = CONTESTS["CartPole"].every
    assert every <= row["frames"] < 2 * every


def line(side: str, seed: int, learnt: int, frames: int, seconds: float) -> dict[str, str]:
    row = {
        "task": "CartPole",
        "side": side,
        "seed": seed,
        "learnt": learnt,
        "frames": frames,
        "cpu_s": seconds,
    }
    return {name: str(value) for name, value in row.items()} | {"commit": "abc", "cpu": "a CPU", "torch": "2"}


def test_ratios_are_those_of_medians_and_runs_that_have_not_learnt_bound_them() -> None:
    rows = [
        line("sb3 PPO", seed, int(seed > 0), frames, 40.0)
        for seed, frames in enumerate((200_000, 80_000, 100_000))
    ]
    rows += [line("lstm", seed, 1, 50_000, 10.0) for seed in range(3)]
    shown = table(rows)
    assert "| CartPole | 475 | sb3 PPO | -, 80,000, 100,000 | -, 40, 40 | 1 | 1 |" in shown
    assert "| CartPole | 475 | lstm | 50,000, 50,000, 50,000 | 10, 10, 10 | < 0.50 | < 0.25 |" in shown
    beaten = table([line("sb3 PPO", 0, 1, 100_000, 20.0), line("none", 0, 0, 200_000, 40.0)])
    assert "| CartPole | 475 | none | - | - | > 2.00 | > 2.00 |" in beaten


def test_what_is_misspelt_is_one_line() -> None:
    assert "unknown task 'CartPol'" in refusal(side_by_side.main, "--tasks", "CartPol")
    assert "unknown side 'lstn' (did you mean lstm?)" in refusal(side_by_side.main, "--sides", "lstn")
    assert "--seeds takes whole numbers" in refusal(side_by_side.main, "--tasks", "none", "--seeds", "a")


def test_the_page_shows_what_the_csv_says() -> None:
    rows = read_csv(RESULTS)
    assert not rows or table(rows) in PAGE.read_text()


def test_none_is_a_core_where_there_is_one() -> None:
    assert names_in("none", ["none", "lstm"], "core") == ["none"]
    assert names_in("none", ["CartPole", "Acrobot"], "task") == []
    assert names_in("all", ["CartPole", "Acrobot"], "task") == ["CartPole", "Acrobot"]
    with pytest.raises(UserError, match=r"unknown core 'lstmm' \(did you mean lstm"):
        names_in("none,lstmm", ["none", "lstm"], "core")


def test_numbers_are_whole() -> None:
    assert numbers_in("0, 2", "seeds") == [0, 2]
    with pytest.raises(UserError, match="--num-envs takes whole numbers"):
        numbers_in("16,x", "num-envs")


def test_a_task_without_the_asked_sides_is_refused() -> None:
    with pytest.raises(UserError, match="MemoryS7 has none of the sides none; it has sb3 RecurrentPPO"):
        side_by_side.main(["--tasks", "MemoryS7", "--sides", "none"])
