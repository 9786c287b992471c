"""Say in words what a training guarantees, in Danish and English: for the citizen, the journalist and the lawyer.

A figure that is a bound is rounded up, never down. Figures are written as the language writes them. The statement says
what the plan says; whether the plan was kept is shown by the municipality's journal and ledger.

    >>> plan = PrivacyPlan.solve(epsilon=2.0, delta=1e-5, declared_size=1000, batch_size=256, rounds=30, local_steps=10,
    ...                          clipping_norm=1.0)
    >>> print(statement(plan, "en", unit_name="citizen").splitlines()[4][:65])
    How much. Epsilon is at most 2.00 and delta 0.00001 (1 in 100,000
"""

import math
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from types import MappingProxyType
from typing import Literal

from faelles.errors import ConfigError, PlanError
from faelles.privacy import _validate
from faelles.privacy.plan import PrivacyPlan

Language = Literal["da", "en"]

_ENGLISH = {
    "title": "Privacy guarantee",
    "none": (
        "No privacy. No noise was added: epsilon is infinite. What was sent can reveal a single unit ({unit}). This"
        " is for simulations only and must not be used outside them."
    ),
    "what": (
        "What is protected. The unit of protection is: {unit}. Two data sets are neighbours when one holds exactly"
        " one unit more than the other, with all of that unit's rows (add or remove one). Whoever sees everything"
        " that a municipality sends during training learns almost the same whether a unit is in the data or not."
    ),
    "how_much": (
        "How much. Epsilon is at most {epsilon} and delta {delta} (1 in {odds}) for the whole training (rounds:"
        " {rounds}, noisy steps in each: {local_steps}, steps in all: {steps}). The probability of any outcome"
        " changes at most by a factor of {factor} (e to the power of epsilon), apart from delta. The figure is an"
        " upper bound by Rényi accounting (RDP); it is the one that the municipality's account books."
    ),
    "each": "It holds in each municipality on its own.",
    "prv": "For this fixed plan alone, the tighter PRV accounting gives at most {prv}; no account books that figure.",
    "large_delta": (
        "Note: delta is not below one divided by the declared size, which is more than good practice allows."
    ),
    "how": (
        "How. In each step every unit is taken independently with probability {rate} (Poisson sampling). What it adds"
        " is clipped to norm {norm}, and Gaussian noise with a standard deviation of {noise} times that norm is added"
        " in the municipality, before anything leaves it. Probability and noise follow from the declared size, which"
        " is a public band, so the guarantee holds however many units there really are."
    ),
    "evaluation": (
        "Evaluation. The evaluation uses units that are held out from training for good, and has an epsilon of its"
        " own of at most {evaluation}, with the same delta. A unit belongs to one of the two parts only, so the"
        " figures do not add up: each unit is protected by the epsilon of its own part."
    ),
    "exact_evaluation": (
        "Evaluation. The evaluation has no noise and no guarantee. It must not be used outside simulations."
    ),
    "outside": (
        "Outside the guarantee:\n"
        "- the choice of settings such as rounds and learning rate, where earlier runs on the same data guided it\n"
        "- the declared sizes and which municipalities took part: these are public\n"
        "- how the finished model is used later, and what it rightly says about groups of people\n"
        "- a citizen found in the data of two municipalities: the epsilons add up\n"
        "- other runs on the same people: the epsilons add up, in the municipality's account"
    ),
    "several_units": "- a citizen behind several units: the epsilons of those units add up",
    "range": "{low} to {high}",
}

_DANISH = {
    "title": "Privatlivsgaranti",
    "none": (
        "Ingen privatlivsbeskyttelse. Der er ikke lagt støj på: epsilon er uendelig. Det, der er sendt, kan røbe en"
        " enkelt enhed ({unit}). Det er kun til simuleringer og må ikke bruges uden for dem."
    ),
    "what": (
        "Hvad der beskyttes. Beskyttelsens enhed er: {unit}. To datasæt er naboer, når det ene rummer præcis én enhed"
        " mere end det andet, med alle enhedens rækker (tilføj eller fjern én). Den, der ser alt, hvad en kommune"
        " sender under træningen, lærer næsten det samme, uanset om en enhed er med i data eller ej."
    ),
    "how_much": (
        "Hvor meget. Epsilon er højst {epsilon} og delta {delta} (1 ud af {odds}) for hele træningen (runder:"
        " {rounds}, støjfyldte skridt i hver: {local_steps}, skridt i alt: {steps}). Sandsynligheden for ethvert"
        " udfald ændres højst med en faktor {factor} (e opløftet til epsilon), bortset fra delta. Tallet er en øvre"
        " grænse efter Rényi-regnskab (RDP); det er det tal, kommunens konto bogfører."
    ),
    "each": "Det gælder i hver kommune for sig.",
    "prv": "For netop denne faste plan giver det strammere PRV-regnskab højst {prv}; det tal bogfører ingen konto.",
    "large_delta": (
        "Bemærk: delta er ikke under én divideret med den angivne størrelse, og det er mere, end god skik tillader."
    ),
    "how": (
        "Hvordan. I hvert skridt udtrækkes hver enhed for sig med sandsynligheden {rate} (Poisson-udtrækning). Dens"
        " bidrag klippes til normen {norm}, og normalfordelt støj med en standardafvigelse på {noise} gange normen"
        " lægges til i kommunen, før noget forlader den. Sandsynlighed og støj følger af den angivne størrelse, som"
        " er et offentligt størrelsestrin, så garantien gælder, uanset hvor mange enheder der i virkeligheden er."
    ),
    "evaluation": (
        "Evaluering. Evalueringen bruger enheder, som for altid er holdt uden for træningen, og har sit eget epsilon"
        " på højst {evaluation} med samme delta. En enhed hører kun til én af de to dele, så tallene lægges ikke"
        " sammen: Hver enhed er beskyttet af sin egen dels epsilon."
    ),
    "exact_evaluation": (
        "Evaluering. Evalueringen er uden støj og uden garanti. Den må ikke bruges uden for simuleringer."
    ),
    "outside": (
        "Uden for garantien:\n"
        "- valget af indstillinger som runder og læringsrate, hvis tidligere kørsler på de samme data har påvirket"
        " det\n"
        "- de angivne størrelser, og hvilke kommuner der deltog: det er offentligt\n"
        "- den færdige models senere brug, og hvad den med rette siger om grupper af mennesker\n"
        "- en borger, der findes i to kommuners data: epsilonerne lægges sammen\n"
        "- andre kørsler på de samme mennesker: epsilonerne lægges sammen på kommunens konto"
    ),
    "several_units": "- en borger bag flere enheder: enhedernes epsiloner lægges sammen",
    "range": "{low} til {high}",
}

_TEXTS: Mapping[str, Mapping[str, str]] = MappingProxyType({"da": _DANISH, "en": _ENGLISH})


def statement(
    plans: PrivacyPlan | Sequence[PrivacyPlan],
    language: Language,
    *,
    unit_name: str,
    evaluation_epsilon: float | None = None,
    prv_epsilon: float | None = None,
) -> str:
    """Say what the plans of a federation guarantee, in plain words.

    Guarantees:
        - Names the unit, the neighbours, epsilon and delta, rounds and steps, the sampling assumption, and what is
          outside the guarantee; epsilon is the largest of the plans, and every bound is rounded up.
        - One plan without noise makes the whole statement one of no privacy.

    Args:
        plans: One plan, or those of several municipalities: declared size, noise and local steps may differ.
        language: da or en.
        unit_name: What is protected, in that language: the card's unit_name.
        evaluation_epsilon: What the evaluation spends on the held-out part; None for no evaluation, inf for no noise.
        prv_epsilon: The tighter figure to show beside epsilon, the largest of the plans; None to leave it out.

    Returns:
        Paragraphs separated by blank lines, without a line break inside a sentence and at the end.

    Raises:
        ConfigError: The language is not known.
        PlanError: No plan, or plans that differ in more than size, noise and local steps.
    """
    if language not in _TEXTS:
        raise ConfigError(f"language={language!r:.40}: expected one of {', '.join(_TEXTS)}; choose one")
    texts = _TEXTS[language]
    every = _require_one_federation([plans] if isinstance(plans, PrivacyPlan) else list(plans))
    if not all(plan.private for plan in every):
        return f"{texts['title']}\n\n{texts['none'].format(unit=unit_name)}"
    how_much = [texts["how_much"].format_map(_figures(every, language))]
    if len(every) > 1:
        how_much.append(texts["each"])
    if prv_epsilon is not None:
        how_much.append(texts["prv"].format(prv=_bound(_validate.epsilon(prv_epsilon), language)))
    if any(plan.delta * plan.declared_size >= 1 for plan in every):
        how_much.append(texts["large_delta"])
    paragraphs = [texts["title"], texts["what"].format(unit=unit_name), " ".join(how_much)]
    paragraphs.append(texts["how"].format_map(_figures(every, language)))
    if evaluation_epsilon is not None:
        paragraphs.append(_evaluation(_validate.epsilon(evaluation_epsilon), language))
    outside = [texts["outside"]] if every[0].unit == "citizen" else [texts["outside"], texts["several_units"]]
    return "\n\n".join([*paragraphs, "\n".join(outside)])


def _evaluation(epsilon: float, language: Language) -> str:
    texts = _TEXTS[language]
    if math.isinf(epsilon):
        return texts["exact_evaluation"]
    return texts["evaluation"].format(evaluation=_bound(epsilon, language))


def _figures(plans: Sequence[PrivacyPlan], language: Language) -> dict[str, str]:
    """Write every figure of the plans, those that differ as a range."""
    epsilon = max(plan.epsilon for plan in plans)
    delta = Decimal(repr(plans[0].delta))
    return {
        "epsilon": _bound(epsilon, language),
        "delta": _written(_rounded(delta, 4, ROUND_CEILING), language),
        "odds": _written((1 / delta).to_integral_value(ROUND_FLOOR), language),
        "factor": _factor(epsilon, language),
        "rounds": _written(Decimal(plans[0].rounds), language),
        "local_steps": _range([plan.local_steps for plan in plans], language),
        "steps": _range([plan.steps for plan in plans], language),
        "rate": _range([plan.sampling_rate for plan in plans], language),
        "noise": _range([plan.noise_multiplier for plan in plans], language),
        "norm": _range([plan.clipping_norm for plan in plans], language),
    }


def _range(values: Sequence[float], language: Language) -> str:
    ends = [min(values), max(values)]
    low, high = (
        _written(Decimal(end) if isinstance(end, int) else _rounded(Decimal(repr(end)), 4), language) for end in ends
    )
    return low if low == high else _TEXTS[language]["range"].format(low=low, high=high)


def _bound(value: float, language: Language) -> str:
    """Write an upper bound, rounded up: two decimals, or two digits where it is below 0.1."""
    if math.isinf(value):
        return "∞"
    exact = Decimal(repr(value))
    if value < 0.1:
        return _written(_rounded(exact, 2, ROUND_CEILING), language)
    return _written(exact.quantize(Decimal("0.01"), ROUND_CEILING), language, strip=False)


def _factor(epsilon: float, language: Language) -> str:
    # exp overflows above 709; such a factor says nothing any more.
    return "∞" if epsilon > 700 else _written(_rounded(Decimal(repr(math.exp(epsilon))), 3, ROUND_CEILING), language)


def _rounded(value: Decimal, digits: int, rounding: str = ROUND_HALF_EVEN) -> Decimal:
    return value.quantize(Decimal(1).scaleb(min(0, value.adjusted() + 1 - digits)), rounding)


def _written(value: Decimal, language: Language, *, strip: bool = True) -> str:
    """Write a number as the language writes it: 1,234.5 in English, 1.234,5 in Danish."""
    text = f"{value:,f}"
    if strip and "." in text:
        text = text.rstrip("0").rstrip(".")
    return text.translate(str.maketrans(",.", ".,")) if language == "da" else text


def _require_one_federation(plans: Sequence[PrivacyPlan]) -> Sequence[PrivacyPlan]:
    if not plans:
        raise PlanError("plans: expected at least one, came none; give the plan of each municipality")
    shared = {(plan.unit, plan.noise, plan.delta, plan.rounds, plan.clipping_norm) for plan in plans}
    if len(shared) > 1:
        raise PlanError(
            "plans: expected one unit, delta, clipping norm and number of rounds; state each federation alone"
        )
    return plans
