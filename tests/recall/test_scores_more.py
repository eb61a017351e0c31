"""R1, keep-only-one, the symmetrised score and R3: identities in float64, and explicit replays one write at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy_mnm import memory_pass, read
from recall_reference import ReferenceMemory, random_tape

from envs.errors import UserError
from recall.record.tape import Tape, WriteRule
from recall.scores.from_tape import (
    interaction_residual,
    joint_keep,
    joint_removal,
    keep_only_one,
    last_layer_contribution,
    leave_one_write_out,
    rank,
    symmetrised,
    symmetrised_residual,
)
from recall.scores.reapplied import reapplied_removal

TOLERANCE = 1e-12


def with_rule(tape: Tape, rule: str, heads: int = 1, seed: int = 0) -> Tape:
    """The tape with the write rule that made it."""
    memory = tape.written()
    if rule == "g":
        return replace(tape, memory=replace(memory, rule=WriteRule("gradient")))
    size = memory.target_value.shape[-1]
    targets = ReferenceMemory(rule, heads, size, seed=seed).targets
    return replace(
        tape, memory=replace(memory, rule=WriteRule("local", np.concatenate(targets), np.zeros(3 * size)))
    )


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize(("rule", "hidden"), [("p", None), ("g", None), ("g", 11)])
def test_contributions_sum_to_the_value_read_minus_the_base(rule, hidden, heads):
    tape, _ = random_tape(rule, heads, steps=15, hidden=hidden)
    memory = tape.written()
    for t in (0, 1, 7, 14):
        found = last_layer_contribution(tape, t)
        np.testing.assert_allclose(found.base + found.terms.sum(0), memory.value_read[t], atol=TOLERANCE)
        np.testing.assert_allclose(found.value_read, memory.value_read[t], atol=TOLERANCE)
        hidden2 = memory.read_hidden[1][t]
        base = np.mean([memory.initial_weights[2] @ z for z in hidden2], axis=0)
        np.testing.assert_allclose(found.base, base, atol=TOLERANCE)
        assert found.shares.sum() == pytest.approx(1.0, abs=1e-10)
        for s in range(t + 1):
            u, z = memory.write_steps[2][s], memory.write_inputs[2][s]
            term = -np.mean([sum(u[h] * (z[h] @ now) for h in range(heads)) for now in hidden2], axis=0)
            np.testing.assert_allclose(found.terms[s], term, atol=TOLERANCE)
    assert np.linalg.norm(found.base - leave_one_write_out(tape, 14).value_unwritten) > 1e-3


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("rule", ["p", "g"])
def test_the_scores_agree_where_only_the_last_layer_was_written(rule, heads):
    tape, _ = random_tape(rule, heads, steps=15, layers=(2,))
    for t in (0, 6, 14):
        removal, kept = leave_one_write_out(tape, t), keep_only_one(tape, t)
        terms = last_layer_contribution(tape, t).terms
        np.testing.assert_allclose(removal.differences, terms, atol=TOLERANCE)
        np.testing.assert_allclose(kept, terms, atol=TOLERANCE)
        np.testing.assert_allclose(symmetrised(removal, kept), terms, atol=TOLERANCE)
        assert symmetrised_residual(removal, kept) < 1e-10


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize(("rule", "hidden"), [("p", None), ("g", 11)])
def test_keeping_one_write_equals_the_explicit_memory(rule, hidden, heads):
    tape, _ = random_tape(rule, heads, steps=12, hidden=hidden)
    memory = tape.written()
    start = [w.astype(np.float64) for w in memory.initial_weights]
    for t in (0, 5, 11):
        keys = memory.read_key[t]
        kept = keep_only_one(tape, t)
        for s in range(t + 1):
            only = [
                w - u[s].T @ z[s]
                for w, u, z in zip(start, memory.write_steps, memory.write_inputs, strict=True)
            ]
            np.testing.assert_allclose(kept[s], read(only, keys) - read(start, keys), atol=TOLERANCE)
            np.testing.assert_allclose(joint_keep(tape, t, [s]), kept[s], atol=TOLERANCE)
        everything = leave_one_write_out(tape, t)
        np.testing.assert_allclose(
            joint_keep(tape, t, range(t + 1)), everything.value_read - everything.value_unwritten, atol=1e-11
        )


def test_the_symmetrised_residual_is_the_smaller_one_on_deep_memories():
    rho, rho_symmetrised = [], []
    for seed in range(10):
        tape, _ = random_tape("p", steps=30, size=16, seed=seed, gain=1.0)
        removal, kept = leave_one_write_out(tape, 29), keep_only_one(tape, 29)
        rho.append(interaction_residual(removal))
        rho_symmetrised.append(symmetrised_residual(removal, kept))
    assert np.median(rho_symmetrised) < np.median(rho)


def test_a_fact_written_twice_is_seen_by_keeping_and_by_joint_removal():
    """Two equal writes that correct an error hide each other from R2 only as far as they interact."""
    tape, _ = random_tape("p", steps=10)
    memory = tape.written()
    twice = [u.copy() for u in memory.write_steps], [z.copy() for z in memory.write_inputs]
    for part in (*twice[0], *twice[1]):
        part[7] = part[3]
    doubled = replace(tape, memory=replace(memory, write_steps=tuple(twice[0]), write_inputs=tuple(twice[1])))
    kept, removal = keep_only_one(doubled, 9), leave_one_write_out(doubled, 9)
    np.testing.assert_allclose(kept[3], kept[7], atol=TOLERANCE)
    np.testing.assert_allclose(removal.differences[3], removal.differences[7], atol=TOLERANCE)
    assert np.linalg.norm(joint_removal(doubled, 9, [3, 7])) > removal.norms[3]


def explicit_reapplied(tape, rule, s, last, heads, seed=0):
    """The reads of steps s..last if write s is not made and the later ones are made again, head by head."""
    memory = tape.written()
    reference = ReferenceMemory(
        rule, heads, memory.target_value.shape[-1], memory.read_hidden[0].shape[-1], seed
    )
    values = []
    for tau in range(last + 1):
        beta = 0.0 if tau == s else float(memory.beta[tau])
        keys, targets = memory.write_inputs[0][tau], memory.target_value[tau]
        _, written = reference.step(keys, targets, beta, memory.read_key[tau])
        values.append(np.mean([memory_pass(written, key)[3] for key in memory.read_key[tau]], axis=0))
    return np.stack(values)


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize(("rule", "hidden"), [("p", None), ("g", None), ("g", 11)])
def test_redoing_later_writes_equals_an_explicit_replay(rule, hidden, heads, monkeypatch):
    plain, _ = random_tape(rule, heads, steps=12, hidden=hidden)
    tape = with_rule(plain, rule, heads)
    scores = reapplied_removal(tape)
    for s in range(12):
        values = explicit_reapplied(tape, rule, s, 11, heads)
        expected = np.linalg.norm(tape.written().value_read - values, axis=1)
        np.testing.assert_allclose(scores[:, s], np.where(np.arange(12) >= s, expected, 0.0), atol=1e-11)
    np.testing.assert_allclose(reapplied_removal(tape, 7), scores[:8, :8], atol=TOLERANCE)
    monkeypatch.setattr("recall.scores.reapplied.memories_in_cache", lambda memory_bytes: 5)
    np.testing.assert_allclose(reapplied_removal(tape), scores, rtol=0, atol=TOLERANCE)
    # At s = t there are no later writes to redo, so R3 is R2; before that the two differ.
    for t in (0, 5, 11):
        removal = leave_one_write_out(tape, t).norms
        assert scores[t, t] == pytest.approx(removal[t], abs=1e-11)
        assert t == 0 or np.abs(scores[t, :t] - removal[:t]).max() > 1e-4


@pytest.mark.parametrize("rule", ["p", "g"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_write_with_rate_zero_scores_zero_in_every_score(rule, dtype):
    betas = [0.0 if t in (2, 5) else 0.8 for t in range(9)]
    plain, _ = random_tape(rule, heads=3, steps=9, betas=betas, dtype=dtype)
    tape = with_rule(plain, rule, 3)
    removal, kept = leave_one_write_out(tape, 8), keep_only_one(tape, 8)
    found = {
        "R1": last_layer_contribution(tape, 8).norms,
        "R2": removal.norms,
        "keep": np.linalg.norm(kept, axis=1),
        "symmetrised": np.linalg.norm(symmetrised(removal, kept), axis=1),
        "R3": reapplied_removal(tape)[8],
    }
    for name, scores in found.items():
        assert [s for s in range(9) if scores[s] == 0.0] == [2, 5], name


def test_layers_with_rates_of_their_own_are_redone_with_them():
    """Halving U of one layer is what a rate of its own does; the first write left out must show it."""
    plain, _ = random_tape("g", steps=1)
    tape = with_rule(plain, "g")
    memory = tape.written()
    slow = (memory.write_steps[0] * 0.5, *memory.write_steps[1:])
    halved = replace(tape, memory=replace(memory, write_steps=slow))
    assert reapplied_removal(halved)[0, 0] == pytest.approx(
        leave_one_write_out(halved, 0).norms[0], abs=1e-12
    )
    assert reapplied_removal(halved)[0, 0] != pytest.approx(reapplied_removal(tape)[0, 0], abs=1e-6)


def test_a_tape_without_its_rule_is_refused_in_one_line():
    tape, _ = random_tape("p", steps=3)
    with pytest.raises(UserError, match="does not carry its write rule") as caught:
        reapplied_removal(tape)
    assert "\n" not in str(caught.value)
    bare = replace(tape, memory=replace(tape.written(), rule=WriteRule("local")))
    with pytest.raises(UserError, match="lacks the map"):
        reapplied_removal(bare)


def test_scores_survive_a_file(tmp_path):
    tape = with_rule(random_tape("p", heads=2, steps=8)[0], "p", 2)
    tape.save(tmp_path / "tape.npz")
    again = Tape.load(tmp_path / "tape.npz")
    np.testing.assert_array_equal(reapplied_removal(again), reapplied_removal(tape))
    np.testing.assert_array_equal(keep_only_one(again, 7), keep_only_one(tape, 7))
    np.testing.assert_array_equal(
        last_layer_contribution(again, 7).terms, last_layer_contribution(tape, 7).terms
    )


def test_single_precision_ranks_as_double_precision():
    tape = with_rule(random_tape("g", steps=40, size=16, dtype=np.float32)[0], "g")
    single, double = reapplied_removal(tape), reapplied_removal(tape, dtype=np.float64)
    np.testing.assert_allclose(single, double, atol=1e-4)
    assert rank(single[39], 39, 5) == rank(double[39], 39, 5)
