"""The report: pages for every kind of result, the same bytes for the same result, and nothing from outside."""

import os
import random
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from faelles.card import Bilingual
from faelles.municipalities import MUNICIPALITIES
from server.report import render, write_report
from server.result import (
    Arm,
    CurvePoint,
    EvaluationRecord,
    Figure,
    PlanFigures,
    Privacy,
    Result,
    RoundRecord,
    RunRecord,
    Site,
    Timing,
    Usecase,
)

TITLE = Bilingual(da="Forebyggelige indlæggelser for borgere over 65", en="Preventable admissions, citizens 65+")
GOLDEN = Path(__file__).parent / "golden" / "report.html"
VOID = {"meta", "link", "br", "hr", "img", "input"}
FETCHING = {"src", "href", "xlink:href", "srcset", "action", "data", "poster", "background"}


def make_result(sites: int = 98, rounds: int = 30, compare: bool = True, seed: int = 1) -> Result:
    """Make a result that looks like a real one: small municipalities gain, the largest do not."""
    draw = random.Random(seed)  # its stream is the same in every version of Python
    places = make_sites(sites, draw)
    alone, together, ceiling = {}, {}, {}
    for key, site in places.items():
        training, held_out = site.training_citizens or 0, site.held_out_citizens or 0
        noise = draw.gauss(0, 1) / max(4, held_out) ** 0.5
        alone[key] = round(0.772 - 1.1 / training**0.5 + 0.35 * noise, 6)
        together[key] = round(0.765 + 0.3 * noise + draw.gauss(0, 0.25) / held_out**0.5, 6)
        ceiling[key] = round(0.778 + 0.3 * noise, 6)
    arms: dict[str, Arm] = {"federated": make_arm(together, 0.7653, 0.4271)}
    if compare:
        personal = {key: round(auc + 0.001, 6) for key, auc in together.items()}
        arms |= {
            "local": make_arm(alone, 0.7412, 0.4519),
            "personalised": make_arm(personal, 0.7668, 0.4259),
            "pooled": make_arm(ceiling, 0.7721, 0.4188),
        }
    curve = [
        CurvePoint(
            round=number,
            auc=round(0.7653 - 0.26 * 0.86**number + (draw.gauss(0, 0.0012) if number else 0), 6),
            log_loss=round(0.4271 + 0.27 * 0.85**number, 6),
            accuracy=round(0.81 - 0.3 * 0.8**number, 6),
        )
        for number in range(rounds + 1)
    ]
    return Result(
        command="faelles-sim usecase=elder-admission strategy=fedadam privacy.epsilon=2 rounds=30 seed=1 compare=true",
        seed=seed,
        usecase=Usecase(
            id="elder-admission",
            version=1,
            title=TITLE,
            card_sha256="4b9c0f3a" * 8,
            derived=False,
            note=Bilingual(da="Syntetiske data: ingen rigtige borgere.", en="Synthetic data: no real citizens."),
        ),
        strategy="fedadam",
        config={"usecase": "elder-admission", "privacy": {"epsilon": 2.0, "delta": None}, "rounds": rounds},
        versions={"python": "3.11.9", "faelles": "0.1.0", "flwr": "1.41.0", "torch": "2.13.0", "opacus": "1.6.0"},
        privacy=make_privacy(places),
        main_arm="federated",
        arms=arms,  # type: ignore[arg-type]
        curve=curve,
        sites=places,
        run=make_run(list(places), rounds),
        timing=Timing(startup_s=3.21, train_s=71.4, evaluate_s=9.87, compare_s=22.5, total_s=107.2),
    )


def make_sites(count: int, draw: random.Random) -> dict[str, Site]:
    """Take real municipalities as far as they reach, then invent more."""
    named = [(str(one.code), one.name, one.population_65) for one in MUNICIPALITIES]
    named += [(f"made-up-{number}", f"Å-købing {number}", 800 + 40 * number) for number in range(count)]
    found = {}
    for key, name, people in named[:count]:
        citizens = max(40, round(people * draw.uniform(0.2, 0.3)))
        found[key] = Site(
            name=name,
            declared_size=next(s for s in (250, 500, 1000, 2500, 5000, 10000, 25000) if s >= 0.8 * citizens),
            citizens=citizens,
            training_citizens=citizens - citizens // 5,
            held_out_citizens=citizens // 5,
        )
    return found


def make_arm(auc_by_site: dict[str, float], auc: float, log_loss: float) -> Arm:
    """Make an arm from its AUCs; the other figures follow them."""

    def by_site(shift: float, factor: float) -> dict[str, float | None]:
        return {key: round(shift + factor * value, 6) for key, value in auc_by_site.items()}

    return Arm(
        auc=Figure(pooled=auc, by_site=by_site(0, 1)),
        log_loss=Figure(pooled=log_loss, by_site=by_site(1.2, -1)),
        accuracy=Figure(pooled=0.8123, by_site=by_site(0.3, 0.66)),
        calibration_error=Figure(pooled=0.0141, by_site=by_site(0.2, -0.2)),
    )


def make_privacy(places: dict[str, Site]) -> Privacy:
    """Make a privacy of ε = 2 with a plan for each declared size."""
    sizes = [site.declared_size or 0 for site in places.values()]
    return Privacy(
        private=True,
        unit=Bilingual(da="borger", en="citizen"),
        epsilon=1.9973,
        delta=1e-5,
        clipping_norm=1.0,
        prv_epsilon=1.8241,
        evaluation_epsilon=0.5,
        plans=[
            PlanFigures(
                declared_size=size,
                sites=sizes.count(size),
                sampling_rate=min(1.0, 64 / size),
                noise_multiplier=round(0.6 + 800 / size, 4),
                steps=300,
                epsilon=1.9973,
            )
            for size in sorted(set(sizes))
        ],
        statement=Bilingual(
            da="Privatlivsgaranti\n\nHvad der beskyttes. Enheden er: borger.\n\nUden for garantien:\n- runder",
            en="Privacy guarantee\n\nWhat is protected. The unit is: citizen.\n\nOutside the guarantee:\n- rounds",
        ),
    )


def make_run(keys: list[str], rounds: int) -> RunRecord:
    """Make a completed run in which everybody takes part."""
    return RunRecord(
        federation="6fa459ea-ee8a-3ca4-894e-db77e160355e",
        status="completed",
        quorum=0.8,
        expected=keys,
        declared_sizes=dict.fromkeys(keys, 1000),
        rounds=[
            RoundRecord(number=number, contributing=keys, seconds=2.38, model_sha256="77" * 32)
            for number in range(1, rounds + 1)
        ],
        evaluation=EvaluationRecord(
            contributing=keys, auc=0.7619, log_loss=0.4302, accuracy=0.8105, calibration_error=0.0187
        ),
        model_sha256="77" * 32,
    )


class Page(HTMLParser):
    """Read a page, and fail where an element is not closed in its turn."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.ids: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and data.strip():
            self.texts.setdefault(self.open[-1], []).append(" ".join(data.split()))

    @property
    def text(self) -> str:
        return " ".join(text for tag, texts in self.texts.items() if tag != "style" for text in texts)


def only_main_arm(result: Result) -> None:
    result.arms = {"federated": result.arms["federated"]}


def no_exact_figures(result: Result) -> None:
    result.arms, result.sites, result.curve = {}, {}, []


def nothing_is_defined(result: Result) -> None:
    for arm in result.arms.values():
        for figure in (arm.auc, arm.log_loss, arm.accuracy, arm.calibration_error):
            figure.pooled = None
            figure.by_site = dict.fromkeys(figure.by_site)
    for point in result.curve:
        point.auc = point.log_loss = point.accuracy = None


def without_privacy(result: Result) -> None:
    privacy = result.privacy
    privacy.private, privacy.epsilon, privacy.prv_epsilon, privacy.evaluation_epsilon = False, None, None, None
    for plan in privacy.plans:
        plan.epsilon, plan.noise_multiplier = None, 0.0


def multiclass(result: Result) -> None:
    assert result.run.evaluation is not None
    result.run.evaluation.auc = None


def no_rounds(result: Result) -> None:
    result.run.rounds, result.curve, result.run.evaluation = [], [], None
    result.run.status, result.run.why = "incomplete", "round 1: 3 contributed, the quorum is 78.4"


def still_running(result: Result) -> None:
    result.run.status, result.run.evaluation = "running", None


def personalised(result: Result) -> None:
    result.main_arm = "personalised"


def nobody_has_citizens(result: Result) -> None:
    for site in result.sites.values():
        site.declared_size = site.citizens = site.training_citizens = site.held_out_citizens = 0


def flat_curve(result: Result) -> None:
    for point in result.curve:
        point.auc = point.log_loss = 0.5


CASES = [
    lambda result: None, only_main_arm, no_exact_figures, nothing_is_defined, without_privacy, multiclass, no_rounds,
    still_running, personalised, nobody_has_citizens, flat_curve,
]  # fmt: skip


@pytest.mark.parametrize("sites", [1, 3, 98, 131])
@pytest.mark.parametrize("change", CASES)
def test_every_kind_of_result_makes_a_whole_page(change: Callable[[Result], None], sites: int) -> None:
    result = make_result(sites=sites, rounds=2)
    change(result)
    page = Page(render(result))
    assert {"Preventable admissions, citizens 65+", "Forebyggelige indlæggelser for borgere over 65"} <= {
        *page.texts["h1"],
        *page.texts["p"],
    }
    assert [text for text in ("None", "nan", "inf", "Undefined") if re.search(rf"\b{text}\b", page.text)] == []
    assert len(page.ids) == len(set(page.ids))


def test_equal_results_give_the_bytes_that_were_agreed(tmp_path: Path) -> None:
    write_report(make_result(sites=3, rounds=2), tmp_path / "report.html")
    _, style, written = (tmp_path / "report.html").read_text(encoding="utf-8").partition("</style>")
    assert style
    if os.environ.get("FAELLES_UPDATE_GOLDEN"):
        GOLDEN.write_text(written, encoding="utf-8")
        pytest.skip("the golden page was written; look at it before it is agreed")
    assert written == GOLDEN.read_text(encoding="utf-8"), "if it should differ: FAELLES_UPDATE_GOLDEN=1, and look at it"


def test_the_page_asks_for_nothing_from_outside() -> None:
    html = render(make_result())
    page = Page(html)
    links = [value or "" for _, found in page.tags for name, value in found.items() if name in FETCHING]
    assert [link for link in links if not link.startswith(("#", "data:"))] == []
    assert not {"script", "iframe", "object", "embed", "img", "base"} & {tag for tag, _ in page.tags}
    assert [word for word in ("://", "url(", "@import") if word in html] == []
    policies = [found["content"] for tag, found in page.tags if found.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_text_of_a_result_is_never_markup() -> None:
    evil = "<script>alert('Ærø')</script>\"&"
    result = make_result(sites=3, rounds=1)
    result.command = result.strategy = result.run.federation = evil
    result.usecase.title = result.usecase.note = result.privacy.unit = result.privacy.statement = Bilingual(
        da=evil, en=evil
    )
    result.config, result.versions = {evil: [evil]}, {evil: evil}
    result.run.sits_out, result.run.why = {"0101": evil}, evil
    result.run.rounds[0].rejected = {"0147": evil}
    for site in result.sites.values():
        site.name = evil
    html = render(result)
    assert evil in Page(html).texts["code"]
    assert "<script" not in html
    assert not any("alert" in (value or "") for tag, found in Page(html).tags for value in found.values())


def test_charts_hold_text_and_name_every_municipality_on_pointing() -> None:
    result = make_result()
    page = Page(render(result))
    assert {"0.80", "round", "10,000", "training citizens (logarithmic)", "København"} <= set(page.texts["text"])
    titles = page.texts["title"]
    for site in result.sites.values():
        assert sum(title.startswith(f"{site.name}: AUC ") for title in titles) == 1
    assert sum(title.startswith("Round 30: ") for title in titles) == 2
    assert sum(text == "exact, not releasable" for text in page.texts["span"]) == 4


def test_the_banner_stands_where_there_is_no_privacy_and_only_there() -> None:
    result = make_result(sites=3, rounds=1)
    banner = {"Trained WITHOUT privacy: simulations only", "Trænet UDEN privatlivsbeskyttelse: kun til simuleringer"}
    assert not banner & {text for texts in Page(render(result)).texts.values() for text in texts}
    without_privacy(result)
    page = Page(render(result))
    assert banner <= {text for texts in page.texts.values() for text in texts}
    assert "∞" in page.texts["dd"]


def test_the_status_counts_everyone_once_in_both_languages() -> None:
    result = make_result(sites=5, rounds=3)
    keys = list(result.sites)
    result.run.sits_out = {keys[0]: "no-data"}
    result.run.rounds[1].silent, result.run.rounds[2].silent = [keys[1]], [keys[1]]
    result.run.rounds[2].rejected = {keys[2]: "update: expected finite numbers"}
    for one in result.run.rounds:
        one.contributing = [key for key in keys[1:] if key not in one.silent and key not in one.rejected]
    page = Page(render(result))
    assert (
        "Completed: of 5 municipalities expected, 4 take part and 1 sits out; between 2 and 4 contributed to each of"
        " the 3 rounds (quorum 4); 1 reply rejected, 2 replies never came."
    ) in page.texts["p"]
    assert (
        "Gennemført: af 5 ventede kommuner deltager 4, og 1 står udenfor; mellem 2 og 4 bidrog til hver af de 3 runder"
        " (quorum 4); 1 kasseret svar, 2 udeblevne svar."
    ) in page.texts["p"]
    cells = page.texts["td"]
    assert {"no-data", "København", "rounds 2–3", "Frederiksberg", "round 3", "update: expected finite numbers"} <= set(
        cells
    )


def test_an_incomplete_run_says_why() -> None:
    result = make_result(sites=3, rounds=2)
    no_rounds(result)
    page = Page(render(result))
    assert "round 1: 3 contributed, the quorum is 78.4" in page.texts["p"]
    assert any(text.startswith("Incomplete: ") and "no round is recorded" in text for text in page.texts["p"])


def test_the_released_figures_stand_beside_the_exact_ones() -> None:
    cells = Page(render(make_result(sites=3, rounds=1))).texts["td"]
    at = cells.index("0.7619")
    assert cells[at - 1 : at + 3] == ["AUC", "0.7619", "0.7653", "−0.0034"]


def test_who_gains_and_who_loses_are_told_apart() -> None:
    result = make_result(sites=3, rounds=1)
    first, second, third = result.sites
    result.arms["local"].auc.by_site = {first: 0.7, second: 0.7, third: None}
    result.arms["federated"].auc.by_site = {first: 0.75, second: 0.69, third: 0.8}
    page = Page(render(result))
    assert "1 of 2 gain, 1 lose." in page.texts["p"]
    assert {"+0.0500", "−0.0100"} <= set(page.texts["td"])
    assert "Not shown: 1, whose AUC is not defined (too few held-out citizens)." in page.texts["p"]


def test_log_loss_is_compared_where_auc_is_hardly_defined() -> None:
    result = make_result(sites=3, rounds=1)
    for arm in result.arms.values():
        arm.auc.by_site = dict.fromkeys(arm.auc.by_site)
    loser = next(iter(result.sites))
    result.arms["local"].log_loss.by_site[loser], result.arms["federated"].log_loss.by_site[loser] = 0.40, 0.45
    page = Page(render(result))
    assert "Log loss saved over learning alone" in page.texts["text"]
    assert "−0.0500" in page.texts["td"]


def test_sites_that_are_no_municipalities_are_not_called_so() -> None:
    result = make_result(sites=3, rounds=1)
    assert "Completed: 3 municipalities expected" in Page(render(result)).text
    result.run.expected = ["cleveland", "hungarian", "va"]
    assert "Completed: 3 sites expected" in Page(render(result)).text
