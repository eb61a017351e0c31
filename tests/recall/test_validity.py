"""The recall report passes an agent that provably uses ONE write, and every check can fail on one that does not."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hand_built import (
    LENGTH,
    config,
    forgetful_agent,
    indifferent_agent,
    loaded,
    lstm_agent,
    one_write_agent,
)
from rich.console import Console

import recall.validate.controls
from agents.evaluation import LoadedAgent
from agents.model import build_model
from envs import make_single
from envs.errors import UserError
from recall.record.recorder import retape
from recall.scores.from_tape import leave_one_write_out
from recall.scores.registry import SCORES
from recall.validate.checks import Limits, ValidityReport
from recall.validate.deletion import choose_sets
from recall.validate.planted import make_env, play_planted, with_decision
from recall.validate.ranking import BASELINES, R2, R4, bootstrap, judge, write_sizes
from recall.validate.validity import WriteStudy, check_recall

EPISODES = 20
AGENTS = {
    "one write": one_write_agent,
    "addressed": lambda: one_write_agent(addressed=True),
    "lstm": lstm_agent,
    "forgetful": forgetful_agent,
}


@cache
def report_on(name: str) -> ValidityReport:
    # The good agent gets a control that uses no memory, the others one that does.
    control = indifferent_agent() if name == "one write" else one_write_agent(visible=True)
    return check_recall(AGENTS[name](), EPISODES, seed=0, control=control)


@pytest.mark.slow
def test_every_check_passes_on_an_agent_that_uses_one_write():
    report = report_on("one write")
    assert {check.name: check.outcome for check in report.checks} == {c.name: "PASS" for c in report.checks}
    assert report.valid
    assert report.verdict.startswith("VALID")
    found = {result.name: result for result in report.rankings}
    reported = {score.title for score in SCORES.values() if "written" in score.memory and score.reported}
    assert reported | set(BASELINES) <= set(found)
    for name in ("R1 last layer", R2, "keep only one", "symmetrised", "R3 re-applied", R4, "R5 step removal"):
        assert found[name].hit_1.mean == 1.0, name
        assert set(found[name].by_cue.values()) == {1.0}
    assert found["recency"].hit_1.mean == 0.0
    restored = [value for name, value in report.measures.items() if name.startswith("logit difference")]
    assert restored == [pytest.approx(1.0, abs=1e-3)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "failing"),
    [
        (
            "lstm",
            ["planted cue, R2", "planted cue, R4", "deletion flips", "deletion beats random", "keep only top",
             "deletion costs return", "cue recalled in both", "read switched off", "memory carries the decision",
             "interaction residual", "memory not used where all is visible"],
        ),
        ("addressed", ["memory not used where all is visible"]),
        (
            "forgetful",
            ["cue flip changes the action", "deletion flips", "deletion beats random", "keep only top",
             "deletion costs return", "memory carries the decision", "memory not used where all is visible"],
        ),
    ],
)  # fmt: skip
def test_the_right_checks_fail_on_broken_agents(name, failing):
    report = report_on(name)
    assert [check.name for check in report.checks if check.outcome == "FAIL"] == sorted(
        failing, key=[check.name for check in report.checks].index
    )
    assert not report.valid
    assert report.verdict.startswith("NOT VALID")


@pytest.mark.slow
def test_an_agent_that_does_not_solve_the_task_need_not_recall_the_cue():
    report = report_on("forgetful")
    assert report.outcome("planted cue, R2") == report.outcome("planted cue, R4") == "NOT APPLICABLE"


@pytest.mark.slow
def test_the_report_says_when_the_controller_carries_the_cue():
    check = next(c for c in report_on("lstm").checks if c.name == "memory carries the decision")
    assert "CONTROLLER carries it" in check.figure
    assert (check.values["wipe memory"], check.values["wipe controller"]) == (0.0, 1.0)


@pytest.fixture(scope="module")
def played():
    return play_planted(one_write_agent(), EPISODES, 0)


def study_of(agent: LoadedAgent, played) -> WriteStudy:
    study = WriteStudy(agent, played, 0, Limits(), lambda stage: None)
    study.planted_checks()
    return study


@pytest.mark.slow
def test_a_trained_agent_posing_as_untrained_is_caught(played, monkeypatch):
    agent = one_write_agent()
    monkeypatch.setattr(recall.validate.controls, "untrained_model", lambda agent: agent.model)
    outcomes = {check.name: check.outcome for check in study_of(agent, played).randomised_checks()}
    assert outcomes == {"untrained agent": "FAIL", "permuted writes": "PASS"}


@pytest.mark.slow
@pytest.mark.parametrize(("addressed", "found_by"), [(False, "what"), (True, "where")])
def test_the_cue_is_found_by_what_was_written_or_by_where(addressed, found_by):
    agent = one_write_agent(addressed)
    study = study_of(agent, play_planted(agent, EPISODES, 0))
    check = {check.name: check for check in study.randomised_checks()}["permuted writes"]
    hits = {ranking.name: ranking.hit_1.mean for ranking in study.rankings if "permuted" in ranking.name}
    assert check.outcome == "PASS"
    broken, kept = ("writes", "addresses") if found_by == "what" else ("addresses", "writes")
    assert hits[f"R2, permuted {kept}"] > 0.9
    assert hits[f"R2, permuted {broken}"] < 0.5


@pytest.mark.slow
def test_a_ranking_that_comes_from_neither_is_caught(played, monkeypatch):
    monkeypatch.setattr(recall.validate.controls, "permuted", lambda tape, *_: tape)
    outcomes = {
        check.name: check.outcome for check in study_of(one_write_agent(), played).randomised_checks()
    }
    assert outcomes["permuted writes"] == "FAIL"


@pytest.mark.slow
def test_an_agent_that_goes_on_reading_is_caught(played, monkeypatch):
    monkeypatch.setattr(recall.validate.controls, "without_read", lambda model: model)
    outcomes = {check.name: check for check in study_of(one_write_agent(), played).flip_checks()}
    check = outcomes.pop("read switched off")
    assert check.outcome == "FAIL"
    assert (check.values["flips"], check.values["hit_1"]) == (1.0, 1.0)
    assert {other.outcome for other in outcomes.values()} == {"PASS"}


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["random deletion does not", "bottom least"])
def test_deletions_that_hit_the_wrong_writes_are_caught(played, monkeypatch, wrong):
    def swapped(*args):
        sets = choose_sets(*args)
        if wrong == "bottom least":
            return {"top": sets["top"], "random": sets["random"], "bottom": sets["top"]}
        return {"top": sets["random"], "random": sets["top"], "bottom": sets["bottom"]}

    monkeypatch.setattr("recall.validate.validity.choose_sets", swapped)
    outcomes = {check.name: check.outcome for check in study_of(one_write_agent(), played).deletion_checks()}
    assert outcomes[wrong] == "FAIL"
    if wrong == "random deletion does not":
        assert set(outcomes.values()) - {outcomes["bottom least"]} == {"FAIL"}


def test_played_episodes_know_their_plan_and_carry_their_rule(played):
    for episode in played:
        cue_bits = episode.tape.observation["obs"][:, :2]
        assert episode.planted
        assert np.flatnonzero(cue_bits.any(axis=1)).tolist() == [episode.cue_step]
        assert cue_bits[episode.cue_step].argmax() + 1 == episode.cue
        assert episode.decision == LENGTH
        assert episode.tape.observation["obs"][episode.decision, 3] == 1.0
        assert episode.tape.written().rule.name == "local"
        assert np.flatnonzero(write_sizes(episode.tape, episode.decision) > 1e-3).tolist() == [
            episode.cue_step
        ]
    assert {episode.cue for episode in played} == {1, 2}
    twins = play_planted(one_write_agent(), 5, 0, flip=True)
    assert [twin.cue for twin in twins] == [3 - episode.cue for episode in played[:5]]
    assert [twin.cue_step for twin in twins] == [episode.cue_step for episode in played[:5]]


def test_the_other_cue_tells_where_the_cue_was_in_view_and_where_the_agent_acts_by_it(played):
    """Whatever the environment says of it, as long as it does not name too late a step."""
    agent = one_write_agent()
    env = make_env(agent)
    for episode in (played[0], play_planted(agent, 1, 0, flip=True)[0]):
        wrong = replace(episode, cue_step=2, decision=LENGTH - 3)
        found = with_decision(agent, env, wrong, flip=episode is played[0])
        assert (found.needed, found.decision) == ((episode.cue_step,), LENGTH)
        assert found.tape is episode.tape


def test_where_the_other_cue_changes_nothing_the_word_of_the_environment_stands(played):
    """No step from the named one on, no other cue: nothing is known better."""
    agent = one_write_agent()
    env = make_env(agent)
    late = replace(played[0], cue_step=2, decision=played[0].tape.steps)
    assert with_decision(agent, env, late, flip=True) is late
    assert with_decision(agent, env, late, flip=False) is late


def test_an_episode_seen_again_gives_the_same_tape(played):
    again = retape(one_write_agent().model, played[0].tape).written()
    for ours, theirs in zip(again.write_steps, played[0].tape.written().write_steps, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    np.testing.assert_allclose(again.value_read, played[0].tape.written().value_read, atol=1e-6)


def test_matched_sets_do_not_overlap_the_top(played):
    rng = np.random.default_rng(0)
    for episode in played:
        scores = leave_one_write_out(episode.tape, episode.decision).norms[: episode.decision]
        sets = choose_sets(episode, scores, 5, rng)
        assert all(len(set(writes)) == 5 for writes in sets.values())
        assert not set(sets["top"]) & (set(sets["random"]) | set(sets["bottom"]))
        assert sets["top"][0] == episode.cue_step
    assert choose_sets(replace(episode, decision=9), scores[:9], 5, rng) is None


def test_hit_rates_are_counted_as_they_are_defined(played):
    few = played[:4]
    rows = [np.full(e.decision, 0.0) for e in few]
    for row, e, offset in zip(rows, few, (0, 1, 2, 3), strict=True):
        row[e.cue_step] = 1.0
        row[e.cue_step + offset] = 2.0
    result = judge("x", rows, few)
    assert (result.hit_1.mean, result.hit_5.mean) == (0.25, 1.0)
    assert result.mrr.mean == pytest.approx((1 + 3 * 0.5) / 4)
    assert (result.near_1, result.near_2) == (0.5, 0.75)
    interval = bootstrap([0.0, 1.0] * 50)
    assert interval.low < 0.5 < interval.high
    assert (interval.high - interval.low) == pytest.approx(4 * 0.05, abs=0.03)
    assert bootstrap([1.0, 1.0]).low == 1.0


def test_decisions_at_which_the_panel_is_grey_are_told_apart(played):
    few = played[:4]
    rows = [np.full(e.decision, 0.0) for e in few]
    for row, e in zip(rows[:2], few[:2], strict=True):  # the others stay below what could move a probability
        row[e.cue_step] = 1.0
    result = judge("R5 step removal", rows, few)
    assert (result.shown, result.hit_1_shown.mean) == (0.5, 1.0)
    assert judge("R5 step removal", rows[2:], few[2:]).hit_1_shown is None
    assert judge("R2 removal", rows, few).shown is None, "it says nothing of the policy"
    assert result.to_json()["hit_1_shown"] == [1.0, 1.0, 1.0]


@pytest.mark.slow
def test_report_prints_and_is_json():
    report = report_on("one write")
    out = io.StringIO()
    report.print(Console(file=out, width=200))
    text = out.getvalue()
    assert text.count("PASS") == len(report.checks)
    assert text.strip().splitlines()[-1].startswith("Verdict: VALID")
    content = json.loads(json.dumps(report.to_json()))
    assert content["thresholds"]["hit_1"] == 0.9
    assert len(content["checks"]) == len(report.checks)


def untrained(env: str, kwargs: str, core: str = "mnm-g") -> LoadedAgent:
    settings = replace(config(core), env=env, env_kwargs=kwargs, previous_inputs=True)
    single = make_single(env, settings.env_arguments())
    return loaded(build_model(settings, single.observation_space, single.action_space).eval(), settings)


def test_where_nothing_is_planted_the_checks_say_so():
    report = check_recall(untrained("mnm/RepeatPrevious-v0", "{}"), 5)
    assert report.outcome("planted cue, R2") == "NOT APPLICABLE"
    assert "does not say which step" in next(c for c in report.checks if c.name == "untrained agent").figure
    assert report.outcome("interaction residual") in ("PASS", "FAIL")
    assert not report.valid


def test_where_the_cue_stays_visible_the_agent_is_its_own_control():
    report = check_recall(indifferent_agent(), 5)
    assert report.outcome("memory not used where all is visible") == "PASS"
    assert report.outcome("memory carries the decision") == "NOT APPLICABLE"
    assert report.verdict.startswith("NOT SHOWN")


def test_a_control_that_remembers_in_another_way_is_refused():
    torch.manual_seed(0)
    with pytest.raises(UserError, match="both must remember in the same way"):
        check_recall(one_write_agent(), 5, control=untrained("mnm/TMaze-v0", "{}", "lstm"))
