"""R5: an agent replayed without one step, batched, equals replaying it one step at a time; and what must be 0 is 0."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hand_built import LENGTH, config, loaded, one_write_agent, state_agent
from recall_reference import frames_of, maze
from viewer_page import numbers, page_data

from agents.evaluation import LoadedAgent
from agents.model import ActorCritic, AgentState, build_model
from envs import held_out_seed, make_single
from envs.errors import UserError
from memory import CoreConfig, CoreOutput, MemoryCore
from recall.record.recorder import recorded_row
from recall.record.tape import Tape
from recall.render import palette
from recall.render.episode import record_episode
from recall.render.outputs import Outputs, facts_of, render_recalls, tiles_of
from recall.render.picture import HEADER, Painter
from recall.scores.decision import decision_effect
from recall.scores.recalls import NO_SINGLE, UNAFFECTED, StepRecalls, Thresholds, recalls_of
from recall.scores.registry import Sources, score_matrices
from recall.scores.steps import all_forgotten, step_effect, without_steps
from recall.validate.checks import Limits, ValidityReport
from recall.validate.planted import play_planted
from recall.validate.steps import PLANTED, StepStudy, nearby
from recall.validate.validity import check_recall

CORES = ("none", "lstm", "gru", "mnm-p", "mnm-g", "hard", "user")
STEPS = 10


class CueState(NamedTuple):
    total: torch.Tensor


class CueCore(MemoryCore):
    """A user's core: adds up the two cue bits, and takes in nothing of any other step."""

    def __init__(self, input_size: int) -> None:
        super().__init__()
        self.input_size, self.output_size = input_size, input_size + 2
        self.gain = torch.nn.Parameter(torch.ones(()))

    def initial_state(self, batch_size: int) -> CueState:
        return CueState(self._zeros(batch_size, 2))

    def step(self, x_t: Any, state: CueState, record: bool = False, noise: Any = None) -> Any:
        total = state.total + self.gain * x_t[:, :2]
        features = torch.cat([x_t, total], dim=1)
        zero = features.new_zeros(len(features))
        return CoreOutput(features, zero, zero), CueState(total)


def agent_of(core: str) -> LoadedAgent:
    """An untrained agent in the T-maze whose policy listens to its features."""
    settings = config("lstm" if core == "user" else core, "lstm")
    if core != "user":
        settings = dataclasses.replace(settings, previous_inputs=True, hidden_size=9, slots=4)
    settings = dataclasses.replace(settings, env_kwargs='{"length": 5}')
    env = make_single(settings.env, settings.env_arguments())
    torch.manual_seed(0)
    model = build_model(settings, env.observation_space, env.action_space)
    env.close()
    if core == "user":
        model.core = CueCore(4)
        model.policy_head = torch.nn.Linear(6, 3)
        model.value_head = torch.nn.Linear(6, 1)
        with torch.no_grad():  # the encoder shows the observation as it is
            model.encoder.parts["obs"].linear.weight.copy_(torch.eye(4))
            model.encoder.parts["obs"].linear.bias.zero_()
    model = model.double().eval()
    with torch.no_grad():
        model.policy_head.weight.normal_(0.0, 0.7, generator=torch.Generator().manual_seed(1))
    return loaded(model, settings)


def tape_of(agent: LoadedAgent, policy: Any = "sample") -> Tape:
    env = make_single(agent.config.env, agent.config.env_arguments())
    return record_episode(agent.model, env, held_out_seed(0, 2), policy, scenes=False).tape


@pytest.fixture(scope="module", params=CORES)
def played(request: pytest.FixtureRequest) -> tuple[str, ActorCritic, Tape]:
    agent = agent_of(request.param)
    return request.param, agent.model, tape_of(agent)


@torch.no_grad()
def replay(
    model: ActorCritic, tape: Tape, removed: int | None, steps: int, reference: str | None = None
) -> tuple[torch.Tensor, np.ndarray]:
    """Log-probabilities and values of one replay that does not take in the step `removed`, or sees the reference."""
    state, log_pi, values = model.initial_state(1), [], []
    for t in range(steps):
        row = recorded_row(model, tape, t, 1)
        noise = None if tape.choices is None else torch.from_numpy(tape.choices[t])[None].double()
        obs = row.obs
        if reference == "blank" and t == removed:
            obs = {name: torch.zeros_like(part) for name, part in obs.items()}
        elif reference == "held" and t == removed:
            obs = recorded_row(model, tape, t - 1 if t else 1, 1).obs
        out = model.act(obs, row.is_first, AgentState(state.core, row.action, row.reward), noise=noise)
        log_pi.append(torch.log_softmax(out.policy.parameters[0].double(), -1))
        values.append(float(out.value))
        if t != removed or reference:
            state = out.state
    return torch.stack(log_pi), np.array(values)


@pytest.mark.slow
@pytest.mark.parametrize("reference", [None, "held", "blank"])
def test_batched_replay_equals_one_by_one_replay(played: Any, reference: Any) -> None:
    core, model, tape = played
    effect = step_effect(model, tape, STEPS - 1, reference)
    run, run_values = replay(model, tape, None, STEPS)
    for s in range(STEPS):
        other, values = replay(model, tape, s, STEPS, reference)
        divergence = (run.exp() * (run - other)).sum(-1).numpy()
        after = slice(s if reference else s + 1, STEPS)
        np.testing.assert_allclose(effect.divergence[after, s], divergence[after], rtol=0, atol=1e-10)
        np.testing.assert_allclose(
            effect.value_change[after, s], np.abs(values - run_values)[after], rtol=0, atol=1e-10
        )
    assert not np.triu(effect.divergence, 1).any()
    assert reference or not effect.divergence.diagonal().any()
    below = np.tril(effect.divergence, -1)
    assert (below.max() > 1e-7) == (core != "none"), "an effect of size 0 would prove nothing"


def test_replays_in_blocks_equal_replays_in_one(played: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, model, tape = played
    whole, reports = step_effect(model, tape), []
    monkeypatch.setattr("recall.scores.steps.block_size", lambda core: 3)
    parts = step_effect(model, tape, progress=lambda done, total: reports.append((done, total)))
    for ours, theirs in zip(parts, whole, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)
    done = [number for number, _ in reports]
    assert done == sorted(done)
    assert reports[-1][0] == reports[-1][1]


@pytest.mark.parametrize("together", [3, 100])
def test_a_window_gives_the_same_scores_of_the_pairs_in_it(
    played: Any, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, model, tape = played
    whole, reports = step_effect(model, tape), []
    monkeypatch.setattr("recall.scores.steps.block_size", lambda core: together)
    near = step_effect(model, tape, progress=lambda done, total: reports.append((done, total)), window=4)
    t, s = np.indices(whole.divergence.shape)
    for ours, theirs in zip(near, whole, strict=True):
        np.testing.assert_allclose(ours, np.where(t - s <= 4, theirs, 0.0), rtol=0, atol=1e-10)
    assert reports[-1][0] == reports[-1][1]


def test_an_agent_without_memory_scores_exactly_0() -> None:
    agent = agent_of("none")
    tape = tape_of(agent)
    effect = step_effect(agent.model, tape)
    assert (effect.divergence == 0).all()
    assert (effect.value_change == 0).all()
    assert (all_forgotten(agent.model, tape) == 0).all()
    blank = step_effect(agent.model, tape, reference="blank").divergence
    assert (np.tril(blank, -1) == 0).all()
    assert blank.diagonal().any(), "what it sees now does matter to what it does now"


def test_a_step_that_the_core_ignores_scores_exactly_0() -> None:
    agent = agent_of("user")
    tape = tape_of(agent)
    cue = np.flatnonzero(tape.observation["obs"][:, :2].any(axis=1))
    effect = step_effect(agent.model, tape)
    others = np.delete(effect.divergence, cue, axis=1)
    assert (others == 0).all()
    assert (effect.divergence[cue[-1] + 1 :, cue] > 1e-6).all()


def test_it_agrees_with_the_removal_of_the_write_where_nothing_else_carries_anything() -> None:
    agent = one_write_agent()
    for episode in play_planted(agent, 3, 3):
        removed, unwritten = (
            step_effect(agent.model, episode.tape),
            decision_effect(agent.model, episode.tape),
        )
        np.testing.assert_allclose(removed.divergence, np.tril(unwritten.divergence, -1), rtol=0, atol=1e-9)
        assert removed.divergence[LENGTH, episode.cue_step] > 1.0


def test_another_observation_in_the_place_of_a_step() -> None:
    agent = agent_of("lstm")
    tape = tape_of(agent)
    effect = step_effect(agent.model, tape, reference=4).divergence
    same = (tape.observation["obs"] == tape.observation["obs"][4]).all(axis=1)
    assert same[4]
    assert not same.all()
    assert (effect[:, same] == 0).all(), "a step seen as it was"
    assert (effect.diagonal()[~same] > 0).all()


def test_held_where_nothing_new_came_into_view_scores_exactly_0() -> None:
    """Removal does not: without the step the agent has also lived a step less."""
    agent = agent_of("lstm")
    tape = tape_of(agent)
    obs = tape.observation["obs"].copy()
    obs[5:9] = obs[5]
    tape = dataclasses.replace(tape, observation={"obs": obs})
    held, removed = (step_effect(agent.model, tape, reference=way).divergence for way in ("held", None))
    assert (held[:, 6:9] == 0).all()
    assert (removed[9:, 6:9] > 0).all()


def test_a_tape_that_does_not_start_with_its_episode_is_refused() -> None:
    agent = agent_of("lstm")
    with pytest.raises(UserError, match="starts with its episode"):
        step_effect(agent.model, dataclasses.replace(tape_of(agent), start_step=3))


def test_what_is_drawn_by_chance_is_drawn_again() -> None:
    """The run of the replays is the recorded episode, also where the memory's own choices were drawn."""
    agent = agent_of("hard")
    tape = tape_of(agent)
    assert tape.choices is not None
    run, _ = replay(agent.model, tape, None, tape.steps)
    np.testing.assert_allclose(run, torch.log_softmax(torch.from_numpy(tape.logits), -1), atol=1e-5)
    greedy = dataclasses.replace(tape, addresses=dataclasses.replace(tape.addresses, noise=0 * tape.choices))
    assert greedy.choices is None
    assert (step_effect(agent.model, tape).divergence != step_effect(agent.model, greedy).divergence).any()


# What is shown ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("core", ["none", "lstm", "gru", "hard", "mnm-p"])
def test_film_page_and_tape_of_every_core(core: str, tmp_path: Path) -> None:
    agent = agent_of(core)
    agent.model.float()

    def env() -> Any:
        return make_single(agent.config.env, agent.config.env_arguments(), render_mode="rgb_array")

    outputs = Outputs(tmp_path / "a.gif", tmp_path / "a.html", tmp_path / "a.npz")
    told: list[str] = []
    summary = render_recalls(
        agent.model, env, [held_out_seed(0, 2)], outputs, score="step", core=core,
        progress=lambda done, total, what: told.append(what),
    )  # fmt: skip
    tape = Tape.load(tmp_path / "a.npz")
    assert summary["score"] == "R5"
    assert summary["frames"] == len(frames_of(tmp_path / "a.gif")) >= tape.steps
    assert "replaying episode 1 of 1" in told
    data = page_data(tmp_path / "a.html")
    assert data["caption"] is None
    assert data["opens_with"] == "step"
    [episode] = data["episodes"]
    entry = episode["scores"]["step"]
    writes = numbers(entry["writes"], "<i4").reshape(tape.steps, 5)
    ranks, listed = (numbers(entry[name], kind).reshape(tape.steps, 5) for name, kind in
                     (("ranks", "u1"), ("listed", "<f4")))  # fmt: skip
    effect = step_effect(agent.model, tape).divergence
    for t in range(tape.steps):
        row = writes[t] >= 0
        assert row.sum() == min(5, (effect[t, :t] > 0).sum())
        np.testing.assert_allclose(listed[t][row], effect[t, writes[t][row]], rtol=1e-6)
        order = listed[t][row][np.argsort(ranks[t][row])]
        assert (np.diff(order) <= 0).all()
    forgotten = numbers(episode["columns"]["forgotten"])
    np.testing.assert_allclose(forgotten, all_forgotten(agent.model, tape), rtol=1e-6)


def test_the_best_recall_is_said_in_words_and_tied_to_its_place() -> None:
    env = maze(steps=4)
    torch.manual_seed(0)
    model = ActorCritic(env.observation_space, env.action_space, CoreConfig(name="lstm"))
    episode = record_episode(model, env, 3, "sample", "lstm")
    assert episode.scenes is not None
    painter, scene = Painter(1, Thresholds(), score="step"), episode.scenes[3]
    step = StepRecalls((1,), (1.0,), (True,), 0.0, 0.0, 1.0, 0.0, False, 0.5, of_policy=True, of_steps=True)
    facts = facts_of(episode, 3, 1, 1)
    tiles = tiles_of(episode, 3, step)
    assert tiles[0] is not None
    tiles[0] = dataclasses.replace(tiles[0], cell=(0, 0))
    sure = painter.paint(scene, facts, step, tiles)
    quiet = painter.paint(scene, facts, dataclasses.replace(step, scores=(1e-6,)), tiles)
    (left, top), size = painter.map_corner(scene), scene.cell_size
    corners = [picture[top, left : left + size] for picture in (sure, quiet)]
    assert [bool((corner == palette.SUPPORTS).all()) for corner in corners] == [True, False]
    words = slice(HEADER + 23, HEADER + 43), slice(painter.panel_left, None)
    assert (sure[words] != quiet[words]).any()
    assert not (quiet == palette.SUPPORTS).all(axis=-1)[:, : painter.panel_left].any()


def test_grey_says_whether_nothing_matters_or_no_step_alone() -> None:
    agent = agent_of("lstm")
    tape = tape_of(agent)
    matrix = score_matrices(tape, ["step"], model=agent.model)["step"]
    small, large = np.full(tape.steps, 0.001), np.full(tape.steps, 0.5)
    quiet = dataclasses.replace(matrix, values=matrix.values * 1e-9)
    loud = dataclasses.replace(matrix, values=np.tril(np.ones_like(matrix.values), -1), forgotten=large)
    limits = Thresholds()
    for forgotten, expected in ((small, UNAFFECTED), (large, NO_SINGLE)):
        steps = recalls_of(tape, 3, dataclasses.replace(quiet, forgotten=forgotten))
        assert {step.doubt(limits) for step in steps} == {expected}
    assert {step.doubt(limits) for step in recalls_of(tape, 3, loud)[1:]} == {""}


def test_without_the_agent_a_score_of_steps_is_refused() -> None:
    with pytest.raises(UserError, match="'step' replays the agent"):
        score_matrices(tape_of(agent_of("lstm")), ["step"])
    assert Sources(tape_of(agent_of("lstm"))).model is None


# What it means ----------------------------------------------------------------------------------------------------


def outcomes(report: ValidityReport) -> dict[str, str]:
    return {check.name: check.outcome for check in report.checks}


@pytest.mark.slow
def test_the_report_of_an_agent_whose_state_carries_the_cue() -> None:
    control = state_agent(remembers=False, visible=True)
    report = check_recall(state_agent(), 6, control=control)
    assert set(outcomes(report).values()) == {"PASS"}, outcomes(report)
    assert report.verdict.startswith(f"VALID: all {len(report.checks)} checks")
    found = {row.name: row for row in report.rankings}
    assert found["R5 step removal"].hit_1.mean == 1.0
    json.dumps(report.to_json())


@pytest.mark.slow
def test_the_report_of_an_agent_that_remembers_nothing() -> None:
    report = check_recall(state_agent(remembers=False), 6, control=state_agent())
    found = outcomes(report)
    assert found.pop(PLANTED) == "NOT APPLICABLE"  # it fails
    # Fresh weights find nothing, and a random step is no worse than the best one.
    assert {name for name, outcome in found.items() if outcome == "PASS"} == {
        "untrained agent", "random removal does not",
    }  # fmt: skip
    assert report.verdict.startswith("NOT VALID")


def test_a_trained_agent_posing_as_untrained_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recall.validate.steps.untrained_model", lambda agent: agent.model)
    agent = state_agent()
    study = StepStudy(agent, play_planted(agent, 6, 0), 0, Limits(), lambda stage: None)
    assert [check.outcome for check in study.planted_checks()] == ["PASS", "FAIL"]


def test_the_report_where_no_step_is_planted() -> None:
    agent = state_agent(visible=True, remembers=False)
    report = check_recall(agent, 4)
    assert outcomes(report)["memory not used where all is visible"] == "PASS"
    assert report.verdict.startswith("NOT SHOWN")


def test_replays_without_sets_of_steps_equal_replays_without_each() -> None:
    agent = agent_of("lstm")
    tape = tape_of(agent)
    t = tape.steps - 1
    policies, states = without_steps(agent.model, tape, t, [[3], [2, 5], range(t)])
    for policy, removed in ((policies[0], []), (policies[1], [3]), (policies[2], [2, 5])):
        state = agent.model.initial_state(1)
        for tau in range(t + 1):
            row = recorded_row(agent.model, tape, tau, 1)
            with torch.no_grad():
                out = agent.model.act(row.obs, row.is_first, AgentState(state.core, row.action, row.reward))
            state = state if tau in removed else out.state
        torch.testing.assert_close(policy.parameters, out.policy.parameters[0], rtol=0, atol=1e-10)
    assert not any(part.any() for part in states[3].core), "nothing was taken in"


def test_a_random_step_is_of_about_the_same_age() -> None:
    rng = np.random.default_rng(0)
    drawn = {nearby(2, 40, rng) for _ in range(200)}
    assert drawn == set(range(13)) - {2}
    assert nearby(0, 2, rng) == 1
