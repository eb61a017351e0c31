"""Play an episode with the tape running.

The recorder is passive: actions and parameters are the same with and without it. An episode is played first
and drawn afterwards, because the bars share one scale per episode; between the two only small things are
kept: the tape (about 5 KB a step) and the scenes, their large pictures compressed.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np
import torch

from agents.evaluation import Policy, address_noise, choose
from recall.record.tape import Tape, TapeRecorder, write_rule_of
from recall.render.scene import Picture, Scene, action_name, scene_of

Env = gymnasium.Env[Any, Any]


class SceneStore:
    """The scenes of an episode. Large pictures are compressed: flat colours shrink to a few KB."""

    def __init__(self) -> None:
        self._scenes: list[Scene] = []
        self._packed: list[bytes] = []

    def add(self, scene: Scene) -> None:
        self._packed.append(zlib.compress(scene.picture.tobytes(), level=1))
        # An empty view keeps the shape and none of the memory.
        self._scenes.append(replace(scene, picture=np.broadcast_to(np.uint8(0), scene.picture.shape)))

    def __len__(self) -> int:
        return len(self._scenes)

    def small(self, t: int) -> Scene:
        """Scene t with its small pictures; the large one is blank."""
        return self._scenes[t]

    def __getitem__(self, t: int) -> Scene:
        scene = self._scenes[t]
        picture: Picture = np.frombuffer(zlib.decompress(self._packed[t]), np.uint8)
        return replace(scene, picture=picture.reshape(scene.picture.shape))


@dataclass(frozen=True)
class Episode:
    """One played episode: what happened, and what it looked like."""

    tape: Tape
    scenes: SceneStore | None
    actions: tuple[str, ...]
    """[T] the actions in words."""
    terminated: bool


def record_episode(
    model: Any,
    env: Env,
    seed: int,
    policy: Policy = "greedy",
    core: str | None = None,
    scenes: bool = True,
    rng: np.random.Generator | None = None,
) -> Episode:
    """Play one episode of `env`, reset with `seed`, through `model.act(..., record=True)`.

    `policy` is "greedy" or "sample" (drawn from `rng`, by default a new one of this seed), `core` the name that
    goes on the tape. `scenes=False` records the tape alone, for environments that cannot be drawn or need not be.
    """
    state = model.initial_state(1)
    device = state.action.device
    writes, addresses = bool(model.core.writes), bool(model.core.addresses)
    recorder = TapeRecorder(
        core=core or type(model.core).__name__,
        seed=seed,
        initial_weights=model.core.weights(state.core) if writes else None,
        rule=write_rule_of(model.core) if writes else None,
        addresses=addresses,
        counts=model.actions.counts,
    )
    store = SceneStore() if scenes else None
    names: list[str] = []
    rng = rng or np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    previous_action, previous_reward, terminated, done = state.action, 0.0, False, False
    while not done:
        is_first = not names
        scene = scene_of(env) if store is not None else None
        with torch.no_grad():
            batch = {
                name: torch.tensor(np.array(part), device=device)[None] for name, part in observation.items()
            }
            noise = address_noise(model, policy, [rng])
            first = torch.tensor([is_first], device=device)
            output = model.act(batch, first, state, record=writes or addresses, noise=noise)
        action = choose(output.policy, policy, [rng])
        chosen = model.actions.to_env(action)[0]
        names.append(model.actions.describe(action[0]) if action.dim() > 1 else action_name(env, chosen))
        next_observation, reward, terminated, truncated, _ = env.step(chosen)
        reward = float(reward)
        recorder.add(
            output.record,
            observation=observation,
            is_first=is_first,
            previous_action=previous_action[0],
            previous_reward=previous_reward,
            action=action[0],
            reward=reward,
            logits=output.logits,
            value=float(output.value[0]),
            agent_cell=scene.agent if scene else None,
            goal_cell=scene.goal if scene else None,
        )
        if store is not None and scene is not None:
            store.add(scene)
        state = model.after(output.state, action, torch.tensor([reward], device=device))
        observation, previous_action, previous_reward = next_observation, action, reward
        done = terminated or truncated
    return Episode(recorder.tape(), store, tuple(names), bool(terminated))
