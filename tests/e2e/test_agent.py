"""What the commands set up takes part in a federation: from an empty folder to a model that came home."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from client import ledger
from faelles.models import parameter_shapes
from faelles.terms import RunTerms
from server.federation import FederationConfig, StrategyChoice
from server.result import RunRecord
from server.rounds import Federation
from tests.builders import FEDERATION, OTHER_FEDERATION, build_card
from tests.municipality import Municipality, Served, cpr_table, say
from tests.postgres import Postgres
from tests.scripted import ScriptedGrid

CARD = build_card()
CODES = ("0101", "0751", "0851")


@pytest.fixture
def town(tmp_path: Path) -> list[Municipality]:
    made = [Municipality(tmp_path, code, cpr_table(60, seed=int(code))) for code in CODES]
    for one in made:
        assert one.register() == 0
        assert one.approve(6.0) == 0
    return made


@pytest.fixture
def served(town: list[Municipality]) -> Iterator[list[Served]]:
    opened = [one.serve() for one in town]
    yield opened
    for one in opened:
        one.close()


def federate(folder: Path, served: list[Served], federation: str = FEDERATION) -> RunRecord:
    grid = ScriptedGrid({1001 + place: (CODES[place], one) for place, one in enumerate(served)})
    config = FederationConfig(
        federation=uuid.UUID(federation),
        card=CARD,
        terms=RunTerms.of(CARD),
        strategy=StrategyChoice(name="fedavg"),
        quorum=0.6,
        folder=folder / federation,
    )
    return Federation(grid, config).run()


def test_municipalities_set_up_by_commands_learn_a_model_together(
    tmp_path: Path, town: list[Municipality], served: list[Served], capsys: pytest.CaptureFixture[str]
) -> None:
    record = federate(tmp_path, served)
    assert (record.status, record.expected, record.sits_out) == ("completed", list(CODES), {})
    assert [one.contributing for one in record.rounds] == [list(CODES)] * 3
    capsys.readouterr()

    assert say("ledger", "--dir", town[0].folder) == 0
    assert "brugt ε 2,00" in capsys.readouterr().out
    assert say("--lang", "en", "ledger", "--what-if", "30 more rounds", "--dir", town[0].folder) == 0
    assert "30 more rounds take ε from 2.00 to" in capsys.readouterr().out

    out = tmp_path / "model.npz"
    assert say("model", "export", FEDERATION[:8], "--out", out, "--dir", town[0].folder) == 0
    with np.load(out, allow_pickle=False) as model:
        assert {name: model[name].shape for name in model.files} == parameter_shapes(CARD)


def test_the_journal_names_each_departure_and_is_verified_elsewhere(
    tmp_path: Path, town: list[Municipality], served: list[Served], capsys: pytest.CaptureFixture[str]
) -> None:
    federate(tmp_path, served)
    export = tmp_path / "journal.jsonl"
    assert say("journal", "--verify", "--export", export, "--dir", town[1].folder) == 0
    rows = [json.loads(line) for line in export.read_text().splitlines()][1:-1]
    kinds = [(row["outcome"], row["kind"], row["server_round"]) for row in rows]
    trained = [("cleared", "train", number) for number in (1, 2, 3)]
    assert kinds == [
        ("cleared", "query.ready", 0), *trained, ("cleared", "evaluate", 3),
        ("cleared", "query.final", 3), ("cleared", "query.close", 3),
    ]  # fmt: skip
    assert rows[3]["epsilon_after"] == pytest.approx(2.0, abs=0.02)
    assert say("verify", export) == 0
    assert "ægte og hel: 7 linjer" in capsys.readouterr().out
    export.write_text(export.read_text().replace('"server_round":2', '"server_round":1'))
    assert say("verify", export) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_municipality_that_withdraws_in_mid_run_sends_nothing_more(
    tmp_path: Path, town: list[Municipality], served: list[Served], capsys: pytest.CaptureFixture[str]
) -> None:
    answer = served[0].__call__
    grid_calls = 0

    def withdraw_before_round_two(message: object) -> object:
        nonlocal grid_calls
        grid_calls += 1
        if grid_calls == 3:
            assert say("withdraw", CARD.id, "--dir", town[0].folder) == 0
        return answer(message)  # type: ignore[arg-type]

    record = federate(tmp_path, [withdraw_before_round_two, *served[1:]])  # type: ignore[list-item]
    assert record.status == "completed"
    assert record.rounds[0].contributing == list(CODES)
    for later in record.rounds[1:]:
        assert later.refused == {"0101": "withdrawn"}
    spent = ledger.spent(served[0].node.store.database, FEDERATION, ledger.TRAINING)
    np.testing.assert_allclose(spent, RunTerms.of(CARD).plan(CARD, 50).curve / 3)
    (receipt,) = (town[0].folder / "receipts").iterdir()
    capsys.readouterr()
    assert say("verify", receipt) == 0
    assert json.loads(receipt.read_text())["releases_before"] == 1
    receipt.write_text(receipt.read_text().replace('"releases_before":1', '"releases_before":0'))
    assert say("verify", receipt) == 2


def test_two_people_must_sign_where_the_policy_asks_for_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = Municipality(tmp_path, "0851", cpr_table(60))
    names = {name: tmp_path / f"{name}.key" for name in ("anna", "bo")}
    lines = []
    for name, key in names.items():
        assert say("person", name, "--key", key) == 0
        lines.append(capsys.readouterr().out.splitlines()[-1].strip())
    one.change_policy("people: {}", "people: {" + ", ".join(lines) + "}")
    one.change_policy("  approval: false ", "  approval: true ")
    assert one.register() == 0
    assert one.approve(2.0) == 2  # nobody's key
    assert one.approve(2.0, "--key", names["anna"]) == 0
    served = one.serve()
    record = run_alone(tmp_path, served, FEDERATION)
    assert record == "card-not-approved"
    assert say("countersign", CARD.id, "--key", names["anna"], "--dir", one.folder) == 2  # the same person
    assert say("countersign", CARD.id, "--key", names["bo"], "--dir", one.folder) == 0
    assert run_alone(tmp_path, served, OTHER_FEDERATION) == "completed"
    served.close()


def run_alone(folder: Path, served: Served, federation: str) -> str:
    """Run a federation of one; return its status, or why nobody takes part."""
    from faelles.errors import RunError

    try:
        grid = ScriptedGrid({1001: ("0851", served)})
        config = FederationConfig(
            federation=uuid.UUID(federation), card=CARD, terms=RunTerms.of(CARD),
            strategy=StrategyChoice(name="fedavg"), folder=folder / federation,
        )  # fmt: skip
        return Federation(grid, config).run().status
    except RunError as error:
        return str(error).split("(")[1].rstrip(")")


def test_a_population_may_lie_in_a_database_that_the_agent_can_only_read(
    tmp_path: Path, postgres: Postgres, capsys: pytest.CaptureFixture[str]
) -> None:
    table = cpr_table(60)
    # A schema of its own: other tests make the public one anew, with rights of theirs.
    postgres.run(
        "CREATE SCHEMA hjem", "CREATE TABLE hjem.cyklister (cpr text, alder text, brand text, repaired text)",
        "CREATE ROLE laeser LOGIN PASSWORD 'kodeord-til-basen'", "GRANT USAGE ON SCHEMA hjem TO laeser",
        "GRANT SELECT ON hjem.cyklister TO laeser",
        *(f"INSERT INTO hjem.cyklister VALUES {tuple(row.values())}" for row in table.to_pylist()),  # noqa: S608  # our own
    )  # fmt: skip
    one = Municipality(tmp_path, "0851", table)
    password = tmp_path / "password"
    address = postgres.address("hjem.cyklister", user="laeser")
    add = ("population", "add", "cyklister", "--citizen", "cpr", "--no-special-categories", "--dir", one.folder)
    for secret, status in (("forkert", 2), ("kodeord-til-basen", 0)):
        password.write_text(secret)
        password.chmod(0o600)
        assert say(*add, "--source", address, "--password-file", password) == status
    with (one.folder / "agent.yaml").open("a", encoding="utf-8") as file:
        file.write("    columns: {age: alder}\n")
    assert one.approve(2.0) == 0
    served = one.serve()
    assert run_alone(tmp_path, served, FEDERATION) == "completed"
    served.close()
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1  # of the wrong password
    assert "forkert" not in shown.out + shown.err
    assert "kodeord" not in shown.out + shown.err


def test_a_second_agent_on_the_same_store_is_refused(town: list[Municipality], served: list[Served]) -> None:
    with pytest.raises(ValueError, match="one is running; stop it first"):
        town[0].serve()
