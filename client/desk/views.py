"""Write policy, account and journal for the municipality's own screen, in Danish or English."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal

from client import consent, head, journal, ledger
from client.chain import Column
from client.consent import Approval, Standing
from client.desk.whatif import WhatIf
from client.language import Language, decimal, percent, plain, say, whole
from client.ledger import Budget
from client.policy import Hours, Policy
from faelles.privacy.accountant import ORDERS, epsilon
from faelles.privacy.plan import PrivacyPlan

STANDINGS: Mapping[Standing, tuple[str, str]] = {
    Standing.VALID: ("gælder", "valid"),
    Standing.NONE: ("gælder ikke: politikken tillader ikke kortet", "not valid: the policy does not allow the card"),
    Standing.WAITING: ("venter på en anden underskrift", "waits for a second signature"),
    Standing.EXPIRED: ("udløbet", "expired"),
    Standing.WITHDRAWN: ("trukket tilbage", "withdrawn"),
}
PARTS = {ledger.TRAINING: ("træning", "training"), ledger.HELD_OUT: ("tilbageholdt", "held out")}
OUTCOMES = {journal.CLEARED: "frigivet", journal.RESENT: "gensendt", journal.BLOCKED: "spærret"}


def policy_lines(policy: Policy, language: Language) -> Iterator[str]:
    """Write the rules in plain words."""
    rows = (
        ("loft, følsomme", "cap, special", _budget(policy.special, language)),
        ("loft, øvrige", "cap, otherwise", _budget(policy.otherwise, language)),
        ("periode", "period", _period(policy, language)),
        ("største kørsel", "largest run", say(
            language, f"{decimal(policy.largest_run_share, language)} af loftet",
            f"{decimal(policy.largest_run_share, language)} of the cap")),
        ("reservation", "reservation", _reservation(policy.reservation_days, language)),
        ("kort", "cards", say(language, "alle", "all") if policy.cards is None else ", ".join(policy.cards) or "-"),
        ("to mennesker", "two people", _two(policy, language)),
        ("må forlade kommunen", "may leave", _releases(policy, language)),
        ("arbejdstid", "working hours", _hours(policy.hours, language)),
        ("maskine", "machine", _machine(policy, language)),
    )  # fmt: skip
    width = max(len(say(language, da, en)) for da, en, _ in rows)
    yield from (f"{say(language, da, en):{width}}  {value}" for da, en, value in rows)


def approval_lines(database: sqlite3.Connection, policy: Policy, now: datetime, language: Language) -> Iterator[str]:
    """Write every approval with its standing."""
    approvals = consent.approvals(database)
    for one in approvals:
        da, en = STANDINGS[consent.standing(database, one, policy, now)]
        yield f"{one.card.id} v{one.card.version} ({one.card.sha256[:12]})  {say(language, da, en)}"
        yield "  " + consent_text(one, language)
    if not approvals:
        yield say(language, "intet kort er godkendt endnu", "no card is approved yet")


def consent_text(one: Approval, language: Language) -> str:
    """Write what was agreed to."""
    until = say(language, f"til og med {one.until}", f"until {one.until}") if one.until else say(
        language, "uden slutdato", "without an end")  # fmt: skip
    return say(
        language, f"population {one.population}, erklæret størrelse {whole(one.declared_size, language)}, "
        f"ε højst {decimal(one.epsilon, language)}, {until}",
        f"population {one.population}, declared size {whole(one.declared_size, language)}, "
        f"ε at most {decimal(one.epsilon, language)}, {until}",
    )  # fmt: skip


def approved_lines(
    one: Approval, plan: PrivacyPlan, policy: Policy, budget: Budget, language: Language
) -> Iterator[str]:
    """Write what an approval means beside its statement: what periods cost, and whether a run is too dear."""
    if policy.period_months is not None:
        cap, twice = (decimal(times * budget.epsilon, language) for times in (1, 2))
        yield say(
            language, f"\nPerioder. Loftet på ε {cap} gælder for hver periode på {policy.period_months} måneder. "
            f"k perioder koster k gange så meget: to perioder ε {twice}.",
            f"\nPeriods. The cap of ε {cap} is for each period of {policy.period_months} months. "
            f"k periods cost k times as much: two periods ε {twice}.",
        )  # fmt: skip
    most, cost = min(policy.run_cap(budget), one.epsilon), epsilon(plan.curve, budget.delta)
    cost = max(cost, one.card.evaluation.epsilon)
    if cost > most:
        yield say(
            language, f"\nBemærk: En kørsel, som kortet beskriver den, koster ε {decimal(cost, language)} og afvises, "
            f"for den må højst koste {decimal(most, language)}. Kun en kørsel med mindre ε kan deltage.",
            f"\nNote: A run as the card describes it costs ε {decimal(cost, language)} and is refused, for it may cost "
            f"at most {decimal(most, language)}. Only a run with a smaller ε can take part.",
        )  # fmt: skip


def ledger_lines(database: sqlite3.Connection, policy: Policy, now: datetime, language: Language) -> Iterator[str]:
    """Write every account: what is spent and what is reserved, as epsilon; and the share of the room that this takes.

    Epsilon of two runs is less than the sum of both; the room is what adds up: so many rounds, so many percent.
    """
    if head.frozen(database):
        yield say(
            language,
            "SPÆRRET: dette lager er en ældre kopi; noget, der er brugt, mangler. Kør `faelles-agent ledger recover`",
            "FROZEN: this store is an older copy; something spent is missing. Run `faelles-agent ledger recover`",
        )
    populations = consent.populations(database)
    for population in populations:
        budget = policy.budget(population.special_categories)
        yield f"{population.name}  {_budget(budget, language)}; {_period(policy, language)}"
        for part in PARTS:
            yield "  " + _account(database, population.name, part, policy, budget, now, language)
            yield from _earlier(database, population.name, part, policy, budget, now, language)
    if not populations:
        yield say(language, "ingen population er registreret endnu", "no population is registered yet")
    for one in ledger.open_reservations(database):
        if one.open(now) and one.part == ledger.TRAINING:
            until = one.expires or say(language, "uden udløb", "no expiry")
            yield say(
                language, f"åben kørsel {one.federation} ({one.population}), reserveret til {until}",
                f"open run {one.federation} ({one.population}), reserved until {until}",
            )  # fmt: skip


def what_if_lines(answers: Iterable[WhatIf], language: Language) -> Iterator[str]:
    """Write what accounts would be after more rounds."""
    for one in answers:
        now, after, cap = (decimal(value, language) for value in (one.now, one.after, one.cap))
        verdict = say(language, "der er plads", "fits")
        if not one.fits:
            verdict = say(language, "afvises af politikken", "the policy would refuse it")
        elif not one.agreed:
            verdict = say(language, "afvises, for godkendelsen rækker ikke", "the approval does not stretch to it")
        yield say(
            language, f"{one.card} på {one.population}: {one.rounds} runder mere bringer ε fra {now} til {after} af "
            f"{cap}: {verdict}",
            f"{one.card} on {one.population}: {one.rounds} more rounds take ε from {now} to {after} of "
            f"{cap}: {verdict}",
        )  # fmt: skip


def journal_lines(rows: Iterable[Mapping[str, Column]], since: str, language: Language) -> Iterator[str]:
    """Write journal lines for a screen, one each; `since` is the day that was asked for, empty for all."""
    empty = True
    for row in rows:
        empty = False
        text = {name: str(value) for name, value in row.items()}
        cost = "" if row["epsilon"] is None else say(
            language, f"  ε {_float(row['epsilon'], language)}, i alt {_float(row['epsilon_after'], language)}",
            f"  ε {_float(row['epsilon'], language)}, in all {_float(row['epsilon_after'], language)}",
        )  # fmt: skip
        run = f"  {text['federation'][:8]} {say(language, 'runde', 'round')} {text['server_round']}"
        yield (
            f"{text['number']:>6}  {text['time']}  {_outcome(text['outcome'], language):<24} {text['kind']:<12} "
            f"{text['recipient']}"
            f"{run if text['federation'] else ''}  {whole(int(text['bytes']), language)} B{cost}"
        )
    if empty:
        yield say(language, f"intet har forladt kommunen, og intet er afvist{since and f' siden {since}'}",
                  f"nothing has left, nothing was refused{since and f' since {since}'}")  # fmt: skip


def _account(
    database: sqlite3.Connection, population: str, part: str, policy: Policy, budget: Budget, now: datetime,
    language: Language,
) -> str:  # fmt: skip
    have = ledger.account(database, population, part, now, policy.period(now))
    spent, total = (decimal(epsilon(curve, budget.delta), language) for curve in (have.spent, have.total))
    share = 0.0 if have.order is None else ledger.share_used(have, budget)
    order = "" if have.order is None else say(
        language, f" (Rényi-orden {plain(ORDERS[have.order], language)})",
        f" (Rényi order {plain(ORDERS[have.order], language)})")  # fmt: skip
    used = percent(share, language)
    return say(
        language, f"{PARTS[part][0]:<13} brugt ε {spent}, med åbne kørsler {total}; {used} af pladsen{order}",
        f"{PARTS[part][1]:<13} spent ε {spent}, with open runs {total}; {used} of the room{order}",
    )  # fmt: skip


def _earlier(
    database: sqlite3.Connection, population: str, part: str, policy: Policy, budget: Budget, now: datetime,
    language: Language,
) -> Iterator[str]:  # fmt: skip
    """Write what all periods have cost together, where there is more than the present one."""
    periods = [period for name, where, period in ledger.accounts(database) if (name, where) == (population, part)]
    if set(periods) - {policy.period(now)}:
        curves = [ledger.account(database, population, part, now, period).spent for period in periods]
        spent = decimal(epsilon(sum(curves, ledger.NOTHING), budget.delta), language)
        yield say(language, f"  {'':<13} i alle perioder tilsammen brugt ε {spent}",
                  f"  {'':<13} spent in all periods together ε {spent}")  # fmt: skip


def _budget(budget: Budget, language: Language) -> str:
    delta = f"{Decimal(repr(budget.delta)):f}".replace(".", say(language, ",", "."))
    return say(language, f"ε højst {decimal(budget.epsilon, language)} ved δ {delta}",
               f"ε at most {decimal(budget.epsilon, language)} at δ {delta}")  # fmt: skip


def _period(policy: Policy, language: Language) -> str:
    if policy.period_months is None:
        return say(language, "for altid", "for life")
    months = policy.period_months
    return say(
        language, f"for hver periode på {months} måneder; k perioder koster k gange så meget",
        f"for each period of {months} months; k periods cost k times as much",
    )  # fmt: skip


def _reservation(days: int | None, language: Language) -> str:
    if days is None:
        return say(language, "uden udløb", "without an end")
    return say(language, f"i {days} dage", f"for {days} days")


def _two(policy: Policy, language: Language) -> str:
    wanted = [
        text
        for wants, text in (
            (policy.two_people_approve, say(language, "godkendelse", "approval")),
            (policy.two_people_register, say(language, "ny population", "new population")),
        )
        if wants
    ]
    return ", ".join(wanted) or "-"


def _releases(policy: Policy, language: Language) -> str:
    allowed = [
        text
        for allows, text in (
            (policy.updates, say(language, "opdateringer", "updates")),
            (policy.histograms, say(language, "histogrammer", "histograms")),
        )
        if allows
    ]
    return ", ".join(allowed) or say(language, "intet", "nothing")


def _hours(hours: Hours, language: Language) -> str:
    if hours == Hours():
        return say(language, "altid", "always")
    days = say(language, "man tir ons tor fre lør søn", "mon tue wed thu fri sat sun").split()
    return f"{' '.join(days[day] for day in hours.days)} {hours.start:%H:%M}-{hours.end:%H:%M}"


def _machine(policy: Policy, language: Language) -> str:
    memory = "" if policy.memory_mb is None else say(
        language, f", hukommelse: {whole(policy.memory_mb, language)} MB",
        f", memory: {whole(policy.memory_mb, language)} MB")  # fmt: skip
    return say(language, f"tråde: {policy.threads}{memory}", f"threads: {policy.threads}{memory}")


def _outcome(outcome: str, language: Language) -> str:
    """Write an outcome in Danish; a refusal's code stays as it was sent."""
    if language == "en":
        return outcome
    return OUTCOMES.get(outcome, outcome.replace(journal.REFUSED, "afvist:"))


def _float(value: Column, language: Language) -> str:
    return decimal(float(str(value)), language)
