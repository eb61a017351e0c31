"""The page of two agents in a real Chromium: both scenes follow one step, and what differs is marked and found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hand_built import LENGTH, one_write_agent, state_agent
from test_against import side
from test_viewer_browser import Viewer, browser  # noqa: F401 (a fixture)
from viewer_page import page_data

from envs import held_out_seed
from recall.render.against import render_against

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two_agents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One writes the cue to its memory and turns; the other has forgotten it and goes forward to the end."""
    path = tmp_path_factory.mktemp("page") / "two.html"
    sides = side("writes", one_write_agent()), side("forgets", state_agent(remembers=False))
    table = [["return", "1.000 (1.000 to 1.000)", "0.500 (0.000 to 1.000)", "+0.500 (+0.000 to +1.000)"]]
    render_against(
        sides, [held_out_seed(0, n) for n in range(2)], path, table=table, note="mean of 2 episodes"
    )
    return path


@pytest.fixture
def viewer(browser: Any, two_agents: Path) -> Iterator[Viewer]:  # noqa: F811
    opened = Viewer(browser, two_agents)
    yield opened
    opened.close()


def parting(path: Path) -> int:
    """The number of an episode in which the agents part."""
    return next(n for n, pair in enumerate(page_data(path)["against"]["pairs"]) if pair["first"] is not None)


def test_both_agents_follow_one_step(viewer: Viewer) -> None:
    assert viewer.page.inner_text("#name") == "writes"
    assert viewer.page.inner_text("#name-2") == "forgets"
    assert "+0.500" in viewer.page.inner_text("#comparison")
    viewer.page.keyboard.press("ArrowRight")
    viewer.at(1)
    assert viewer.page.inner_text("#fact-step-2").startswith("1 /")
    drawn = (
        "id => { const c = document.getElementById(id);"
        " return c.getContext('2d').getImageData(c.width >> 1, 9, 1, 1).data[3] }"
    )
    assert [viewer.page.evaluate(drawn, name) for name in ("scene", "scene-2")] == [255, 255]


def test_where_they_part_is_said_and_found(viewer: Viewer, two_agents: Path) -> None:
    viewer.page.select_option("#episode", str(parting(two_agents)))
    viewer.at(0)
    assert f"They part at step {LENGTH}" in viewer.page.inner_text("#subtitle")
    viewer.page.keyboard.press("n")
    viewer.at(LENGTH)
    actions = [viewer.page.inner_text(name) for name in ("#fact-action", "#fact-action-2")]
    assert actions[0] != actions[1]
    assert viewer.page.locator(".parted").count() == 2
    viewer.page.keyboard.press("n")  # there is no other
    viewer.at(LENGTH)
    viewer.page.keyboard.press("End")
    viewer.drawn()
    assert viewer.page.inner_text("#fact-step") == f"ended at {LENGTH}"
    viewer.page.keyboard.press("Home")
    viewer.at(0)
    viewer.page.click("#next-difference")
    viewer.at(LENGTH)


def test_each_shows_what_it_recalls_there(viewer: Viewer, two_agents: Path) -> None:
    viewer.page.select_option("#episode", str(parting(two_agents)))
    viewer.page.fill("#scrubber", str(LENGTH))
    viewer.at(LENGTH)
    assert viewer.page.inner_text("#words").startswith("remembers step ")
    assert viewer.page.inner_text("#doubt-2") == "action unaffected"
    assert viewer.page.locator("#tiles .tile.linked").count() == 1
    assert viewer.page.locator("#tiles-2 .tile.linked").count() == 0
    then = int(viewer.page.inner_text("#words").split()[2].rstrip(",:"))
    viewer.page.locator("#tiles .tile.linked").click()
    viewer.at(then)


def test_the_time_line_marks_every_difference(viewer: Viewer, two_agents: Path) -> None:
    number = parting(two_agents)
    viewer.page.select_option("#episode", str(number))
    viewer.at(0)
    viewer.drawn()
    colour = viewer.page.evaluate(
        "getComputedStyle(document.documentElement).getPropertyValue('--parting')"
    ).strip()
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    row = viewer.page.evaluate(
        "() => { const c = document.getElementById('timeline');"
        " return Array.from(c.getContext('2d').getImageData(0, 84, c.width, 1).data) }"
    )
    marked = np.nonzero((np.reshape(row, (-1, 4))[:, :3] == wanted).all(axis=1))[0]
    width = len(row) // 4
    data = page_data(two_agents)
    pair = data["against"]["pairs"][number]
    last = max(data["episodes"][side]["steps"] for side in pair["sides"]) - 1
    assert {round((x - 12) / (width - 24) * last) for x in marked} == set(pair["differs"])


def test_the_matrix_is_of_the_agent_chosen(viewer: Viewer) -> None:
    viewer.page.wait_for_selector("#matrix[data-ready='1']")
    options = viewer.page.locator("#side option").all_inner_texts()
    assert options == ["writes", "forgets"]
    shot = "document.getElementById('matrix').toDataURL()"
    before = viewer.page.evaluate(shot)
    viewer.page.select_option("#side", "1")
    viewer.drawn()
    viewer.drawn()
    assert viewer.page.evaluate(shot) != before


def test_a_phone_shows_both_without_sideways_scrolling(browser: Any, two_agents: Path) -> None:  # noqa: F811
    viewer = Viewer(browser, two_agents, 390, 844, device_scale_factor=3, has_touch=True, is_mobile=True)
    for _ in range(100):
        if viewer.page.evaluate("document.documentElement.scrollWidth") == 390:
            break
        viewer.page.wait_for_timeout(100)
    assert viewer.page.evaluate("document.documentElement.scrollWidth") == 390
    for name in ("#scene", "#scene-2", "#timeline", "#play", "#tiles-2 .tile"):
        box = viewer.page.locator(name).first.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
    viewer.close()
