"""Put a live federation's outcome into a result: what the coordinator asked for, and what it was told, no more."""

from pathlib import Path

from catalogue import shelf
from faelles.card import UseCaseCard, load_card
from faelles.errors import DataError
from faelles.municipalities import by_code
from server.federation import PLACE, FederationConfig
from server.report import write_report
from server.result import Result, RunRecord, Site, Timing, write_json
from server.summary import plain, privacy_of, usecase_of, versions

NO_CURVE = "none: a live federation knows no exact figures"


def live_result(config: FederationConfig, record: RunRecord, command: str) -> Result:
    """Put together the result of a live federation, ended or not.

    Args:
        config: What was asked for.
        record: Who took part, and what they released.
        command: What starts such a federation.
    """
    train_s = sum(one.seconds for one in record.rounds)
    return Result(
        command=command,
        seed=config.seed,
        usecase=usecase_of(config.card, _derived(config.card)),
        strategy=config.strategy.name,
        config=plain(config.model_dump(mode="json", exclude=set(PLACE))),
        versions=versions(),
        privacy=privacy_of(config.card, config.terms, record),
        main_arm=None,
        arms={},
        curve_label=NO_CURVE,
        sites={name: Site(name=_name(name), declared_size=record.declared_sizes.get(name)) for name in record.expected},
        run=record,
        timing=Timing(train_s=train_s, total_s=train_s),
    )


def write_outcome(folder: Path, config: FederationConfig, record: RunRecord, command: str) -> None:
    """Write result.json and report.html into a run's folder, each atomically.

    Args:
        folder: Where they go; it exists.
        config: What was asked for.
        record: Who took part, and what they released.
        command: What starts such a federation.
    """
    result = live_result(config, record, command)
    write_json(folder / "result.json", result)
    write_report(result, folder / "report.html")


def _name(key: str) -> str:
    """Name a municipality by its code; a node of another name keeps it."""
    try:
        return by_code(key).name
    except DataError:
        return key


def _derived(card: UseCaseCard) -> bool:
    """Say whether the catalogue's card of this name and version is another card."""
    folder = shelf.USECASES.get(card.id)
    if folder is None:
        return False
    listed = load_card(folder / "card.yaml")
    return listed.version == card.version and listed.sha256 != card.sha256
