"""The table of suites: what works, what is refused, and what crashes or hangs are rows alike."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from agents.files import read_csv
from benchmarks.tools.suites import PAGE, RESULTS, STAGES, SUITES, ids_of, page_of, tried


class Bad(gymnasium.Env[Any, Any]):
    """Sound until its first step, in which it does `how`."""

    observation_space, action_space = spaces.Box(0, 1, (2,)), spaces.Discrete(2)
    how = "raises"

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        if self.how == "raises":
            raise RuntimeError("lost")
        if self.how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)


@pytest.fixture(params=["raises", "dies", "hangs"])
def bad_id(request: pytest.FixtureRequest) -> Any:
    name = f"Bad{request.param}-v0"
    gymnasium.register(name, entry_point=type(Bad.__name__, (Bad,), {"how": request.param}))
    yield name
    del gymnasium.registry[name]


@pytest.mark.slow
def test_what_fails_is_a_row(bad_id: str) -> None:
    row = tried(bad_id, timeout=2.0 if "hangs" in bad_id else 60.0)
    assert (row["train"], row["recall"]) == ("", "")
    expected = {
        "raises": "step raised RuntimeError: lost",
        "dies": "ended with code",
        "hangs": "no answer after 2 s",
    }
    assert next(text for how, text in expected.items() if how in bad_id) in row["refusal"]


@pytest.mark.slow
def test_what_works_is_a_row_and_the_page_counts_it() -> None:
    row = tried("mnm/TMaze-v0", timeout=100.0)
    assert [row[key] for key in ("train", "evaluate", "recall", "picture", "refusal", "backend")] == [
        "yes", "yes", "yes", "its own", "", "sync",
    ]  # fmt: skip
    rows = [
        {"suite": "A", "version": "1", "of": "9", **row},
        {"suite": "A", "version": "1", "of": "9", **row, "id": "X", "recall": "", "refusal": "X is | odd"},
    ]
    page = page_of(rows)
    assert "| A | 1 | 2 of 9 | 2 | 2 | 1 | 0 | 0 |" in page
    assert "| A | `X` | ID is / odd |" in page


def test_a_sample_is_always_the_same() -> None:
    ids = ids_of(SUITES["MiniGrid"], 5)
    assert ids == ids_of(SUITES["MiniGrid"], 5)
    assert len(ids) == 5 < len(ids_of(SUITES["MiniGrid"], 0))


SAMPLE = {
    "MiniGrid": "MiniGrid-DoorKey-5x5-v0", "BabyAI": "BabyAI-GoToRedBall-v0", "Gymnasium": "CartPole-v1",
    "POPGym": "popgym-RepeatFirstEasy-v0", "ALE": "ALE/Pong-v5", "highway-env": "highway-v0",
    "memory-gym": "MortarMayhem-v0", "ViZDoom": "VizdoomBasic-v0", "flappy-bird": "FlappyBird-v0",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLE)
def test_an_id_of_every_installed_suite_trains_evaluates_and_recalls(name: str) -> None:
    if not ids_of(SUITES[name], 0):
        pytest.skip(f"{SUITES[name].distribution} is not installed")
    row = tried(SAMPLE[name], timeout=100.0)
    assert [row[stage] for stage in STAGES] == ["yes"] * 3, row


def test_the_committed_page_is_that_of_the_committed_rows() -> None:
    assert PAGE.read_text() == page_of(read_csv(RESULTS))
