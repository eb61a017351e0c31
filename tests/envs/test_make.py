"""`make_vec` and `make_single`: the backend chosen, what is accepted, one clear line for everything refused."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from checks import refused
from gymnasium import spaces

import envs
from envs.seeds import HALF

needs_envpool = pytest.mark.skipif(
    importlib.util.find_spec("envpool") is None,
    reason="EnvPool is not installed (pip install 'mnm-rl[envpool]')",
)

PLUGIN = """
import gymnasium, numpy as np
from gymnasium import spaces

class Counter(gymnasium.Env):
    metadata = {"render_modes": [], "success": "positive_return"}
    def __init__(self, observation_space=None, action_space=None, size=3, raises=None):
        if raises: raise ValueError(raises)
        self.observation_space = spaces.Discrete(size) if observation_space is None else observation_space
        self.action_space = action_space or spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}
    def step(self, action):
        self.last_action = action
        return self.observation_space.sample(), 1.0, False, True, {}

gymnasium.register("Counter-v0", entry_point=Counter)
gymnasium.register("MiniGrid-MemoryS7-v77", entry_point=Counter)
gymnasium.register("OddSuccess-v0", entry_point=lambda: type("E", (Counter,), {"metadata": {"success": "won"}})())
"""


@pytest.fixture(autouse=True)
def _plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "counter_plugin.py").write_text(PLUGIN)
    (tmp_path / "broken_plugin.py").write_text("raise RuntimeError('no display\\nsecond line')")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("counter_plugin", None)
    for env_id in [one for one in gymnasium.registry if one.startswith(("Counter", "OddSuccess"))]:
        del gymnasium.registry[env_id]
    gymnasium.registry.pop("MiniGrid-MemoryS7-v77", None)


def test_auto_prefers_native_then_sync() -> None:
    assert envs.make_vec("mnm/GridMaze9-v0", 2, 0).backend == "native"
    assert envs.make_vec("mnm/TMaze-v0", 2, 0).backend == "sync"
    assert envs.make_vec("MiniGrid-MemoryS7-v0", 2, 0, env_kwargs={"agent_view_size": 3}).backend == "sync"
    assert envs.make_vec("MiniGrid-MultiRoom-N4-S5-v1", 2, 0).backend == "sync"


@needs_envpool
def test_auto_takes_envpool_where_it_can_serve() -> None:
    for kwargs in ({}, {"max_steps": 20}, {"agent_view_size": 7}, {"actions": [0, 1, 2]}):
        vec = envs.make_vec("MiniGrid-MemoryS7-v0", 2, 0, env_kwargs=kwargs)
        assert (vec.backend, vec.success_rule, vec.resumable) == ("envpool", "positive_return", False)
        assert vec.snapshot() is None
        vec.close()
    assert envs.make_vec("minigrid:MiniGrid-MemoryS7-v0", 2, 0).backend == "envpool"
    assert envs.make_vec("Acrobot-v1", 2, 0).backend == "envpool"
    assert envs.make_vec("Blackjack-v1", 2, 0).backend == "sync"  # an array in EnvPool, a Tuple in Python


@needs_envpool
def test_envpool_seeds_decide_the_mazes() -> None:
    def first(seed: int) -> bytes:
        vec = envs.make_vec("MiniGrid-MemoryS7-v0", 8, seed, "envpool")
        image = vec.reset()["image"].tobytes()
        vec.close()
        return image

    assert first(1) == first(1)
    assert first(1) != first(2)


@needs_envpool
def test_observation_spaces_are_the_same_for_envpool_and_sync() -> None:
    for env_id in ("MiniGrid-MemoryS7-v0", "BabyAI-GoToRedBall-v0"):
        one, other = (envs.make_vec(env_id, 2, 0, backend) for backend in ("envpool", "sync"))
        assert one.observation_space == other.observation_space
        assert one.action_space == other.action_space
        rows, others = one.reset(), other.reset()
        assert list(rows) == list(others)
        for key, value in rows.items():
            assert (value.dtype, value.shape) == (others[key].dtype, others[key].shape)


def test_unknown_environment_names_the_nearest() -> None:
    refused(
        "unknown environment 'MiniGrid-MemryS7-v0': did you mean MiniGrid-MemoryS7-v0",
        "MiniGrid-MemryS7-v0",
        2,
        0,
    )
    refused("did you mean mnm/GridMaze-v0", "mnm/gridmaze-v0", 2, 0)
    refused("write module:EnvId", "zzzzzzzz", 2, 0)
    refused("did you mean mnm/TMaze-v0", "mnm/TMze-v0", make=envs.make_single)


def test_unknown_backend_and_autoreset_name_the_nearest() -> None:
    refused("unknown backend 'nativ'; expected one of auto, native", "mnm/TMaze-v0", 2, 0, "nativ")
    refused("did you mean native?", "mnm/TMaze-v0", 2, 0, "nativ")
    refused("unknown autoreset 'same'", "mnm/TMaze-v0", 2, 0, autoreset="same")


def test_backend_that_cannot_serve() -> None:
    refused("no native vectorised form", "mnm/TMaze-v0", 2, 0, "native")


@needs_envpool
def test_envpool_refusals() -> None:
    memory = "MiniGrid-MemoryS7-v0"
    refused("EnvPool does not know 'mnm/TMaze-v0'", "mnm/TMaze-v0", 2, 0, "envpool")
    refused("nearest: MiniGrid-MemoryS", "MiniGrid-MemoryS8-v0", 2, 0, "envpool")
    refused("of MultiRoom it has only", "MiniGrid-MultiRoom-N4-S5-v1", 2, 0, "envpool")
    refused("only with agent_view_size 7, not 5", memory, 2, 0, "envpool", {"agent_view_size": 5})
    refused("'see_through_walls' cannot be passed", memory, 2, 0, "envpool", {"see_through_walls": True})
    refused("max_steps must be a whole number", memory, 2, 0, "envpool", {"max_steps": "many"})
    refused("exists only in EnvPool", "Pong-v5", 2, 0, "sync")


def test_absent_envpool_is_said_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "envpool", None)
    refused("EnvPool is not installed: pip install", "MiniGrid-MemoryS7-v0", 2, 0, "envpool")
    assert envs.make_vec("MiniGrid-MemoryS7-v0", 1, 0).backend == "sync"


def test_bad_kwargs_are_refused_in_one_line() -> None:
    for backend in ("auto", "native", "sync"):
        refused(
            "no env kwarg 'sde'; it accepts side, max_steps", "mnm/GridMaze-v0", 2, 0, backend, {"sde": 9}
        )
        refused("odd number of at least 5, not 8", "mnm/GridMaze-v0", 2, 0, backend, {"side": 8})
        refused("side", "mnm/GridMaze-v0", 2, 0, backend, {"side": [9]})
    refused("unexpected keyword argument 'foo'", "MiniGrid-MemoryS7-v0", 2, 0, "auto", {"foo": 1})
    refused("assert agent_view_size % 2 == 1", "MiniGrid-MemoryS7-v0", 2, 0, "sync", {"agent_view_size": 4})
    refused("no luck", "counter_plugin:Counter-v0", 2, 0, env_kwargs={"raises": "no luck\nsecond line"})
    refused("must map names to values", "mnm/TMaze-v0", 2, 0, env_kwargs=[1])


def test_numbers_of_environments_and_seeds() -> None:
    refused("number of environments must be between 1 and", "mnm/TMaze-v0", 0, 0)
    refused("seed must be 0 or more, not -1", "mnm/TMaze-v0", 1, -1)


@pytest.mark.parametrize(
    ("space", "named"),
    [
        (spaces.Graph(spaces.Box(0, 1, (2,)), None), "the observation space is a Graph space"),
        (
            spaces.Dict({"in": spaces.Dict({"a": spaces.OneOf([spaces.Discrete(2)])})}),
            "'in/a' is a OneOf space",
        ),
        (spaces.Sequence(spaces.Text(3)), "a Sequence of Text"),
        (spaces.Dict({}), "is empty"),
    ],
)
def test_unsupported_observation_spaces_are_named(space: Any, named: str) -> None:
    refused(named, "counter_plugin:Counter-v0", 2, 0, env_kwargs={"observation_space": space})


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(3),
        spaces.Box(0, 9, (2,), np.int64),
        spaces.Dict({"a": spaces.Tuple([spaces.Discrete(2)])}),
    ],
)
def test_unsupported_action_spaces_are_named(space: Any) -> None:
    kwargs = {"action_space": space}
    refused("the action space is", "counter_plugin:Counter-v0", 2, 0, env_kwargs=kwargs)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0.0, 1.0, (2, 3), dtype=np.float64),
        spaces.Discrete(4),
        spaces.MultiDiscrete([3, 4]),
        spaces.MultiBinary(5),
        spaces.Dict({"a": spaces.Box(0, 255, (3, 3), np.uint8), "b": spaces.MultiBinary((2, 2))}),
    ],
)
@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_supported_spaces_become_flat_dicts_of_arrays(space: Any, autoreset: str) -> None:
    vec = envs.make_vec("counter_plugin:Counter-v0", 3, 0, "sync", {"observation_space": space}, autoreset)
    entries = dict(space.spaces) if isinstance(space, spaces.Dict) else {"obs": space}
    assert dict(vec.observation_space.spaces) == entries
    obs = vec.reset()
    step = vec.step(np.zeros(3, dtype=np.int64))
    for rows in (obs, step.obs, step.final_obs or obs):
        assert {key: (value.shape, value.dtype) for key, value in rows.items()} == {
            key: ((3, *entry.shape), entry.dtype) for key, entry in entries.items()
        }


def test_modules_in_ids() -> None:
    vec = envs.make_vec("counter_plugin:Counter-v0", 2, 0)
    assert (vec.backend, vec.success_rule) == ("sync", "positive_return")
    refused("cannot import module 'no_such_module'", "no_such_module:Counter-v0", 2, 0)
    refused("RuntimeError: no display (", "broken_plugin:Counter-v0", 2, 0)
    refused("module 'counter_plugin' does not register it", "counter_plugin:Countre-v0", 2, 0)
    refused("did you mean Counter-v0", "counter_plugin:Countre-v0", 2, 0)
    refused("expected positive_return", "counter_plugin:OddSuccess-v0", 2, 0)


def test_foreign_registration_is_never_replaced_by_envpool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("envs.make.refusal", lambda name, kwargs: None)
    vec = envs.make_vec("counter_plugin:MiniGrid-MemoryS7-v77", 2, 0)
    assert vec.backend == "sync"


def test_chosen_actions_work_everywhere() -> None:
    vec = envs.make_vec("mnm/GridMaze-v0", 2, 0, env_kwargs={"actions": [3, 1]})
    assert (vec.backend, vec.action_space) == ("native", spaces.Discrete(2))
    vec.reset()
    obs = vec.step(np.array([0, 1])).obs["obs"]
    assert obs[:, 13:].argmax(axis=1).tolist() == [3, 1]
    for autoreset in ("same_step", "next_step"):
        sync = envs.make_vec("mnm/GridMaze-v0", 2, 0, "sync", {"actions": [3, 1]}, autoreset)
        sync.reset()
        np.testing.assert_array_equal(sync.step(np.array([0, 1])).obs["obs"], obs)
    single = envs.make_single("mnm/GridMaze-v0", {"actions": [3, 1]})
    assert single.action_space == spaces.Discrete(2)
    single.reset(seed=0)
    assert single.step(1)[0]["obs"][13:].argmax() == 1
    start_at_5: Any = envs.make_single(
        "counter_plugin:Counter-v0", {"action_space": spaces.Discrete(3, start=5)}
    )
    start_at_5.reset(seed=0)
    start_at_5.step(2)
    assert start_at_5.unwrapped.last_action == 7


@pytest.mark.parametrize("actions", [[], [0, 9], [0, 0], ["left"], 3, [True], [1.0]])
def test_impossible_actions_are_refused(actions: Any) -> None:
    for backend in ("native", "sync"):
        refused("different whole numbers from 0 to 3", "mnm/GridMaze-v0", 2, 0, backend, {"actions": actions})


def test_single_environments() -> None:
    env = envs.make_single("mnm/GridMaze9-v0", {"max_steps": 5}, render_mode="rgb_array")
    obs, _ = env.reset(seed=0)
    assert list(obs) == ["obs"]
    assert env.observation_space.contains(obs)
    assert isinstance(env.render(), np.ndarray)
    refused("cannot render 'foo'", "MiniGrid-MemoryS7-v0", None, "foo", make=envs.make_single)
    refused(
        "cannot render 'rgb_array'; it offers nothing",
        "counter_plugin:Counter-v0",
        None,
        "rgb_array",
        make=envs.make_single,
    )


def test_single_equals_row_of_vector() -> None:
    for env_id in ("mnm/GridMaze9-v0", "mnm/TMaze-v0", "MiniGrid-MemoryS7-v0"):
        vec = envs.make_vec(env_id, 2, 7, "sync")
        single = envs.make_single(env_id)
        rows, (obs, _) = vec.reset(), single.reset(seed=envs.train_seeds(7, 2)[1])
        for _ in range(10):
            for key, value in obs.items():
                np.testing.assert_array_equal(rows[key][1], value)
            rows, obs = vec.step(np.array([0, 0])).obs, single.step(0)[0]


def test_rewards_are_not_scaled() -> None:
    vec = envs.make_vec("mnm/GridMaze9-v0", 64, 0)
    vec.reset()
    rewards = {
        float(r) for _ in range(200) for r in vec.step(np.random.default_rng(0).integers(4, size=64)).reward
    }
    assert rewards <= {0.0, 10.0}


def test_seed_ranges_are_disjoint() -> None:
    for seed in (0, 1, 2, 1000, 2**40):
        training = envs.train_seeds(seed, 256)
        held_out = [envs.held_out_seed(seed, episode) for episode in range(1000)]
        assert len(set(training)) == 256
        assert len(set(held_out)) == 1000
        assert min(training) >= 0
        assert max(training) < HALF <= min(held_out)
        assert max(held_out) < 2 * HALF
    assert not set(envs.train_seeds(0, 4096)) & set(envs.train_seeds(1, 4096))
