"""faelles-sim as a researcher types it: what it writes, and the one line that bad input gets."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import yaml

from server.result import read_result
from simulations import cli

CARD = {
    "id": "bicycle-repair",
    "version": 1,
    "title": {"da": "Cykelreparationer", "en": "Bicycle repairs"},
    "category": "forecasting",
    "model_type": "specific",
    "unit": "citizen",
    "max_rows_per_unit": 2,
    "label": {"column": "repaired", "kind": "binary", "values": ["no", "yes"]},
    "features": [
        {"name": "age", "kind": "number", "min": 0, "max": 30},
        {"name": "brand", "kind": "category", "values": ["cargo", "city"]},
    ],
    "model": {"kind": "logistic"},
    "training": {"rounds": 3, "local_steps": 2, "batch_size": 32, "learning_rate": 0.5},
    "privacy": {"epsilon": 2.0, "delta": 1e-5, "clipping_norm": 1.0},
    "law": {"special_categories": False, "ai_act": "minimal", "basis": {}},
}
VALUE = "secret-value-of-a-citizen"
Sim = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a use case and its data: four sites, one of which has nobody with a label."""
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(CARD), encoding="utf-8")
    rng = np.random.default_rng(0)
    age = rng.uniform(0, 30, 400)
    label = np.where(rng.random(400) < 1 / (1 + np.exp(3 - age / 5)), "yes", "no").astype(object)
    site = np.repeat(["0101", "0147", "0751", "0851"], 100)
    label[site == "0751"] = None
    columns = {
        "site": site,
        "citizen": [f"c{number // 2}" for number in range(400)],
        "age": age,
        "brand": rng.choice(["cargo", "city"], 400),
        "repaired": label,
    }
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    return tmp_path


@pytest.fixture
def sim(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Sim:
    """Run the command in this process; return its status and what it printed."""

    def run(*arguments: str, given: bool = True) -> tuple[int, str, str]:
        base = [f"usecase={folder}", f"data.path={folder / 'rows.parquet'}"] if given else []
        flags = [one for one in arguments if one.startswith("--")]
        overrides = [one for one in arguments if not one.startswith("--")]
        output = [] if "--multirun" in flags else [f"hydra.run.dir={folder / 'out'}"]
        monkeypatch.setattr(sys, "argv", ["faelles-sim", *flags, *base, *output, *overrides])
        try:
            cli.main()
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
        printed = capfd.readouterr()
        return status, printed.out, printed.err

    return run


def test_a_study_with_every_arm(sim: Sim, folder: Path) -> None:
    status, out, err = sim("compare=true", "seed=3", "quorum=0.7")
    assert (status, err) == (0, "")
    result = read_result(folder / "out" / "result.json")
    assert set(result.arms) == {"federated", "local", "personalised", "pooled"}
    assert result.run.status == "completed"
    assert result.run.sits_out == {"0751": "no-data"}
    assert [len(one.contributing) for one in result.run.rounds] == [3, 3, 3]
    assert [point.round for point in result.curve] == [0, 1, 2, 3]
    assert result.curve_label == "exact, not releasable"
    assert result.curve[-1].auc == result.arms["federated"].auc.pooled
    assert result.sites["0851"].name == "Aalborg"
    assert result.privacy.epsilon is not None
    assert 1.98 <= result.privacy.epsilon <= 2.0
    assert result.run.evaluation is not None
    assert result.timing.total_s >= result.timing.train_s > 0
    assert "faelles-sim" in result.command
    assert "seed=3" in result.command
    assert "0751 (no-data)" in out
    assert str(folder / "out" / "report.html") in out.replace("\n", "")
    assert "Bicycle repairs" in (folder / "out" / "report.html").read_text(encoding="utf-8")
    fields = json.loads((folder / "out" / "result.json").read_text(encoding="utf-8"))
    assert set(fields["arms"]["federated"]["auc"]) == {"pooled", "by_site"}


def test_no_privacy_is_said_in_every_output(sim: Sim, folder: Path) -> None:
    status, out, _ = sim("privacy.epsilon=inf", "quorum=0.7")
    assert status == 0
    assert "WITHOUT privacy" in out
    assert "without privacy" in (folder / "out" / "report.html").read_text(encoding="utf-8").lower()
    result = read_result(folder / "out" / "result.json")
    assert not result.privacy.private
    assert result.privacy.epsilon is None
    assert result.usecase.derived is False


def test_too_few_municipalities_is_incomplete_and_says_why(sim: Sim, folder: Path) -> None:
    status, out, _ = sim("quorum=1.0")
    result = read_result(folder / "out" / "result.json")
    assert result.run.status == "incomplete"
    assert "quorum" in result.run.why
    assert "incomplete" in out
    assert status == 3


def test_a_finished_study_taken_up_again_ends_the_same(sim: Sim, folder: Path) -> None:
    assert sim("quorum=0.7")[0] == 0
    first = read_result(folder / "out" / "result.json")
    assert sim("quorum=0.7", "resume=true")[0] == 0
    again = read_result(folder / "out" / "result.json")
    assert again.run.model_sha256 == first.run.model_sha256
    assert again.curve == first.curve


def test_another_study_does_not_take_up_this_one(sim: Sim) -> None:
    assert sim("quorum=0.7", "rounds=1")[0] == 0
    status, _, err = sim("quorum=0.7", "rounds=2", "resume=true")
    assert status == 2
    assert "another federation" in err


def test_a_run_that_has_not_ended_is_not_thrown_away(sim: Sim, folder: Path) -> None:
    assert sim("quorum=1.0")[0] == 3
    status, _, err = sim("quorum=0.7")
    assert status == 2
    assert "add resume=true" in err
    assert list((folder / "out" / "checkpoints").glob("*"))


def test_other_data_is_another_federation(sim: Sim, folder: Path) -> None:
    assert sim("quorum=0.7", "rounds=1")[0] == 0
    table = pq.read_table(folder / "rows.parquet")
    pq.write_table(table.slice(0, 350), folder / "rows.parquet")
    status, _, err = sim("quorum=0.7", "rounds=1", "resume=true")
    assert status == 2
    assert "another federation" in err


def test_a_csv_file_says_the_same_as_a_parquet_file(sim: Sim, folder: Path) -> None:
    table = pq.read_table(folder / "rows.parquet")
    brand = table.column("brand").to_pylist()
    table = table.set_column(3, "brand", pa.array([None, *brand[1:]]))
    pq.write_table(table, folder / "rows.parquet")
    pyarrow.csv.write_csv(table, folder / "rows.csv")
    assert sim("quorum=0.7", "rounds=1")[0] == 0
    parquet = read_result(folder / "out" / "result.json")
    assert sim("quorum=0.7", "rounds=1", f"data.path={folder / 'rows.csv'}")[0] == 0
    csv = read_result(folder / "out" / "result.json")
    assert csv.run.model_sha256 == parquet.run.model_sha256
    assert csv.sites == parquet.sites


def test_a_citizen_column_may_be_a_dictionary(sim: Sim, folder: Path) -> None:
    table = pq.read_table(folder / "rows.parquet")
    pq.write_table(table.set_column(1, "citizen", table.column("citizen").dictionary_encode()), folder / "rows.parquet")
    assert sim("quorum=0.7", "rounds=1")[0] == 0


def test_a_folder_that_cannot_be_made_gets_one_line(sim: Sim, folder: Path) -> None:
    status, _, err = sim(f"hydra.run.dir={folder / 'card.yaml' / 'out'}")
    assert status == 2
    assert err.count("\n") == 1
    assert "choose another hydra.run.dir" in err


def test_one_bad_job_does_not_end_a_multirun(sim: Sim, folder: Path) -> None:
    status, _, err = sim(
        "--multirun", "rounds=1", "quorum=0.7", "training.batch_size=0,32", f"hydra.sweep.dir={folder / 'sweep'}"
    )
    assert status == 2
    assert err.count("\n") == 1
    assert len(list(folder.glob("sweep/*/result.json"))) == 1


def test_multirun_makes_a_folder_for_each_job(sim: Sim, folder: Path) -> None:
    status, _, err = sim(
        "--multirun", "rounds=1", "quorum=0.7", "strategy=fedavg,fedadam", "privacy.epsilon=1,2",
        f"hydra.sweep.dir={folder / 'sweep'}",
    )  # fmt: skip
    assert (status, err) == (0, "")
    results = [read_result(path) for path in sorted(folder.glob("sweep/*/result.json"))]
    assert {(one.strategy, round(one.privacy.epsilon or 0)) for one in results} == {
        ("fedavg", 1), ("fedavg", 2), ("fedadam", 1), ("fedadam", 2),
    }  # fmt: skip


def test_an_override_beyond_the_card_makes_another_card(sim: Sim, folder: Path) -> None:
    assert sim("quorum=0.7", "rounds=1", "privacy.epsilon=1")[0] == 0
    tightened = read_result(folder / "out" / "result.json").usecase
    assert sim("quorum=0.7", "rounds=1", "privacy.epsilon=4")[0] == 0
    loosened = read_result(folder / "out" / "result.json").usecase
    assert (tightened.derived, loosened.derived) == (False, True)
    assert tightened.card_sha256 != loosened.card_sha256


def test_the_catalogue_is_listed_a_line_each(sim: Sim) -> None:
    status, out, _ = sim("usecase=list", given=False)
    assert status == 0
    assert "elder-admission" in out
    assert all(line.split()[0].islower() for line in out.strip().splitlines())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("strategy=fedfoo",), ("strategy/fedfoo", "fedadam")),
        (("colour=red",), ("colour",)),
        (("rounds=many",), ("rounds", "Integer")),
        (("rounds=0",), ("rounds", "greater than or equal to 1")),
        (("privacy.epsilon=-1",), ("epsilon", "greater than 0")),
        (("privacy.epsilon=nan",), ("epsilon",)),
        (("quorum=3",), ("quorum", "less than or equal to 1")),
        (("deadline_s=0",), ("deadline_s",)),
        (("deadline_s=inf",), ("deadline_s",)),
        (("weighting=rows",), ("weighting", "'equal' or 'declared'")),
        (("workers=0",), ("workers=0", "1 or more")),
        (("seed=-1",), ("seed",)),
        (("training.batch_size=0",), ("training.batch_size",)),
        (("model.local=[nothing]",), ("output.weight", "output.bias")),
        (("strategy=fedadam", "strategy.terms.beta_1=7"), ("beta_1",)),
        (("strategy.terms.mystery=1",), ("mystery",)),
        (("data.path=nowhere.parquet",), ("nowhere.parquet", "none there")),
        (("data.site=town",), ("data.site=town", "citizen, age, brand")),
        (("usecase=elder-admision",), ("elder-admission",)),
        (("usecase=heart-disease-flamby",), ("expected privacy.epsilon=inf",)),
        (("usecase=no/such/folder",), ("no/such/folder",)),
    ],
)
def test_wrong_arguments_get_one_line(sim: Sim, arguments: tuple[str, ...], expected: tuple[str, ...]) -> None:
    status, _, err = sim(*arguments)
    assert status == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    for part in expected:
        assert part in err


def spoil(folder: Path, column: str, values: pa.Array | None) -> None:
    """Write the rows again with one column replaced, or removed."""
    table = pq.read_table(folder / "rows.parquet")
    place = table.column_names.index(column)
    changed = table.remove_column(place) if values is None else table.set_column(place, column, values)
    pq.write_table(changed, folder / "rows.parquet")


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("age", None, "column age: expected by the contract, not found"),
        ("age", pa.array([VALUE] * 400), "column age: expected numbers"),
        ("age", pa.array([float("nan")] * 400), "column age: expected values, every row is missing"),
        ("brand", pa.array([VALUE] * 7 + ["city"] * 393), "7 rows hold something else"),
        ("brand", pa.array([[1]] * 400), "column brand: expected text or whole numbers"),
        ("repaired", pa.array(["yes"] * 400), "expected two classes or more"),
        ("repaired", pa.array([None] * 400, pa.string()), "expected two classes or more"),
        ("repaired", pa.array([VALUE] + ["yes", "no"] * 199 + ["no"]), "1 rows hold something else"),
        ("citizen", pa.array([None] + ["c1"] * 399), "column citizen: expected a citizen in every row; 1 have none"),
        ("site", pa.array([None] * 400, pa.string()), "data.site=site"),
    ],
)
def test_data_that_does_not_fit_gets_one_line_without_a_value(
    sim: Sim, folder: Path, column: str, values: pa.Array | None, expected: str
) -> None:
    spoil(folder, column, values)
    status, out, err = sim()
    assert status == 2
    assert expected in err
    assert err.count("\n") == 1
    assert VALUE not in out + err
    assert "Traceback" not in err


def test_a_file_that_is_not_what_its_name_says_gets_one_line(sim: Sim, folder: Path) -> None:
    (folder / "rows.parquet").write_text(VALUE, encoding="utf-8")
    status, _, err = sim()
    assert status == 2
    assert "expected Parquet" in err
    assert VALUE not in err


def test_every_mistake_of_a_card_comes_at_once(sim: Sim, folder: Path) -> None:
    wrong = CARD | {"version": 0, "model": {"kind": "tree"}, "extra": 1}
    (folder / "card.yaml").write_text(yaml.safe_dump(wrong), encoding="utf-8")
    status, _, err = sim()
    assert status == 2
    assert "3 mistake(s)" in err
    for path in ("version", "model.kind", "extra"):
        assert f"{path}:" in err
