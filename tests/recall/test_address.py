"""Recalls of a hard memory: tape, film and page say which step every head read, exactly."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hand_built import slot_agent
from viewer_page import page_data

from agents.config import TrainConfig
from agents.evaluation import LoadedAgent, action_rng, play_episodes
from agents.model import build_model
from envs import held_out_seed, make_single
from envs.errors import UserError
from memory.hard.straight_through import one_hot
from recall.record.tape import Tape
from recall.render.episode import Episode, record_episode
from recall.render.outputs import Outputs, facts_of, render_recalls
from recall.render.picture import Painter, Tile
from recall.scores.decision import policy_effect
from recall.scores.recalls import NOT_USED, Thresholds, recalls_of, stable_rows
from recall.scores.registry import SCORES, score_matrices
from recall.validate.validity import check_recall

LENGTH, SLOTS, HEADS = 7, 5, 2


def agent_of(env: str = "mnm/TMaze-v0", **options: Any) -> LoadedAgent:
    """An untrained agent whose addresses are decided: it has something to say about every slot."""
    options = {"env_kwargs": f'{{"length": {LENGTH}}}', "slots": SLOTS, "heads": HEADS} | options
    config = TrainConfig(
        env=env, core="hard", hidden_size=16, embedding_size=16, memory_size=8, device="cpu", **options
    )
    made = make_single(config.env, config.env_arguments())
    model = build_model(config, made.observation_space, made.action_space).eval()
    made.close()
    torch.manual_seed(0)
    torch.nn.init.normal_(model.core.age_logits.weight, std=2.0)
    return LoadedAgent(model, config, 0, "untrained")


def record(agent: LoadedAgent, policy: str = "sample", **options: Any) -> Episode:
    env = make_single(agent.config.env, agent.config.env_arguments(), render_mode="rgb_array")
    return record_episode(agent.model, env, held_out_seed(0, 0), policy, core="hard", **options)


@pytest.mark.parametrize("policy", ["greedy", "sample"])
def test_the_tape_names_the_slot_and_the_step_that_was_read(policy: str) -> None:
    """The chosen slot is the argmax of logits + noise; its tag is the step that lies so many steps back."""
    tape = record(agent_of(), policy).tape
    found = tape.addresses
    assert tape.memory is None
    assert found is not None
    assert found.slot.shape == (tape.steps, HEADS)
    assert np.array_equal(found.slot, (found.logits + found.noise).argmax(axis=-1))
    assert found.noise.any() == (policy == "sample")
    for t in range(tape.steps):
        oldest_first = [t - age if t >= age else -1 for age in range(SLOTS, 0, -1)]
        assert found.tags[t].tolist() == oldest_first
        assert np.array_equal(np.isneginf(found.logits[t, 0]), np.array([*oldest_first, 0]) < 0)
        for i in range(HEADS):
            slot = found.slot[t, i]
            assert found.read_step[t, i] == (-1 if slot == SLOTS else t - (SLOTS - slot))
    assert (found.read_step >= 0).any()
    np.testing.assert_allclose(found.probability.sum(-1), 1.0)


def test_the_step_that_is_named_is_the_one_whose_content_was_read() -> None:
    """Another observation at a step that was read changes the value read; at one that was not it does not."""
    agent = agent_of(controller="feedforward", env_kwargs=f'{{"length": {LENGTH}}}', previous_inputs=False)
    core, encoder = agent.model.core, agent.model.encoder
    tape = record(agent).tape
    found = tape.addresses
    assert found is not None
    obs = torch.from_numpy(tape.observation["obs"]).float()
    noise = torch.from_numpy(found.noise)[:, None]
    is_first = torch.from_numpy(tape.is_first)[:, None]
    previous = (
        torch.from_numpy(tape.previous_action)[:, None],
        torch.from_numpy(tape.previous_reward)[:, None],
    )

    def read(values: torch.Tensor) -> torch.Tensor:
        """[T, H, d] what is read under the recorded addresses if the stored values are these."""
        choice = one_hot(torch.from_numpy(found.slot), torch.zeros(tape.steps, HEADS, SLOTS + 1))
        padded = torch.cat([torch.zeros(SLOTS, values.shape[-1]), values])
        window = torch.stack([padded[t : t + SLOTS] for t in range(tape.steps)])
        return choice[..., :-1] @ window

    with torch.no_grad():
        xs = encoder({"obs": obs[:, None]}, is_first, *previous)
        _, _, readings = core._segment(xs, core.initial_state(1), is_first, noise)
        values = core.value(xs)[:, 0]
        lived = torch.cat([reading.read for reading in readings])[:, 0]
        assert torch.equal(read(values), lived)
        for s in range(tape.steps):
            changed = values.clone()
            changed[s] += 1.0
            moved = (read(changed) != lived).any(dim=-1).numpy()
            assert np.array_equal(moved, found.read_step == s)


def test_a_tape_of_addresses_survives_its_file(tmp_path: Path) -> None:
    tape = record(agent_of()).tape
    tape.save(tmp_path / "tape.npz")
    loaded = Tape.load(tmp_path / "tape.npz")
    assert loaded.addresses is not None
    for name, array in tape.addresses.arrays().items():
        assert np.array_equal(loaded.addresses.arrays()[name], array, equal_nan=True), name
    assert (loaded.core, loaded.memory) == ("hard", None)


def test_recording_changes_nothing_and_the_recorded_episode_is_the_evaluated_one() -> None:
    """Actions and addresses come from the episode's own stream, whatever is played beside it."""
    agent = agent_of(env="mnm/RepeatPrevious-v0", env_kwargs='{"lag": 2, "length": 9}')
    agent.model.double()
    for policy in ("greedy", "sample"):
        alone = play_episodes(agent, 5, policy, num_envs=1)
        assert [str(r) for r in play_episodes(agent, 5, policy, num_envs=3)] == [str(r) for r in alone]
        tape = record(agent, policy, rng=action_rng(0, 0)).tape
        assert float(tape.reward.sum(dtype=np.float64)) == pytest.approx(alone[0].episode_return)


# What is shown ----------------------------------------------------------------------------------------------------


def test_the_slots_that_were_read_come_first_and_the_others_had_no_effect() -> None:
    tape = record(agent_of()).tape
    assert tape.addresses is not None
    for t, step in enumerate(recalls_of(tape, 4)):
        read = tape.addresses.read_step[t]
        chosen = {s: float((read == s).mean()) for s in read.tolist() if s >= 0}
        effects = step.had_effect
        assert effects is not None
        assert len(step.writes) == min(t, SLOTS, 4)
        assert effects == tuple(s in chosen for s in step.writes)
        assert list(effects) == sorted(effects, reverse=True)
        assert step.use_share == (read >= 0).mean()
        for s, score in zip(step.writes, step.scores, strict=True):
            slot = tape.addresses.tags[t].tolist().index(s)
            expected = chosen.get(s, tape.addresses.probability[t, :, slot].mean())
            assert score == pytest.approx(expected)
        close = [score for score, effect in zip(step.scores, effects, strict=True) if not effect]
        assert close == sorted(close, reverse=True)


def test_a_slot_that_was_not_read_never_stands_above_one_that_was() -> None:
    """Rows keep their places where they can; but being read is not a matter of degree."""
    tape = record(agent_of("mnm/RepeatPrevious-v0", env_kwargs='{"lag": 2, "length": 40}', slots=9)).tape
    recalls = recalls_of(tape, 5)
    for step, rows in zip(recalls, stable_rows(recalls, 5), strict=True):
        effects = [step.counts(rank) for rank in rows if rank is not None]
        assert effects == sorted(effects, reverse=True)
    assert any(0 < sum(step.had_effect or ()) < len(step.writes) for step in recalls)


def test_nothing_read_means_memory_not_used() -> None:
    agent = agent_of()
    torch.nn.init.zeros_(agent.model.core.age_logits.weight)
    agent.model.core.age_logits.bias.data.view(HEADS, SLOTS + 1)[:, -1] = 100.0
    steps = recalls_of(record(agent).tape, 3)
    assert {step.doubt(Thresholds()) for step in steps} == {NOT_USED}
    assert not any(any(step.had_effect or ()) for step in steps)


def test_action_unaffected_is_judged_against_reading_nothing() -> None:
    """The replay with the null slot equals the agent's own output layer without what was read."""
    agent = agent_of(controller="feedforward", previous_inputs=False)
    torch.nn.init.normal_(agent.model.policy_head.weight)
    tape = record(agent).tape
    model, core = agent.model, agent.model.core
    with torch.no_grad():
        hidden = torch.tanh(core.cell(model.encoder(
            {"obs": torch.from_numpy(tape.observation["obs"])}, torch.from_numpy(tape.is_first),
            torch.from_numpy(tape.previous_action), torch.from_numpy(tape.previous_reward),
        )))  # fmt: skip
        unread = torch.tanh(core.output(torch.cat([hidden, torch.zeros(tape.steps, HEADS * 8)], dim=-1)))
        change = model.policy_head(unread).softmax(-1) - torch.from_numpy(tape.logits).softmax(-1)
    expected = change.abs().amax(dim=-1).numpy()
    assert expected.max() > 0.01
    np.testing.assert_allclose(policy_effect(model, tape), expected, atol=1e-6)


@pytest.mark.slow
def test_film_page_and_tape_show_the_same_addresses(tmp_path: Path) -> None:
    agent = agent_of()

    def env() -> Any:
        return make_single(agent.config.env, agent.config.env_arguments(), render_mode="rgb_array")

    outputs = Outputs(tmp_path / "a.gif", tmp_path / "a.html", tmp_path / "a.npz")
    summary = render_recalls(agent.model, env, [held_out_seed(0, 0)], outputs, policy="sample", core="hard")
    tape = Tape.load(tmp_path / "a.npz")
    assert summary["score"] == "address"
    assert summary["frames"] == tape.steps
    data = page_data(tmp_path / "a.html")
    assert list(data["scores"]) == ["address"]
    [episode] = data["episodes"]
    entry = episode["scores"]["address"]
    writes = np.frombuffer(base64.b64decode(entry["writes"]), "<i4").reshape(tape.steps, 5)
    counts = np.frombuffer(base64.b64decode(entry["counts"]), np.uint8).reshape(tape.steps, 5)
    assert tape.addresses is not None
    for t in range(tape.steps):
        read = {s for s in tape.addresses.read_step[t].tolist() if s >= 0}
        assert set(writes[t][(writes[t] >= 0) & (counts[t] == 1)].tolist()) == read
    comment = (tmp_path / "a.gif").read_bytes()
    assert b"Grey tiles were not read" in comment


def test_a_tile_that_was_not_read_is_grey() -> None:
    scene = np.full((40, 40, 3), (255, 0, 0), np.uint8)
    painter = Painter(1, Thresholds(), score="address")
    episode = record(agent_of())
    step = recalls_of(episode.tape, 1)[3]
    facts = facts_of(episode, 3, 1, 1)
    assert episode.scenes is not None
    pictures = {}
    for read in (True, False):
        tile = Tile(0, scene, None, 1, 2, "read", 1.0, True, 0.0, had_effect=read)
        pictures[read] = painter.paint(episode.scenes[3], facts, step, [tile])
    left, top, right, bottom = painter.tile_box(0)
    for read, picture in pictures.items():
        assert (picture[top:bottom, left:right] == (255, 0, 0)).all(axis=-1).any() == read


@pytest.mark.parametrize("score", [name for name, score in SCORES.items() if "slots" not in score.memory])
def test_other_scores_do_not_apply(score: str, tmp_path: Path) -> None:
    agent = agent_of()
    with pytest.raises(
        UserError,
        match=f"score '{score}' does not apply to the core 'hard'; valid: step, held, blank, address",
    ):
        render_recalls(agent.model, lambda: None, [0], Outputs(tmp_path / "a.gif"), score=score, core="hard")
    with pytest.raises(UserError, match="does not apply"):
        score_matrices(record(agent).tape, [score], model=agent.model)
    assert not list(tmp_path.iterdir())


def test_what_is_not_for_slots_says_so(tmp_path: Path) -> None:
    agent = agent_of()
    with pytest.raises(UserError, match="'hard' keeps slots"):
        render_recalls(agent.model, lambda: None, [0], Outputs(similarity=tmp_path / "a.png"), core="hard")


# What it means ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_report_of_an_agent_that_reads_the_cue(tmp_path: Path) -> None:
    report = check_recall(slot_agent(), 12, control=slot_agent_that_sees())
    outcomes = {check.name: check.outcome for check in report.checks}
    assert set(outcomes.values()) == {"PASS"}, outcomes
    assert report.verdict.startswith("VALID: all 6 checks")
    [address] = [row for row in report.rankings if row.name == "address"]
    assert address.hit_1.mean == 1.0
    assert set(address.by_cue) == {1, 2}


def slot_agent_that_sees() -> LoadedAgent:
    """The control: where the cue stays in sight, and nothing is ever read."""
    agent = slot_agent(remembers=False)
    return replace(agent, config=replace(agent.config, env_kwargs='{"length": 12, "always_visible": true}'))


@pytest.mark.slow
def test_the_report_of_an_agent_that_remembers_nothing() -> None:
    report = check_recall(slot_agent(remembers=False), 12)
    outcomes = {check.name: check.outcome for check in report.checks}
    assert outcomes["planted cue, address"] == "NOT APPLICABLE"  # it fails half of the episodes
    assert outcomes["the slot read carries the decision"] == "FAIL"
    assert outcomes["cue flip changes the action"] == "FAIL"
    assert report.verdict.startswith("NOT VALID")


def test_the_report_where_no_step_is_planted() -> None:
    report = check_recall(agent_of("mnm/RepeatPrevious-v0", env_kwargs='{"lag": 2, "length": 9}'), 3)
    assert {check.outcome for check in report.checks} == {"NOT APPLICABLE"}
    assert report.verdict.startswith("NOT SHOWN")
