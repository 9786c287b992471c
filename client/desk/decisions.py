"""Decide on cards as a municipality's people ask for: check, approve, countersign, withdraw.

Whatever goes beyond the policy is refused with its public cap, and never quietly cut down to it.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from catalogue import shelf
from client import consent
from client.consent import Approval
from client.contract import ContractReport, examine
from client.desk import receipt
from client.desk.people import person, required
from client.home import RECEIPTS, Home
from client.language import plain, reason
from client.ledger import utc_now
from client.policy import Policy
from client.population import PopulationSettings, read_raw
from faelles.card import UseCaseCard
from faelles.errors import CardError, ConfigError, DataError, KeyFileError, PolicyError
from faelles.privacy.plan import PrivacyPlan, plan_for


@dataclass(frozen=True, kw_only=True)
class Wish:
    """Hold what somebody asks to approve."""

    card: str
    population: str
    declared_size: int
    epsilon: float
    until: date | None


def find_card(usecase: str) -> UseCaseCard:
    """Find a card by its name in the catalogue, or by a folder that holds one; none of the folder's code is run.

    Raises:
        ConfigError: There is none.
        CardError: It has mistakes.
    """
    try:
        return shelf.find(usecase).card
    except ConfigError as error:
        known = ", ".join(shelf.names())
        raise ConfigError(
            str(error),
            da=f"kort {usecase}: findes ikke i kataloget ({known}); vælg et, eller angiv en mappe med en card.yaml",
        ) from None
    except CardError as error:
        raise CardError(str(error), da=f"kortet kan ikke læses: {error}") from None


def check(home: Home, usecase: str, population: str) -> ContractReport:
    """Check a population's rows against a card; the report is for this screen."""
    card = find_card(usecase)
    with closing(home.store()) as store:
        settings = home.check_population(store, population)
        return examine(card, read_raw(settings, card, home.folder), store.key, held_out=settings.held_out)


def approve(
    home: Home, wish: Wish, key: Path | None, show: Callable[[ContractReport], None]
) -> tuple[Approval, PrivacyPlan | None]:
    """Approve a card for a population, where policy and data let it.

    Args:
        home: The agent's folder.
        wish: What is asked.
        key: Of who asks, where the policy wants keys.
        show: Shows the contract report of data that do not fit.

    Returns:
        The approval, and the plan of a run as the card stands; None where there is nobody to learn from.

    Raises:
        PolicyError: It goes beyond the policy; the text states the cap.
        DataError: The rows do not fit the card's contract.
        PlanError: No noise keeps what the card promises.
    """
    policy, card = home.policy(), find_card(wish.card)
    by = required(person(policy, key), policy.two_people_approve)
    settings = home.population(wish.population)
    _allow(policy, card, settings, wish)
    report = check(home, wish.card, wish.population)
    blocking = report.of("blocks")
    if blocking:
        show(report)
        raise DataError(
            f"approve: expected rows that fit the card, {len(blocking)} finding(s) above block it; mend them first",
            da=f"approve: rækkerne passer ikke til kortet; {len(blocking)} fund ovenfor spærrer; ret dem først",
        )
    approval = Approval(
        card=card, population=wish.population, declared_size=wish.declared_size, epsilon=wish.epsilon, until=wish.until
    )
    with closing(home.store()) as store, store.transaction() as database:
        approved = consent.approve(database, approval, utc_now(), by)
        # Inside the transaction: where the plan cannot be met, nothing is approved.
        return approved, plan_for(card, wish.declared_size) if wish.declared_size else None


def countersign(home: Home, key: Path, card: str | None, population: str | None) -> tuple[str, Approval | None]:
    """Sign a waiting approval or population as the second person.

    Returns:
        Whose name it was signed with, and the approval where it is one.

    Raises:
        ConfigError: There is no such thing to sign, or not one of the two was named.
        PolicyError: The key is nobody's, or of the person who signed already.
    """
    if (card is None) == (population is None):
        raise ConfigError(
            "countersign: expected either a card or --population; name what you sign",
            da="countersign: angiv enten et kort eller --population, alt efter hvad I skriver under på",
        )
    by = person(home.policy(), key)
    assert by is not None
    with closing(home.store()) as store, store.transaction() as database:
        known = consent.find_population(database, population) if population else None
        approvals = [one for one in consent.approvals(database) if one.card.id == card]
        decision = approvals[-1] if approvals else known
        if decision is None:
            wanted = population or card
            raise ConfigError(
                f"countersign {wanted}: expected something that waits for a signature, found none; approve or add it "
                "first",
                da=f"countersign {wanted}: der er ikke noget at skrive under på; godkend eller tilføj det først",
            )
        consent.countersign(database, decision.number, by, utc_now())
    return by.name, decision if isinstance(decision, Approval) else None


def withdraw(home: Home, usecase: str) -> list[Path]:
    """Withdraw every approval of a card, at once, also from a run under way, and write the receipts.

    Guarantees: the withdrawal holds also where no receipt can be made.

    Raises:
        ConfigError: There is no such card, or it is withdrawn and the receipt cannot be made.
    """
    try:
        signer, failed = home.signer(), None
    except KeyFileError as error:
        signer, failed = None, error
    with closing(home.store()) as store, store.transaction() as database:
        cards = [one.card for one in consent.approvals(database) if usecase in (one.card.id, one.card.sha256)]
        if not cards:
            raise ConfigError(
                f"withdraw {usecase}: expected an approved card, found none; `faelles-agent policy` lists them",
                da=f"withdraw {usecase}: der er intet godkendt kort af det navn; `faelles-agent policy` viser dem",
            )
        if signer is None:
            for card in cards:
                consent.withdraw(database, card.sha256, utc_now())
        else:
            receipts = [
                receipt.withdraw(database, card, home.settings.municipality, signer, utc_now()) for card in cards
            ]
    if failed is not None:
        raise _without_receipt(usecase, str(failed), failed.text("da"))
    try:
        return [receipt.write(home.folder / RECEIPTS, fields) for fields in receipts]
    except OSError as error:
        where = home.folder / RECEIPTS
        texts = (f"{where}: {reason(error, 'en')}", f"{where}: {reason(error, 'da')}")
        raise _without_receipt(usecase, *texts) from None


def _without_receipt(usecase: str, en: str, da: str) -> ConfigError:
    return ConfigError(
        f"withdraw {usecase}: it is withdrawn, but the receipt could not be made; mend this and withdraw again: {en}",
        da=f"withdraw {usecase}: kortet er trukket tilbage, men kvitteringen kunne ikke laves; ret dette, og træk det "
        f"tilbage igen: {da}",
    )


def _allow(policy: Policy, card: UseCaseCard, settings: PopulationSettings, wish: Wish) -> None:
    """Refuse what the policy does not allow."""
    cap = policy.budget(settings.special_categories).epsilon
    if not policy.allows_card(card):
        raise PolicyError(
            f"card {card.id}: expected one that policy.yaml lists under cards, it does not; write {card.id} there",
            da=f"kort {card.id}: står ikke under cards i policy.yaml; skriv {card.id} dér",
        )
    if card.unit is None:
        raise PolicyError(
            f"card {card.id}: expected one that names its citizens, its unit is null; that is for public data only",
            da=f"kort {card.id}: skal nævne borgerne, men unit er null; det er kun til offentlige data",
        )
    if card.law.special_categories and not settings.special_categories:
        raise PolicyError(
            f"card {card.id}: expected a population with special categories, {wish.population} has none; register one",
            da=f"kort {card.id}: kræver en population med følsomme oplysninger, og det er {wish.population} ikke; "
            "registrér en",
        )
    if card.evaluation.held_out != settings.held_out:
        raise PolicyError(
            f"card {card.id}: expected held_out {settings.held_out:g} as the population's, it is "
            f"{card.evaluation.held_out:g}; use another card",
            da=f"kort {card.id}: held_out skal være {plain(settings.held_out, 'da')} som populationens, men er "
            f"{plain(card.evaluation.held_out, 'da')}; brug et andet kort",
        )
    if not 0 < wish.epsilon <= cap:
        raise PolicyError(
            f"epsilon {wish.epsilon:g}: expected above 0 and at most {cap:g}, the policy's cap; correct it",
            da=f"epsilon {plain(wish.epsilon, 'da')}: skal være over 0 og højst {plain(cap, 'da')}, politikkens loft; "
            "ret det",
        )
    if wish.until is not None and wish.until < utc_now().astimezone().date():
        raise PolicyError(
            f"until {wish.until}: expected today or a later day, it is over; choose another",
            da=f"until {wish.until}: dagen er forbi; vælg en senere",
        )
