"""The GIF shows what the tape says: one frame per step, the right colours at the right cells, one palette, small."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from recall_reference import Photo, ReferenceAgent, frames_of, maze

from agents.model import ActorCritic
from agents.play import choose
from envs.errors import UserError
from memory import CoreConfig
from recall.render import palette
from recall.render.movie import GifWriter
from recall.render.outputs import SceneStore, facts_of, record_episode, render_recall_gif, tiles_of
from recall.render.picture import MAP_SIZE, MARGIN, Painter, signed
from recall.render.scene import scene_of
from recall.scores.recalls import Thresholds, recalls_of


def linear_agent(**options: Any) -> ReferenceAgent:
    """Writes into the last layer alone: its writes do not interact, so its recalls are not grey."""
    return ReferenceAgent(layers=(2,), **options)


class GifFacts(NamedTuple):
    global_table: bytes
    local_tables: int
    durations: list[int]
    comments: list[bytes]


def parse_gif(data: bytes) -> GifFacts:
    """Walk the blocks of a GIF file, independently of any library."""

    def table_size(flags: int) -> int:
        return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0

    def sub_blocks(place: int) -> tuple[bytes, int]:
        content = b""
        while data[place]:
            content += data[place + 1 : place + 1 + data[place]]
            place += data[place] + 1
        return content, place + 1

    assert data[:6] == b"GIF89a"
    place = 13 + table_size(data[10])
    facts = GifFacts(data[13:place], 0, [], [])
    while data[place : place + 1] != b";":
        if data[place : place + 1] == b"!":
            content, after = sub_blocks(place + 2)
            if data[place + 1] == 0xF9:
                facts.durations.append(int.from_bytes(content[1:3], "little"))
            if data[place + 1] == 0xFE:
                facts.comments.append(content)
            place = after
        else:
            assert data[place : place + 1] == b","
            size = table_size(data[place + 9])
            facts = facts._replace(local_tables=facts.local_tables + bool(size))
            _, place = sub_blocks(place + 10 + size + 1)
    assert place == len(data) - 1, "nothing may follow the end mark"
    return facts


# The file ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_frame_per_step_and_one_palette(tmp_path):
    path = tmp_path / "recall.gif"
    summary = render_recall_gif(linear_agent(), maze, [3, 4], path=path, fps=5.0)
    assert summary["frames"] == 80
    assert [episode["steps"] for episode in summary["episodes"]] == [40, 40]
    assert [episode["seed"] for episode in summary["episodes"]] == [3, 4]
    assert summary["bytes"] == path.stat().st_size
    assert len(frames_of(path)) == 80
    with Image.open(path) as image:
        assert (image.n_frames, image.info["loop"]) == (80, 0)
    facts = parse_gif(path.read_bytes())
    assert (len(facts.global_table), facts.local_tables) == (768, 0)
    assert facts.durations == [*[20] * 39, 170, *[20] * 39, 170]  # the last frame of an episode stays longer
    assert b"use share < 0.05" in facts.comments[0]
    assert b"rho > 0.3" in facts.comments[0]
    assert [file.name for file in tmp_path.iterdir()] == ["recall.gif"]


@pytest.mark.slow
def test_long_episode_is_small_and_fast(tmp_path):
    start_s = time.process_time()
    summary = render_recall_gif(
        ReferenceAgent(size=128), lambda: maze(steps=200, side=13), [0], path=tmp_path / "long.gif"
    )
    assert time.process_time() - start_s < 10
    assert summary["frames"] == 200
    assert summary["bytes"] < 5e6


def test_writer_keeps_flat_colours_and_equal_frames(tmp_path):
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (100, 3))
    pictures = [colours[rng.integers(0, 100, (30, 40))].astype(np.uint8) for _ in range(20)]
    pictures[5:9] = [pictures[4]] * 4
    with (tmp_path / "a.gif").open("wb") as file:
        writer = GifWriter(file, fps=10, fixed=[palette.AGENT])
        for picture in pictures:
            writer.add(picture)
        writer.close()
    frames = frames_of(tmp_path / "a.gif")
    assert len(frames) == 20
    for frame, picture in zip(frames, pictures, strict=True):
        np.testing.assert_array_equal(frame, picture)


def test_writer_holds_no_more_for_more_frames(tmp_path):
    def peak_bytes(frames: int) -> int:
        tracemalloc.start()
        with (tmp_path / "a.gif").open("wb") as file:
            writer = GifWriter(file, fps=10)
            for t in range(frames):
                picture = np.zeros((300, 400, 3), np.uint8)
                picture[t : t + 50, t : t + 50] = t
                writer.add(picture)
            writer.close()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak_bytes(120) < 1.1 * peak_bytes(30)


def test_writer_brings_unforeseen_colours_close(tmp_path):
    ramp = np.stack(np.meshgrid(np.arange(256), np.arange(256), [90], indexing="ij"), -1)[:, :, 0].astype(
        np.uint8
    )
    with (tmp_path / "a.gif").open("wb") as file:
        writer = GifWriter(file, fps=10, fixed=[palette.AGENT])
        for _ in range(9):
            writer.add(np.zeros((256, 256, 3), np.uint8))
        writer.add(ramp)
        writer.close()
    error = np.abs(frames_of(tmp_path / "a.gif")[-1].astype(int) - ramp)
    assert error.max() <= 43


# The picture ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_agent_and_goal_are_where_they_are(tmp_path):
    path = tmp_path / "recall.gif"
    render_recall_gif(linear_agent(), maze, [3], path=path)
    episode = record_episode(linear_agent(), maze(), 3)
    moved = set()
    for t, frame in enumerate(frames_of(path)):
        scene = episode.scenes[t]
        left, top = Painter(5, Thresholds()).map_corner(scene)
        assert left >= MARGIN
        for cell, colour in ((scene.agent, palette.AGENT), (scene.goal, palette.GOAL)):
            middle = [int((place + 0.5) * scene.cell_size) for place in cell]
            np.testing.assert_array_equal(frame[top + middle[0], left + middle[1]], colour)
        assert tuple(episode.tape.agent_cell[t]) == scene.agent
        assert tuple(episode.tape.goal_cell[t]) == scene.goal
        moved.add(scene.agent)
    assert len(moved) > 5


@pytest.mark.slow
def test_tiles_come_in_the_order_of_their_scores():
    """The pictures of the tiles, found again in the frame, are those of the best writes, best on top."""
    episode = record_episode(linear_agent(), maze(), 3)
    recalls = recalls_of(episode.tape, 5)
    painter = Painter(5, Thresholds())
    t = 30
    frame = painter.paint(
        episode.scenes[t], facts_of(episode, t, 1, 1), recalls[t], tiles_of(episode, t, recalls[t]), 1.0
    )
    assert len(recalls[t].writes) == 5
    bars = []
    for place, s in enumerate(recalls[t].writes):
        left, top, right, bottom = painter.tile_box(place)
        tile = frame[top : bottom + 1, left : right + 1]
        assert contains(tile, episode.scenes.small(s).where)
        assert contains(tile, episode.scenes.small(s).seen)
        bar = (tile == palette.SUPPORTS).all(2) | (tile == palette.OPPOSES).all(2)
        bars.append(int(bar.any(0).sum()))  # its length; a hollow bar has less area
    assert list(recalls[t].scores) == sorted(recalls[t].scores, reverse=True)
    assert bars == sorted(bars, reverse=True)
    assert bars[0] > bars[-1] > 0


def contains(picture: np.ndarray, part: np.ndarray) -> bool:
    windows = np.lib.stride_tricks.sliding_window_view(picture, part.shape)[:, :, 0]
    return any(
        (windows[row, column] == part).all()
        for row in range(windows.shape[0])
        for column in range(windows.shape[1])
    )


def test_first_step_has_empty_frames_and_doubt_is_grey():
    episode = record_episode(ReferenceAgent(), maze(), 3)  # a deep memory: its writes interact
    recalls = recalls_of(episode.tape, 5)
    painter = Painter(5, Thresholds())

    def paint(t, thresholds):
        painter.thresholds = thresholds
        return painter.paint(
            episode.scenes[t], facts_of(episode, t, 1, 1), recalls[t], tiles_of(episode, t, recalls[t]), 1.0
        )

    left, top, right, bottom = painter.tile_box(0)
    empty = paint(0, Thresholds())[top + 1 : bottom, left + 1 : right]
    assert (empty == palette.PAPER).all()
    t = max(range(40), key=lambda t: recalls[t].residual)
    assert recalls[t].residual > 0.3
    box = (slice(top, bottom), slice(left, right))
    bar_colours = (palette.SUPPORTS, palette.OPPOSES)
    grey, plain = paint(t, Thresholds())[box], paint(t, Thresholds(residual=np.inf))[box]
    assert not any((grey == colour).all(2).any() for colour in bar_colours)
    assert any((plain == colour).all(2).any() for colour in bar_colours)
    unused = paint(t, Thresholds(use_share=np.inf))[box]
    assert not any((unused == colour).all(2).any() for colour in bar_colours)
    assert (grey == palette.AGENT).all(2).any(), "the position stays marked"


def test_frames_do_not_jitter():
    """Outside of what changes by meaning, two frames of an episode are equal pixel by pixel."""
    episode = record_episode(linear_agent(), maze(), 3)
    recalls = recalls_of(episode.tape, 5)
    painter = Painter(5, Thresholds())
    frames = [
        painter.paint(
            episode.scenes[t], facts_of(episode, t, 1, 1), recalls[t], tiles_of(episode, t, recalls[t]), 1.0
        )
        for t in (10, 37)
    ]
    assert frames[0].shape == frames[1].shape == (painter.height, painter.width, 3)
    same = (frames[0] == frames[1]).all(2)
    left = painter.tile_box(0)[0]
    assert same[62:92, :].all(), "legend"
    line = (frames[0] == palette.SUPPORTS).all(2) | (frames[1] == palette.SUPPORTS).all(2)
    assert (same | line)[:, left - 10 : left].all(), (
        "gap between the two sides, but for the line that crosses it"
    )
    assert same[-45:].all(), "explanation"


@pytest.mark.slow
def test_an_agent_without_memory_recalls_nothing(tmp_path):
    env, path = maze(steps=6), tmp_path / "none.gif"
    model = ActorCritic(env.observation_space, env.action_space, CoreConfig(name="none"))
    summary = render_recall_gif(model, lambda: env, [3], path=path, core="none")
    frames = frames_of(path)
    assert (summary["score"], len(frames)) == ("R5", 6)
    assert summary["episodes"][0]["steps_unaffected"] == 6
    painter = Painter(5, Thresholds(), score="step")
    assert frames[0].shape[1] == painter.width
    for row in range(5):
        left, top, right, bottom = painter.tile_box(row)
        assert (frames[-1][top + 1 : bottom, left + 1 : right] == palette.PAPER).all(), "an empty tile"
    tape = record_episode(ReferenceAgent(writes=False), maze(), 3).tape
    assert tape.memory is None


@pytest.mark.parametrize(
    ("number", "text"), [(10.0, "10"), (0.5, "0.5"), (-0.05, "-0.05"), (-0.001, "0"), (0.0, "0")]
)
def test_numbers_are_short(number, text):
    assert signed(number) == text


def test_a_long_name_of_an_action_keeps_to_its_slot():
    episode, painter = record_episode(ReferenceAgent(), maze(), 3), Painter(5, Thresholds())
    recalls, facts = recalls_of(episode.tape, 5)[20], facts_of(episode, 20, 1, 1)
    short, long = (
        painter.paint(episode.scenes[20], replace(facts, action=name), recalls)
        for name in ("up", "up and over the hills")
    )
    rows, columns = np.nonzero((short != long).any(axis=2))
    assert rows.size > 0
    # Four slots share the width of the map: the reward's begins at half of it.
    assert columns.max() < MARGIN + MAP_SIZE // 2


# Recording -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_recording_and_drawing_change_nothing():
    def play(**options: Any) -> Any:
        return record_episode(ReferenceAgent(seed=7), maze(), 11, policy="sample", **options).tape

    drawn, blind = play(scenes=True), play(scenes=False)
    np.testing.assert_array_equal(drawn.action, blind.action)
    np.testing.assert_array_equal(drawn.logits, blind.logits)
    np.testing.assert_array_equal(drawn.written().value_read, blind.written().value_read)
    silent = record_episode(ReferenceAgent(seed=7, writes=False), maze(), 11, policy="sample").tape
    np.testing.assert_array_equal(drawn.action, silent.action)
    np.testing.assert_array_equal(drawn.reward, silent.reward)


@pytest.mark.slow
@pytest.mark.parametrize("core", ["mnm-p", "mnm-g", "lstm"])
def test_a_real_agent_plays_the_same_with_and_without_the_tape(tmp_path, core):
    env = maze()
    torch.manual_seed(1)
    model = ActorCritic(
        env.observation_space, env.action_space, CoreConfig(name=core, memory_size=16, heads=2)
    )
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tape = record_episode(model, env, 5, "sample", core, rng=np.random.default_rng(3)).tape
    state, rng, is_first = model.initial_state(1), np.random.default_rng(3), True
    observation, _ = env.reset(seed=5)
    for t in range(40):
        batch = {name: torch.tensor(part)[None] for name, part in observation.items()}
        with torch.no_grad():
            output = model.act(batch, torch.tensor([is_first]), state)
        np.testing.assert_array_equal(output.logits[0].numpy(), tape.logits[t])
        action = int(choose(output.policy, "sample", [rng])[0])
        assert action == tape.action[t]
        for name, part in observation.items():
            np.testing.assert_array_equal(part, tape.observation[name][t])
        observation, reward, *_ = env.step(action)
        assert np.float32(reward) == tape.reward[t]
        state = model.after(output.state, torch.tensor([action]), torch.tensor([float(reward)]))
        is_first = False
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    summary = render_recall_gif(model, maze, [5], path=tmp_path / "a.gif", core=core)
    assert ("use_share_median" in summary["episodes"][0]) == core.startswith("mnm")


def test_tape_rows_hang_together():
    episode = record_episode(ReferenceAgent(), maze(), 3, core="mnm-p")
    tape = episode.tape
    assert (tape.core, tape.seed, tape.steps, len(episode.scenes)) == ("mnm-p", 3, 40, 40)
    assert tape.previous_action.tolist() == [-1, *tape.action[:-1].tolist()]
    assert tape.previous_reward.tolist() == [0.0, *tape.reward[:-1].tolist()]
    assert tape.is_first.tolist() == [True] + [False] * 39
    assert tape.action.tolist() == tape.logits.argmax(1).tolist()
    assert facts_of(episode, 39, 1, 1).total == pytest.approx(tape.reward.sum())


def test_scene_store_returns_what_it_was_given():
    env, store, given = maze(), SceneStore(), []
    env.reset(seed=0)
    for action in (0, 1, 3):
        given.append(scene_of(env))
        store.add(given[-1])
        env.step(action)
    for t, scene in enumerate(given):
        np.testing.assert_array_equal(store[t].picture, scene.picture)
        np.testing.assert_array_equal(store.small(t).where, scene.where)


# Mistakes ------------------------------------------------------------------------------------------------------


def mistakes(tmp_path):
    good = {"model": ReferenceAgent(), "env_factory": maze, "seeds": [0], "path": tmp_path / "a.gif"}
    return [
        (good | {"top_k": 0}, "top-k must be at least 1"),
        (good | {"top_k": 500}, "top-k must be at most 20"),
        (good | {"seeds": []}, "at least one episode"),
        (good | {"fps": 0}, "fps must be between"),
        (good | {"path": tmp_path / "nowhere" / "a.gif"}, "does not exist"),
        (good | {"path": tmp_path}, "is a directory"),
        (good | {"env_factory": Photo}, "made with render_mode=None"),
        (good | {"env_factory": lambda: Photo("rgb_array", (4, 4))}, "frame has shape"),
    ]


@pytest.mark.parametrize("number", range(8))
def test_mistakes_are_told_in_one_line_and_leave_no_file(tmp_path, number):
    arguments, message = mistakes(tmp_path)[number]
    with pytest.raises(UserError, match=message) as caught:
        render_recall_gif(**arguments)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_crash_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.gif"
    path.write_bytes(b"old")

    def broken(done: int, total: int, what: str) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_recall_gif(ReferenceAgent(), maze, [0], path=path, progress=broken)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.gif"]
