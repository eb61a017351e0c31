"""Similarity maps: cosines per head, averaged; 1 on the diagonal, 0 for nothing written, and a picture of both."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from recall_reference import ReferenceAgent, maze, random_tape

from envs.errors import UserError
from recall.render.episode import record_episode
from recall.render.similarity import (
    draw_similarity,
    head_similarity,
    maps_of_tape,
    rebinding_score,
    similarity_figure,
    similarity_maps,
)


def draw(
    seed: int = 0, writes: int = 12, heads: int = 3, size: int = 5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    keys, values = np.tanh(rng.normal(size=(2, writes, heads, size)))
    return keys, values, rng.uniform(size=writes)


@pytest.mark.parametrize("centred", [False, True])
def test_maps_are_symmetric_bounded_and_one_on_the_diagonal(centred):
    maps = similarity_maps(*draw(), centred=centred)
    for values in (maps.keys, maps.values):
        assert values.shape == (12, 12)
        assert np.abs(values).max() <= 1.0
        np.testing.assert_array_equal(values, values.T)
        np.testing.assert_allclose(np.diag(values), 1.0, atol=1e-15)
    assert not np.allclose(maps.keys, maps.values)


def test_cosines_are_taken_per_head_and_then_averaged():
    now, then = draw(1)[0], draw(2)[0]
    for t in (0, 7):
        for s in (3, 11):
            each = [
                a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(now[t], then[s], strict=True)
            ]
            assert head_similarity(now, then)[t, s] == pytest.approx(np.mean(each), abs=1e-15)


def test_zero_vectors_are_similar_to_nothing():
    keys, values, beta = draw()
    keys[4] = 0.0
    maps = similarity_maps(keys, values, beta)
    np.testing.assert_array_equal(maps.keys[4], 0.0)
    np.testing.assert_array_equal(maps.keys[:, 4], 0.0)
    one = similarity_maps(keys[:1], values[:1], beta[:1], centred=True)  # the mean of one is itself
    np.testing.assert_array_equal(one.keys, 0.0)


def test_the_same_write_twice_gives_one():
    keys, values, beta = draw()
    keys[9] = keys[2]
    maps = similarity_maps(keys, values, beta)
    assert maps.keys[9, 2] == pytest.approx(1.0, abs=1e-15)
    np.testing.assert_allclose(maps.keys[9], maps.keys[2], atol=1e-15)


def test_centring_removes_a_common_bias():
    keys, values, beta = draw(writes=40)
    biased = 0.01 * keys + 1.0
    assert similarity_maps(biased, values, beta).keys.min() > 0.99
    np.testing.assert_allclose(
        similarity_maps(biased, values, beta, centred=True).keys,
        similarity_maps(keys, values, beta, centred=True).keys,
        atol=1e-9,
    )


def test_a_window_is_a_part_of_the_whole():
    given = draw()
    whole, part = similarity_maps(*given), similarity_maps(*given, rows=range(8, 12), columns=[0, 5, 6])
    np.testing.assert_allclose(part.keys, whole.keys[8:12][:, [0, 5, 6]], atol=1e-15)
    assert part.rows.tolist() == [8, 9, 10, 11]


def test_rebinding_score_tells_overwriting_from_repeating():
    keys, values, beta = draw(size=400)
    keys[5], keys[6] = keys[0], keys[1]
    values[6] = values[1]  # 5 writes a new value under the key of 0; 6 repeats 1
    maps = similarity_maps(keys, values, beta)
    assert rebinding_score(maps, changed=[(5, 0)], repeated=[(6, 1)]) > 0.9
    with pytest.raises(ValueError, match="at least one changed"):
        rebinding_score(maps, [], [(6, 1)])


def test_maps_of_a_tape_are_those_of_its_writes():
    tape, _ = random_tape(heads=2)
    maps = maps_of_tape(tape)
    memory = tape.written()
    np.testing.assert_array_equal(maps.keys, head_similarity(memory.write_inputs[0], memory.write_inputs[0]))
    np.testing.assert_array_equal(maps.values, head_similarity(memory.target_value, memory.target_value))


@pytest.mark.slow
def test_the_picture_has_one_fixed_scale_strips_and_labels(tmp_path):
    keys, values, beta = draw()
    words = [f"word{n}" for n in range(12)]
    figure = similarity_figure(similarity_maps(keys, values, beta), words)
    pictures = [axes.images[0] for axes in figure.axes if axes.images]
    limits = sorted(image.get_clim() for image in pictures)
    assert limits == [(-1, 1)] * 2 + [(0, 1)] * 4
    strips = [image.get_array() for image in pictures if image.get_clim() == (0, 1)]
    assert all(np.array_equal(np.ravel(strip), beta) for strip in strips)
    shown = [text.get_text() for axes in figure.axes for text in axes.get_xticklabels()]
    assert shown.count("word3") >= 2
    path = draw_similarity(
        similarity_maps(keys, values, beta, rows=range(9, 12)), tmp_path / "a.png", labels=words
    )
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width > 800


@pytest.mark.slow
def test_the_picture_of_an_episode_has_thumbnails(tmp_path):
    episode = record_episode(ReferenceAgent(), maze(), 3)
    seen = [episode.scenes.small(t).seen for t in range(episode.tape.steps)]
    figure = similarity_figure(maps_of_tape(episode.tape), thumbnails=seen)
    assert sum(len(axes.artists) for axes in figure.axes) >= 9
    draw_similarity(maps_of_tape(episode.tape), tmp_path / "a.png", thumbnails=seen)
    draw_similarity(maps_of_tape(episode.tape), tmp_path / "b.png")
    assert (tmp_path / "a.png").stat().st_size > (tmp_path / "b.png").stat().st_size


def test_mistakes(tmp_path):
    keys, values, beta = draw()
    with pytest.raises(UserError, match="the episode is empty"):
        similarity_maps(keys[:0], values[:0], beta[:0])
    with pytest.raises(UserError, match="writes 0 to 11"):
        similarity_maps(keys, values, beta, rows=[12])
    with pytest.raises(ValueError, match="different numbers"):
        similarity_maps(keys, values[:3], beta)
    with pytest.raises(ValueError, match=r"expected \[R, H, d\]"):
        head_similarity(keys, values[:, :2])
    with pytest.raises(ValueError, match="2 labels for 12 writes"):
        draw_similarity(similarity_maps(keys, values, beta), tmp_path / "a.png", labels=["a", "b"])
    with pytest.raises(UserError, match="does not exist"):
        draw_similarity(similarity_maps(keys, values, beta), tmp_path / "no" / "a.png")
    tape = record_episode(ReferenceAgent(writes=False), maze(), 3, scenes=False).tape
    with pytest.raises(UserError, match="no write memory"):
        maps_of_tape(tape)
    assert list(tmp_path.iterdir()) == []
