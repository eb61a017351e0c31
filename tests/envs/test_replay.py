"""Snapshots: a restored vector goes on exactly, whatever the backend and the autoreset dialect; no pickle involved."""

from __future__ import annotations

import itertools
import json
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import envs
from envs.replay import BIT_GENERATORS, fingerprint, generator_from, to_json
from envs.vector import VecEnv, VecStep

CASES = [
    ("mnm/GridMaze9-v0", "native", "same_step", {"max_steps": 17}),
    ("mnm/GridMaze9-v0", "sync", "same_step", {"max_steps": 17}),
    ("mnm/TMaze-v0", "sync", "next_step", {"length": 3}),
    ("MiniGrid-MemoryS7-v0", "sync", "same_step", {"max_steps": 15, "actions": [0, 1, 2]}),
    ("MiniGrid-MemoryS7-v0", "sync", "next_step", {"max_steps": 15, "actions": [0, 1, 2]}),
    ("MiniGrid-Dynamic-Obstacles-6x6-v0", "sync", "next_step", {"max_steps": 15}),
    ("MiniGrid-MemoryS7-v0", "async", "same_step", {"max_steps": 15}),
    ("MiniGrid-MemoryS7-v0", "async", "next_step", {"max_steps": 15}),
]
N = 4


def make(case: tuple[str, str, str, dict[str, Any]], seed: int = 3) -> VecEnv:
    env_id, backend, autoreset, kwargs = case
    return envs.make_vec(env_id, N, seed, backend, kwargs, autoreset)


def assert_equal(one: VecStep, other: VecStep) -> None:
    for name in ("is_first", "reward", "terminated", "truncated", "valid"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert_same_rows(one.obs, other.obs)
    assert (one.final_obs is None) == (other.final_obs is None)
    if one.final_obs is not None and other.final_obs is not None:
        assert_same_rows(one.final_obs, other.final_obs)


def assert_same_rows(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert list(one) == list(other)
    for key, value in one.items():
        assert value.dtype == other[key].dtype
        np.testing.assert_array_equal(value, other[key], err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case[:3]))
def test_restored_vector_goes_on_exactly(case: tuple[str, str, str, dict[str, Any]]) -> None:
    rng = np.random.default_rng(0)
    original = make(case)
    assert original.resumable
    original.reset()
    resets_due = []
    restored = make(case, seed=99)
    for pause in (0, 1, 4, 11, 25, None):
        ended, count = False, 0
        while (
            count < pause if pause is not None else not ended
        ):  # None: stop exactly at the end of an episode
            step = original.step(rng.integers(original.action_space.n, size=N))
            ended, count = bool((step.terminated | step.truncated).any()), count + 1
        text = original.snapshot()
        assert text is not None
        resets_due.append(any(json.loads(text)["due"]))
        restored.restore(text)
        assert_same_rows(restored.last_obs, original.last_obs)
        np.testing.assert_array_equal(restored.last_is_first, original.last_is_first)
        assert restored.snapshot() == text, "a snapshot of a restored vector is the same text"
        for _ in range(20):
            actions = rng.integers(original.action_space.n, size=N)
            assert_equal(original.step(actions), restored.step(actions))
    assert resets_due[-1] == (case[2] == "next_step"), "the last snapshot lies between done and reset"
    original.close()
    restored.close()


@pytest.mark.slow
def test_snapshot_does_not_disturb() -> None:
    for case in CASES[:5]:
        one, other = make(case), make(case)
        one.reset()
        other.reset()
        rng = np.random.default_rng(1)
        for _ in range(60):
            actions = rng.integers(one.action_space.n, size=N)
            one.snapshot()
            assert_equal(one.step(actions), other.step(actions))


def test_restore_of_another_size_is_refused() -> None:
    vec = make(CASES[1])
    vec.reset()
    text = vec.snapshot()
    assert text is not None
    other = envs.make_vec("mnm/GridMaze9-v0", N + 1, 0, "sync")
    with pytest.raises(envs.UserError, match=f"holds {N} environments, expected {N + 1}"):
        other.restore(text)


class OwnNoise(gymnasium.Env[Any, Any]):
    """Keeps state outside np_random: a counter of resets that all instances share."""

    resets = itertools.count()

    observation_space = spaces.Box(0.0, 1e6, (1,), dtype=np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = next(self.resets)
        return np.array([self.count], np.float32), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.array([self.count], np.float32), 0.0, action == 1, False, {}


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_environment_that_does_not_repeat_itself_begins_anew_with_a_warning(autoreset: str) -> None:
    gymnasium.register("OwnNoise-v0", entry_point=OwnNoise)
    try:
        vec = envs.make_vec("OwnNoise-v0", 2, 0, "sync", autoreset=autoreset)
        vec.reset()
        for action in (0, 1):
            vec.step(np.array([action, 0]))
        text = vec.snapshot()
        assert text is not None
        other = envs.make_vec("OwnNoise-v0", 2, 0, "sync", autoreset=autoreset)
        with pytest.warns(UserWarning, match="2 of 2 environments did not repeat their episode"):
            other.restore(text)
        assert other.last_is_first.all(), "the learner must treat these rows as openings"
        assert other.step(np.array([0, 0])).valid.all()
    finally:
        del gymnasium.registry["OwnNoise-v0"]


def test_exact_restore_is_silent() -> None:
    vec = make(CASES[3])
    vec.reset()
    text = vec.snapshot()
    assert text is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(CASES[3]).restore(text)


def test_fingerprint_sees_dtype_shape_and_value() -> None:
    values = [
        np.zeros(2, np.float32),
        np.zeros(2, np.float64),
        np.zeros((2, 1), np.float32),
        np.ones(2, np.float32),
    ]
    assert len({fingerprint({"obs": value}) for value in values}) == 4
    assert fingerprint({"a": values[0], "b": values[1]}) == fingerprint({"b": values[1], "a": values[0]})


@pytest.mark.parametrize("name", BIT_GENERATORS)
def test_every_bit_generator_survives_json(name: str) -> None:
    one = np.random.Generator(getattr(np.random, name)(5))
    one.random(3)
    other = generator_from(json.loads(json.dumps(to_json(one.bit_generator.state))))
    assert one.random(5).tolist() == other.random(5).tolist()


def test_unknown_bit_generator_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown bit generator 'seed'"):
        generator_from({"bit_generator": "seed"})
