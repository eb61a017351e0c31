"""The recall scores are what they claim to be: checked against explicit removal, one write at a time, in float64."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from numpy_mnm import read
from recall_reference import random_tape

from recall.record.tape import weights_at
from recall.scores.from_tape import (
    interaction_residual,
    joint_removal,
    key_match,
    leave_one_write_out,
    rank,
    use_share,
)
from recall.scores.recalls import INTERACT, NOT_USED, Thresholds, bar_scale, recalls_of


def value_without(tape, weights, t, removed):
    """The value read at t when the writes in `removed` are taken out of every layer, the slow and plain way."""
    memory = tape.written()
    changed = [w.astype(np.float64).copy() for w in weights[t]]
    for layer, weight in enumerate(changed):
        for s in removed:
            for head in range(memory.write_steps[layer].shape[1]):
                step, inputs = memory.write_steps[layer][s, head], memory.write_inputs[layer][s, head]
                weight += np.outer(step.astype(np.float64), inputs.astype(np.float64))
    return read(changed, memory.read_key[t])


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize(("rule", "hidden"), [("p", None), ("g", None), ("g", 11)])
def test_removal_equals_explicit_removal(rule, hidden, heads):
    tape, weights = random_tape(rule, heads, steps=15, size=8, hidden=hidden)
    for t in (0, 1, 7, 14):
        removal = leave_one_write_out(tape, t)
        full = read(weights[t], tape.written().read_key[t])
        np.testing.assert_allclose(removal.value_read, full, atol=1e-14)
        unwritten = read(tape.written().initial_weights, tape.written().read_key[t])
        np.testing.assert_allclose(removal.value_unwritten, unwritten, atol=1e-14)
        explicit = np.stack([full - value_without(tape, weights, t, [s]) for s in range(t + 1)])
        np.testing.assert_allclose(removal.differences, explicit, atol=1e-14)
        np.testing.assert_allclose(removal.norms, np.linalg.norm(explicit, axis=1), atol=1e-14)
        assert removal.norms[:t].min(initial=1.0) > 1e-6, "an effect of size 0 would prove nothing"


def test_joint_removal_equals_explicit_removal():
    tape, weights = random_tape("p", heads=3, steps=15)
    full = read(weights[14], tape.written().read_key[14])
    for removed in ([], [3], [2, 5, 11], range(15)):
        explicit = full - value_without(tape, weights, 14, removed)
        np.testing.assert_allclose(joint_removal(tape, 14, removed), explicit, atol=1e-14)
    everything = leave_one_write_out(tape, 14)
    np.testing.assert_allclose(
        joint_removal(tape, 14, range(15)), everything.value_read - everything.value_unwritten, atol=1e-13
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_write_with_rate_zero_scores_exactly_zero(dtype):
    betas = [0.0 if t in (2, 5) else 0.8 for t in range(9)]
    tape, _ = random_tape("g", heads=3, steps=9, dtype=dtype, betas=betas)
    norms = leave_one_write_out(tape, 8).norms
    assert [t for t in range(9) if norms[t] == 0.0] == [2, 5]


def test_a_write_that_is_never_read_scores_zero():
    """Keys in two orthogonal halves, only the first layer written: what the other half stored cannot matter."""
    tape, _ = random_tape("p", steps=6, size=8, layers=(0,))
    memory = tape.written()
    keys = memory.write_inputs[0].copy()
    keys[:3, :, 4:] = 0  # writes 0 to 2 in the first half of the key space
    keys[3:, :, :4] = 0  # the others in the second
    read_key = memory.read_key.copy()
    read_key[:, :, 4:] = 0  # all reads in the first
    orthogonal = replace(
        tape, memory=replace(memory, write_inputs=(keys, *memory.write_inputs[1:]), read_key=read_key)
    )
    norms = leave_one_write_out(orthogonal, 5).norms
    np.testing.assert_array_equal(norms[3:], 0.0)
    assert norms[:3].min() > 1e-3
    np.testing.assert_allclose(key_match(orthogonal, 5)[3:], 0.0, atol=1e-16)
    assert recalls_of(orthogonal, 5)[5].writes == tuple(rank(norms, 3, 5))  # no filler


def test_scores_of_float32_tapes_are_close_to_float64():
    tape, _ = random_tape("p", steps=20, dtype=np.float32)
    weights = [weights_at(tape, t) for t in range(20)]
    full = read([w.astype(np.float64) for w in weights[19]], tape.written().read_key[19])
    for s in (0, 10, 19):
        explicit = full - value_without(tape, weights, 19, [s])
        np.testing.assert_allclose(leave_one_write_out(tape, 19).differences[s], explicit, atol=1e-9)


@pytest.mark.parametrize("heads", [1, 3])
def test_writes_into_the_last_layer_alone_do_not_interact(heads):
    """Given z_2 the memory is then linear in its writes: the removals add up, and rho is 0."""
    tape, _ = random_tape("p", heads, steps=20, layers=(2,))
    for t in range(20):
        assert interaction_residual(leave_one_write_out(tape, t)) < 1e-12
    deep, _ = random_tape("p", heads, steps=20)
    assert interaction_residual(leave_one_write_out(deep, 19)) > 0.01


def test_use_share():
    assert use_share(np.array([3.0, 4.0]), np.array([3.0, 4.0])) == 0.0
    assert use_share(np.array([3.0, 4.0]), np.zeros(2)) == 1.0
    assert use_share(np.array([3.0, 4.0]), np.array([0.0, 4.0])) == pytest.approx(0.6)
    assert use_share(np.zeros(2), np.zeros(2)) == 0.0
    silent, _ = random_tape(steps=4, betas=[0.0] * 4)
    removal = leave_one_write_out(silent, 3)
    assert use_share(removal.value_read, removal.value_unwritten) == 0.0
    assert interaction_residual(removal) == 0.0
    step = recalls_of(silent, 5)[3]
    assert (step.writes, step.doubt(Thresholds())) == ((), NOT_USED)


def test_key_match_is_the_best_cosine_over_head_pairs():
    tape, _ = random_tape(heads=3, steps=6)
    memory = tape.written()
    best = [
        max(
            float(k @ q / np.linalg.norm(k) / np.linalg.norm(q))
            for k in memory.write_inputs[0][s]
            for q in memory.read_key[5]
        )
        for s in range(6)
    ]
    np.testing.assert_allclose(key_match(tape, 5), best, atol=1e-15)
    same = replace(
        tape, memory=replace(memory, read_key=np.broadcast_to(memory.write_inputs[0][2], (6, 3, 8)))
    )
    assert key_match(same, 5).argmax() == 2
    zero = replace(tape, memory=replace(memory, read_key=np.zeros_like(memory.read_key)))
    np.testing.assert_array_equal(key_match(zero, 5), 0.0)


def test_rank_prefers_the_more_recent_of_equal_scores_and_never_ranks_now():
    scores = np.array([0.5, 0.9, 0.5, 0.1, 0.9, 7.0])
    assert rank(scores, 5, 10) == [4, 1, 2, 0, 3]
    assert rank(scores, 5, 2) == [4, 1]
    assert rank(scores, 0, 5) == []
    assert rank(np.zeros(4), 3, 5) == [2, 1, 0]
    with pytest.raises(ValueError, match="at least 1"):
        rank(scores, 5, 0)
    with pytest.raises(ValueError, match="not a number"):
        rank(np.array([np.nan, 1.0]), 2, 1)


def test_recalls_of_an_episode():
    tape, _ = random_tape(steps=12)
    recalls = recalls_of(tape, 3)
    assert [len(step.writes) for step in recalls] == [0, 1, 2, *[3] * 9]
    for t, step in enumerate(recalls):
        removal = leave_one_write_out(tape, t)
        effect = removal.value_read - removal.value_unwritten
        assert list(step.writes) == rank(removal.norms, t, 3)
        np.testing.assert_allclose(
            step.scores, removal.norms[list(step.writes)] / np.linalg.norm(effect), rtol=1e-12
        )
        assert list(step.scores) == sorted(step.scores, reverse=True)
        assert step.supports == tuple(bool(removal.differences[s] @ effect >= 0) for s in step.writes)
        assert (step.doubt(Thresholds()) == INTERACT) == (step.residual > 0.3)
    assert bar_scale(recalls, Thresholds(residual=np.inf)) == max(step.scores[0] for step in recalls[1:])
    assert bar_scale([], Thresholds()) == 1.0


def test_tape_and_scores_survive_a_file(tmp_path):
    tape, _ = random_tape(heads=3, steps=8)
    tape.save(tmp_path / "tape.npz")
    assert recalls_of(type(tape).load(tmp_path / "tape.npz"), 5) == recalls_of(tape, 5)


@pytest.mark.slow
def test_a_whole_episode_costs_tens_of_batched_products():
    tape, _ = random_tape(steps=200, size=128, dtype=np.float32)
    inputs, weight = np.ones((200, 200, 128), np.float32), np.ones((128, 128), np.float32)
    ratios = []
    for _ in range(3):
        start_s = time.thread_time()
        np.tanh(inputs @ weight)
        product_s = time.thread_time() - start_s
        recalls_of(tape, 5)
        ratios.append((time.thread_time() - start_s) / product_s - 1)
    # About 20 where this was written (0.7 s). A ratio, so that it holds on a slower machine too.
    assert min(ratios) < 60
