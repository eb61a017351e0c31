"""A run directory can be started or continued whatever happened to it, by one process at a time."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checks import refusal, same
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_resume import SMALL

import train_rl
from agents.checkpoint import content_digest, load_checkpoint, save_checkpoint
from agents.config import TrainConfig
from agents.files import WriterLock
from agents.metrics import MetricsFile, parse_metrics, read_metrics
from agents.pretrained import load_published_weights
from agents.run_dir import RunDirectory
from agents.trainer import Trainer
from envs.errors import Stopped, UserError

ROOT = Path(__file__).resolve().parents[2]
MAZE: dict[str, Any] = {**SMALL, "env": "mnm/GridMaze9-v0", "core": "none"}
PER_UPDATE = SMALL["num_envs"] * SMALL["rollout_steps"]


def argv(run: Path, updates: int, **more: Any) -> list[str]:
    options = {**MAZE, **more, "run_dir": run, "total_steps": updates * PER_UPDATE}
    return [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three updates, a checkpoint of each."""
    run = tmp_path_factory.mktemp("runs") / "run"
    assert train_rl.main(argv(run, 3, checkpoint_every=1, keep_checkpoints=3)) == 0
    return run


def copy_of(run: Path, place: Path) -> Path:
    return Path(shutil.copytree(run, place / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("left", [[], [".lock"], [".lock", ".config.json.x.part"], ["config.json"],
                                  ["config.json", ".lock", "checkpoints/.latest.pt.x.part"]])  # fmt: skip
def test_what_a_start_killed_at_any_instant_leaves_is_started_by_the_same_command(
    left: list[str], trained: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for name in left:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes((trained / name).read_bytes() if name == "config.json" else b"half")
    if "config.json" in left:
        assert train_rl.read_command(["--resume", "--run-dir", str(run)])[1].resume is False
    assert train_rl.main([*argv(run, 1), "--resume-or-start"]) == 0
    assert load_checkpoint(run / "checkpoints" / "latest.pt")["updates"] == 1
    assert not list(run.rglob("*.part"))
    assert "exists; continue it with --resume" in refusal(train_rl.main, *argv(run, 1))


def test_the_command_of_a_run_from_before_an_option_continues_it(tmp_path: Path) -> None:
    run, older = tmp_path / "run", {"normalize_observations": "off", "encoder": "bytes"}
    assert train_rl.main([*argv(run, 1, **older), "--no-normalize-rewards"]) == 0
    stored = json.loads((run / "config.json").read_text())
    for name in (*older, "normalize_rewards"):
        del stored["config"][name]
    (run / "config.json").write_text(json.dumps(stored))
    assert "--normalize-rewards from False" in refusal(
        train_rl.main, *argv(run, 2), "--normalize-rewards", "--resume-or-start"
    )
    assert train_rl.main([*argv(run, 2), "--resume-or-start"]) == 0
    assert load_checkpoint(run / "checkpoints" / "latest.pt")["updates"] == 2


def test_a_finished_run_keeps_the_commit_that_trained_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    assert train_rl.main(argv(run, 1)) == 0
    before = (run / "config.json").read_text()
    monkeypatch.setattr("agents.run_dir.source_commit", lambda: "0123abc")
    assert train_rl.main([*argv(run, 1), "--resume-or-start"]) == 0
    assert (run / "config.json").read_text() == before
    assert train_rl.main([*argv(run, 2), "--resume-or-start"]) == 0
    assert json.loads((run / "config.json").read_text())["commit"] == "0123abc"


def _hold(path: Path, ready: Any) -> None:
    lock = WriterLock(path)
    assert lock.take() is None
    ready.set()
    multiprocessing.Event().wait()


def test_a_second_writer_is_refused_by_name_and_a_dead_one_does_not_block(
    trained: Path, tmp_path: Path
) -> None:
    run = copy_of(trained, tmp_path)
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(run / ".lock", ready), daemon=True)
    holder.start()
    assert ready.wait(20)
    line = refusal(train_rl.main, "--resume", "--run-dir", str(run))
    assert f"is being written by process {holder.pid} on " in line
    holder.kill()
    holder.join()
    assert train_rl.main(["--resume", "--run-dir", str(run)]) == 0


DAMAGE: dict[str, Any] = {
    "half a row": lambda text: text[:-9],
    "NUL bytes": lambda text: text + b"\0" * 40 + b"\n",
    "a column short": lambda text: text + b"4,5,6\n",
    "garbage": lambda text: text + b"\xff\xfe,\x80" + b"x," * 30 + b"\n",
    "text in a cell": lambda text: text + text.split(b"\n")[1].replace(b",", b",x", 1) + b"\n",
    "rows twice": lambda text: text + b"\n".join(text.split(b"\n")[1:]),
    "no newline at the end": lambda text: text.rstrip(b"\n"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_log_never_stops_a_resume(kind: str, trained: Path, tmp_path: Path) -> None:
    run = copy_of(trained, tmp_path)
    path = run / "metrics.csv"
    path.write_bytes(DAMAGE[kind](path.read_bytes()))
    assert train_rl.main(["--resume", "--run-dir", str(run), f"--total-steps={4 * PER_UPDATE}"]) == 0
    expected = [1, 2, 4] if kind in ("half a row", "no newline at the end") else [1, 2, 3, 4]
    assert [row["updates"] for row in read_metrics(path)] == expected
    assert parse_metrics(path).dropped == 0


@pytest.mark.parametrize(
    "content", [b"", b"\0\0\0", b"nonsense\n1\n", b"updates,updates\n1,1\n", bytes(range(256))]
)
def test_a_log_without_a_header_is_put_aside(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    file = MetricsFile(path)
    said = file.forget_after(5)
    file.append({"updates": 6, "x": 0.5})
    assert read_metrics(path) == [{"updates": 6, "x": 0.5}]
    assert bool(said) == (tmp_path / "metrics.csv.damaged").exists()
    if said:
        assert (tmp_path / "metrics.csv.damaged").read_bytes() == content


def test_columns_follow_the_header_and_new_ones_are_added(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("updates,b,a\n1,2,3\n")
    file = MetricsFile(path)
    file.append({"updates": 2, "a": 5.0, "b": 4.0})
    file.append({"updates": 3, "a": 7.0, "new": 1.0})
    assert path.read_text() == "updates,b,a,new\n1,2,3,\n2,4,5,\n3,,7,1\n"


def test_a_log_that_is_a_link_is_not_written_through(trained: Path, tmp_path: Path) -> None:
    run, outside = copy_of(trained, tmp_path), tmp_path / "outside.csv"
    outside.write_bytes((run / "metrics.csv").read_bytes())
    before = outside.read_bytes()
    (run / "metrics.csv").unlink()
    (run / "metrics.csv").symlink_to(outside)
    assert "not a regular file" in refusal(train_rl.main, "--resume", "--run-dir", str(run))
    assert outside.read_bytes() == before


def test_tensorboard_has_every_point_once(trained: Path, tmp_path: Path) -> None:
    """Rows logged after the checkpoint from which the run goes on are drawn as they were made again."""
    run = copy_of(trained, tmp_path)
    checkpoints = run / "checkpoints"
    os.replace(checkpoints / "previous-2.pt", checkpoints / "latest.pt")  # of update 1; 2 and 3 were logged
    assert train_rl.main(["--resume", "--run-dir", str(run), f"--total-steps={5 * PER_UPDATE}"]) == 0
    found = EventAccumulator(str(run))
    found.Reload()
    steps = [event.step for event in found.Scalars("charts/fps")]
    assert steps == [PER_UPDATE * update for update in (1, 2, 3, 4, 5)]


def flipped(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


@pytest.mark.slow
def test_a_flipped_bit_is_refused_or_changes_nothing(trained: Path, tmp_path: Path) -> None:
    path, rng = tmp_path / "x.pt", random.Random(0)
    whole = (trained / "checkpoints" / "latest.pt").read_bytes()
    expected, refused = load_checkpoint(trained / "checkpoints" / "latest.pt"), 0
    for _ in range(100):
        path.write_bytes(flipped(whole, rng))
        try:
            assert same(load_checkpoint(path), expected)
        except UserError:
            refused += 1
    assert refused > 50


def test_a_flipped_bit_in_published_weights_is_refused(tmp_path: Path) -> None:
    rng, source = random.Random(0), ROOT / "pretrained" / "maze-lstm"
    whole, target = (source / "model.safetensors").read_bytes(), tmp_path / "model.safetensors"
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    target.write_bytes(whole)
    weights, frames = load_published_weights(target)
    for _ in range(30):
        target.write_bytes(flipped(whole, rng))
        with pytest.raises(UserError, match=r"is damaged|truncated"):
            load_published_weights(target)
    target.write_bytes(whole)
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored["weights_sha256"]  # as agents were published before
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert same(list(load_published_weights(target)), [weights, frames])


def test_a_checkpoint_without_checksum_still_loads(tmp_path: Path) -> None:
    torch.save({"format": 1, "model": {"w": torch.ones(2)}}, tmp_path / "x.pt")
    assert same(load_checkpoint(tmp_path / "x.pt")["model"], {"w": torch.ones(2)})
    torch.save({"format": 2, "model": {"w": torch.ones(2)}}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="does not match its checksum"):
        load_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("odd", ["x", torch.zeros(3), torch.zeros(0), None, True, 99])
def test_a_checkpoint_of_no_known_format_is_refused(odd: object, tmp_path: Path) -> None:
    torch.save({"format": odd, "model": {"w": torch.ones(2)}}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="checkpoint format"):
        load_checkpoint(tmp_path / "x.pt")


def test_a_checksum_hangs_on_values_and_not_on_strides() -> None:
    number = torch.ones(9, 9)[:1, :1].T.reshape(-1)
    strange = torch.as_strided(number, (1,), (9,))
    assert content_digest(strange) == content_digest(torch.ones(1)) != content_digest(torch.zeros(1))


def test_as_many_checkpoints_are_kept_as_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "latest.pt"
    for update in range(5):
        save_checkpoint(path, {"model": {}, "updates": update}, keep=3)
    held = {p.name: load_checkpoint(p)["updates"] for p in path.parent.iterdir()}
    assert held == {"latest.pt": 4, "previous-1.pt": 3, "previous-2.pt": 2}
    save_checkpoint(path, {"model": {}, "updates": 5}, keep=1)
    assert [p.name for p in path.parent.iterdir()] == ["latest.pt"]


@pytest.mark.parametrize("harm", ["truncated", "flipped", "missing", "not finite"])
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    harm: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_of(trained, tmp_path)
    latest = run / "checkpoints" / "latest.pt"
    data = latest.read_bytes()
    if harm == "missing":
        latest.unlink()
    elif harm == "not finite":
        content = load_checkpoint(latest)
        content["model"]["policy_head.bias"][0] = float("nan")
        torch.save({**content, "format": 1}, latest)
    else:
        weights = load_checkpoint(latest)["model"]["policy_head.weight"].numpy().tobytes()
        place = data.index(weights) + 5
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        latest.write_bytes(data[: len(data) // 2] if harm == "truncated" else changed)
    assert train_rl.main(["--resume", "--run-dir", str(run)]) == 0
    assert "continuing from previous-1.pt, update 2" in capsys.readouterr().out.replace("\n", " ")
    assert same(
        load_checkpoint(latest)["model"], load_checkpoint(trained / "checkpoints" / "latest.pt")["model"]
    )
    assert [row["updates"] for row in read_metrics(run / "metrics.csv")] == [1, 2, 3]


def test_a_damaged_latest_names_the_checkpoint_before_it(trained: Path, tmp_path: Path) -> None:
    run = copy_of(trained, tmp_path)
    (run / "checkpoints" / "latest.pt").write_bytes(b"no")
    with pytest.raises(UserError, match=r"the checkpoint before it: .*previous-1\.pt"):
        load_checkpoint(run / "checkpoints" / "latest.pt")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"\xff\xfe", "is damaged"),
        (b"[1]", "holds no configuration"),
        (b'{"config": 3}', "holds no configuration"),
        (b"[" * 100_000, "is damaged"),
        (b'{"config": {"seed": null}}', "seed must be a whole number, got None"),
        (b'{"config": {"hidden_size": 1.5}}', "hidden_size must be a whole number, got 1.5"),
        (b'{"config": {"hidden_size": true}}', "hidden_size must be a whole number, got True"),
        (b'{"config": {"anneal": 1}}', "anneal must be true or false, got 1"),
        (b'{"config": {"env": ["x"]}}', "env must be text"),
        (b'{"config": {"algo": "sac"}}', "algo must be one of ppo, a2c"),
        (b'{"config": {"seed": ' + b"1" * 5000 + b"}}", "is damaged"),
        (b'{"config": {"num_envs": 0}}', "--num-envs must be at least 1"),
    ],
)
def test_a_damaged_configuration_is_refused_in_one_line(text: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(UserError, match=r"config\.json") as caught:
        RunDirectory(tmp_path).read_config(TrainConfig)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "gone", ["learner", "collector", "action_generator", "updates", "wall_s", "best_return"]
)
def test_a_checkpoint_that_lacks_a_part_is_refused_in_one_line(
    gone: str, trained: Path, tmp_path: Path
) -> None:
    run = copy_of(trained, tmp_path)
    path = run / "checkpoints" / "latest.pt"
    content = load_checkpoint(path)
    for name, value in {"absent": None, "of another kind": "x"}.items():
        changed = {**content, gone: value}
        if name == "absent":
            del changed[gone]
        for old in path.parent.glob("previous-*"):
            old.unlink()
        torch.save({**changed, "format": 1}, path)
        assert str(path) in refusal(train_rl.main, "--resume", "--run-dir", str(run))


def test_nothing_is_written_where_a_run_was_deleted_or_renamed(trained: Path, tmp_path: Path) -> None:
    run = copy_of(trained, tmp_path)
    trainer = Trainer(TrainConfig(**{**MAZE, "run_dir": str(run), "total_steps": 10**6}), resume=True)
    os.replace(run, tmp_path / "elsewhere")
    trainer.updates += 1
    with pytest.raises(Stopped, match="was deleted or renamed"):
        trainer.save()
    with pytest.raises(UserError, match=r"does not exist|was deleted or renamed"):
        trainer.directory.log({"updates": 9})
    trainer.close()
    assert not run.exists()
