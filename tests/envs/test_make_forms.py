"""Environments with more than one form: the fast one is taken only where evaluation sees the same."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from checks import refused

import envs

needs_envpool = pytest.mark.skipif(
    importlib.util.find_spec("envpool") is None,
    reason="EnvPool is not installed (pip install 'mnm-rl[envpool]')",
)

ODD_FORMS = """
import gymnasium, numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

class Plain(gymnasium.Env):
    observation_space = spaces.Box(0, 1, (2,))
    action_space = spaces.Discrete(2)
    def __init__(self, broken=False): self.broken = broken
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self.broken: raise FileNotFoundError("patterns.png")
        self.left = 3
        return self.observation_space.sample(), {}
    def step(self, action):
        self.left -= 1
        return np.full(self.observation_space.shape, 0.5, np.float32), 1.0, self.left == 0, False, {"is_success": True}

class Wide(Plain):
    observation_space = spaces.Box(0, 1, (3,))

class More(Plain):
    action_space = spaces.Discrete(3)

def vector(kind):
    return lambda num_envs, **kwargs: SyncVectorEnv([kind] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)

for name, kind in {"Same": Plain, "Wide": Wide, "More": More}.items():
    gymnasium.register(f"Odd{name}-v0", entry_point=Plain, vector_entry_point=vector(kind))
gymnasium.register("OddBroken-v0", entry_point=Plain, vector_entry_point=vector(Plain), kwargs={"broken": True})
gymnasium.register("OddVector-v0", vector_entry_point=vector(Plain))
"""


@pytest.fixture
def odd_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "odd_forms.py").write_text(ODD_FORMS)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("odd_forms", None)
    for env_id in [one for one in gymnasium.registry if one.startswith("Odd")]:
        del gymnasium.registry[env_id]


@pytest.mark.usefixtures("odd_forms")
def test_a_fast_form_is_taken_only_if_evaluation_sees_the_same() -> None:
    assert envs.make_vec("odd_forms:OddSame-v0", 2, 0).backend == "native"
    for name, what in (("Wide", "observations"), ("More", "actions")):
        vec = envs.make_vec(f"odd_forms:Odd{name}-v0", 2, 0)
        assert vec.backend == "sync"
        single = envs.make_single(f"odd_forms:Odd{name}-v0")
        assert (vec.observation_space, vec.action_space) == (single.observation_space, single.action_space)
        refused(
            f"as it is trained: the {what} of its native form are", f"odd_forms:Odd{name}-v0", 2, 0, "native"
        )


@pytest.mark.usefixtures("odd_forms")
def test_an_environment_that_cannot_be_evaluated_is_refused_before_training() -> None:
    for backend in ("auto", "native"):
        refused("reset raised FileNotFoundError: patterns.png", "odd_forms:OddBroken-v0", 2, 0, backend)


@pytest.mark.usefixtures("odd_forms")
def test_a_form_without_a_python_environment_is_evaluated_itself() -> None:
    assert envs.make_vec("odd_forms:OddVector-v0", 2, 0).backend == "native"
    env = envs.make_single("odd_forms:OddVector-v0", {"actions": [1]})
    for _ in range(2):
        obs, _ = env.reset(seed=2**30)
        assert obs["obs"].shape == (2,)
        ends = [env.step(0)[1:] for _ in range(3)]
        assert [end[:3] for end in ends] == [(1.0, False, False)] * 2 + [(1.0, True, False)]
        assert ends[-1][3] == {"success": True}
    refused("it has no Python form", "odd_forms:OddVector-v0", None, "rgb_array", make=envs.make_single)


@needs_envpool
def test_an_id_of_envpool_alone_is_evaluated_there() -> None:
    vec, env = envs.make_vec("Catch-v0", 2, 0), envs.make_single("Catch-v0")
    assert vec.backend == "envpool"
    assert (vec.observation_space, vec.action_space) == (env.observation_space, env.agent_action_space)
    vec.close()
    shown = [env.reset(seed=seed)[0]["obs"].tobytes() for seed in (5, 5, *range(6, 12))]
    assert shown[0] == shown[1]
    assert len(set(shown)) > 1
    steps, done = 0, False
    while not done:
        _, _, terminated, truncated, _ = env.step(1)
        steps, done = steps + 1, terminated or truncated
    assert steps > 1
    env.close()
