"""The results page is made from committed CSV files alone, and keeps what failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.files import read_csv, write_csv
from benchmarks.common import ROOT
from benchmarks.report import results
from benchmarks.studies import train_studies
from benchmarks.studies.studies import STUDIES, Study
from envs.errors import UserError

STUDY = Study(
    "tiny", "A tiny task", "maze", "mnm/GridMaze9-v0", 1_000, cores=("none", "lstm", "gru", "mnm-p")
)
FIXTURE = """\
study,core,seed,frames,frames_before,wall_s,finished,frames_to_0.5,wall_s_to_0.5,frames_to_0.9,wall_s_to_0.9,\
frames_to_0.98,wall_s_to_0.98,success_greedy,return_greedy,length_greedy,episodes_greedy,success_sample,\
return_sample,length_sample,episodes_sample,commit,options
tiny,none,0,1000000,0,60,True,,,,,,,0.5,0.4,10,1000,0.5,0.4,10,1000,abc,--core none
tiny,lstm,0,1000000,0,600,True,200000,120,400000,240,500000,300,0.99,0.9,10,1000,0.98,0.9,10,1000,abc,--core lstm
tiny,lstm,1,400000,0,240,False,,,,,,,,,,,,,,,abc,--core lstm
tiny,mnm-p,0,1000000,0,900,True,100000,90,200000,180,300000,270,1,0.97,10,1000,0.99,0.96,10,1000,abd,--core mnm-p
"""
CURVES = "core,seed,frames,wall_s,success\n" + "".join(
    f"{core},0,{f},1,{f / 1e6}\n" for core in ("none", "lstm", "mnm-p") for f in (250_000, 500_000, 1_000_000)
)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(STUDIES, "tiny", STUDY)
    (tmp_path / "tiny.csv").write_text(FIXTURE)
    (tmp_path / "tiny_curves.csv").write_text(CURVES)
    (tmp_path / "prose").mkdir()
    (tmp_path / "pages").mkdir()
    prose_of(tmp_path).write_text("# Results\n\n{{tiny}}\n")
    return tmp_path


def prose_of(data: Path) -> Path:
    return data / "prose" / "page.md"


def build(data: Path) -> str:
    pages = data / "pages"
    results.main(["--data", str(data), "--prose", str(data / "prose"), "--pages", str(pages)])
    return (pages / "page.md").read_text()


def test_the_page_holds_every_run_the_unfinished_and_the_missing_ones_too(data: Path) -> None:
    page = build(data)
    assert "| none | 1.00 M | 0.500 | 0.500 | 0.469 to 0.531 |" in page
    assert "| never / never / never | never |" in page
    lstm = next(line for line in page.splitlines() if line.startswith("| lstm"))
    assert "(1 of 2 unfinished)" in lstm
    assert "0.990, unfinished" in lstm
    assert "0.50 M (1 never)" in lstm
    assert "| gru | not run |" in page
    assert "Commits of the runs: abc, abd." in page
    assert (data / "pages" / "results" / "tiny.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_files_give_the_same_page(data: Path) -> None:
    assert build(data) == build(data)


def test_a_return_study_reports_intervals_over_seeds_and_the_probability_of_improvement(
    data: Path,
) -> None:
    rows = read_csv(data / "tiny.csv")
    lines = results.return_row("mnm-p", [rows[3]], rows).split(" | ")
    assert lines[7] == "1.00"
    assert results.return_row("lstm", rows[1:3], rows).split(" | ")[7] == "-"


@pytest.mark.slow
def test_runs_from_an_uncommitted_tree_are_marked_and_counted(data: Path) -> None:
    assert "†" not in build(data)
    (data / "tiny.csv").write_text(FIXTURE.replace("1000,abd,", "1000,abd-dirty,"))
    prose_of(data).write_text("{{uncommitted}}\n\n{{tiny}}\n")
    page = build(data)
    assert [line.split(" |")[0] for line in page.splitlines() if line.startswith("|") and "†" in line] == [
        "| mnm-p †"
    ]
    assert "1 of the 4\nruns" in page


@pytest.mark.slow
@pytest.mark.parametrize("name", ["results", "results_archive"])
def test_the_committed_pages_are_those_of_the_committed_files(name: str) -> None:
    text = results.PROSE / f"{name}.md"
    assert results.page_text(text, results.STUDY_FILES) == (ROOT / "docs" / f"{name}.md").read_text()


def test_every_study_is_on_a_page() -> None:
    prose = "".join(path.read_text() for path in results.PROSE.glob("*.md"))
    assert [name for name in STUDIES if f"{{{{{name}}}}}" not in prose] == []


def test_an_unknown_study_in_the_text_is_named(data: Path) -> None:
    prose_of(data).write_text("{{tinny}}")
    with pytest.raises(UserError, match=r"unknown study or table 'tinny' \(did you mean tiny"):
        build(data)


def test_tables_of_other_benchmarks_are_filled_in(data: Path) -> None:
    prose_of(data).write_text("{{forgetting}} and {{maze-ceiling}}")
    page = build(data)
    assert "| loses the written memory |" in page
    assert "| 11 | 225" in page


def test_no_two_cores_of_a_study_look_the_same() -> None:
    for study in STUDIES.values():
        assert len({results.look(study, place) for place in range(len(study.cores))}) == len(study.cores)


@pytest.mark.slow
def test_every_study_is_a_valid_training_command() -> None:
    from train_rl import read_command

    for study in STUDIES.values():
        for core in study.cores:
            config, _ = read_command(study.command(core, 0))
            assert (config.env, config.core, config.total_steps) == (
                study.env,
                core.split()[0],
                study.total_steps,
            )


def test_an_unknown_study_or_core_gives_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean maze-9"):
        train_studies.main(["maze9-ppo"])
    with pytest.raises(UserError, match=r"unknown core 'lstmm' \(did you mean lstm\?\)"):
        train_studies.main(["maze-9-ppo", "--cores", "lstmm", "--collect"])


def test_a_run_that_has_all_its_frames_is_evaluated_and_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second training command would write its own commit and date over those of the training."""
    monkeypatch.setattr(train_studies, "RUNS", tmp_path)
    run = train_studies.Run(STUDIES["t-maze-6"], "lstm", 0)

    def scripts() -> list[str]:
        return [command[1] for command in run.commands()]

    assert scripts() == ["train_rl.py", "evaluate.py", "evaluate.py"]
    run.path.mkdir(parents=True)
    (run.path / "metrics.csv").write_text(f"updates,frames\n1,{run.study.total_steps - 1}\n")
    assert scripts() == ["train_rl.py", "evaluate.py", "evaluate.py"]
    (run.path / "metrics.csv").write_text(f"updates,frames\n1,{run.study.total_steps}\n")
    assert scripts() == ["evaluate.py", "evaluate.py"]
    # A stage may end before its frames do, with enough success; an evaluation shows that it did.
    (run.path / "metrics.csv").write_text("updates,frames\n1,1000\n")
    run.evaluation("greedy").write_text("{}")
    assert scripts() == ["evaluate.py"]


def test_commas_in_options_survive_the_csv(tmp_path: Path) -> None:
    write_csv(tmp_path / "x.csv", [{"a": 1, "options": "--env-kwargs '{\"actions\": [0, 1]}'"}])
    assert read_csv(tmp_path / "x.csv") == [{"a": "1", "options": "--env-kwargs '{\"actions\": [0, 1]}'"}]
