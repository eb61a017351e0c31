"""The tape gives back the memory of every step, survives a file, and recording leaves the agent as it was."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from recall_reference import ReferenceMemory, add_row, batch_of_one, random_tape

from envs.errors import UserError
from memory import CoreConfig, MemoryRecord, PackedRecord, make_core
from memory.mnm.cpp_backend.bindings import kernel_for
from recall.record.recorder import TapeRecorder, write_rule_of
from recall.record.tape import MemoryTape, Tape, WriteRule, walk_weights, weights_at


def map_tensors(change, record):
    """A record with every tensor changed."""
    kind = MemoryRecord if isinstance(record, PackedRecord) else type(record)
    return kind(*(tuple(map(change, x)) if isinstance(x, tuple) else change(x) for x in record))


def assert_same_rule(left: WriteRule | None, right: WriteRule | None) -> None:
    assert (left is None) == (right is None)
    if left is not None and right is not None:
        assert left.name == right.name
        for x, y in zip(left[1:], right[1:], strict=True):
            assert (x is None) == (y is None)
            if x is not None:
                np.testing.assert_array_equal(x, y)


def assert_same_tape(left: Tape, right: Tape) -> None:
    for field in fields(Tape):
        ours, theirs = getattr(left, field.name), getattr(right, field.name)
        if field.name == "observation":
            assert ours.keys() == theirs.keys()
            for name in ours:
                np.testing.assert_array_equal(ours[name], theirs[name])
                assert ours[name].dtype == theirs[name].dtype
        elif field.name == "memory":
            assert (ours is None) == (theirs is None)
            for part in fields(MemoryTape) if ours is not None else ():
                a, b = getattr(ours, part.name), getattr(theirs, part.name)
                if part.name == "rule":
                    assert_same_rule(a, b)
                    continue
                pairs = zip(a, b, strict=True) if isinstance(a, tuple) else [(a, b)]
                for x, y in pairs:
                    np.testing.assert_array_equal(x, y)
                    assert x.dtype == y.dtype
        else:
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("rule", ["p", "g"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float64, 1e-14)])
def test_weights_from_the_tape_are_those_of_the_run_bit_for_bit(rule, dtype, tolerance):
    tape, weights = random_tape(rule, heads=1, steps=50, size=16, dtype=dtype)
    for t, rebuilt in enumerate(walk_weights(tape)):
        for ours, theirs in zip(rebuilt, weights[t], strict=True):
            assert ours.dtype == dtype
            np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(weights_at(tape, 31), weights[31], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    many, weights = random_tape(rule, heads=3, steps=50, size=16, dtype=dtype)
    for ours, theirs in zip(weights_at(many, 49), weights[49], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=tolerance * 10, rtol=0)


@pytest.mark.parametrize("name", ["mnm-p", "mnm-g"])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_weights_from_the_tape_are_those_of_a_real_core(name, heads, dtype, tolerance):
    torch.manual_seed(0)
    core = make_core(CoreConfig(name=name, hidden_size=12, memory_size=10, heads=heads), input_size=6).to(
        dtype
    )
    batch, row = 3, 1
    state = core.initial_state(batch)
    recorder = TapeRecorder(name, 0, core.weights(state), batch_row=row)
    live, plain = [], core.initial_state(batch)
    with torch.no_grad():
        for t in range(40):
            x = torch.randn(batch, 6, dtype=dtype)
            output, state = core.step(x, state, record=True)
            quiet, plain = core.step(x, plain, record=False)
            # The recorder is passive: the same features and the same state, bit for bit, without it.
            torch.testing.assert_close(output.features, quiet.features, rtol=0, atol=0)
            for ours, theirs in zip(state, plain, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
            live.append([w[row].numpy().copy() for w in core.weights(state)])
            add_row(recorder, output.record, t, np.random.default_rng(t))
    tape = recorder.tape()
    for t, rebuilt in enumerate(walk_weights(tape)):
        for ours, theirs in zip(rebuilt, live[t], strict=True):
            np.testing.assert_allclose(ours, theirs, atol=tolerance, rtol=0)
        memory = tape.written()
        hidden = np.tanh(memory.read_key[t] @ rebuilt[0].T)
        np.testing.assert_allclose(hidden, memory.read_hidden[0][t], atol=10 * tolerance)
        read = (np.tanh(hidden @ rebuilt[1].T) @ rebuilt[2].T).mean(0)
        np.testing.assert_allclose(read, memory.value_read[t], atol=10 * tolerance)


def test_shapes_are_as_documented():
    tape, _ = random_tape(heads=3, steps=7, size=8, hidden=5, rule="g")
    memory = tape.written()
    assert [w.shape for w in memory.initial_weights] == [(5, 8), (5, 5), (8, 5)]
    assert [z.shape for z in memory.write_inputs] == [(7, 3, 8), (7, 3, 5), (7, 3, 5)]
    assert [u.shape for u in memory.write_steps] == [(7, 3, 5), (7, 3, 5), (7, 3, 8)]
    assert memory.target_value.shape == memory.read_key.shape == (7, 3, 8)
    assert [z.shape for z in memory.read_hidden] == [(7, 3, 5)] * 2
    assert (memory.beta.shape, memory.value_read.shape) == ((7,), (7, 8))
    assert tape.observation["obs"].shape == (7, 3)
    assert tape.logits.shape == (7, 4)
    assert tape.agent_cell.shape == tape.goal_cell.shape == (7, 2)
    assert tape.goal_cell.tolist() == [[-1, -1]] * 7
    assert tape.is_first.tolist() == [True] + [False] * 6
    assert tape.steps == 7


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_save_and_load_round_trip(tmp_path, dtype):
    tape, _ = random_tape(heads=2, dtype=dtype)
    tape.save(tmp_path / "tape.npz")
    assert_same_tape(tape, Tape.load(tmp_path / "tape.npz"))
    assert [file.name for file in tmp_path.iterdir()] == ["tape.npz"]
    with np.load(tmp_path / "tape.npz", allow_pickle=False) as archive:
        assert all(archive[name].dtype != object for name in archive.files)


@pytest.mark.parametrize(("name", "rule"), [("mnm-p", "local"), ("mnm-g", "gradient"), ("lstm", None)])
def test_the_write_rule_survives_a_file(tmp_path, name, rule):
    core = make_core(CoreConfig(name=name, hidden_size=6, memory_size=4), input_size=3)
    state, writes = core.initial_state(1), core.writes
    recorder = TapeRecorder(name, 0, core.weights(state) if writes else None, rule=write_rule_of(core))
    output, _ = core.step(torch.ones(1, 3), state, record=True)
    add_row(recorder, output.record, 0, np.random.default_rng(0))
    tape = recorder.tape()
    tape.save(tmp_path / "tape.npz")
    loaded = Tape.load(tmp_path / "tape.npz")
    assert_same_tape(tape, loaded)
    assert (loaded.memory.rule.name if loaded.memory else None) == rule
    if rule == "local":
        np.testing.assert_array_equal(
            loaded.written().rule.feedback_weight, core.memory.rule.predict_targets.weight.detach().numpy()
        )


def test_a_core_without_memory_makes_a_tape_without_memory(tmp_path):
    recorder = TapeRecorder("lstm", 5)
    for t in range(3):
        add_row(recorder, None, t, np.random.default_rng(t))
    tape = recorder.tape()
    tape.save(tmp_path / "tape.npz")
    loaded = Tape.load(tmp_path / "tape.npz")
    assert_same_tape(tape, loaded)
    assert (loaded.memory, loaded.core, loaded.seed) == (None, "lstm", 5)
    with pytest.raises(UserError, match="'lstm' has no write memory"):
        weights_at(loaded, 0)


def test_files_that_are_no_tape_are_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match="no tape at"):
        Tape.load(tmp_path / "missing.npz")
    whole = tmp_path / "whole.npz"
    random_tape()[0].save(whole)
    bad = {
        "text.npz": b"not a zip file",
        "empty.npz": b"",
        "cut.npz": whole.read_bytes()[:500],
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=r"is not a tape") as caught:
            Tape.load(tmp_path / name)
        assert "\n" not in str(caught.value)
    np.savez(tmp_path / "pickle.npz", header=np.array([{}], dtype=object))
    with pytest.raises(UserError, match="is not a tape"):
        Tape.load(tmp_path / "pickle.npz")
    with pytest.raises(UserError, match="does not exist"):
        random_tape()[0].save(tmp_path / "nowhere" / "tape.npz")


def test_recorder_refuses_what_would_spoil_a_tape():
    memory = ReferenceMemory()
    record, _ = memory.step(memory.draw(), memory.draw(), 0.5, memory.draw())
    recorder = TapeRecorder("mnm-p", 0, [batch_of_one(w) for w in memory.start])
    with pytest.raises(ValueError, match="without steps"):
        recorder.tape()
    add_row(recorder, record, 0, memory.rng)
    with pytest.raises(ValueError, match="a reset closes the tape"):
        add_row(recorder, record, 0, memory.rng)
    with pytest.raises(ValueError, match="memory record"):
        add_row(recorder, None, 1, memory.rng)
    half = map_tensors(torch.Tensor.half, record)
    with pytest.raises(IndexError, match="rows 0 to 0"):
        weights_at(recorder.tape(), 1)
    add_row(recorder, half, 1, memory.rng)
    with pytest.raises(ValueError, match="half precision"):
        recorder.tape()
    fresh = TapeRecorder("mnm-p", 0, [batch_of_one(w) for w in memory.start])
    with pytest.raises(ValueError, match="half precision"):
        add_row(fresh, half, 0, memory.rng)


@pytest.mark.parametrize("implementation", ["plain", "fused", "compiled"])
@pytest.mark.parametrize("name", ["mnm-p", "mnm-g"])
def test_no_core_writes_to_a_record_that_it_has_given_out(name, implementation):
    if implementation == "compiled" and not kernel_for(torch.zeros(1)):
        pytest.skip("the compiled kernel cannot be built here")
    core = make_core(
        CoreConfig(name=name, hidden_size=6, memory_size=4, heads=2, implementation=implementation), 3
    )
    state, given, kept = core.initial_state(2), [], []
    with torch.no_grad():
        for _ in range(4):
            output, state = core.step(torch.randn(2, 3), state, record=True)
            given.append(output.record)
            kept.append(map_tensors(torch.clone, output.record))
    for ours, theirs in zip(given, kept, strict=True):
        torch.testing.assert_close(tuple(ours), tuple(theirs), rtol=0, atol=0)
    assert not torch.equal(given[0].value_read, given[1].value_read)


@pytest.mark.parametrize("name", ["mnm-p", "mnm-g"])
def test_packed_records_unpacked_together_are_those_of_each_step(name):
    if not kernel_for(torch.zeros(1)):
        pytest.skip("the compiled kernel cannot be built here")
    core = make_core(
        CoreConfig(name=name, hidden_size=6, memory_size=4, heads=2, implementation="compiled"), 3
    )
    state, given = core.initial_state(2), []
    with torch.no_grad():
        for _ in range(3):
            output, state = core.step(torch.randn(2, 3), state, record=True)
            given.append(output.record)
    assert all(isinstance(record, PackedRecord) for record in given)
    together = PackedRecord.stacked(given)
    for t, record in enumerate(given):
        torch.testing.assert_close(
            map_tensors(lambda part, t=t: part[t], together), record.unpacked(), rtol=0, atol=0
        )
    assert not torch.equal(together.beta[0], together.beta[1])
