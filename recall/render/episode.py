"""Play an episode with the tape running, and keep what it looked like.

An episode is played first and drawn afterwards, because the bars share one scale per episode; between the two
only small things are kept: the tape (about 5 KB a step) and the scenes, their large pictures compressed.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

import numpy as np

from agents.config import MOST_STEPS
from agents.play import Actor, Env, Moment, Opening, Policy, play
from recall.record.recorder import TapeObserver, records
from recall.record.tape import Tape
from recall.render.scene import Picture, Scene, action_name, scene_of


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


class _Film(TapeObserver):
    """The tape of one episode, its actions in words, and its scenes if it can be drawn."""

    def __init__(self, model: Actor, core: str, seed: int, scenes: bool) -> None:
        super().__init__(model, core, [seed])
        self.scenes = SceneStore() if scenes else None
        self.names: list[str] = []
        self.terminated = False
        self._scene: Scene | None = None

    def before(self, moment: Moment) -> None:
        self._scene = scene_of(moment.env) if self.scenes is not None else None
        self.names.append(action_name(moment.env, moment.wire))

    def after(self, moment: Moment) -> None:
        scene = self._scene
        if scene is None or self.scenes is None:
            self.add(moment)
        else:
            self.add(moment, agent_cell=scene.agent, goal_cell=scene.goal)
            self.scenes.add(scene)
        self.terminated = moment.terminated


def record_episode(
    model: Actor,
    env: Env,
    seed: int,
    policy: Policy = "greedy",
    core: str | None = None,
    scenes: bool = True,
    rng: np.random.Generator | None = None,
    most_steps: int = MOST_STEPS,
) -> Episode:
    """Play one episode of `env`, reset with `seed`, through `model.act(..., record=True)`.

    `policy` is "greedy" or "sample" (drawn from `rng`, by default a new one of this seed), `core` the name that
    goes on the tape. `scenes=False` records the tape alone, for environments that cannot be drawn or need not be.
    `most_steps` ends an episode that does not end.
    """
    film = _Film(model, core or type(model.core).__name__, seed, scenes)
    opening = Opening(seed, rng or np.random.default_rng(seed))
    play(model, [env], [opening], policy, film, records(model), most_steps=most_steps)
    return Episode(film.recorders[0].tape(), film.scenes, tuple(film.names), film.terminated)
