"""Wrappers, frame skip, frame stack and time limits by option: the same in training, vectors and evaluation."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import envs
import train_rl
from agents.config import TrainConfig
from agents.options import parse
from envs.registry import SUITES
from envs.wrapper_names import parse_wrapper

PLUGIN = """
import gymnasium, numpy as np
from gymnasium import spaces

class Clock(gymnasium.Env):
    observation_space = spaces.Box(-9, 99, (1,))
    action_space = spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}
    def step(self, action):
        self.t += 1
        return np.full(1, self.t, np.float32), 1.0, self.t == 20, False, {}

class Plus(gymnasium.ObservationWrapper):
    def __init__(self, env, amount, sign=1):
        super().__init__(env)
        self.amount = amount * sign
    def observation(self, observation):
        return observation + np.float32(self.amount)

class Times(gymnasium.ObservationWrapper):
    def observation(self, observation):
        return observation * 2

def odd(env): return 3
def breaks(env): raise RuntimeError("no luck\\nsecond line")
CONSTANT = 3

class Old:
    observation_space, action_space, metadata = Clock.observation_space, Clock.action_space, {}

gymnasium.register("Clock-v0", entry_point=Clock, max_episode_steps=15)
gymnasium.register("Old-v0", entry_point=Old)
"""


@pytest.fixture(autouse=True)
def _plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "clock_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("clock_plugin", None)
    for env_id in ("Clock-v0", "Old-v0"):
        gymnasium.registry.pop(env_id, None)


def config(*options: str) -> TrainConfig:
    return parse(TrainConfig(), ["--env", "clock_plugin:Clock-v0", *options], "")


def played(*options: str) -> tuple[list[list[float]], list[float]]:
    """Observations and rewards of one episode."""
    made = config(*options)
    env = envs.make_single(made.env, made.env_arguments())
    seen, rewards, done = [env.reset(seed=0)[0]["obs"].ravel().tolist()], [], False
    while not done:
        obs, reward, terminated, truncated, _ = env.step(0)
        seen.append(obs["obs"].ravel().tolist())
        rewards.append(reward)
        done = terminated or truncated
    return seen, rewards


def test_wrappers_stand_in_the_order_given_first_innermost() -> None:
    plus, times = 'clock_plugin:Plus {"amount": 3}', "clock_plugin:Times"
    assert played("--wrapper", plus, "--wrapper", times)[0][:2] == [[6.0], [8.0]]
    assert played("--wrapper", times, "--wrapper", plus)[0][:2] == [[3.0], [5.0]]


def test_frame_skip_stack_and_time_limit() -> None:
    seen, rewards = played("--frame-skip", "4", "--frame-stack", "3", "--max-episode-steps", "10")
    assert seen == [[0, 0, 0], [0, 0, 4], [0, 4, 8], [4, 8, 10]]
    assert rewards == [4, 4, 2]
    assert len(played()[1]) == 15  # as registered


@pytest.mark.parametrize("backend", ["auto", "sync", "async"])
def test_vectors_show_what_evaluation_shows(backend: str) -> None:
    made = config("--frame-skip", "2", "--frame-stack", "2", "--wrapper", 'clock_plugin:Plus={"amount": 1}')
    vec = envs.make_vec(made.env, 2, 0, backend, made.env_arguments())
    rows = [vec.reset()["obs"], *(vec.step(np.zeros(2, dtype=np.int64)).obs["obs"] for _ in range(3))]
    vec.close()
    assert vec.backend == ("sync" if backend == "auto" else backend)
    for row, seen in zip(rows, [[1, 1], [1, 3], [3, 5], [5, 7]], strict=True):
        assert row.reshape(2, -1).tolist() == [seen, seen]


def test_stacked_categories_stay_categories() -> None:
    env = envs.make_single("MiniGrid-Empty-5x5-v0", TrainConfig(frame_stack=3).env_arguments())
    single = envs.make_single("MiniGrid-Empty-5x5-v0")
    spaces, one = env.observation_space, single.observation_space
    assert spaces["image"].nvec.shape == (3, *one["image"].nvec.shape)
    assert (spaces["image"].nvec[0] == one["image"].nvec).all()
    assert (type(spaces["mission"]), spaces["mission"].shape) == (type(one["mission"]), one["mission"].shape)
    seen, last = env.reset(seed=0)[0], single.reset(seed=0)[0]
    for action in (0, 1, 1):
        before, seen, last = seen, env.step(action)[0], single.step(action)[0]
        for key in ("image", "direction"):
            np.testing.assert_array_equal(seen[key][-1], last[key])
            np.testing.assert_array_equal(seen[key][:-1], before[key][1:])
        np.testing.assert_array_equal(seen["mission"], last["mission"])


def test_entries_of_an_observation_can_be_hidden() -> None:
    env = envs.make_single("CartPole-v1", {"wrappers": ['envs.wrappers:KeepEntries {"keep": [2, 0]}']})
    obs, _ = env.reset(seed=3)
    whole, _ = envs.make_single("CartPole-v1").reset(seed=3)
    np.testing.assert_array_equal(obs["obs"], whole["obs"][[2, 0]])
    assert env.observation_space["obs"].shape == (2,)


@pytest.mark.parametrize(
    ("env_id", "keep", "named"),
    [
        ("CartPole-v1", "[0, 4]", "entries from 0 to 3, got"),
        ("CartPole-v1", "[]", "entries from 0 to 3, got"),
        ("CartPole-v1", "1", "entries from 0 to 3, got 1"),
        ("FrozenLake-v1", "[0]", "needs a Box of one axis, got Discrete"),
    ],
)
def test_entries_that_are_not_there_cannot_be_kept(env_id: str, keep: str, named: str) -> None:
    with pytest.raises(envs.UserError, match=named):
        envs.make_single(env_id, {"wrappers": [f'envs.wrappers:KeepEntries {{"keep": {keep}}}']})


def test_options_are_stored_and_fixed_with_the_run() -> None:
    named = 'clock_plugin:Plus {"amount": 3}'
    made = config("--wrapper", named)
    stored = json.loads(json.dumps({"wrapper": made.wrapper, "frame_stack": made.frame_stack}))
    assert TrainConfig(env=made.env, **stored) == made
    assert made.env_arguments() == {"wrappers": [named]}
    assert TrainConfig().env_arguments() == {}
    again, none = (
        parse(made, ["--wrapper", "a:B", "--wrapper", "c:D"], ""),
        parse(made, ["--wrapper", "none"], ""),
    )
    assert (again.wrapper, none.wrapper) == (("a:B", "c:D"), ())
    assert {"wrapper", "frame_skip", "frame_stack", "max_episode_steps"} < set(train_rl.FIXED_ON_RESUME)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("no_colon", "'no_colon' is not of the form module:Class"),
        ("a:B {1}", "the arguments of wrapper a:B are not JSON"),
        (3, "not 3"),
    ],
)
def test_malformed_names_are_refused_while_parsing(text: Any, named: str) -> None:
    with pytest.raises(envs.UserError, match=named):
        parse_wrapper(text)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("no_such_module:Plus", "cannot import module 'no_such_module' of 'no_such_module:Plus'"),
        ("clock_plugin:Pluss", "no wrapper 'Pluss' (did you mean Plus"),
        ("clock_plugin:Plus", "needs the argument 'amount'"),
        (
            'clock_plugin:Plus {"amout": 1}',
            "no argument 'amout'; it takes amount, sign (did you mean amount?)",
        ),
        ("clock_plugin:odd", "gave a int, expected a gymnasium.Env"),
        ("clock_plugin:breaks", "failed: RuntimeError: no luck"),
        ("clock_plugin:CONSTANT", "is a int, expected a class"),
    ],
)
def test_impossible_wrappers_are_refused_in_one_line(text: str, named: str) -> None:
    for make in (envs.make_single, lambda *a: envs.make_vec(a[0], 2, 0, "auto", a[1])):
        with pytest.raises(envs.UserError) as caught:
            make("clock_plugin:Clock-v0", {"wrappers": [text]})
        assert named in str(caught.value)
        assert "\n" not in str(caught.value)


def test_fast_forms_take_no_wrappers() -> None:
    arguments = {"wrappers": ["gymnasium.wrappers:TransformReward"]}
    with pytest.raises(envs.UserError, match="wrappers need the sync or async backend, not native"):
        envs.make_vec("mnm/GridMaze9-v0", 2, 0, "native", arguments)


def test_an_environment_of_the_old_api_names_shimmy() -> None:
    with pytest.raises(envs.UserError, match=r"old gym.*through shimmy"):
        envs.make_single("clock_plugin:Old-v0")


def test_ids_of_suites_are_imported_or_name_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SUITES, "Clock", ("clock_plugin", "clock-plugin"))
    monkeypatch.setitem(SUITES, "Far", ("no_such_suite", "far-suite"))
    assert envs.make_single("Clock-v0").spec is not None
    with pytest.raises(envs.UserError, match="Far-v0 comes with another package: pip install far-suite"):
        envs.make_single("Far-v0")
