"""Three dialects of autoreset, one convention: the same valid transitions, resets and flags from all of them."""

from __future__ import annotations

import importlib.util
from typing import Any, NamedTuple

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from scripted_env import BOTH, EPISODES, TERMINATED, TRUNCATED, FakePool, Scripted, scripted

import envs
from envs.envpool_backend import EnvPoolVecEnv
from envs.vector import GymnasiumVecEnv, VecEnv


class Transition(NamedTuple):
    is_first: bool
    obs: tuple[float, ...]
    action: int
    reward: float
    terminated: bool
    truncated: bool
    following: tuple[float, ...]
    """The observation that follows in the same episode, the last one included."""


def play(vec: VecEnv, transitions: int) -> list[list[Transition]]:
    """The first `transitions` valid rows of every environment; actions depend on the place in the episode alone."""
    obs, is_first = vec.reset(), np.ones(vec.num_envs, dtype=bool)
    columns: list[list[Transition]] = [[] for _ in range(vec.num_envs)]
    due = np.zeros(vec.num_envs, dtype=bool)
    while min(map(len, columns)) < transitions:
        seen = obs["obs"]
        actions = (seen.sum(axis=1) % 3).astype(np.int64)
        step = vec.step(actions)
        for i, column in enumerate(columns):
            if not step.valid[i]:
                assert due[i]
                assert step.is_first[i]
                assert (step.reward[i], step.terminated[i], step.truncated[i]) == (0, False, False)
                continue
            done = step.terminated[i] or step.truncated[i]
            following = step.obs["obs"][i]
            if done and step.is_first[i]:
                assert step.final_obs is not None
                following = step.final_obs["obs"][i]
            column.append(
                Transition(
                    bool(is_first[i]),
                    tuple(seen[i].tolist()),
                    int(actions[i]),
                    float(step.reward[i]),
                    bool(step.terminated[i]),
                    bool(step.truncated[i]),
                    tuple(following.tolist()),
                )
            )
        due = (step.terminated | step.truncated) & ~step.is_first
        obs, is_first = step.obs, step.is_first
        assert vec.last_obs is obs
        assert vec.last_is_first is is_first
    return [column[:transitions] for column in columns]


def expected(first_episode: int, transitions: int) -> list[Transition]:
    """The same list written from the script, without any vector environment."""
    rows, episode = [], first_episode
    while len(rows) < transitions:
        length, (terminated, truncated) = EPISODES[episode % len(EPISODES)]
        for step in range(length):
            action, over = (episode + step) % 3, step == length - 1
            rows.append(
                Transition(
                    step == 0,
                    (episode, step),
                    action,
                    pytest.approx(10 * episode + step + 1 + action / 10),  # type: ignore[arg-type]
                    over and terminated,
                    over and truncated,
                    (episode, step + 1),
                )
            )
        episode += 1
    return rows[:transitions]


@pytest.mark.parametrize("mode", ["SameStep", "NextStep", "envpool"])
def test_every_dialect_gives_the_scripted_transitions(mode: str) -> None:
    for i, column in enumerate(play(scripted(mode, 3), 40)):
        assert column == expected(i, 40)


def test_flags_of_same_step() -> None:
    vec = scripted("SameStep", 1)
    vec.reset()
    rows = [vec.step(np.zeros(1, dtype=np.int64)) for _ in range(6)]
    assert [bool(row.valid[0]) for row in rows] == [True] * 6
    assert [bool(row.is_first[0]) for row in rows] == [False, False, True, True, False, True]
    assert [row.final_obs is not None for row in rows] == [False, False, True, True, False, True]
    assert rows[2].obs["obs"].tolist() == [[1, 0]]
    assert rows[2].final_obs is not None
    assert rows[2].final_obs["obs"].tolist() == [[0, 3]]
    assert (bool(rows[5].terminated[0]), bool(rows[5].truncated[0])) == BOTH, "both flags are kept"


@pytest.mark.parametrize("mode", ["NextStep", "envpool"])
def test_flags_of_next_step(mode: str) -> None:
    vec = scripted(mode, 1)
    vec.reset()
    rows = [vec.step(np.zeros(1, dtype=np.int64)) for _ in range(9)]
    assert [bool(row.valid[0]) for row in rows] == [True, True, True, False, True, False, True, True, False]
    assert [bool(row.is_first[0]) for row in rows] == [not bool(row.valid[0]) for row in rows]
    assert all(row.final_obs is None for row in rows)
    assert rows[2].obs["obs"].tolist() == [[0, 3]], "the final observation is in the normal place"
    assert not rows[2].is_first[0], "memory is reset one row later"
    assert (bool(rows[7].terminated[0]), bool(rows[7].truncated[0])) == BOTH


@pytest.mark.parametrize("mode", ["NextStep", "envpool"])
def test_rollout_cut_exactly_between_done_and_reset(mode: str) -> None:
    """Row 0 of the next rollout is then the reset call: invalid, and what follows it is first."""
    vec = scripted(mode, 2)
    vec.reset()
    for _ in range(3):
        last = vec.step(np.zeros(2, dtype=np.int64))
    assert last.terminated.tolist() == [True, False]
    assert not last.is_first[0]
    # the rollout ends here; the learner keeps last_obs and last_is_first and goes on
    assert vec.last_is_first.tolist() == last.is_first.tolist()
    first_row = vec.step(np.zeros(2, dtype=np.int64))
    assert (bool(first_row.valid[0]), bool(first_row.is_first[0])) == (False, True)
    assert first_row.reward[0] == 0
    assert first_row.obs["obs"][0].tolist() == [1, 0]


def test_disabled_autoreset_is_refused_in_one_line() -> None:
    vector = SyncVectorEnv([Scripted], autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(
        envs.UserError, match="autoreset mode Disabled is not supported; expected SameStep or NextStep"
    ):
        GymnasiumVecEnv(vector, 0, "sync")


def test_envpool_resets_that_do_not_follow_done_are_noticed() -> None:
    vec = EnvPoolVecEnv(FakePool(2), "Scripted-v0")
    vec.reset()
    vec.pool.envs[1].steps = -1
    with pytest.raises(AssertionError, match="rows that were done"):
        vec.step(np.zeros(2, dtype=np.int64))


class FakeMiniGridPool(FakePool):
    """Scripted episodes under MiniGrid's observation space, with terminations hidden on the last step."""

    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs, hide_termination=True)
        self.observation_space = spaces.Dict(  # type: ignore[assignment]
            {
                "image": spaces.Box(0, 255, (7, 7, 3), np.uint8),
                "direction": spaces.Discrete(4),
                "mission": spaces.Box(0, 255, (96,), np.uint8),
            }
        )

    def reset(self) -> tuple[Any, dict[str, Any]]:
        super().reset()
        return self._blank(), {}

    def step(self, actions: Any) -> tuple[Any, ...]:
        _, *rest = super().step(actions)
        return self._blank(), *rest

    def _blank(self) -> dict[str, Any]:
        shapes = {"image": (7, 7, 3), "direction": (), "mission": (96,)}
        return {key: np.zeros((self.num_envs, *shape), np.int32) for key, shape in shapes.items()}


def test_paid_truncation_of_envpool_minigrid_is_a_termination() -> None:
    vec = EnvPoolVecEnv(FakeMiniGridPool(1), "MiniGrid-Scripted-v0")
    vec.reset()
    ends = []
    for _ in range(9):
        step = vec.step(np.zeros(1, dtype=np.int64))
        if step.terminated[0] or step.truncated[0]:
            ends.append((bool(step.terminated[0]), bool(step.truncated[0])))
    assert ends == [TERMINATED, BOTH, BOTH], "a truncated row with a reward is a termination as well"
    other = EnvPoolVecEnv(FakePool(1, hide_termination=True), "Other-v0")
    other.reset()
    ends = [
        tuple(map(bool, (s.terminated[0], s.truncated[0])))
        for s in (other.step(np.zeros(1, int)) for _ in range(9))
    ]
    assert [end for end in ends if any(end)] == [TERMINATED, TRUNCATED, TRUNCATED], (
        "elsewhere flags are not touched"
    )


def test_minigrid_raises_both_flags_for_a_goal_on_the_last_step() -> None:
    """In Empty-5x5 the goal is 5 steps away; with max_steps 5 success comes exactly at the limit."""
    route = [2, 2, 1, 2, 2]
    for backend in ("sync", "envpool") if importlib.util.find_spec("envpool") else ("sync",):
        vec = envs.make_vec("MiniGrid-Empty-5x5-v0", 1, 0, backend, {"max_steps": 5})
        vec.reset()
        for action in route:
            step = vec.step(np.array([action]))
        assert (bool(step.terminated[0]), bool(step.truncated[0])) == BOTH, backend
        assert step.reward[0] == pytest.approx(0.1)
        vec.close()


def valid_rows(vec: VecEnv, actions: np.ndarray) -> list[tuple[Any, ...]]:
    """Valid transitions of environment 0, taking its actions from one list in order."""
    obs, rows, is_first = vec.reset(), [], True
    while len(rows) < len(actions):
        step = vec.step(np.full(vec.num_envs, actions[len(rows)]))
        if step.valid[0]:
            seen = tuple(obs[key][0].tobytes() for key in ("image", "direction", "mission"))
            flags = (is_first, bool(step.terminated[0]), bool(step.truncated[0]))
            rows.append((*seen, *flags, float(step.reward[0])))
        obs, is_first = step.obs, bool(step.is_first[0])
    vec.close()
    return rows


@pytest.mark.slow
def test_python_minigrid_same_step_and_next_step_and_envpool_agree() -> None:
    """The same actions give the same valid transitions. Empty-8x8 has no random layout, so seeds do not matter."""
    rng = np.random.default_rng(3)
    actions = rng.choice(3, size=1500, p=[0.2, 0.3, 0.5])
    make = {
        "same": lambda: envs.make_vec("MiniGrid-Empty-8x8-v0", 2, 0, "sync", {"max_steps": 60}),
        "next": lambda: envs.make_vec(
            "MiniGrid-Empty-8x8-v0", 2, 0, "sync", {"max_steps": 60}, autoreset="next_step"
        ),
    }
    same = valid_rows(make["same"](), actions)
    assert sum(row[3] for row in same) > 0
    assert sum(row[4] for row in same) > 5
    assert valid_rows(make["next"](), actions) == same


@pytest.mark.slow
def test_real_envpool_equals_python_minigrid() -> None:
    pytest.importorskip("envpool", reason="EnvPool is not installed (pip install 'mnm-rl[envpool]')")
    rng = np.random.default_rng(3)
    actions = rng.choice(3, size=1500, p=[0.2, 0.3, 0.5])
    rows = {
        backend: valid_rows(envs.make_vec("MiniGrid-Empty-8x8-v0", 2, 0, backend, {"max_steps": 60}), actions)
        for backend in ("sync", "envpool")
    }
    assert len(rows["sync"]) == len(rows["envpool"])
    for python, pool in zip(rows["sync"], rows["envpool"], strict=True):
        assert python[:-1] == pool[:-1]
        assert python[-1] == pytest.approx(pool[-1])


def test_gymnasium_native_vectors_work_too() -> None:
    vec = envs.make_vec("CartPole-v1", 4, 0)
    assert (vec.backend, vec.resumable, vec.snapshot()) == ("native", False, None)
    vec.reset()
    invalid, done = 0, 0
    for _ in range(200):
        step = vec.step(np.ones(4, dtype=np.int64))
        invalid += int((~step.valid).sum())
        done += int((step.terminated | step.truncated).sum())
    assert invalid > 0
    assert abs(done - invalid) <= 4
    with pytest.raises(envs.UserError, match="cannot be restored"):
        vec.restore("{}")
