"""The door: whatever an environment returns is copied, checked and converted, or refused in one line."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pygame
import pytest
from gymnasium import spaces

import envs
from envs.actions import ActionCode
from envs.door import Door
from envs.errors import EnvFault
from envs.observations import ACTION_MASK, ActionMask, Tokens, leaves_of

PLUGIN = '''
import os, sys, time
import gymnasium, numpy as np
from gymnasium import spaces

class Odd(gymnasium.Env):
    """Sound, but for step `at`, at which it does `fault`."""
    metadata = {"render_modes": []}
    observation_space = spaces.Dict({"pos": spaces.Box(-9, 9, (2,)), "card": spaces.Discrete(3)})
    action_space = spaces.Discrete(2)
    def __init__(self, fault="nothing", at=3):
        self.fault, self.at, self.t = fault, at, 0
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self.fault == "reset without info": return self.observe()
        if self.fault == "raises in reset": raise ValueError("no level\\nsecond line")
        return self.observe(), {}
    def observe(self):
        return {"pos": np.zeros(2, np.float32), "card": 1}
    def step(self, action):
        self.t += 1
        obs, reward, info = self.observe(), 0.5, {"debug": object()}
        if self.t >= self.at:
            f = self.fault
            if f == "reward nan": reward = float("nan")
            if f == "reward too large": reward = 1e39
            if f == "reward text": reward = "3"
            if f == "reward none": reward = None
            if f == "reward vector": reward = np.zeros(2)
            if f == "observation nan": obs["pos"][1] = np.nan
            if f == "category 9": obs["card"] = 9
            if f == "wrong shape": obs["pos"] = np.zeros(3, np.float32)
            if f == "observation none": obs = None
            if f == "key missing": del obs["card"]
            if f == "text for numbers": obs["pos"] = "left"
            if f == "old step": return obs, reward, False, info
            if f == "raises": raise RuntimeError("lost its way\\nsecond line")
            if f == "exits": sys.exit(0)
            if f == "exits hard": os._exit(0)
            if f == "hangs": time.sleep(60)
        return obs, reward, False, self.t % 7 == 0, info

gymnasium.register("Odd-v0", entry_point=Odd)
'''

FAULTS = {
    "reward nan": "reward: got nan",
    "reward too large": "reward: got 1e+39, expected a finite number",
    "reward text": "reward: got '3', expected one number",
    "reward none": "reward: got None",
    "reward vector": "reward: got array([0., 0.])",
    "observation nan": "observation 'pos': got nan at [1], expected finite numbers",
    "category 9": "observation 'card': got 9, expected a value of Discrete(3)",
    "wrong shape": "observation 'pos': got shape [3], expected [2]",
    "observation none": "is missing, got None",
    "key missing": "observation 'card' is missing",
    "text for numbers": "observation 'pos': got 'left', expected numbers",
    "old step": "step returned a tuple of 4",
    "reset without info": "reset returned",
    "raises": "step raised RuntimeError: lost its way",
    "raises in reset": "reset raised ValueError: no level",
    "exits": "step raised SystemExit",
    "exits hard": "step raised SystemExit",
}


@pytest.fixture(autouse=True)
def _plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "odd_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("odd_plugin", None)
    gymnasium.registry.pop("Odd-v0", None)


def one_line(run: Callable[[], Any], *named: str) -> EnvFault:
    with pytest.raises(EnvFault) as caught:
        run()
    text = str(caught.value)
    assert "\n" not in text
    for part in named:
        assert part in text
    return caught.value


def play(vec: envs.VecEnv) -> None:
    vec.reset()
    for _ in range(8):
        vec.step(np.zeros(vec.num_envs, dtype=np.int64))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["sync", "async"])
@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_one_line_that_names_environment_step_and_cause(fault: str, backend: str) -> None:
    vec = envs.make_vec("odd_plugin:Odd-v0", 2, 0, backend, {"fault": fault})
    found = one_line(lambda: play(vec), FAULTS[fault])
    assert re.match(r"odd_plugin:Odd-v0: environment [01], step \d: ", str(found))
    if "raise" in fault:
        assert "second line" in found.trace
    vec.close()


@pytest.mark.parametrize("backend", ["sync", "async"])
def test_infos_that_differ_in_type_are_not_passed_on(backend: str) -> None:
    vec = envs.make_vec("odd_plugin:Odd-v0", 2, 0, backend)
    play(vec)
    vec.close()


@pytest.mark.slow
def test_a_worker_that_hangs_is_named_after_the_timeout() -> None:
    vec = envs.make_vec("odd_plugin:Odd-v0", 2, 0, "async", {"fault": "hangs"}, timeout=0.5)
    one_line(lambda: play(vec), "environment [0, 1] has not answered for 0.5 s")
    vec.close()


def test_a_worker_that_is_killed_is_named() -> None:
    vec: Any = envs.make_vec("odd_plugin:Odd-v0", 2, 0, "async")
    vec.reset()
    os.kill(vec.vector.processes[1].pid, signal.SIGKILL)
    vec.vector.processes[1].join()
    one_line(lambda: play(vec), "the worker process of environment [1] has ended")
    vec.close()


def test_workers_leave_ctrl_c_to_the_process_that_trains() -> None:
    vec: Any = envs.make_vec("odd_plugin:Odd-v0", 2, 0, "async")
    vec.reset()
    for process in vec.vector.processes:
        os.kill(process.pid, signal.SIGINT)
    time.sleep(0.1)
    play(vec)
    vec.close()


class Reuses(gymnasium.Env[Any, Any]):
    """Returns its own buffer, and counts on in it."""

    observation_space = spaces.Box(0, 100, (1,))
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        self.buffer = np.zeros(1, np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.buffer[:] = 50
        return self.buffer, {}

    def step(self, action: Any) -> Any:
        self.buffer += 1
        return self.buffer, 0.0, False, self.buffer[0] >= 53, {"is_success": self.buffer[0] >= 53}


gymnasium.register("Reuses-v0", entry_point=Reuses)


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_an_environment_that_reuses_its_buffer_keeps_its_final_observation(autoreset: str) -> None:
    vec = envs.make_vec("Reuses-v0", 1, 0, "sync", autoreset=autoreset)
    vec.reset()
    steps = [vec.step(np.zeros(1, dtype=np.int64)) for _ in range(3)]
    last = steps[-1]
    final = last.obs if last.final_obs is None else last.final_obs
    assert [float(step.obs["obs"][0, 0]) for step in steps[:2]] == [51, 52]
    assert float(final["obs"][0, 0]) == 53
    assert last.success is not None
    assert last.success.tolist() == [1.0]
    assert steps[0].success is None


def behind(space: Any, values: list[Any], action_space: Any = None, info: Any = None) -> Door:
    """A door in front of an environment that shows `values` one after another."""

    class Shows(gymnasium.Env[Any, Any]):
        def __init__(self) -> None:
            self.observation_space, self.t, self.taken = space, 0, None
            self.action_space = action_space or spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            self.t = 0
            return values[0], dict(info or {})

        def step(self, action: Any) -> Any:
            self.taken = action
            self.t += 1
            return values[self.t % len(values)], 1.0, False, False, dict(info or {})

    env: Any = Shows()
    masked = info is not None
    actions = ActionCode(env.action_space, None, "shows")
    return Door(
        env, "shows", leaves_of(space, "shows", 4, (ACTION_MASK,) if masked else ()), actions, 0, masked
    )


NESTED = spaces.Dict(
    {
        "robot": spaces.Dict(
            {"pos": spaces.Box(-1, 1, (2,)), "arms": spaces.Tuple([spaces.Discrete(3, start=-1)] * 2)}
        ),
        "type": spaces.MultiDiscrete([3, 3], start=[1, 5]),
        "": spaces.Text(4, charset="abc"),
        "seen": spaces.Sequence(spaces.Discrete(5)),
        "path": spaces.Sequence(spaces.Box(-1, 1, (2,))),
        "robot/pos": spaces.MultiBinary(2),
    }
)


def test_nested_spaces_become_one_flat_dict() -> None:
    value = {
        "robot": {"pos": np.array([0.5, -0.5]), "arms": (-1, 1)},
        "type": np.array([1, 7]),
        "": "cab",
        "seen": (0, 4),
        "path": (np.array([1.0, -1.0]),),
        "robot/pos": np.array([0, 1]),
    }
    door = behind(NESTED, [value])
    obs, _ = door.reset()
    assert obs["robot/pos"].tolist() in ([0.5, -0.5], [0, 1])
    assert {obs["robot/pos"].tolist()[0], obs["robot/pos_2"].tolist()[0]} == {0.5, 0}
    assert (int(obs["robot/arms/0"]), int(obs["robot/arms/1"])) == (0, 2)
    assert obs["type"].tolist() == [0, 2]
    assert obs[""].tolist() == [3, 1, 2, 0]
    assert isinstance(door.observation_space[""], Tokens)
    assert (obs["seen"].tolist(), int(obs["seen/length"])) == ([1, 5, 0, 0], 2)
    assert (obs["path"].tolist()[:2], int(obs["path/length"])) == ([[1.0, -1.0], [0.0, 0.0]], 1)
    for key, space in door.observation_space.spaces.items():
        assert space.contains(obs[key]), key


@pytest.mark.parametrize(
    ("space", "value", "named"),
    [
        (spaces.MultiDiscrete([3, 3]), np.array([4, 1]), "got array([4, 1])"),
        (
            spaces.Box(0, 255, (1,), np.uint8),
            np.array([300]),
            "got 300, expected a whole number that uint8 holds",
        ),
        (spaces.Box(0, 255, (1,), np.uint8), np.array([1.5]), "got 1.5, expected a whole number"),
        (spaces.Box(-np.inf, np.inf, (1,)), np.array([1e300]), "too large for float32"),
        (spaces.Discrete(3), np.array([1, 2]), "expected a value of Discrete(3)"),
        (spaces.Discrete(3), None, "got None"),
        (spaces.Text(3, charset="ab"), "abz", "the character 'z'"),
        (spaces.Text(2, charset="ab"), "aba", "3 characters"),
        (spaces.Sequence(spaces.Discrete(2)), (0,) * 5, "got a sequence of 5 elements, expected at most 4"),
    ],
)
def test_values_outside_their_space_are_refused(space: Any, value: Any, named: str) -> None:
    one_line(behind(space, [value]).reset, named)


def test_harmless_conversions_are_taken_and_copied() -> None:
    value = np.array([0.25, 2.0])
    door = behind(spaces.Box(0, 1, (2,)), [value])
    with pytest.warns(UserWarning, match="leaves the bounds"):
        obs, _ = door.reset()
    assert obs["obs"].dtype == np.float32
    value[:] = 7
    assert obs["obs"].tolist() == [0.25, 2.0]
    assert behind(spaces.Discrete(3), [np.array([2.0])]).reset()[0]["obs"].item() == 2


@pytest.mark.parametrize(
    ("space", "choice", "taken"),
    [
        (spaces.Discrete(3, start=4), 2, 6),
        (spaces.MultiDiscrete([2, 3], start=[1, 0]), [0, 2], [1, 2]),
        (spaces.MultiBinary((2, 2)), [0, 1, 1, 0], [[0, 1], [1, 0]]),
        (spaces.Box(-1, np.array([1, np.inf], np.float32)), [3.0, 3.0], [1.0, 3.0]),
        (spaces.Tuple([spaces.Discrete(2), spaces.Box(0, 1, (1,))]), [1, 9.0], (1, [1.0])),
        (
            spaces.Dict({"b": spaces.Discrete(2, start=1), "a": spaces.MultiBinary(2)}),
            [1, 0, 1],
            {"a": [1, 0], "b": 2},
        ),
    ],
)
def test_choices_become_the_environments_own_actions(space: Any, choice: Any, taken: Any) -> None:
    door: Any = behind(spaces.Discrete(2), [0], action_space=space)
    door.reset()
    door.step(np.asarray(choice))
    found = door.env.taken
    assert space.contains(found)
    plain = {k: np.asarray(v).tolist() for k, v in found.items()} if isinstance(found, dict) else found
    if isinstance(found, tuple):
        plain = tuple(np.asarray(part).tolist() for part in found)
    assert (plain if isinstance(plain, (dict, tuple)) else np.asarray(plain).tolist()) == taken
    if not isinstance(space, (spaces.Tuple, spaces.Dict)):
        code = ActionCode(space, None, "x")
        assert np.array_equal(code.decode(np.asarray([choice, choice]))[1], found)


def test_a_mask_is_part_of_the_observation() -> None:
    door = behind(spaces.Discrete(2), [0], spaces.MultiDiscrete([2, 3]), {"action_mask": [1, 0, 0, 1, 1]})
    obs, _ = door.reset()
    assert obs[ACTION_MASK].tolist() == [1, 0, 0, 1, 1]
    assert isinstance(door.observation_space[ACTION_MASK], ActionMask)


@pytest.mark.parametrize(
    ("mask", "named"), [([1, 0], "expected 3 entries"), ([0, 0, 0], "no action is legal"), (None, "got None")]
)
def test_masks_that_cannot_be_used_are_refused(mask: Any, named: str) -> None:
    door = behind(spaces.Discrete(2), [0], spaces.Discrete(3), {"action_mask": mask})
    one_line(door.reset, "action mask", named)


def test_masks_are_found_in_info_and_as_a_method() -> None:
    assert ACTION_MASK in envs.make_single("Taxi-v4").observation_space.spaces
    assert ACTION_MASK not in envs.make_single("FrozenLake-v1").observation_space.spaces


@pytest.mark.parametrize(
    ("frame", "first"),
    [
        (np.full((2, 2, 3), 0.5), 127),
        (np.full((2, 2, 4), 9, np.uint8), 9),
        (np.ones((2, 2), np.uint8), 1),
        (np.ones((2, 2, 1), bool), 255),
    ],
)
def test_frames_become_uint8_pictures(frame: Any, first: int) -> None:
    door: Any = behind(spaces.Discrete(2), [0])
    door.env.render = lambda: frame
    picture = door.render()
    assert (picture.dtype, picture.shape, int(picture[0, 0, 0])) == (np.dtype(np.uint8), (2, 2, 3), first)


def test_an_empty_frame_is_refused() -> None:
    door: Any = behind(spaces.Discrete(2), [0])
    door.env.render = lambda: np.zeros((0, 0, 3), np.uint8)
    one_line(door.render, "render returned shape [0, 0, 3]")


def test_an_environment_of_an_evaluation_cannot_end_the_process() -> None:
    """In a child, which would end with code 0 where the call got through."""
    child = os.fork()
    if child == 0:
        try:
            env = envs.make_single("odd_plugin:Odd-v0", {"fault": "exits hard", "at": 1})
            env.reset(seed=0)
            env.step(0)
        except EnvFault:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


class OnDisplay(gymnasium.Env[Any, Any]):
    """Draws on pygame's display and ends pygame as it closes, like the environments of memory-gym."""

    observation_space, action_space = spaces.Box(0, 255, (4, 4, 3), np.uint8), spaces.Discrete(3)

    def __init__(self) -> None:
        pygame.display.init()
        self.screen = pygame.display.set_mode((4, 4))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.screen.fill((0, 0, 9))
        return pygame.surfarray.array3d(self.screen), {}

    def close(self) -> None:
        pygame.quit()


def test_an_environment_that_closes_leaves_the_display_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setattr("envs.door._open", weakref.WeakSet())
    first, second = envs.make_single(OnDisplay), envs.make_single(OnDisplay)
    second.close()
    assert first.reset(seed=0)[0]["obs"][0, 0, 2] == 9
    first.close()
    assert not pygame.display.get_init(), "the last one may end it"
