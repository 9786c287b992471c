"""The outcome of a live federation: a result and a page that hold what was released, and nothing exact."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from faelles.card import load_card
from faelles.terms import RunTerms
from server.outcome import NO_CURVE, live_result, write_outcome
from server.report import render
from server.result import EvaluationRecord, Result, RoundRecord, RunRecord, read_result
from tests.builders import build_card
from tests.federations import build_config
from tests.server.test_report import Page

COMMAND = "faelles-server run usecase=bicycle-repair rounds=3 quorum=0.5"
EXPECTED = ["0101", "0147", "0751", "0851"]
CAPPED = "budget-exhausted (cap 2)"
EXACT_WORDS = ("compare", "exact, not releasable", "each alone", "the ceiling", "Who benefits", "Do it again", "Exact")


def sample_record() -> RunRecord:
    """Make the record of 4 municipalities: one refuses from the start, one is silent once and another late once."""
    taking = EXPECTED[:3]
    return RunRecord(
        federation="6f1b2a52-3c6f-5d0a-9a53-0f4f1de1c001",
        status="completed",
        quorum=0.5,
        expected=EXPECTED,
        sits_out={"0851": CAPPED},
        declared_sizes={"0101": 2500, "0147": 250, "0751": 1000},
        rounds=[
            RoundRecord(number=1, contributing=taking, seconds=4.12, model_sha256="1a" * 32),
            RoundRecord(number=2, contributing=["0101", "0751"], silent=["0147"], seconds=60.0, model_sha256="2b" * 32),
            RoundRecord(number=3, contributing=["0101", "0147"], silent=["0751"], late=["0751"], seconds=60.0,
                        model_sha256="3c" * 32),
        ],
        evaluation=EvaluationRecord(
            contributing=["0101", "0147"], refused={"0751": "expired"}, auc=0.7119, log_loss=0.5302, accuracy=0.7405,
            calibration_error=0.0287,
        ),
        model_sha256="3c" * 32,
        delivered=["0101", "0147"],
    )  # fmt: skip


def sample_result(folder: Path, record: RunRecord | None = None) -> Result:
    """Make the result of a record."""
    return live_result(build_config(folder, build_card(), quorum=0.5), record or sample_record(), COMMAND)


def test_a_live_result_knows_names_and_declared_sizes_and_nothing_exact(tmp_path: Path) -> None:
    result = sample_result(tmp_path)
    assert result.live
    assert (result.arms, result.curve, result.curve_label) == ({}, [], NO_CURVE)
    assert {(key, site.name, site.declared_size) for key, site in result.sites.items()} == {
        ("0101", "København", 2500),
        ("0147", "Frederiksberg", 250),
        ("0751", "Aarhus", 1000),
        ("0851", "Aalborg", None),
    }
    assert {site.citizens for site in result.sites.values()} == {None}
    assert result.timing.train_s == result.timing.total_s == pytest.approx(124.12)
    assert result.timing.evaluate_s is None
    assert result.privacy.epsilon == pytest.approx(2.0, abs=0.01)
    assert [plan.sites for plan in result.privacy.plans] == [1, 1, 1]
    assert result.config["terms"] == {"epsilon": 2.0, "rounds": 3, "evaluate": True}
    assert not {"folder", "resume"} & result.config.keys()


def test_the_outcome_is_written_and_read_back(tmp_path: Path) -> None:
    write_outcome(tmp_path, build_config(tmp_path, build_card(), quorum=0.5), sample_record(), COMMAND)
    result = read_result(tmp_path / "result.json")
    assert result == sample_result(tmp_path)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render(result)
    assert str(tmp_path) not in (tmp_path / "result.json").read_text(encoding="utf-8")


def test_infinity_stands_as_text(tmp_path: Path) -> None:
    config = build_config(tmp_path, build_card(), terms=RunTerms(epsilon=float("inf"), rounds=3))
    write_outcome(tmp_path, config, sample_record(), COMMAND)
    written = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert written["config"]["terms"]["epsilon"] == "inf"
    assert written["privacy"]["epsilon"] is None
    assert "Without noise: the score histograms of 2 municipalities, summed." in Page(render(read_result(
        tmp_path / "result.json"
    ))).texts["p"]  # fmt: skip


def test_the_page_names_everyone_and_what_happened_to_them(tmp_path: Path) -> None:
    page = Page(render(sample_result(tmp_path)))
    assert (
        "Completed: of 4 municipalities expected, 3 take part and 1 sits out; between 2 and 3 contributed to each of"
        " the 3 rounds (quorum 2); 1 reply came late, 1 reply never came."
    ) in page.texts["p"]
    assert (
        "Gennemført: af 4 ventede kommuner deltager 3, og 1 står udenfor; mellem 2 og 3 bidrog til hver af de 3 runder"
        " (quorum 2); 1 forsinket svar, 1 udeblevet svar."
    ) in page.texts["p"]
    cells = page.texts["td"]
    at = cells.index("Aalborg")
    assert cells[at : at + 5] == ["Aalborg", "0851", f"sits out: {CAPPED}", "no", "no"]
    at = cells.index("Frederiksberg")
    assert cells[at : at + 5] == ["Frederiksberg", "0147", "1, 3", "yes", "yes"]
    for reason in ("the reply came after the deadline and was dropped", "no reply before the deadline"):
        assert cells.count(reason) == 1
    at = cells.index("expired")
    assert cells[at - 2 : at + 2] == ["evaluation", "refused", "expired", "Aarhus"]
    assert {"3c" * 32, "3c" * 6, "flwr"} <= set(cells)


def test_the_page_says_that_the_evaluation_is_a_noisy_release(tmp_path: Path) -> None:
    page = Page(render(sample_result(tmp_path)))
    noisy, danish = (
        next(text for text in page.texts["p"] if text.startswith(start)) for start in ("A noisy", "En fri")
    )
    assert "in each of 2 municipalities" in noisy
    assert "at most 0.50" in noisy
    assert "i hver af 2 kommuner" in danish
    assert "højst 0,50" in danish
    assert {"0.7119", "0.5302"} <= set(page.texts["td"])
    assert {"from noisy histograms", "ε of its own: 0.50"} <= set(page.texts["dd"])


def test_the_page_draws_contributions_with_the_quorum_and_the_time_of_rounds(tmp_path: Path) -> None:
    page = Page(render(sample_result(tmp_path)))
    assert [found["aria-label"] for tag, found in page.tags if tag == "svg" and "aria-label" in found] == [
        "Contributing municipalities by round, with the quorum of 2",
        "Time by round, in seconds",
    ]
    assert {"Round 2: 2 contributed, 1 silent", "Round 3: 2 contributed, 1 late", "Round 1: 4.1 s"} <= set(
        page.texts["title"]
    )
    assert {"contributed", "4 expected", "quorum 2", "41.4 s on average"} <= set(page.texts["li"])


def test_nothing_on_the_page_speaks_of_exact_figures(tmp_path: Path) -> None:
    text = Page(render(sample_result(tmp_path))).text
    assert [word for word in EXACT_WORDS if word in text] == []
    assert "live federation" in text


def ended_early(record: RunRecord) -> None:
    record.rounds, record.evaluation, record.delivered = record.rounds[:2], None, []
    record.status, record.why = "stopped", "stopped by the coordinator"


def below_the_quorum(record: RunRecord) -> None:
    ended_early(record)
    record.rounds[1].contributing, record.rounds[1].silent = ["0101"], ["0147", "0751"]
    record.status, record.why = "incomplete", "round 2: 1 contributed, the quorum is 2"


def under_way(record: RunRecord) -> None:
    ended_early(record)
    record.status, record.why, record.model_sha256 = "running", "", ""


def nobody_yet(record: RunRecord) -> None:
    under_way(record)
    record.rounds, record.declared_sizes, record.sits_out = [], {}, {}


def nobody_registered(record: RunRecord) -> None:
    nobody_yet(record)
    record.expected = []


def no_histogram(record: RunRecord) -> None:
    assert record.evaluation is not None
    record.evaluation = EvaluationRecord(
        contributing=[], silent=EXPECTED[:3], auc=None, log_loss=None, accuracy=None, calibration_error=None
    )


def one_long_round(record: RunRecord) -> None:
    record.rounds = record.rounds[:1]
    record.rounds[0].seconds = 754.0


@dataclass(frozen=True, kw_only=True)
class Case:
    """Hold what happened, and what must be read about it."""

    change: Callable[[RunRecord], None]
    english: str
    danish: str
    rounds: str = "2"


CASES = {
    "stopped": Case(
        change=ended_early,
        english="Stopped: of 4 municipalities expected, 3 take part and 1 sits out; between 2 and 3 contributed to each"
        " of the 2 rounds (quorum 2); 1 reply never came.",
        danish="Stoppet: af 4 ventede kommuner deltager 3, og 1 står udenfor; mellem 2 og 3 bidrog til hver af de 2"
        " runder (quorum 2); 1 udeblevet svar.",
    ),
    "incomplete": Case(
        change=below_the_quorum,
        english="Incomplete: of 4 municipalities expected, 3 take part and 1 sits out; between 1 and 3 contributed to"
        " each of the 2 rounds (quorum 2); 2 replies never came.",
        danish="Ikke gennemført: af 4 ventede kommuner deltager 3, og 1 står udenfor; mellem 1 og 3 bidrog til hver af"
        " de 2 runder (quorum 2); 2 udeblevne svar.",
        rounds="1",
    ),
    "running": Case(
        change=under_way,
        english="Not finished: of 4 municipalities expected, 3 take part and 1 sits out; between 2 and 3 contributed to"
        " each of the 2 rounds so far (quorum 2); 1 reply never came.",
        danish="Ikke afsluttet: af 4 ventede kommuner deltager 3, og 1 står udenfor; mellem 2 og 3 bidrog til hver af"
        " de 2 runder indtil nu (quorum 2); 1 udeblevet svar.",
    ),
    "nobody yet": Case(
        change=nobody_yet,
        english="Not finished: 4 municipalities expected, none sits out; no round is recorded.",
        danish="Ikke afsluttet: 4 kommuner ventet, ingen står udenfor; ingen runde er registreret.",
        rounds="0",
    ),
    "nobody registered": Case(
        change=nobody_registered,
        english="Not finished: 0 municipalities expected, none sits out; no round is recorded.",
        danish="Ikke afsluttet: 0 kommuner ventet, ingen står udenfor; ingen runde er registreret.",
        rounds="0",
    ),
    "no histogram": Case(
        change=no_histogram,
        english="No municipality's score histogram came, so nothing was released.",
        danish="Ingen kommunes scorehistogram kom, så intet blev frigivet.",
        rounds="3",
    ),
    "one round": Case(
        change=one_long_round,
        english="Completed: of 4 municipalities expected, 3 take part and 1 sits out; all 3 contributed to the only"
        " round (quorum 2).",
        danish="Gennemført: af 4 ventede kommuner deltager 3, og 1 står udenfor; alle 3 bidrog til den eneste runde"
        " (quorum 2).",
        rounds="1",
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_every_end_of_a_run_reads_right_in_both_languages(case: Case, tmp_path: Path) -> None:
    record = sample_record()
    case.change(record)
    page = Page(render(sample_result(tmp_path, record)))
    assert {case.english, case.danish} <= set(page.texts["p"])
    at = page.texts["dd"].index("of 3 asked for, with a quorum")
    assert page.texts["dd"][at - 1] == case.rounds
    assert [text for text in ("None", "nan", "inf", "Undefined") if text in page.text.split()] == []
    assert bool([one for one in page.tags if one[0] == "figure"]) == bool(record.rounds)
    assert ("an upper bound for what was spent until now" in page.text) == (record.status != "completed")
    assert ("takes this run up" in page.text) == (record.status in ("incomplete", "stopped"))


def test_who_was_not_connected_is_told_from_who_was_silent(tmp_path: Path) -> None:
    record = sample_record()
    record.rounds[1].missing, record.rounds[1].silent = ["0147"], []
    record.rounds[2].missing, record.rounds[2].silent = ["0751"], []  # and it came late
    page = Page(render(sample_result(tmp_path, record)))
    assert any(text.endswith("(quorum 2); 1 reply came late, 1 time not connected.") for text in page.texts["p"])
    assert any(text.endswith("(quorum 2); 1 forsinket svar, 1 gang ikke forbundet.") for text in page.texts["p"])
    cells = page.texts["td"]
    at = cells.index("missing")
    assert cells[at - 1 : at + 3] == ["round 2", "missing", "not connected at the deadline", "Frederiksberg"]


def test_a_long_round_is_drawn_in_minutes(tmp_path: Path) -> None:
    record = sample_record()
    one_long_round(record)
    page = Page(render(sample_result(tmp_path, record)))
    assert {"minutes", "1"} <= set(page.texts["text"])
    assert "Round 1: 12 min 34 s" in page.texts["title"]


def test_a_node_without_a_code_keeps_its_name(tmp_path: Path) -> None:
    record = sample_record()
    record.expected = [*EXPECTED, "node 7", "9999"]
    sites = sample_result(tmp_path, record).sites
    assert (sites["node 7"].name, sites["9999"].name) == ("node 7", "9999")


def test_every_round_of_a_large_federation_fits_its_charts(tmp_path: Path) -> None:
    record = sample_record()
    record.expected = [f"{number:04}" for number in range(98)]
    record.rounds = [
        RoundRecord(
            number=number,
            contributing=record.expected[number % 7 :],
            missing=record.expected[: number % 7],
            seconds=1.5 * number,
            model_sha256="4d" * 32,
        )
        for number in range(1, 121)
    ]
    record.quorum = 1.0
    html = render(sample_result(tmp_path, record))
    page = Page(html)
    assert {"quorum 98", "100", "20", "120"} <= set(page.texts["text"]) | set(page.texts["li"])
    assert "98 expected" not in page.texts["li"]
    assert html.count("<details open>") == 1  # who did not contribute: in few lines here
    assert sum(tag == "circle" for tag, _ in page.tags) == 2


def test_a_changed_card_of_the_catalogue_is_called_another_card(tmp_path: Path) -> None:
    listed = load_card(Path(__file__).parents[2] / "catalogue" / "elder_admission" / "card.yaml")
    fields = listed.model_dump(mode="json")
    fields["training"]["learning_rate"] = 0.123
    changed = type(listed).model_validate(fields)
    newer = type(listed).model_validate(fields | {"version": 99})
    for card, derived in ((listed, False), (changed, True), (newer, False)):
        result = live_result(build_config(tmp_path, card), sample_record(), COMMAND)
        assert result.usecase.derived is derived
        assert ("it is another card" in Page(render(result)).text) is derived
