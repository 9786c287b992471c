"""Jobs become one table and one picture: groups over seeds, intervals, and files that equal results leave equal."""

import csv
import io
import itertools
import math
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import pytest

from simulations.sweeps.chart import COLOURS, MARKERS, draw, picture
from simulations.sweeps.groups import Figures, Job, Spread, grouped, varied
from simulations.sweeps.places import apart, epsilon_axis, epsilon_ticks
from simulations.sweeps.table import left_out, table_csv, table_md
from tests.sweeps import configured, job, made_up, write_usecase

GOLDEN = Path(__file__).parent / "golden"
COMMAND = "faelles-sim --multirun strategy=fedavg,fedadam privacy.epsilon=0.5,2,inf seed=1,2"
SVG = "{http://www.w3.org/2000/svg}"


def sweep() -> list[Job]:
    """Make up two strategies at three epsilons over two seeds; one job failed, one was incomplete."""
    missing = {2: "data.path=x: expected | a file", 5: "incomplete: 1 of 3"}
    jobs: list[Job] = []
    for strategy, base in (("fedavg", 0.75), ("fedadam", 0.78125)):
        for epsilon in ("0.5", "2", "inf"):
            for seed in (1, 2):
                auc = base + (0.0625 if epsilon == "inf" else float(epsilon) / 64) + seed / 256
                typed = {"strategy": strategy, "privacy__epsilon": epsilon, "seed": str(seed)}
                jobs.append(job(len(jobs), auc, float(epsilon) * 0.999, missing.get(len(jobs), ""), **typed))
    return jobs


def rows(jobs: Sequence[Job]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table_csv(grouped(jobs)))))


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)  # noqa: S314 - our own file


def test_an_interval_is_students() -> None:
    three = Spread.of([0.7, 0.8, 0.9])
    assert three is not None
    # t of two degrees of freedom is 4.302653 at 97.5 %; the deviation is 0.1
    assert three.mean == pytest.approx(0.8)
    assert three.count == 3
    assert three.half == pytest.approx(4.302653 * 0.1 / math.sqrt(3), abs=1e-7)
    two = Spread.of([0.5, None, 0.75])
    assert two is not None
    assert two.half == pytest.approx(12.706205 * 0.1767767 / math.sqrt(2), abs=1e-6)
    assert two.count == 2


def test_one_seed_has_no_interval_and_none_no_mean() -> None:
    assert Spread.of([0.5]) == Spread(mean=0.5, half=None, count=1)
    assert Spread.of([None, None]) is None
    assert Spread.of([]) is None


def test_groups_differ_in_what_varies_and_hold_all_seeds() -> None:
    jobs = sweep()
    assert varied(jobs) == ("strategy", "privacy.epsilon")
    groups = grouped(jobs)
    assert [tuple(group.settings.values()) for group in groups] == [
        (strategy, epsilon) for strategy in ("fedavg", "fedadam") for epsilon in ("0.5", "2", "inf")
    ]
    assert all(len(group.jobs) == 2 for group in groups)


def test_what_was_typed_and_never_varies_is_no_column() -> None:
    jobs = [job(number, 0.75, 1.0, usecase="income", seed=str(number)) for number in range(3)]
    assert varied(jobs) == ()
    (row,) = rows(jobs)
    assert (row["seeds"], row["auc_mean"], row["auc_low"]) == ("3", "0.750000", "0.750000")
    assert "usecase" not in row
    assert "seed" not in row


def test_figures_are_the_main_arms(tmp_path: Path) -> None:
    write_usecase(tmp_path)
    result = made_up(configured(tmp_path), auc=None, epsilon=None)
    assert Figures.of(result) == Figures(auc=None, log_loss=0.5, accuracy=0.5, epsilon=math.inf, seconds=3.25)


def test_what_is_undefined_is_empty_and_never_a_number() -> None:
    (row,) = rows([job(0, None, 1.0, seed="1"), job(1, None, 1.0, seed="2")])
    assert (row["auc_mean"], row["auc_low"], row["auc_high"]) == ("", "", "")
    assert row["log_loss_mean"] == "0.500000"
    (alone,) = rows([job(0, 0.5, math.inf, seed="1")])
    assert (alone["auc_mean"], alone["auc_low"], alone["epsilon"]) == ("0.500000", "", "inf")
    text = table_md(grouped([job(0, None, 1.0, seed="1"), job(1, 0.5, 1.0, seed="2")]), COMMAND)
    assert "0.5000 (1 of 2)" in text
    assert not re.search(r"nan|None", table_csv(grouped([job(0, None, 1.0)])) + text)


def test_jobs_without_figures_are_counted_and_named() -> None:
    groups = grouped(sweep())
    count, _, *lines = left_out(groups)
    assert count.startswith("2 of 12 jobs did not complete")
    assert lines == [
        "- strategy=fedavg privacy.epsilon=2 seed=1 (folder 2): data.path=x: expected | a file",
        "- strategy=fedavg privacy.epsilon=inf seed=2 (folder 5): incomplete: 1 of 3",
    ]
    assert [(row["seeds"], row["left_out"]) for row in rows(sweep())][:3] == [("2", "0"), ("1", "1"), ("1", "1")]


def test_a_group_of_which_no_job_completed_keeps_its_line() -> None:
    jobs = [job(0, 0.75, 1.0, rounds="1"), job(1, None, 1.0, "no", rounds="2")]
    assert [(row["rounds"], row["seeds"], row["auc_mean"], row["epsilon"]) for row in rows(jobs)] == [
        ("1", "1", "0.750000", "1.000000"),
        ("2", "0", "", ""),
    ]


@pytest.mark.parametrize("name", ["sweep.csv", "sweep.md", "sweep.svg"])
def test_equal_results_give_the_bytes_that_were_agreed(name: str) -> None:
    groups = grouped(sweep())
    written = {"sweep.csv": table_csv(groups), "sweep.md": table_md(groups, COMMAND), "sweep.svg": draw(groups)}[name]
    if os.environ.get("FAELLES_UPDATE_GOLDEN"):
        (GOLDEN / name).write_text(written, encoding="utf-8")
        pytest.skip("the golden file was written; look at it before it is agreed")
    assert written == (GOLDEN / name).read_text(encoding="utf-8"), "if it should differ: FAELLES_UPDATE_GOLDEN=1"


def test_the_picture_has_a_line_for_each_strategy_and_a_level_without_privacy() -> None:
    drawn = picture(grouped(sweep()))
    assert [line.name for line in drawn.lines] == ["fedavg", "fedadam"]
    assert len({line.colour for line in drawn.lines}) == len({line.marker for line in drawn.lines}) == 2
    assert [(len(line.marks), len(line.levels)) for line in drawn.lines] == [(2, 1), (2, 1)]
    assert drawn.y_label == "AUC, mean and 95 % interval"
    assert [tick.label for tick in drawn.x_ticks] == ["0.5", "1", "2"]
    first = drawn.lines[0]
    assert first.marks[0].bar
    assert not first.marks[1].bar  # one seed is left of the two
    assert first.marks[0].x < first.marks[1].x < first.levels[0].mark.x


def test_equal_distances_on_the_axis_are_equal_factors() -> None:
    axis = epsilon_axis([0.5, 1.0, 2.0], 0.0, 600.0)
    assert axis is not None
    assert axis.place(2.0) - axis.place(1.0) == pytest.approx(axis.place(1.0) - axis.place(0.5), abs=0.2)
    assert [tick.label for tick in epsilon_ticks(axis, [0.4999, 1.0, 1.9999])] == ["0.5", "1", "2"]


@pytest.mark.parametrize(
    ("spent", "expected"),
    [
        ([2.0], ["1", "2", "5"]),
        ([0.999, 1.0], ["0.5", "1", "2"]),
        ([1e-4, 1.0], ["0.0001", "0.001", "0.01", "0.1", "1"]),
    ],
)
def test_every_axis_has_several_figures(spent: list[float], expected: list[str]) -> None:
    axis = epsilon_axis(spent, 0.0, 600.0)
    assert axis is not None
    assert [tick.label for tick in epsilon_ticks(axis, spent)] == expected


def test_accuracy_stands_in_where_no_job_has_an_auc() -> None:
    drawn = picture(grouped([job(0, None, 1.0, seed="1")]))
    assert drawn.y_label == "accuracy"
    assert drawn.lines[0].marks[0].title == "mean over the seeds, ε = 1.00: 0.6250 over 1 seeds"


def test_without_any_privacy_there_are_levels_only() -> None:
    drawn = picture(grouped([job(0, 0.7, math.inf, strategy="fedavg"), job(1, 0.8, math.inf, strategy="krum")]))
    assert "without privacy" in drawn.x_label
    assert drawn.x_ticks == ()
    assert [(len(line.marks), len(line.levels)) for line in drawn.lines] == [(0, 1), (0, 1)]
    assert 'stroke-dasharray="' in draw(grouped([job(0, 0.7, math.inf)]))


def test_a_sweep_without_a_figure_says_so() -> None:
    for jobs in ([], [job(0, None, 1.0, "failed")]):
        texts = [one.text for one in parsed(draw(grouped(jobs))).iter(f"{SVG}text")]
        assert texts == ["no job completed with a figure to draw"]


def test_an_interval_is_not_drawn_beyond_what_can_be() -> None:
    drawn = picture(grouped([job(0, 0.9, 1.0, seed="1"), job(1, 0.99, 1.0, seed="2")]))
    assert max(float(tick.label) for tick in drawn.y_ticks) <= 1.0


def test_text_is_never_markup() -> None:
    evil = "<script>alert('Ærø')</script>\"&\x00\x1b"
    svg = draw(grouped([job(0, 0.7, 1.0, strategy=evil), job(1, 0.8, 2.0, strategy="fedavg")]))
    root = parsed(svg)
    assert [one.text for one in root.iter(f"{SVG}text")][-2] == evil[:-2] + "\ufffd\ufffd"
    assert not list(root.iter(f"{SVG}script"))
    text = table_md(grouped([job(0, 0.7, 1.0, strategy="a|b\nc"), job(1, 0.8, 2.0, strategy="d")]), COMMAND)
    assert "| a\\|b c " in text


def test_many_lines_differ_in_colour_or_marker_and_stay_within_the_picture() -> None:
    jobs = [job(n, 0.7 + n / 1000, math.inf if n % 2 else 1.0, strategy=f"s{n // 2}", x=str(n % 2)) for n in range(40)]
    drawn = picture(grouped(jobs))
    assert len({(line.colour, line.marker) for line in drawn.lines}) == 40
    assert len(COLOURS) != len(MARKERS)  # so that pairs repeat late
    assert all(line.key_y < drawn.height for line in drawn.lines)
    labels = sorted(level.label_y for line in drawn.lines for level in line.levels)
    assert all(after > before for before, after in itertools.pairwise(labels))


def test_labels_are_moved_no_further_than_it_takes() -> None:
    assert apart([10.0, 200.0], 0.0, 400.0) == [10.0, 200.0]
    assert apart([400.0, 399.0, 398.0], 0.0, 400.0) == [400.0, 382.0, 364.0]
    assert apart([100.0, 100.0, 115.0], 0.0, 400.0) == [87.0, 105.0, 123.0]


def test_the_picture_needs_nothing_from_outside() -> None:
    svg = draw(grouped(sweep()))
    root = parsed(svg)
    assert root.tag == f"{SVG}svg"
    assert float(root.attrib["width"]) > 0
    assert re.findall(r'(?:href|src)=|url\(|@import|https?://(?!www\.w3\.org/2000/svg")', svg) == []
    first = next(iter(root.iter(f"{SVG}rect")))
    assert first.attrib["fill"] == "#ffffff"
