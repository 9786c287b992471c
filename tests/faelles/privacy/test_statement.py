import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faelles.errors import ConfigError, PlanError
from faelles.privacy.plan import PrivacyPlan
from faelles.privacy.statement import Language, statement

GOLDEN = Path(__file__).parent / "golden"
LANGUAGES: tuple[Language, ...] = ("da", "en")
UNIT = {"da": "borger", "en": "citizen"}


def plan(declared_size: int = 1000, **changes: Any) -> PrivacyPlan:
    terms = {"batch_size": 256, "rounds": 30, "local_steps": 10, "clipping_norm": 1.0, "epsilon": 2.0, "delta": 1e-5}
    return PrivacyPlan.solve(declared_size=declared_size, **(terms | changes))


def one(language: Language) -> str:
    return statement(plan(), language, unit_name=UNIT[language], evaluation_epsilon=0.5, prv_epsilon=1.8467)


def several(language: Language) -> str:
    plans = [
        plan(size, local_steps=steps, delta=1e-4, unit="person-year")
        for size, steps in ((250, 1), (2_500, 10), (25_000, 98))
    ]
    return statement(plans, language, unit_name={"da": "personår", "en": "person-year"}[language])


def none(language: Language) -> str:
    return statement([plan(), plan(epsilon=math.inf)], language, unit_name=UNIT[language], evaluation_epsilon=0.5)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("text", [one, several, none])
def test_statement_is_the_golden_one(text: Any, language: Language) -> None:
    path = GOLDEN / f"statement-{text.__name__}.{language}.txt"
    if (
        os.environ.get("FAELLES_GOLDEN") == "write"
    ):  # after a deliberate change; then read the files before keeping them
        path.write_text(text(language) + "\n", encoding="utf-8")
    assert text(language) + "\n" == path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("language", "words"),
    [
        (
            "da",
            ("borger", "tilføj eller fjern én", "2,00", "0,00001", "1 ud af 100.000", "30", "300", "Poisson", "0,50"),
        ),
        ("en", ("citizen", "add or remove one", "2.00", "0.00001", "1 in 100,000", "30", "300", "Poisson", "0.50")),
    ],
)
def test_statement_names_what_a_guarantee_rests_on(language: Language, words: tuple[str, ...]) -> None:
    text = one(language)
    assert [word for word in words if word not in text] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_statement_has_no_open_field_and_breaks_no_sentence(language: Language) -> None:
    for text in (one(language), several(language), none(language)):
        assert not set("{}") & set(text)
        assert "  " not in text
        assert text == text.strip()
        assert all(block.count("\n") == block.count("\n- ") for block in text.split("\n\n"))


def test_both_languages_say_the_same() -> None:
    for text in (one, several, none):
        danish, english = text("da"), text("en")
        assert danish.count("\n") == english.count("\n")
        digits = [[sign for sign in said if sign.isdigit()] for said in (danish, english)]
        assert digits[0] == digits[1]


@given(epsilon=st.floats(0.2, 5.0))
def test_bounds_are_rounded_up(epsilon: float) -> None:
    made = plan(epsilon=epsilon)
    text = statement(made, "en", unit_name="citizen", evaluation_epsilon=epsilon, prv_epsilon=made.epsilon)
    said = [text.split(before)[1].split()[0].rstrip(",;") for before in ("Epsilon is at most ", "gives at most ")]
    assert all(made.epsilon <= float(figure) < made.epsilon + 0.01 for figure in said)
    assert float(text.split("own of at most ")[1].split(",")[0]) >= epsilon
    assert float(text.split("factor of ")[1].split()[0].replace(",", "")) >= math.exp(made.epsilon) * (1 - 1e-12)


def test_the_largest_epsilon_counts() -> None:
    text = statement([plan(epsilon=1.0), plan(epsilon=3.0), plan()], "en", unit_name="citizen")
    assert "Epsilon is at most 3.00" in text
    assert "It holds in each municipality on its own." in text


def test_figures_that_differ_are_ranges() -> None:
    text = several("en")
    assert "noisy steps in each: 1 to 98, steps in all: 30 to 2,940" in text
    assert "probability 0.01024 to 1 (" in text


@pytest.mark.parametrize(("epsilon", "said"), [(0.05, "0.05,"), (0.0123, "0.013,"), (0.1, "0.10,"), (12.0, "12.00,")])
def test_small_bounds_keep_two_digits(epsilon: float, said: str) -> None:
    text = statement(plan(), "en", unit_name="citizen", evaluation_epsilon=epsilon)
    assert f"own of at most {said}" in text


def test_a_factor_beyond_all_numbers_is_said_so() -> None:
    assert "factor of ∞" in statement(replace(plan(), noise_multiplier=0.01), "en", unit_name="citizen")
    assert "at most ∞ and" in statement(replace(plan(), noise_multiplier=1e-200), "en", unit_name="citizen")


@pytest.mark.parametrize("language", LANGUAGES)
def test_one_plan_without_noise_means_no_privacy(language: Language) -> None:
    text = none(language)
    assert {"da": "Ingen privatlivsbeskyttelse", "en": "No privacy"}[language] in text
    assert "delta" not in text


def test_an_evaluation_without_noise_is_said_so() -> None:
    text = statement(plan(), "en", unit_name="citizen", evaluation_epsilon=math.inf)
    assert "The evaluation has no noise and no guarantee." in text
    assert "Evaluation." not in statement(plan(), "en", unit_name="citizen")


def test_units_that_are_no_citizens_are_said_to_add_up() -> None:
    assert "a citizen behind several units" in several("en")
    assert "a citizen behind several units" not in one("en")


def test_a_delta_too_large_for_the_size_is_said_so() -> None:
    note = "delta is not below one divided by the declared size"
    assert note in statement(plan(100_000), "en", unit_name="citizen")
    assert note not in statement(plan(50_000), "en", unit_name="citizen")


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(ConfigError, match="language='de': expected one of da, en; choose one"):
        statement(plan(), "de", unit_name="Bürger")  # type: ignore[arg-type]  # what the test is about


@pytest.mark.parametrize(
    "other",
    [{"delta": 1e-6}, {"rounds": 31}, {"clipping_norm": 2.0}, {"unit": "row"}],
)
def test_plans_of_different_federations_are_refused(other: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match="state each federation alone"):
        statement([plan(), plan(**other)], "en", unit_name="citizen")


def test_no_plan_is_refused() -> None:
    with pytest.raises(PlanError, match="expected at least one, came none"):
        statement([], "en", unit_name="citizen")


@pytest.mark.parametrize("name", ["evaluation_epsilon", "prv_epsilon"])
def test_an_epsilon_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(PlanError, match=r"epsilon=-1\.0: expected > 0"):
        statement(plan(), "en", unit_name="citizen", **{name: -1.0})


@pytest.mark.parametrize("language", LANGUAGES)
def test_nothing_is_said_to_be_anonymous(language: Language) -> None:
    for text in (one(language), several(language), none(language)):
        assert "anonym" not in text.lower()
