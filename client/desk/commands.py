"""Carry out each command of faelles-agent and word its answer; what it decides is decided elsewhere.

What reads rows is imported where it is needed, after the policy's limits hold: looking at an account is quick.
"""

import logging
import os
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

from client import chain, head
from client import journal as lines
from client.desk import receipt, views, whatif
from client.home import ENVIRONMENT, Home, create, write_out
from client.language import Language, say, whole
from client.ledger import utc_now
from faelles.errors import ConfigError
from faelles.keys import fingerprint
from faelles.municipalities import by_code


def init(given: Namespace, language: Language) -> Iterable[str]:
    """Lay out a new agent."""
    home = create(given.dir or Path(os.environ.get(ENVIRONMENT, ".")), given.municipality, language)
    print_key, town = fingerprint(home.signer().public), by_code(home.settings.municipality)
    yield say(language, f"agenten for {town.name} ({town.code}) er oprettet i {home.folder}",
              f"the agent of {town.name} ({town.code}) is laid out in {home.folder}")  # fmt: skip
    yield say(language, f"nøglens fingeraftryk: {print_key}", f"fingerprint of its key: {print_key}")
    yield say(language, "læs policy.yaml igennem; indtil cards nævner et kort, afvises alt",
              "read policy.yaml through; until its cards name one, everything is refused")  # fmt: skip


def person(given: Namespace, language: Language) -> Iterable[str]:
    """Make a person's key."""
    from client.desk import people

    signer = people.make_person(given.name, given.key)
    yield say(language, f"nøglen ligger i {given.key}; hold den for dig selv. Skriv under people i policy.yaml:",
              f"the key lies in {given.key}; keep it to yourself. Write under people in policy.yaml:")  # fmt: skip
    yield f'  "{given.name}": "{signer.public}"'


def population_add(given: Namespace, language: Language) -> Iterable[str]:
    """Register a population."""
    home = _home(given)
    _limit(home)
    from client.desk import registration

    source = registration.source_settings(given.source, given.password_file) if given.source else None
    terms = {"special_categories": False} if given.no_special_categories else {}
    terms |= {"held_out": given.held_out} if given.held_out is not None else {}
    settings = registration.population_settings(home, given.name, source, given.citizen, terms)
    registration.register(home, given.name, settings, given.key, given.accept_overlap)
    yield say(language, f"population {given.name} er registreret; dens konto begynder nu",
              f"population {given.name} is registered; its account begins now")  # fmt: skip
    if home.policy().two_people_register:
        yield _second(f"--population {given.name}", language)


def check_data(given: Namespace, language: Language) -> Iterable[str]:
    """Check a population's rows against a card, on this screen only."""
    home = _home(given)
    _limit(home)
    from client.contract import render
    from client.desk import decisions

    report = decisions.check(home, given.card, given.population)
    yield render(report, language)
    if not report.fits:
        raise ConfigError(
            "check-data: expected rows that fit the card; mend what blocks above",
            da="check-data: rækkerne passer ikke til kortet; ret det, der spærrer ovenfor",
        )


def approve(given: Namespace, language: Language) -> Iterable[str]:
    """Approve a card."""
    home = _home(given)
    _limit(home)
    from client.contract import render
    from client.desk import decisions
    from faelles.privacy.statement import statement

    wish = decisions.Wish(card=given.card, population=given.population, declared_size=given.declared_size,
                     epsilon=given.epsilon, until=given.until)  # fmt: skip
    shown: list[str] = []
    try:
        approval, plan = decisions.approve(home, wish, given.key, lambda report: shown.append(render(report, language)))
    finally:
        yield from shown
    card, policy = approval.card, home.policy()
    yield say(language, f"{card.id} er godkendt for {approval.population}; kortets hash: {card.sha256}",
              f"{card.id} is approved for {approval.population}; the card's hash: {card.sha256}")  # fmt: skip
    if policy.two_people_approve:
        yield _second(card.id, language)
    if plan is None:
        yield say(language, "kommunen har ingen borgere at lære af; den svarer netop det og deltager ikke",
                  "the municipality has no citizens to learn from; it answers just that and takes no part")  # fmt: skip
        return
    yield ""
    yield statement(
        plan, language, unit_name=getattr(card.unit_name, language), evaluation_epsilon=card.evaluation.epsilon
    )
    budget = policy.budget(home.population(approval.population).special_categories)
    yield from views.approved_lines(approval, plan, policy, budget, language)


def countersign(given: Namespace, language: Language) -> Iterable[str]:
    """Sign as the second person."""
    from client.desk import decisions

    name, approval = decisions.countersign(_home(given), given.key, given.card, given.population)
    what = given.population or given.card
    yield say(language, f"{what} er skrevet under af {name}", f"{what} is signed by {name}")
    if approval:
        yield "  " + views.consent_text(approval, language)


def withdraw(given: Namespace, language: Language) -> Iterable[str]:
    """Withdraw a card, at once."""
    from client.desk import decisions

    for path in decisions.withdraw(_home(given), given.card):
        yield say(language, f"{given.card} er trukket tilbage; kvittering: {path}",
                  f"{given.card} is withdrawn; receipt: {path}")  # fmt: skip


def policy(given: Namespace, language: Language) -> Iterable[str]:
    """Show rules and approvals."""
    home = _home(given)
    policy = home.policy()
    yield from views.policy_lines(policy, language)
    with closing(home.store()) as store:
        yield from views.approval_lines(store.database, policy, utc_now(), language)


def ledger(given: Namespace, language: Language) -> Iterable[str]:
    """Show the accounts, answer what-if, or recover."""
    home = _home(given)
    if given.action and given.what_if is not None:
        raise ConfigError(
            "ledger: expected recover or --what-if, both came; choose one",
            da="ledger: angiv enten recover eller --what-if, ikke begge",
        )
    with closing(home.store()) as store:
        if given.action == "recover":
            with store.transaction() as database:
                charged = head.recover(database, home.signer(), utc_now())
            yield say(language, f"genoprettet: {charged} konti manglede noget, som nu er bogført som brugt",
                      f"recovered: {charged} account(s) missed something, which is now charged as spent")  # fmt: skip
        elif given.what_if is not None:
            answers = whatif.what_if(store.database, home.policy(), given.what_if, utc_now())
            yield from views.what_if_lines(answers, language)
        else:
            yield from views.ledger_lines(store.database, home.policy(), utc_now(), language)


def journal(given: Namespace, language: Language) -> Iterable[str]:
    """Show, verify or export the journal."""
    home = _home(given)
    since = given.since.isoformat() if given.since else ""
    with closing(home.store()) as store:
        if given.verify:
            for table, da, en in (("journal", "udgangsbogens", "journal's"), ("ledger", "kontoens", "ledger's")):
                number, last = chain.verify(store.database, table)
                rows = whole(number, language)
                yield say(language, f"{da} kæde er ubrudt; rækker: {rows}, den sidste {last}",
                          f"the {en} chain is unbroken; rows: {rows}, the last {last}")  # fmt: skip
        if given.export:
            text = "".join(f"{line}\n" for line in lines.export(store.database, home.signer(), since))
            write_out(given.export, text.encode())
            yield say(language, f"skrevet til {given.export}; efterprøves med faelles-agent verify {given.export}",
                      f"written to {given.export}; check it with faelles-agent verify {given.export}")  # fmt: skip
        if not (given.verify or given.export):
            yield from views.journal_lines(lines.lines(store.database, since), since, language)


def verify(given: Namespace, language: Language) -> Iterable[str]:
    """Check an export or a receipt, on any machine."""
    texts = Path(given.file).read_text(encoding="utf-8", errors="replace").splitlines()
    if len(texts) == 1:
        fields = receipt.check(texts[0])
        what, key = f"{fields['what']} {fields['card_id']} {fields['time']}", str(fields["key"])
    else:
        number, key = lines.verify_export(texts)
        what = say(language, f"{number} linjer", f"{number} lines")
    yield say(language, f"ægte og hel: {what}", f"genuine and whole: {what}")
    yield say(language, f"underskrevet med nøglen {fingerprint(key)}", f"signed with key {fingerprint(key)}")


def model(given: Namespace, language: Language) -> Iterable[str]:
    """List or export the models that came home."""
    from client.desk import models

    home = _home(given)
    with closing(home.store()) as store:
        if given.action == "list":
            yield from models.lines(store.database, language)
        else:
            path = models.export(store.database, given.federation, given.out)
            yield say(language, f"skrevet til {path}", f"written to {path}")


def enrol(given: Namespace, language: Language) -> Iterable[str]:
    """Ask a coordinator to be let in."""
    from client import enrolment
    from client.connection import Address
    from client.desk import joining
    from faelles.records import SCHEMA_VERSION  # brings Flower along

    home = _home(given)
    address = None if given.coordinator is None else Address(given.coordinator)
    wish = enrolment.Enrolling(coordinator=address, ca=given.ca, cvr=given.cvr, rotate=given.rotate)
    yield from joining.enrolled_lines(enrolment.enrol(home, wish, SCHEMA_VERSION, utc_now()), language)


def check(given: Namespace, language: Language) -> Iterable[str]:
    """Check that all that can be seen from here is ready to take part."""
    home = _home(given)
    from client.limits import apply_limits

    apply_limits(home.policy_or_nothing())  # a policy that cannot be read is one of the lines
    from client.desk import joining

    yield from joining.check_lines(home, language)


def up(given: Namespace, language: Language) -> Iterable[str]:
    """Run the agent until it is told to stop."""
    home = _home(given)
    from client import agent

    logging.getLogger("client").setLevel(logging.INFO)  # it speaks by its log, in the order that things happen
    port = agent.HEALTH_PORT if given.health is None else given.health
    agent.supervise(home, agent.worker_command(home), port, language)
    return ()


def _second(what: str, language: Language) -> str:
    return say(language, f"en anden skal skrive under: faelles-agent countersign {what} --key FIL",
               f"a second person has to sign: faelles-agent countersign {what} --key FILE")  # fmt: skip


def _home(given: Namespace) -> Home:
    return Home.open(given.dir or Path(os.environ.get(ENVIRONMENT, ".")))


def _limit(home: Home) -> None:
    from client.limits import apply_limits

    apply_limits(home.policy())


Command = Callable[[Namespace, Language], Iterable[str]]
COMMANDS: Final[Mapping[str, Command]] = {
    "init": init, "person": person, "population": population_add, "check-data": check_data, "approve": approve,
    "countersign": countersign, "withdraw": withdraw, "policy": policy, "ledger": ledger, "journal": journal,
    "verify": verify, "model": model, "enrol": enrol, "check": check,
    "up": up,
}  # fmt: skip
