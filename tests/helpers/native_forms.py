"""What every native vector of ours must do: equal its single form step by step, and continue a snapshot exactly."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

import envs


def assert_equals_single_form(env_id: str, kwargs: dict[str, Any], steps: int, ends: int = 3) -> None:
    """Five environments of either form under the same random actions; at least `ends` episodes must end."""
    native = envs.make_vec(env_id, 5, 3, "native", kwargs)
    sync = envs.make_vec(env_id, 5, 3, "sync", kwargs)
    rng = np.random.default_rng(0)
    assert np.array_equal(native.reset()["obs"], sync.reset()["obs"])
    ended = 0
    for _ in range(steps):
        actions = rng.integers(native.action_space.n, size=5)
        a, b = native.step(actions), sync.step(actions)
        assert np.array_equal(a.obs["obs"], b.obs["obs"])
        assert np.array_equal(a.reward, b.reward)
        assert np.array_equal(a.terminated, b.terminated)
        assert np.array_equal(a.truncated, b.truncated)
        if a.final_obs is not None:
            ended += 1
            assert b.final_obs is not None
            for i in np.flatnonzero(a.terminated | a.truncated):
                assert np.array_equal(a.final_obs["obs"][i], b.final_obs["obs"][i])
    assert ended >= ends


def assert_snapshot_continues(env_id: str, kwargs: dict[str, Any], steps: int = 60) -> None:
    """A vector of another seed, restored from a snapshot, does what the first one does."""
    first, second = (envs.make_vec(env_id, 3, seed, "native", kwargs) for seed in (1, 9))
    first.reset()
    rng = np.random.default_rng(1)
    for _ in range(7):
        first.step(rng.integers(first.action_space.n, size=3))
    text = first.snapshot()
    assert text is not None
    assert json.loads(text)
    second.restore(text)
    for _ in range(steps):
        actions = rng.integers(first.action_space.n, size=3)
        a, b = first.step(actions), second.step(actions)
        assert np.array_equal(a.obs["obs"], b.obs["obs"])
        assert np.array_equal(a.reward, b.reward)
