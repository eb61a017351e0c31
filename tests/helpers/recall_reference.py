"""For the recall tests: a random memory in plain NumPy, an agent built on it, and small environments."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import gymnasium
import imageio.v3 as imageio
import numpy as np
import torch
from gymnasium import spaces
from numpy_mnm import memory_pass, read, write

from agents.distributions import actions_for
from envs import make_single
from recall.record.recorder import TapeRecorder
from recall.record.tape import Tape


class Record(NamedTuple):
    """The shape of `memory.MemoryRecord`."""

    write_inputs: tuple[Any, ...]
    write_steps: tuple[Any, ...]
    target_value: Any
    beta: Any
    read_key: Any
    read_hidden: tuple[Any, ...]
    value_read: Any


class ReferenceMemory:
    """Writes by rule "p" (local targets from a fixed random map) or "g" (one gradient step), float by float."""

    def __init__(self, rule="p", heads=1, size=8, hidden=None, seed=0, dtype=np.float64, gain=1.5):
        rng = np.random.default_rng(seed)
        hidden = size if hidden is None else hidden
        shapes = [(hidden, size), (hidden, hidden), (size, hidden)]
        self.rule, self.heads, self.size, self.dtype, self.rng = rule, heads, size, dtype, rng
        self.start = [(gain * rng.normal(size=s) / np.sqrt(s[1])).astype(dtype) for s in shapes]
        self.targets = [(rng.normal(size=(s[0], size)) / np.sqrt(size)).astype(dtype) for s in shapes]
        self.bfpf = None
        if rule == "p":
            self.bfpf = np.concatenate(self.targets), np.zeros(2 * hidden + size, dtype)
        self.change = [np.zeros_like(w) for w in self.start]

    def weights(self):
        return [w + d for w, d in zip(self.start, self.change, strict=True)]

    def step(self, write_keys, target_values, beta, read_keys, layers=(0, 1, 2)):
        """One write and one read; returns the record of it (batch of one) and the weights read from."""
        rates = np.array([beta if layer in layers else 0 for layer in range(3)], self.dtype)
        written, steps = write(self.weights(), write_keys, target_values, rates, self.bfpf)
        before = [memory_pass(self.weights(), key) for key in write_keys]
        self.change = [w - start for w, start in zip(written, self.start, strict=True)]
        passes = [memory_pass(written, key) for key in read_keys]
        record = Record(
            write_inputs=tuple(batch_of_one(np.stack([z[n] for z in before])) for n in range(3)),
            write_steps=tuple(batch_of_one(np.stack(part)) for part in zip(*steps, strict=True)),
            target_value=batch_of_one(target_values),
            beta=batch_of_one(np.array(beta, self.dtype)),
            read_key=batch_of_one(read_keys),
            read_hidden=tuple(batch_of_one(np.stack([z[n] for z in passes])) for n in (1, 2)),
            value_read=batch_of_one(read(written, read_keys)),
        )
        return record, written

    def draw(self):
        """Random keys or values [H, d] in (-1, 1), as a controller would give them."""
        return np.tanh(self.rng.normal(size=(self.heads, self.size))).astype(self.dtype)


def batch_of_one(array):
    return torch.from_numpy(np.array(array))[None]


def random_tape(
    rule="p",
    heads=1,
    steps=12,
    size=8,
    hidden=None,
    seed=0,
    dtype=np.float64,
    betas=None,
    layers=(0, 1, 2),
    gain=1.5,
) -> tuple[Tape, list[list[np.ndarray]]]:
    """A tape of random writes and reads, and the weights W_t of every step as the run had them."""
    memory = ReferenceMemory(rule, heads, size, hidden, seed, dtype, gain)
    recorder = TapeRecorder("mnm-" + rule, seed, [batch_of_one(w) for w in memory.start])
    weights = []
    for t in range(steps):
        beta = memory.rng.uniform() if betas is None else betas[t]
        keys = memory.draw()
        record, written = memory.step(keys, memory.draw(), beta, memory.draw(), layers)
        weights.append(written)
        add_row(recorder, record, t, memory.rng)
    return recorder.tape(), weights


def add_row(recorder, record, t, rng):
    """A row of no particular episode around a record."""
    recorder.add(
        record,
        observation={"obs": rng.normal(size=3).astype(np.float32), "direction": np.int64(t % 4)},
        is_first=t == 0,
        previous_action=t - 1,
        previous_reward=0.5 * t,
        action=t,
        reward=0.25 * t,
        logits=torch.from_numpy(rng.normal(size=(8, 4)).astype(np.float32)),
        value=float(rng.normal()),
        agent_cell=(t % 5, 2),
        goal_cell=None,
    )


class AgentState(NamedTuple):
    core: Any
    action: torch.Tensor
    reward: torch.Tensor


class ReferenceAgent:
    """Plays like a model of `agents/`, acts at random, and remembers with the NumPy memory above.

    Its key is a hash of what it sees, so that equal views write and read at equal places.
    """

    def __init__(self, actions=4, writes=True, seed=0, size=16, gain=1.5, layers=(0, 1, 2)):
        self.seed, self.size, self.layers = seed, size, layers
        self.actions, self.device = actions_for(spaces.Discrete(actions)), torch.device("cpu")
        self.memory = ReferenceMemory("p", 1, size, seed=seed, dtype=np.float32, gain=gain)
        self.core = SimpleNamespace(
            writes=writes,
            addresses=False,
            noise_shape=None,
            weights=lambda state: [batch_of_one(w) for w in self.memory.start],
        )
        self.recorded = 0

    def initial_state(self, batch):
        self.rng = np.random.default_rng(self.seed)
        self.memory.change = [np.zeros_like(w) for w in self.memory.start]
        return AgentState(None, torch.full((batch,), -1), torch.zeros(batch))

    def act(self, obs, is_first, state, record=False, noise=None):
        seen = np.concatenate([np.asarray(part[0], np.float32).ravel()[:200] for part in obs.values()])
        direction = np.random.default_rng(5).normal(size=(self.size, len(seen)))
        key = np.tanh(direction @ seen)[None].astype(np.float32)
        beta = np.float32(self.rng.uniform(0.2, 1))
        entry, _ = self.memory.step(key, np.roll(key, 1), beta, key, self.layers)
        self.recorded += record
        logits = torch.from_numpy(self.rng.normal(size=(1, self.actions.parameters)).astype(np.float32) * 2)
        return SimpleNamespace(
            policy=self.actions.distribution(logits),
            logits=logits,
            value=logits.mean(1),
            state=state,
            record=entry if record and self.core.writes else None,
        )

    def after(self, state, action, reward):
        return AgentState(state.core, action, reward)


def maze(steps: int = 40, side: int = 9) -> Any:
    return make_single("mnm/GridMaze-v0", {"side": side, "max_steps": steps}, render_mode="rgb_array")


class Photo(gymnasium.Env):
    """An environment of which nothing is known but its frames."""

    metadata = {"render_modes": ["rgb_array", "human"]}  # noqa: RUF012
    observation_space = spaces.Dict({"obs": spaces.Box(0, 1, (2,))})
    action_space = spaces.Discrete(4)

    def __init__(self, render_mode=None, shape=(40, 60, 3)):
        self.render_mode, self.shape = render_mode, shape

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return {"obs": np.zeros(2, np.float32)}, {}

    def step(self, action):
        self.steps += 1
        return {"obs": np.full(2, self.steps, np.float32)}, 1.0, self.steps == 6, False, {}

    def render(self):
        return np.full(self.shape, 40 * self.steps, np.uint8)


def frames_of(path: Any) -> list[np.ndarray]:
    return list(imageio.imread(path, index=None, mode="RGB"))
