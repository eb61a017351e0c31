"""MiniGrid observations as arrays: same categories, stable word ids, the same for EnvPool's padded bytes."""

from __future__ import annotations

import zlib
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX
from minigrid.wrappers import FullyObsWrapper, RGBImgPartialObsWrapper

import envs
from envs.minigrid_arrays import (
    IMAGE_CATEGORIES,
    MISSION_WORDS,
    MiniGridArrays,
    MissionRows,
    encode_mission,
    has_mission,
    is_minigrid_id,
)


def word_id(word: str) -> int:
    return 1 + zlib.crc32(word.encode()) % 255


def test_categories_cover_every_code_of_minigrid() -> None:
    assert IMAGE_CATEGORIES == (11, 6, 4)
    assert max(OBJECT_TO_IDX.values()) < 11
    assert max(COLOR_TO_IDX.values()) < 6


def test_mission_words_have_stable_ids() -> None:
    ids = encode_mission("Go to the RED ball, then stop")
    expected = [word_id(word) for word in ("go", "to", "the", "red", "ball", "then", "stop")]
    assert ids.tolist() == expected + [0] * (MISSION_WORDS - 7)
    assert encode_mission("Go to the RED ball, then stop") is ids, "one encoding per text"
    with pytest.raises(ValueError, match="read-only"):
        ids[0] = 1
    long = encode_mission(" ".join(["word"] * 30))
    assert long.tolist() == [word_id("word")] * MISSION_WORDS
    assert encode_mission("").tolist() == [0] * MISSION_WORDS


def padded(texts: list[str], length: int = 96) -> np.ndarray:
    rows = np.zeros((len(texts), length), dtype=np.uint8)
    for row, text in zip(rows, texts, strict=True):
        row[: len(text)] = np.frombuffer(text.encode(), np.uint8)
    return rows


def test_padded_bytes_are_encoded_like_text_and_only_when_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, calls = MissionRows(3), []

    def counting(text: str) -> Any:
        calls.append(text)
        return encode_mission(text)

    monkeypatch.setattr("envs.minigrid_arrays.encode_mission", counting)
    texts = ["go to the red ball", "open the door", ""]
    for round_texts, looked_at in (
        (texts, 3),
        (texts, 0),
        (["go to the red ball", "open the red door", ""], 1),
        (["go", "open the red door", ""], 1),
    ):
        calls.clear()
        ids = encoder.encode(padded(round_texts))
        assert len(calls) == looked_at
        np.testing.assert_array_equal(ids, [encode_mission(text) for text in round_texts])


@pytest.mark.parametrize(
    "env_id", ["MiniGrid-MemoryS7-v0", "MiniGrid-DoorKey-5x5-v0", "BabyAI-GoToRedBall-v0"]
)
def test_every_observation_lies_in_the_array_space(env_id: str) -> None:
    env = envs.make_single(env_id)
    space = env.observation_space
    assert isinstance(space, spaces.Dict)
    image = space["image"]
    assert isinstance(image, spaces.MultiDiscrete)
    assert image.shape == (7, 7, 3)
    assert image.nvec[0, 0].tolist() == [11, 6, 4]
    raw = gymnasium.make(env_id)
    rng = np.random.default_rng(0)
    observation, _ = env.reset(seed=5)
    text, _ = raw.reset(seed=5)
    for _ in range(100):
        assert space.contains(observation)
        np.testing.assert_array_equal(observation["image"], text["image"])
        assert observation["direction"] == text["direction"]
        np.testing.assert_array_equal(observation["mission"], encode_mission(text["mission"]))
        action = int(rng.integers(7))
        observation, _, terminated, truncated, _ = env.step(action)
        text, *_ = raw.step(action)
        if terminated or truncated:
            observation, _ = env.reset()
            text, _ = raw.reset()


def test_full_view_is_categories_and_a_picture_is_not() -> None:
    full = MiniGridArrays(FullyObsWrapper(gymnasium.make("MiniGrid-Empty-8x8-v0")))
    observation, _ = full.reset(seed=0)
    assert full.observation_space.contains(observation), "the agent's direction is a state below 4"
    assert observation["image"][..., 0].max() == OBJECT_TO_IDX["agent"]
    picture = MiniGridArrays(RGBImgPartialObsWrapper(gymnasium.make("MiniGrid-Empty-8x8-v0")))
    space: Any = picture.observation_space
    assert isinstance(space["image"], spaces.Box)
    assert isinstance(space["mission"], spaces.MultiDiscrete)


def test_what_counts_as_minigrid() -> None:
    assert is_minigrid_id("BabyAI-GoToRedBall-v0")
    assert not is_minigrid_id("mnm/GridMaze-v0")
    assert not has_mission(spaces.Dict({"image": spaces.Discrete(2)}))
    assert not has_mission(spaces.Discrete(2))


def test_arrays_pass_through_sync_and_async_vectors() -> None:
    kwargs = {"actions": [0, 1, 2], "agent_view_size": 5}
    vectors = [envs.make_vec("MiniGrid-MemoryS7-v0", 2, 3, backend, kwargs) for backend in ("sync", "async")]
    rows = [vector.reset() for vector in vectors]
    for _ in range(30):
        for key in ("image", "direction", "mission"):
            np.testing.assert_array_equal(rows[0][key], rows[1][key])
            assert rows[0][key].dtype == rows[1][key].dtype
        assert rows[0]["image"].shape == (2, 5, 5, 3)
        rows = [vector.step(np.array([2, 1])).obs for vector in vectors]
    for vector in vectors:
        vector.close()
