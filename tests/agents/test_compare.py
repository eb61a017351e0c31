"""Two agents on the same episodes: the numbers of the difference, and which pairs are refused."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hand_built import state_agent

from agents.compare import (
    check_comparable,
    comparison,
    first_difference,
    in_words,
    names_of,
    table,
)
from agents.evaluation import EpisodeResult, LoadedAgent, bootstrap_interval, play_episodes, report
from envs.errors import UserError

NAMES = ("ours", "theirs")


def results(
    returns: list[float], actions: list[tuple[int, ...]], success: float = math.nan
) -> list[EpisodeResult]:
    return [
        EpisodeResult(seed, value, len(done), success, actions=done)
        for seed, (value, done) in enumerate(zip(returns, actions, strict=True))
    ]


def test_where_actions_part() -> None:
    assert first_difference([0, 1, 2], [0, 1, 2]) is None
    assert first_difference([0, 1, 2], [0, 2, 2]) == 1
    assert first_difference([0], [0, 1]) is None, "one episode is longer; nothing was done otherwise"
    assert first_difference([np.array([0.0, 1.0])], [np.array([0.0, 2.0])]) == 0


def test_differences_are_those_of_pairs() -> None:
    ours = results([1.0, 5.0, 2.0, 9.0], [(0, 1), (0,), (2, 2, 2), (1,)], 1.0)
    theirs = results([0.0, 5.0, 4.0, 1.0], [(0, 2), (0,), (1, 2, 2), (1,)], 0.0)
    found = comparison(ours, theirs)
    assert found["return_difference"] == pytest.approx((1 + 0 - 2 + 8) / 4)
    assert found["return_difference_interval_95"] == list(bootstrap_interval(np.array([1.0, 0.0, -2.0, 8.0])))
    assert (found["episodes_better"], found["episodes_worse"], found["episodes_equal"]) == (2, 1, 1)
    assert found["first_difference"] == [1, None, 0, None]
    assert found["success_difference"] == 1.0
    assert "part in 2, at step 0" in in_words(found)
    assert "never differ" in in_words(comparison(ours, ours))
    undefined = comparison(results([1.0], [(0,)]), results([0.0], [(0,)]))
    assert undefined["success_difference"] is None
    with pytest.raises(ValueError, match="not the same episodes"):
        comparison(ours, ours[1:])


def test_the_table_holds_both_reports_and_the_difference() -> None:
    agent = state_agent()
    played = play_episodes(agent, 4, keep_actions=True)
    assert all(len(result.actions) == result.length for result in played)
    of_agent = report(agent, played, "greedy", 0)
    lines = table(of_agent, of_agent, comparison(played, played))
    assert [line[0] for line in lines] == ["return", "success", "length"]
    assert lines[0][3] == "+0.000 (+0.000 to +0.000)"
    assert lines[1][1] == "1.000 (1.000 to 1.000)"
    assert lines[2][1] == lines[2][2] == f"{of_agent['length_mean']:.1f}"


def changed(**options: Any) -> LoadedAgent:
    agent = state_agent()
    return dataclasses.replace(agent, config=dataclasses.replace(agent.config, **options))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"env": "mnm/CueMaze-v0"}, "theirs plays in mnm/CueMaze-v0, ours in mnm/TMaze-v0"),
        ({"env_kwargs": '{"length": 9}'}, "theirs plays with --env-kwargs {'length': 9}"),
        ({"frame_skip": 2}, "theirs plays with --frame-skip 2, ours with --frame-skip 1"),
    ],
)
def test_agents_of_other_episodes_are_refused(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError) as refused:
        check_comparable(NAMES, (state_agent(), changed(**options)))
    assert expected in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_an_agent_sees_may_differ() -> None:
    check_comparable(NAMES, (state_agent(), changed(frame_stack=2)))


def test_names_tell_them_apart() -> None:
    agents = state_agent(), state_agent()
    told_by = ("latest", "best"), ("{}", '{"seed": 1}')
    core = agents[0].config.core
    assert names_of(("runs/a", "runs/b"), agents, told_by) == (f"a ({core})", f"b ({core})")
    assert names_of(("runs/a", "runs/a"), agents, told_by) == (f"a ({core}), latest", f"a ({core}), best")
    assert names_of(("m:f", "m:f"), agents, told_by) == ("m:f, {}", 'm:f, {"seed": 1}')
    assert names_of(("runs/a", "m:f"), agents, told_by) == (f"a ({core})", "m:f")
