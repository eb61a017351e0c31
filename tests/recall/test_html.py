"""The page carries what the tape says: exact lists, matrices in bytes, every picture once, and no address."""

from __future__ import annotations

import base64
import io
import re
import time

import numpy as np
import pytest
from PIL import Image
from recall_reference import Photo, ReferenceAgent, maze
from viewer_page import cells, episode, numbers, page_data

from envs.errors import UserError
from recall.record.tape import Tape
from recall.render import html
from recall.render.episode import record_episode
from recall.render.html import ViewerPage, render_html
from recall.render.outputs import Outputs, render_recalls
from recall.scores.recalls import DOUBTS, Thresholds, bar_scale, recalls_of, stable_rows
from recall.scores.registry import cheap_scores, score_matrices

pytestmark = pytest.mark.slow


def test_the_lists_are_exactly_those_of_the_gif(tmp_path):
    played = episode()
    data = page_data(render_html([played], tmp_path / "a.html"))
    assert list(data["scores"]) == list(cheap_scores("written"))
    entry = data["episodes"][0]
    for name, matrix in score_matrices(played.tape).items():
        recalls, score = recalls_of(played.tape, 5, matrix), entry["scores"][name]
        writes, ranks = (
            numbers(score["writes"], "<i4").reshape(-1, 5),
            numbers(score["ranks"], "u1").reshape(-1, 5),
        )
        listed, supports = (
            numbers(score["listed"]).reshape(-1, 5),
            numbers(score["supports"], "u1").reshape(-1, 5),
        )
        for t, (found, rows) in enumerate(zip(recalls, stable_rows(recalls, 5), strict=True)):
            for row, rank in enumerate(rows):
                if rank is None:
                    assert writes[t, row] == -1
                    continue
                assert (writes[t, row], ranks[t, row]) == (found.writes[rank], rank)
                assert listed[t, row] == np.float32(found.scores[rank])
                assert bool(supports[t, row]) == found.supports[rank]
        np.testing.assert_array_equal(numbers(score["own"]), np.float32([step.own_score for step in recalls]))
        np.testing.assert_array_equal(
            numbers(score["joint"]), np.float32([step.joint_score for step in recalls])
        )


def test_a_matrix_comes_back_to_within_a_level(tmp_path):
    played = episode()
    data = page_data(render_html([played], tmp_path / "a.html"))
    for name, matrix in score_matrices(played.tape).items():
        score = data["episodes"][0]["scores"][name]
        assert score["scale"] == bar_scale(recalls_of(played.tape, 5, matrix), Thresholds())
        below = np.tril(np.clip(matrix.values, 0, score["scale"]), -1)
        back = cells(score["cells"], 40) / 255 * score["scale"]
        assert np.abs(back - below).max() <= 0.51 / 255 * score["scale"]


def test_columns_and_words_are_those_of_the_tape(tmp_path):
    played = episode()
    tape = played.tape
    data = page_data(render_html([played], tmp_path / "a.html", title="a <b> & c"))
    assert (data["title"], data["top_k"], data["opens_with"]) == ("a <b> & c", 5, "removal")
    assert data["thresholds"] == {"use_share": 0.05, "residual": 0.3, "policy": 0.02}
    entry = data["episodes"][0]
    assert (entry["seed"], entry["steps"], entry["actions"]) == (3, 40, list(played.actions))
    assert entry["words"] == [played.scenes.small(t).words for t in range(40)]
    column = {name: numbers(text) for name, text in entry["columns"].items()}
    np.testing.assert_array_equal(column["value"], tape.value)
    np.testing.assert_array_equal(column["reward"], tape.reward)
    np.testing.assert_array_equal(column["reward_before"], tape.previous_reward)
    np.testing.assert_allclose(column["return"], np.cumsum(tape.reward), rtol=1e-6)
    np.testing.assert_array_equal(column["beta"], np.float32(tape.written().beta))
    policy = numbers(entry["policy"]).reshape(40, 4)
    np.testing.assert_allclose(policy.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(column["probability"], policy[np.arange(40), tape.action], rtol=1e-6)
    recalls = recalls_of(tape, 5)
    np.testing.assert_array_equal(column["use_share"], np.float32([step.use_share for step in recalls]))
    np.testing.assert_array_equal(entry["cells"], tape.agent_cell)


def test_doubts_are_those_of_the_thresholds(tmp_path):
    played = record_episode(ReferenceAgent(), maze(), 3)  # a deep memory: its writes interact
    limits = Thresholds(use_share=0.5, residual=0.4)
    data = page_data(render_html([played], tmp_path / "a.html", thresholds=limits))
    doubt = numbers(data["episodes"][0]["scores"]["removal"]["doubt"], "u1")
    expected = [DOUBTS.index(step.doubt(limits)) for step in recalls_of(played.tape, 5)]
    assert doubt.tolist() == expected
    assert len(set(expected)) > 1


def test_pictures_come_back_and_are_stored_once(tmp_path):
    played = episode()
    data = page_data(render_html([played], tmp_path / "a.html"))
    entry = data["episodes"][0]
    for t in (0, 17, 39):
        for kind, picture in (("frames", played.scenes[t].picture), ("seen", played.scenes[t].seen)):
            with Image.open(io.BytesIO(base64.b64decode(data["images"][entry[kind][t]]))) as image:
                np.testing.assert_array_equal(np.asarray(image.convert("RGB")), picture)
    distinct = {played.scenes[t].picture.tobytes() for t in range(40)} | {
        played.scenes[t].seen.tobytes() for t in range(40)
    }
    assert len(data["images"]) == len(distinct) < 80


def test_the_tape_in_the_page_is_the_tape(tmp_path):
    played = episode()
    data = page_data(render_html([played], tmp_path / "a.html"))
    (tmp_path / "tape.npz").write_bytes(base64.b64decode(data["episodes"][0]["tape"]))
    tape = Tape.load(tmp_path / "tape.npz")
    np.testing.assert_array_equal(tape.written().value_read, played.tape.written().value_read)
    page = ViewerPage(5, Thresholds())
    page._tape_room = 1000
    page.add(played, {})
    assert page._episodes[0]["tape"] is None


def test_nothing_in_the_page_points_outside(tmp_path):
    text = render_html([episode()], tmp_path / "a.html", title='</title><script src="x">').read_text()
    assert not re.search(r"https?:|//[a-z0-9-]+\.[a-z]", text.split('<script id="data"')[0])
    assert not re.search(r"<[^>]*\s(src|href|srcset|action)\s*=", text), "no element loads anything"
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|WebSocket|sendBeacon", text)
    assert "default-src 'none'" in text
    assert text.count("</script>") == 2
    assert "<title>Recalls: &lt;/title>" in text


def test_two_hundred_steps_are_small_and_quick(tmp_path):
    played = record_episode(ReferenceAgent(size=128), maze(steps=200, side=13), 0)
    start_s = time.process_time()
    path = render_html([played], tmp_path / "a.html")
    assert time.process_time() - start_s < 10
    assert path.stat().st_size < 3_000_000


def test_photographs_are_made_to_fit(tmp_path, monkeypatch):
    class Noise(Photo):
        def render(self):
            return np.random.default_rng(self.steps).integers(0, 256, (300, 400, 3)).astype(np.uint8)

    played = record_episode(ReferenceAgent(), Noise("rgb_array"), 0)
    monkeypatch.setattr(html, "PICTURE_BUDGET", 100_000)
    data = page_data(render_html([played], tmp_path / "a.html"))
    assert sum(map(len, data["images"])) * 3 / 4 <= 100_000
    assert data["episodes"][0]["size"] == [506, 379]


def test_several_episodes_and_scores_of_the_callers(tmp_path):
    episodes = [episode(3), episode(4, steps=25)]
    given = [
        {"decision": np.tril(np.ones((e.tape.steps,) * 2)), "removal": score_matrices(e.tape)["removal"]}
        for e in episodes
    ]
    data = page_data(render_html(episodes, tmp_path / "a.html", 3, given, opens_with="decision"))
    assert list(data["scores"]) == ["removal", "decision"], "in the order of recall.scores.registry.SCORES"
    assert [entry["steps"] for entry in data["episodes"]] == [40, 25]
    score = data["episodes"][1]["scores"]["decision"]
    writes, ranks = (
        numbers(score[name], kind).reshape(-1, 3)[10] for name, kind in (("writes", "<i4"), ("ranks", "u1"))
    )
    assert writes[np.argsort(ranks)].tolist() == [9, 8, 7], "of equal scores the more recent first"


def test_a_page_made_of_a_tape_that_gives_no_recalls_says_so(tmp_path):
    played = record_episode(ReferenceAgent(writes=False), maze(), 3, core="lstm")
    data = page_data(render_html([played], tmp_path / "a.html"))
    assert data["caption"].startswith("No recalls: the tape of the core 'lstm' does not give them")
    assert (data["scores"], data["opens_with"]) == ({}, None)
    assert "beta" not in data["episodes"][0]["columns"]


def test_an_episode_of_one_step_makes_a_page(tmp_path):
    data = page_data(render_html([episode(steps=1)], tmp_path / "a.html"))
    assert numbers(data["episodes"][0]["scores"]["key"]["writes"], "<i4").tolist() == [-1] * 5


def test_the_page_of_a_recording_is_the_page_of_its_episodes(tmp_path):
    render_recalls(
        ReferenceAgent(layers=(2,)), maze, [3], Outputs(html=tmp_path / "a.html"), core="mnm-p", title="x"
    )
    render_html([episode()], tmp_path / "b.html", title="x")
    left, right = page_data(tmp_path / "a.html"), page_data(tmp_path / "b.html")
    for data in (left, right):
        data["episodes"][0].pop("tape")  # a zip file holds the time of its making
    assert left == right


def test_mistakes_are_told_in_one_line_and_leave_no_file(tmp_path):
    played = episode()
    path = tmp_path / "a.html"
    for call, message in (
        (lambda: render_html([], path), "at least one episode"),
        (lambda: render_html([played], path, 0), "top-k must be at least 1"),
        (lambda: render_html([played], tmp_path / "no" / "a.html"), "does not exist"),
        (lambda: render_html([played], tmp_path), "is a directory"),
        (lambda: render_html([played], path, opens_with="removl"), "did you mean removal"),
        (lambda: render_html([played], path, opens_with="decision"), "was not computed; there are removal"),
        (lambda: render_html([played], path, scores=[{"R9": np.zeros((40, 40))}]), "unknown score 'R9'"),
        (lambda: ViewerPage(5, Thresholds()).write(path), "at least one episode"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="scores of 2 episodes for 1"):
        render_html([played], path, scores=[{}, {}])
    assert list(tmp_path.iterdir()) == []


def test_more_recalls_than_steps_leave_empty_rows(tmp_path):
    data = page_data(render_html([episode(steps=4)], tmp_path / "a.html", 12))
    writes = numbers(data["episodes"][0]["scores"]["removal"]["writes"], "<i4").reshape(4, 12)
    assert (writes >= 0).sum(1).tolist() == [0, 1, 2, 3]
