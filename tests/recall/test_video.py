"""GIF or MP4 by the file's name; recalls keep their rows while the order stays readable; any score ranks."""

from __future__ import annotations

import itertools
import sys

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from recall_reference import Photo, ReferenceAgent, frames_of, maze, random_tape

from agents.model import ActorCritic
from envs import make_single
from envs.errors import UserError
from memory import CoreConfig, Intervention
from recall.record.tape import Tape
from recall.render import movie, palette
from recall.render.outputs import (
    Outputs,
    facts_of,
    numbered,
    record_episode,
    render_recall_gif,
    render_recalls,
    tiles_of,
)
from recall.render.picture import PLACE_MARK, Painter, score_text
from recall.scores.decision import policy_effect
from recall.scores.from_tape import (
    keep_only_one,
    key_match,
    last_layer_contribution,
    leave_one_write_out,
    symmetrised,
)
from recall.scores.recalls import CLEARLY, UNAFFECTED, StepRecalls, Thresholds, recalls_of, stable_rows
from recall.scores.registry import SCORES, as_matrix, cheap_scores, measure, score_matrices


def linear_agent() -> ReferenceAgent:
    return ReferenceAgent(layers=(2,))


# The file ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_mp4_shows_what_the_gif_shows(tmp_path):
    pytest.importorskip("imageio_ffmpeg", reason="MP4 needs imageio-ffmpeg")
    summary = render_recall_gif(linear_agent(), lambda: maze(steps=12), [3], path=tmp_path / "a.mp4", fps=4.0)
    render_recall_gif(linear_agent(), lambda: maze(steps=12), [3], path=tmp_path / "a.gif", fps=4.0)
    film = imageio.imread(tmp_path / "a.mp4", plugin="FFMPEG")
    frames = frames_of(tmp_path / "a.gif")
    assert summary["frames"] == len(frames) == 12
    assert len(film) == 12 + 6, "the last frame is held for 1.5 s"
    for t in (0, 5, 11):
        height, width = frames[t].shape[:2]
        error = np.abs(film[t][:height, :width].astype(int) - frames[t])
        assert error.mean() < 2
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.gif", "a.mp4"]


def test_a_missing_ffmpeg_is_named_with_its_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(movie, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="python -m pip install imageio-ffmpeg") as caught:
        render_recall_gif(linear_agent(), maze, [3], path=tmp_path / "a.mp4")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_suffix_is_refused(tmp_path):
    for name in ("a.webm", "a"):
        with pytest.raises(UserError, match=r"must end in \.gif or \.mp4"):
            render_recall_gif(linear_agent(), maze, [3], path=tmp_path / name)


@pytest.mark.slow
def test_an_interrupted_film_leaves_no_file(tmp_path):
    pytest.importorskip("imageio_ffmpeg", reason="MP4 needs imageio-ffmpeg")

    def broken(done: int, total: int, what: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_recall_gif(linear_agent(), maze, [0], path=tmp_path / "a.mp4", progress=broken)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="pygame needs a dummy video driver")
def test_cartpole_is_shown_frame_by_frame(tmp_path, monkeypatch):
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    summary = render_recalls(
        ReferenceAgent(actions=2),
        lambda: make_single("CartPole-v1", render_mode="rgb_array"),
        [3],
        Outputs(gif=tmp_path / "a.gif", html=tmp_path / "a.html"),
        top_k=3,
    )
    frames = frames_of(tmp_path / "a.gif")
    assert len(frames) == summary["episodes"][0]["steps"]
    assert not np.array_equal(frames[0], frames[-1])
    assert summary["html_bytes"] < 500_000


# Rows ----------------------------------------------------------------------------------------------------------


def step(**scores: float) -> StepRecalls:
    """Recalls of writes named a, b, ... with their scores, best first."""
    order = sorted(scores, key=lambda name: -scores[name])
    return StepRecalls(
        tuple(ord(name) for name in order),
        tuple(scores[name] for name in order),
        (True,) * len(order),
        0,
        0,
        1,
        0,
    )


def shown(steps: list[StepRecalls], top_k: int) -> list[str]:
    return [
        "".join("-" if rank is None else chr(found.writes[rank]) for rank in rows)
        for found, rows in zip(steps, stable_rows(steps, top_k), strict=True)
    ]


def test_near_ties_do_not_change_places():
    assert shown([step(a=1.0, b=0.9), step(a=1.0, b=1.1), step(a=1.0, b=1.2)], 2) == ["ab"] * 3


def test_a_clearly_better_recall_moves_up():
    assert shown([step(a=1.0, b=0.9, c=0.1), step(a=1.0, b=0.9, c=1.4)], 3) == ["abc", "cab"]


def test_a_newcomer_takes_the_row_of_the_one_that_left():
    first = step(a=1.0, b=0.9, c=0.8)
    assert shown([first, step(a=1.0, d=0.95, c=0.8)], 3) == ["abc", "adc"]
    assert shown([first, step(a=1.0, c=0.8, d=0.1)], 3) == ["abc", "acd"]
    assert shown([first, step(a=1.0)], 3) == ["abc", "a--"]


@pytest.mark.parametrize("rule", ["p", "g"])
def test_rows_hold_every_recall_once_and_are_nearly_sorted(rule):
    tape, _ = random_tape(rule=rule, steps=60)
    recalls = recalls_of(tape, 5)
    strict = stable = 0
    before: dict[int, int] = {}
    for t, (found, rows) in enumerate(zip(recalls, stable_rows(recalls, 5), strict=True)):
        ranks = [rank for rank in rows if rank is not None]
        assert sorted(ranks) == list(range(len(found.writes)))
        scores = [found.scores[rank] for rank in ranks]
        assert all(lower <= CLEARLY * upper for upper, lower in itertools.pairwise(scores))
        now = {found.writes[rank]: row for row, rank in enumerate(ranks)}
        stable += sum(before.get(s, row) != row for s, row in now.items())
        if t:
            earlier = recalls[t - 1].writes
            strict += sum(s in earlier and earlier.index(s) != row for row, s in enumerate(found.writes))
        before = now
    assert stable < 0.8 * strict, "rows must move less than ranks do, even where nothing lasts"


def test_the_rank_is_on_the_tile_and_on_the_map():
    episode = record_episode(linear_agent(), maze(), 3)
    recalls = recalls_of(episode.tape, 5)
    painter = Painter(5, Thresholds())
    t = 30
    found, scene = recalls[t], episode.scenes[t]
    tiles = tiles_of(episode, t, found, (None, 0, 2, None, 1))
    frame = painter.paint(scene, facts_of(episode, t, 1, 1), found, tiles, 1.0)
    blank = painter.paint(scene, facts_of(episode, t, 1, 1), found, [], 1.0)
    left, top, right, bottom = painter.tile_box(0)
    assert (frame[top + 1 : bottom, left + 1 : right] == palette.PAPER).all(), "an empty row stays empty"
    assert [tile and tile.rank for tile in tiles] == [None, 0, 2, None, 1]
    cell = tiles[1].cell
    corner_left, corner_top = painter.map_corner(scene)
    box = (
        slice(
            corner_top + cell[0] * scene.cell_size, corner_top + cell[0] * scene.cell_size + PLACE_MARK + 3
        ),
        slice(
            corner_left + cell[1] * scene.cell_size, corner_left + cell[1] * scene.cell_size + PLACE_MARK + 3
        ),
    )
    assert (frame[box] == palette.INK).all(2).sum() > PLACE_MARK**2 / 2, "the best is black"
    assert not (blank[box] == palette.INK).all(2).any()


# Scores --------------------------------------------------------------------------------------------------------


def test_matrices_hold_what_the_score_functions_give():
    tape, _ = random_tape(heads=2, steps=15)
    found = score_matrices(tape)
    assert tuple(found) == cheap_scores("written")
    for t in (0, 6, 14):
        removal, kept, added = (
            leave_one_write_out(tape, t),
            keep_only_one(tape, t),
            last_layer_contribution(tape, t),
        )
        effect = np.linalg.norm(removal.value_read - removal.value_unwritten)
        rows = {
            "removal": removal.norms / effect,
            "symmetrised": np.linalg.norm(symmetrised(removal, kept), axis=1) / effect,
            "contribution": added.norms / np.linalg.norm(added.value_read - added.base),
            "key": key_match(tape, t),
        }
        for name, row in rows.items():
            np.testing.assert_allclose(found[name].values[t, : t + 1], row, rtol=1e-12, err_msg=name)
            assert not found[name].values[t, t + 1 :].any()
    assert np.all(found["symmetrised"].residual != found["removal"].residual)


def test_another_score_ranks_and_keeps_the_facts_of_the_read():
    tape, _ = random_tape(steps=20)
    measures = measure(tape)
    plain = recalls_of(tape, 4)
    keyed = recalls_of(tape, 4, score_matrices(tape, ["key"])["key"], measures)
    for t in range(1, 20):
        best = key_match(tape, t)[:t]
        if best.max() > 0:
            assert keyed[t].writes[0] == best.argmax()
        assert all(score > 0 for score in keyed[t].scores), "an unlike key is no recall"
        assert (keyed[t].use_share, keyed[t].residual) == (plain[t].use_share, plain[t].residual)
        assert not keyed[t].doubt(Thresholds(residual=0.0)), "writes cannot hide each other in a cosine"
    assert plain == recalls_of(tape, 4, measures.removal)


@pytest.mark.slow
def test_a_score_of_the_callers_ranks_the_gif_and_opens_the_page(tmp_path):
    def oldest(tape: Tape) -> dict[str, np.ndarray]:
        return {"decision": np.tril(np.arange(tape.steps, 0, -1.0)[None].repeat(tape.steps, 0))}

    summary = render_recalls(
        linear_agent(),
        maze,
        [3],
        Outputs(gif=tmp_path / "a.gif"),
        score="decision",
        more_scores=oldest,
        top_k=2,
    )
    assert summary["score"] == "R4"
    tape = record_episode(linear_agent(), maze(), 3).tape
    assert recalls_of(tape, 2, as_matrix("decision", oldest(tape)["decision"], tape.steps))[30].writes == (
        0,
        1,
    )


def test_a_gif_of_some_steps_shows_what_the_whole_one_shows_there(tmp_path):
    for name, steps in (("all", (0, None)), ("some", (3, 6))):
        render_recalls(
            linear_agent(),
            lambda: maze(steps=8),
            [3],
            Outputs(gif=tmp_path / f"{name}.gif", gif_steps=steps),
        )
    whole, part = frames_of(tmp_path / "all.gif"), frames_of(tmp_path / "some.gif")
    assert (len(whole), len(part)) == (8, 3)
    # Palettes differ, since they are made of the colours that are there.
    assert all(
        np.abs(whole[3 + t].astype(int) - frame.astype(int)).mean() < 0.5 for t, frame in enumerate(part)
    )
    with pytest.raises(UserError, match="no step to show from step 8 on: the longest episode has 8"):
        render_recalls(
            linear_agent(),
            lambda: maze(steps=8),
            [3],
            Outputs(gif=tmp_path / "none.gif", gif_steps=(8, None)),
        )
    assert not (tmp_path / "none.gif").exists()


@pytest.mark.parametrize("core", ["mnm-p", "mnm-g"])
def test_the_decision_score_replays_a_real_agent(tmp_path, core):
    env = maze(steps=8)
    model = ActorCritic(
        env.observation_space, env.action_space, CoreConfig(name=core, memory_size=8, heads=1)
    )
    summary = render_recalls(
        model, lambda: maze(steps=8), [3], Outputs(html=tmp_path / "a.html"), score="decision", core=core
    )
    assert summary["score"] == "R4"
    page = (tmp_path / "a.html").read_text()
    assert '"opens_with":"decision"' in page


@pytest.mark.parametrize("core", ["mnm-p", "mnm-g"])
def test_the_effect_on_the_action_is_that_of_reading_the_unwritten_memory(core):
    """Against the model itself: a twin whose memory is unwritten just before a step reads v_0 in that step."""
    env = maze(steps=6)
    torch.manual_seed(2)
    config = CoreConfig(name=core, memory_size=8, heads=2)
    model = ActorCritic(env.observation_space, env.action_space, config)
    with torch.no_grad():  # a fresh policy hardly listens to its memory
        model.policy_head.weight.mul_(50)
    tape = record_episode(model, env, 3, "sample", scenes=False).tape
    found = policy_effect(model, tape)
    assert found.shape == (6,)
    assert (found > 0).all()
    answer = torch.no_grad()(model.act)(
        {name: torch.as_tensor(part[:1]) for name, part in tape.observation.items()},
        torch.tensor([True]),
        model.initial_state(1),
        intervention=Intervention(read_initial=torch.tensor([True])),
    )
    there = torch.softmax(torch.as_tensor(tape.logits[:1]).double(), 1)
    change = (torch.softmax(answer.logits.double(), 1) - there).abs().max()
    assert found[0] == pytest.approx(float(change), abs=1e-6)


def test_a_read_that_moves_no_action_is_doubted():
    tape, _ = random_tape(steps=8, layers=(2,))
    effect = np.array([0.5, 0.001] * 4)
    doubts = [step.doubt(Thresholds()) for step in recalls_of(tape, 3, measures=measure(tape, effect))]
    assert doubts == ["", UNAFFECTED] * 4
    matrix = as_matrix("decision", np.tril(np.full((8, 8), 1e-3), -1), 8)
    assert not recalls_of(tape, 3, matrix)[5].doubt(Thresholds())
    assert recalls_of(tape, 3, matrix)[5].doubt(Thresholds(policy=0.03)) == UNAFFECTED


@pytest.mark.parametrize(
    ("score", "text"), [(0.456, "0.46"), (0.0456, "0.046"), (0, "0.000"), (4.6e-6, "5e-06")]
)
def test_small_scores_stay_numbers(score, text):
    assert score_text(score) == text


def test_mistakes_with_scores(tmp_path):
    tape, _ = random_tape()
    with pytest.raises(UserError, match=r"unknown score 'remove' \(did you mean removal"):
        score_matrices(tape, ["remove"])
    with pytest.raises(UserError, match="replays the agent"):
        score_matrices(tape, ["decision"])
    with pytest.raises(UserError, match="unknown score"):
        render_recalls(linear_agent(), maze, [3], Outputs(gif=tmp_path / "a.gif"), score="R9")
    with pytest.raises(ValueError, match="the future"):
        as_matrix("key", np.ones((12, 12)), 12)
    with pytest.raises(ValueError, match="shape"):
        as_matrix("key", np.zeros((3, 3)), 12)
    with pytest.raises(ValueError, match="not numbers"):
        as_matrix("key", np.full((12, 12), np.nan), 12)
    assert list(tmp_path.iterdir()) == []
    assert list(SCORES) == [
        "removal", "symmetrised", "contribution", "key", "keep", "reapplied", "decision",
        "step", "held", "blank", "address",
    ]  # fmt: skip


# All files of one recording ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_recording_gives_every_file(tmp_path):
    played = []

    def env():
        played.append(maze(steps=10))
        return played[-1]

    outputs = Outputs(*(tmp_path / name for name in ("a.gif", "a.html", "a.npz", "a.png")))
    summary = render_recalls(linear_agent(), env, [3, 4], outputs)
    assert len(played) == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "a-1.npz", "a-1.png", "a-2.npz", "a-2.png", "a.gif", "a.html",
    ]  # fmt: skip
    assert summary["html_bytes"] == (tmp_path / "a.html").stat().st_size
    assert Tape.load(tmp_path / "a-2.npz").seed == 4
    assert numbered("x/a.npz", 1, 1).name == "a.npz"


def test_a_core_without_memory_has_no_similarity(tmp_path):
    with pytest.raises(UserError, match="no similarity maps: the core 'lstm' has no write memory"):
        render_recalls(
            ReferenceAgent(writes=False), maze, [3], Outputs(similarity=tmp_path / "a.png"), core="lstm"
        )


def test_an_env_that_cannot_be_drawn_leaves_no_file(tmp_path):
    with pytest.raises(UserError, match="cannot be drawn"):
        render_recalls(linear_agent(), Photo, [3], Outputs(gif=tmp_path / "a.gif", html=tmp_path / "a.html"))
    assert list(tmp_path.iterdir()) == []


def test_tape_and_similarity_need_no_pictures(tmp_path):
    outputs = Outputs(tape=tmp_path / "a.npz", similarity=tmp_path / "a.png")
    summary = render_recalls(linear_agent(), Photo, [3], outputs)
    assert (summary["path"], summary["frames"], summary["html"]) == (None, 0, None)
    assert Tape.load(tmp_path / "a.npz").steps == 6
    assert (tmp_path / "a.png").exists()
