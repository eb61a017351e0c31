"""Every table and curve of the results pages, from the committed CSV files alone.

    python -m benchmarks.report.results    writes docs/results.md, docs/results_archive.md and docs/results/*.png

It trains nothing and loads no agent: benchmarks/results/studies/NAME.csv has a row per run and
NAME_curves.csv its learning curve; benchmarks/studies/train_studies.py makes both. Failed and unfinished runs are
rows like all others. The prose of a page is the file of its name in benchmarks/report/prose, where `{{NAME}}` stands
for the table and figure of a study, for the table of another benchmark (TABLES), or, as `{{uncommitted}}`, for what
the dagger in the tables means.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from agents.curves import save_figure
from agents.evaluation import bootstrap_interval
from agents.files import Row, read_csv, write_text
from agents.options import option, parse, run_command, suggestion
from benchmarks.common import CORE_COLOURS, DAGGER, DIRTY, RESULTS_DIR, ROOT, marked
from benchmarks.report.seed_statistics import interquartile_mean, probability_of_improvement, wilson
from benchmarks.studies import maze_ceiling, memory_deletion, success_by_start
from benchmarks.studies.studies import STUDIES, Study
from envs.errors import UserError

STUDY_FILES = RESULTS_DIR / "studies"
PROSE = Path(__file__).with_name("prose")
FIGURES = "results"
"""Directory of the figures, beside the pages."""

OWN_CORE_COLOUR = "#cc79a7"
VARIANT_COLOURS = ("#d55e00", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#0072b2", "#000000", "#999999")
VARIANT_LINES = ("-", "--", ":")
"""For studies that compare many variants of a core, in their order: all colours with one line after the other."""

TABLES = {
    "forgetting": memory_deletion.table,
    "maze-ceiling": maze_ceiling.table,
    "memory-starts": success_by_start.table,
}
"""Tables of other benchmarks, from their own CSV files."""


@dataclass(frozen=True)
class ResultsConfig:
    """Options of the command."""

    data: str = option(str(STUDY_FILES), "directory of the CSV files", metavar="DIR")
    prose: str = option(
        str(PROSE), "directory of the pages' prose, with {{STUDY}} where a study belongs", metavar="DIR"
    )
    pages: str = option(str(ROOT / "docs"), "directory of the pages to write", metavar="DIR")


def numbers(rows: Sequence[Row], column: str) -> list[float]:
    """The column of the rows that have a value there."""
    return [float(row[column]) for row in rows if row.get(column)]


def table(study: Study, rows: Sequence[Row]) -> str:
    """One row per core: held-out figures of every seed, their mean with its interval, and time to success."""
    successes = study.figure == "success"
    lines = [SUCCESS_HEAD if successes else RETURN_HEAD]
    for core in study.cores:
        found = [row for row in rows if row["core"] == core]
        if found:
            lines.append(success_row(core, found) if successes else return_row(core, found, rows))
    missing = [core for core in study.cores if not any(row["core"] == core for row in rows)]
    lines += [f"| {core} | not run |" for core in missing]
    return "\n".join(lines)


SUCCESS_HEAD = (
    "| core | frames | success, greedy | each seed | 95% | success, sampled | return | "
    "frames to 0.5 / 0.9 / 0.98 | minutes of this stage to 0.98 |\n|---|---|---|---|---|---|---|---|---|"
)


def success_row(core: str, rows: Sequence[Row]) -> str:
    """Success on held-out levels; the interval is Wilson's over all episodes of one seed, else over seeds."""
    greedy, sampled = numbers(rows, "success_greedy"), numbers(rows, "success_sample")
    if len(greedy) == 1:
        episodes = int(rows[0]["episodes_greedy"])
        low, high = wilson(round(greedy[0] * episodes), episodes)
    else:
        low, high = bootstrap_interval(np.array(greedy)) if greedy else (math.nan, math.nan)
    reach = " / ".join(
        times(rows, f"frames_to_{x}", 1e6, "M", "frames_before") for x in ("0.5", "0.9", "0.98")
    )
    return (
        f"| {marked(core, rows)} | {frames(rows)} | {mean(greedy, 3)} | {each(rows, 'success_greedy', 3)} | "
        f"{low:.3f} to {high:.3f} | {mean(sampled, 3)} | {mean(numbers(rows, 'return_greedy'), 3)} | "
        f"{reach} | {times(rows, 'wall_s_to_0.98', 60.0, '')} |"
    )


RETURN_HEAD = (
    "| core | frames | return, sampled | each seed | 95% over seeds | interquartile mean | return, greedy | "
    "P(better than lstm) | minutes |\n|---|---|---|---|---|---|---|---|---|"
)


def return_row(core: str, rows: Sequence[Row], all_rows: Sequence[Row]) -> str:
    """Return on held-out episodes, and the probability that a run of this core beats one of the LSTM."""
    sampled = numbers(rows, "return_sample")
    lstm = numbers([row for row in all_rows if row["core"] == "lstm"], "return_sample")
    better = f"{probability_of_improvement(sampled, lstm):.2f}" if sampled and lstm else "-"
    low, high = bootstrap_interval(np.array(sampled)) if sampled else (math.nan, math.nan)
    of_seed, of_mean = (
        (0, 1) if max(map(abs, numbers(all_rows, "return_sample")), default=0.0) >= 10.0 else (2, 2)
    )
    interval = f"{low:.{of_mean}f} to {high:.{of_mean}f}" if len(sampled) > 1 else "-"
    middle = f"{interquartile_mean(sampled):.{of_mean}f}" if sampled else "-"
    return (
        f"| {marked(core, rows)} | {frames(rows)} | {mean(sampled, of_mean)} | "
        f"{each(rows, 'return_sample', of_seed)} | "
        f"{interval} | {middle} | {mean(numbers(rows, 'return_greedy'), of_mean)} | "
        f"{'-' if core == 'lstm' else better} | {mean([s / 60.0 for s in numbers(rows, 'wall_s')], 0)} |"
    )


def mean(values: Sequence[float], digits: int) -> str:
    """The mean as text; a dash where there is nothing."""
    return f"{np.mean(values):.{digits}f}" if values else "-"


def each(rows: Sequence[Row], column: str, digits: int) -> str:
    """The value of every seed; `unfinished` where the run has none."""
    return ", ".join(f"{float(row[column]):.{digits}f}" if row[column] else "unfinished" for row in rows)


def frames(rows: Sequence[Row]) -> str:
    """Frames of the runs, those of earlier stages included; a range where they differ."""
    counts = sorted(int(row["frames"]) + int(row["frames_before"]) for row in rows)
    text = (
        f"{counts[0] / 1e6:.2f} M"
        if counts[-1] - counts[0] < 1e5
        else (f"{counts[0] / 1e6:.2f} to {counts[-1] / 1e6:.2f} M")
    )
    unfinished = sum(row["finished"] != "True" for row in rows)
    return f"{text} ({unfinished} of {len(rows)} unfinished)" if unfinished else text


def times(rows: Sequence[Row], column: str, unit: float, name: str, before: str = "") -> str:
    """Mean over the seeds that got there, what came `before` added, and how many did not."""
    found = [float(row[column]) + float(row[before] if before else 0) for row in rows if row[column]]
    if not found:
        return "never"
    late = len(rows) - len(found)
    return f"{np.mean(found) / unit:.2f} {name}".strip() + (f" ({late} never)" if late else "")


def look(study: Study, place: int) -> tuple[str, str]:
    """Colour and line of the core at this place of the study."""
    kinds = [core.split()[0] for core in study.cores]
    # A core keeps its colour everywhere, and its few variants differ by their line.
    if max(map(kinds.count, kinds)) <= len(VARIANT_LINES) and len(set(kinds) - set(CORE_COLOURS)) <= 1:
        line = VARIANT_LINES[kinds[:place].count(kinds[place])]
        return CORE_COLOURS.get(kinds[place], OWN_CORE_COLOUR), line
    turn, number = divmod(place, len(VARIANT_COLOURS))
    return VARIANT_COLOURS[number], VARIANT_LINES[turn]


def draw(study: Study, rows: Sequence[Row], path: Path) -> None:
    """Learning curves: every seed thin, the mean over seeds thick; a run that ended keeps its last value there."""
    figure = Figure(figsize=(7.4, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for place, core in enumerate(study.cores):
        colour, line = look(study, place)
        seeds = sorted({row["seed"] for row in rows if row["core"] == core})
        curves = []
        for seed in seeds:
            of_run = [row for row in rows if row["core"] == core and row["seed"] == seed]
            x, y = np.array(numbers(of_run, "frames")) / 1e6, np.array(numbers(of_run, study.figure))
            axes.plot(x, y, line, color=colour, linewidth=0.7, alpha=0.5)
            curves.append((x, y))
        if curves:
            grid = np.linspace(max(x[0] for x, _ in curves), max(x[-1] for x, _ in curves), 100)
            middle = np.mean([np.interp(grid, x, y) for x, y in curves], axis=0)
            axes.plot(grid, middle, line, color=colour, linewidth=2.2, label=f"{core} ({len(seeds)})")
    axes.set_xlabel("frames (millions)")
    axes.set_ylabel("success of training episodes" if study.figure == "success" else "training return")
    axes.set_title(study.title, fontsize=10)
    axes.grid(alpha=0.3)
    if study.figure == "success":
        axes.set_ylim(0.0, 1.02)
    # Beside the curves: inside it hides some of them in one figure or the other.
    axes.legend(
        fontsize=8,
        title="core (seeds)",
        title_fontsize=8,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        frameon=False,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, path)


def block(study: Study, data: Path) -> str:
    """The table of a study, its figure and the command of its first run."""
    rows = read_csv(study.rows_in(data))
    if not rows:
        return "Not run yet."
    commits = ", ".join(sorted({row["commit"] for row in rows}))
    return "\n\n".join(
        (
            table(study, rows),
            f"![{study.title}: learning curves]({FIGURES}/{study.name}.png)",
            f"`python -m benchmarks.studies.train_studies {study.name}`; one run of it: `python train_rl.py "
            f"{rows[0]['options']}`. Commits of the runs: {commits}.",
        )
    )


def uncommitted(data: Path) -> str:
    """What the dagger means, and how many runs of the studies it stands for."""
    commits = [row["commit"] for study in STUDIES.values() for row in read_csv(study.rows_in(data))]
    dirty = sum(commit.endswith(DIRTY) for commit in commits)
    return (
        f"Rows marked{DAGGER} hold runs that were trained from an uncommitted tree ({dirty} of the {len(commits)}\n"
        f"runs of all studies; their commits end in `{DIRTY}`), so no commit describes them exactly; they will be "
        "trained\nagain."
    )


def page_text(text: Path, data: Path) -> str:
    """A page: its prose, with tables where they are named; raises UserError for a name that nothing has."""

    def fill(match: re.Match[str]) -> str:
        name = match.group(1)
        if name in TABLES:
            return TABLES[name]()
        if name == "uncommitted":
            return uncommitted(data)
        if name not in STUDIES:
            known = [*STUDIES, *TABLES, "uncommitted"]
            raise UserError(f"{text} names the unknown study or table {name!r}{suggestion(name, known)}")
        return block(STUDIES[name], data)

    return re.sub(r"\{\{([\w-]+)\}\}", fill, text.read_text())


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    config = parse(ResultsConfig(), argv, description=__doc__ or "")
    data, pages = Path(config.data), Path(config.pages)
    texts = sorted(Path(config.prose).glob("*.md"))
    if not texts:
        raise UserError(f"no prose in {config.prose}: give the directory of the pages' prose with --prose")
    for text in texts:
        write_text(pages / text.name, page_text(text, data))
        print(f"{pages / text.name} written")
    for study in STUDIES.values():
        if curves := read_csv(study.curves_in(data)):
            draw(study, curves, pages / FIGURES / f"{study.name}.png")
    return 0


if __name__ == "__main__":
    run_command(main)
