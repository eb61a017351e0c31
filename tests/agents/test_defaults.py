"""The defaults are those of ordinary tasks, and presets do not follow when they move."""

from __future__ import annotations

import pytest

from agents.config import PRESETS, TrainConfig, preset


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("classic", (16, 64, 8, 1e-3, False, 0.99)),
        ("continuous", (16, 128, 8, 1e-3, False, 0.95)),
        ("maze", (64, 50, 4, 3e-3, True, 0.95)),
        ("demo", (64, 48, 8, 2e-3, True, 0.3)),
        ("minigrid-memory", (128, 128, 8, 1.5e-3, False, 0.995)),
        ("popgym", (64, 64, 8, 2e-3, True, 0.9)),
        ("pair-bandit", (128, 48, 8, 2e-3, True, 0.3)),
        ("treasure", (64, 64, 4, 1e-3, False, 0.5)),
        ("island", (128, 30, 8, 1e-3, False, 0.5)),
        ("atari", (8, 128, 4, 2.5e-4, True, 0.99)),
    ],
)
def test_presets_name_all_that_the_results_depend_on(name: str, expected: tuple[object, ...]) -> None:
    config = preset(name)
    found = (config.num_envs, config.rollout_steps, config.minibatches)
    assert (*found, config.learning_rate, config.anneal, config.gamma) == expected


@pytest.mark.parametrize("name", PRESETS)
def test_rewards_are_normalized_by_default_and_in_the_presets_that_say_so(name: str) -> None:
    assert TrainConfig().normalize_rewards
    assert "normalize_rewards" in PRESETS[name]
    assert preset(name).normalize_rewards is (name in ("classic", "continuous"))


@pytest.mark.parametrize("name", PRESETS)
def test_updates_end_early_by_default_and_in_the_presets_that_say_so(name: str) -> None:
    assert TrainConfig().target_kl == 0.1
    assert "target_kl" in PRESETS[name]
    assert preset(name).target_kl == (0.1 if name == "classic" else 0.0)


@pytest.mark.parametrize(("environments", "minibatches"), [(16, 8), (8, 8), (3, 3), (1, 1)])
def test_there_are_never_more_minibatches_than_environments(environments: int, minibatches: int) -> None:
    assert TrainConfig(num_envs=environments).passes() == (4, minibatches)
    assert TrainConfig(num_envs=environments, algo="a2c").passes() == (1, 1)
