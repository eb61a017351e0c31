"""Environments that name needed steps: the decision is a step that has some, and any of them counts as found."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hand_built import loaded

from agents.config import TrainConfig
from agents.trainer import build_model
from envs import make_single
from recall.scores.decision import state_before
from recall.validate.deletion import closed_loop
from recall.validate.planted import play_planted
from recall.validate.ranking import judge
from recall.validate.validity import check_recall

KWARGS = {"contexts": 4, "rounds": 3}


@pytest.fixture(scope="module")
def agent():
    settings = TrainConfig(
        env="mnm/PairBandit-v0", env_kwargs=json.dumps(KWARGS), hidden_size=8, embedding_size=8, memory_size=8
    )
    env = make_single(settings.env, settings.env_arguments())
    model = build_model(settings, env.observation_space, env.action_space)
    return loaded(model.eval(), settings)


@pytest.fixture(scope="module")
def played(agent):
    return play_planted(agent, 20, 0)


def test_the_needed_steps_told_the_right_door_of_the_sign_at_the_decision(played):
    assert all(episode.planted for episode in played)
    assert len({episode.decision for episode in played}) > 3
    assert any(episode.also for episode in played)
    for episode in played:
        seen = episode.tape.observation["obs"]
        for step in episode.needed:
            assert step < episode.decision
            assert np.array_equal(seen[step][4:8], seen[episode.decision][:4])


def test_any_needed_step_counts_as_found(played):
    for pick in (min, max):
        scores = [np.eye(episode.decision)[pick(episode.needed)] for episode in played]
        assert judge("scores", scores, played).hit_1.mean == 1.0
    blind = [np.zeros(episode.decision) for episode in played]
    assert judge("scores", blind, played).hit_1.mean < 0.8


def test_a_deletion_is_judged_by_what_is_earned_until_other_steps_are_needed(agent, played):
    """In the pair bandit that is the reward of the decision, for the next sign needs another step."""
    env = make_single(agent.config.env, agent.config.env_arguments())
    found = []
    for episode in played:
        state = state_before(agent.model, episode.tape, episode.decision)
        found.append(closed_loop(agent.model, env, episode, {"intact": state})["intact"])
    assert found == [float(episode.tape.reward[episode.decision]) for episode in played]
    assert 0 < sum(found) < len(found)


@pytest.mark.slow
def test_the_report_ranks_them(agent):
    report = check_recall(agent, 6)
    assert {result.name for result in report.rankings} >= {"R2 removal", "recency"}
    assert report.agent["planted_episodes"] == 6
