"""Attack one update and print what it gives away: `python -m simulations.attacks [--seed 1]`.

Membership: was this citizen in? Inversion: what stands in the citizens' rows? Each attack meets one update, without
privacy and at several epsilon, on the synthetic twin of elder-admission; nothing here needs data. The figures are of
these attacks, not of the best there are: what bounds them all is epsilon.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from catalogue import shelf
from client.dataset import build_dataset
from faelles.card import UseCaseCard
from faelles.features import Citizens
from faelles.models import Arrays, parameter_shapes
from faelles.privacy.plan import PrivacyPlan, plan_for
from simulations.inversion import Recovered, compare, infer, match, observe, solve
from simulations.mechanisms import seeded_bytes
from simulations.membership import (
    Update,
    advantage_bound,
    attack_membership,
    best_advantage,
    most_exposed,
    some,
    tpr_bound,
)

ATTACKED, PUBLIC = "0169", "0101"  # the twin's citizens of Høje-Taastrup, some 250; rows of Copenhagen's are known
DECLARED_SIZE = 250
EPSILONS = (np.inf, 8.0, 2.0, 1.0)
BATCHES = ((1, EPSILONS), (2, EPSILONS[:1]), (4, EPSILONS[:1]), (8, EPSILONS[:2]))  # each with the epsilons it meets
MEMBERSHIP = (
    *("update", "ε of the run", "ε of the update", "advantage", "of the best attack", "at most"),
    *("AUC", "TPR at 1 % FPR", "at most"),
)
INVERSION = ("attack", "batch", "ε of the update", "relative error", "categories exactly right")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(prog="python -m simulations.attacks", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="equal seeds print equal tables")
    parser.add_argument("--runs", type=int, default=1000, help="of a step with the target, and without")
    parser.add_argument("--citizens", type=int, default=64, help="whose rows are reconstructed, in batches")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)  # so that equal seeds print equal tables on every machine
    usecase = shelf.find("elder-admission")
    assert usecase.twin is not None
    tables = usecase.twin(chosen.seed)
    attacked, public = (
        build_dataset(usecase.card, tables[site], seeded_bytes("attacks", chosen.seed)).training
        for site in (ATTACKED, PUBLIC)
    )
    start = crafted(usecase.card, chosen.seed)
    _print_row(MEMBERSHIP, ("---",) * len(MEMBERSHIP))
    for row in membership_rows(usecase.card, start, attacked, chosen.runs, chosen.seed):
        _print_row(row)
    print()
    _print_row(INVERSION, ("---",) * len(INVERSION))
    for row in inversion_rows(usecase.card, start, single(attacked), single(public), chosen.citizens, chosen.seed):
        _print_row(row)


def crafted(card: UseCaseCard, seed: int) -> Arrays:
    """Draw weights under which every parameter's gradient tells of the citizen, unlike those of an honest start."""
    rng = np.random.default_rng(seed)
    shapes = parameter_shapes(card).items()
    return {name: (rng.normal(size=shape) / shape[-1] ** 0.5).astype(np.float32) for name, shape in shapes}


def single(citizens: Citizens) -> Citizens:
    """Take the citizens with one row."""
    one = some(citizens, citizens.mask_BR.sum(axis=1) == 1)
    return Citizens(x_BRF=one.x_BRF[:, :1], y_BR=one.y_BR[:, :1], mask_BR=one.mask_BR[:, :1])


def membership_rows(
    card: UseCaseCard, start: Arrays, citizens: Citizens, runs: int, seed: int
) -> Iterator[tuple[str, ...]]:
    """Attack one step over everybody on which all of epsilon is spent, and a round of a run as the card has it."""
    steps = [_one_step(card, DECLARED_SIZE, epsilon) for epsilon in EPSILONS]
    rounds = [
        plan_for(card, DECLARED_SIZE, epsilon=epsilon, batch_size=64) for epsilon in (np.inf, card.privacy.epsilon)
    ]
    update = most_exposed(Update(card=card, start=start, citizens=citizens, target=0, plan=steps[0]))
    # A round takes ten times as long as a step, so it is run a quarter as often.
    for name, plans, often in (
        ("one step, everybody", steps, runs),
        ("a round, a quarter each step", rounds, runs // 4),
    ):
        for plan in plans:
            found, epsilon = attack_membership(replace(update, plan=plan), often, seed), plan.epsilon_after(1)
            best = f"{best_advantage(plan.noise_multiplier):.3f}" if plan.steps == 1 else "not known"
            yield (
                name, _epsilon(plan.epsilon), _epsilon(epsilon), f"{found.advantage:.3f}", best,
                f"{advantage_bound(epsilon, plan.delta):.3f}", f"{found.auc:.3f}", f"{found.tpr:.3f}",
                f"{tpr_bound(epsilon, plan.delta):.3f}",
            )  # fmt: skip


def inversion_rows(
    card: UseCaseCard, start: Arrays, citizens: Citizens, public: Citizens, count: int, seed: int
) -> Iterator[tuple[str, ...]]:
    """Attack steps over municipalities of 1 to 8 citizens, who all take part."""
    rng = np.random.default_rng(seed)
    for size, epsilons in BATCHES:
        batches = [some(citizens, rng.choice(len(citizens), size, replace=False)) for _ in range(0, count, size)]
        x_TBF = np.array([batch.x_BRF[:, 0] for batch in batches], dtype=np.float64)
        y_TB = np.array([batch.y_BR[:, 0] for batch in batches])
        blind_TBF = infer(card, start, None, y_TB, _one_step(card, size, np.inf), public)
        yield _row("blind guess", size, "", compare(card, x_TBF, blind_TBF))
        for epsilon in epsilons:
            plan = _one_step(card, size, epsilon)
            sum_TD = observe(card, start, batches, plan, seed)
            attacks = {"matching": match(card, start, sum_TD, y_TB, plan, seed)}
            if size == 1:
                attacks["closed form"] = solve(card, sum_TD)
                attacks["inference"] = infer(card, start, sum_TD, y_TB, plan, public)
            for name, guessed_TBF in attacks.items():
                yield _row(name, size, _epsilon(plan.epsilon), compare(card, x_TBF, guessed_TBF))


def _one_step(card: UseCaseCard, citizens: int, epsilon: float) -> PrivacyPlan:
    return plan_for(card, citizens, epsilon=epsilon, rounds=1, local_steps=1, batch_size=citizens)


def _row(attack: str, size: int, epsilon: str, found: Recovered) -> tuple[str, ...]:
    return attack, str(size), epsilon, f"{found.error:.3f}", f"{found.categories:.3f}"


def _epsilon(epsilon: float) -> str:
    return "none" if np.isinf(epsilon) else f"{epsilon:.2f}"


def _print_row(*rows: Sequence[str]) -> None:
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
