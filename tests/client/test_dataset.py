"""Who is in which part, and with which rows, depends on the citizen and the key alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.dataset import Dataset, KeyedPartition, build_dataset
from faelles.card import UseCaseCard, parse_card
from faelles.features import Citizens

KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
CAP = 3
FIELDS: dict[str, Any] = {
    "id": "dataset",
    "version": 1,
    "title": {"da": "Datasæt", "en": "Dataset"},
    "category": "forecasting",
    "model_type": "general",
    "unit": "citizen",
    "max_rows_per_unit": CAP,
    "label": {"column": "answer", "kind": "binary", "values": ["no", "yes"]},
    "features": [
        {"name": "age", "kind": "number", "min": 0, "max": 100},
        {"name": "sex", "kind": "category", "values": ["f", "m"]},
    ],
    "model": {"kind": "logistic"},
    "training": {"rounds": 1, "local_steps": 1, "batch_size": 1, "learning_rate": 1},
    "privacy": {"epsilon": 1, "delta": 1e-5, "clipping_norm": 1},
    "evaluation": {"held_out": 0.4},
    "law": {"special_categories": False, "ai_act": "none", "basis": {}},
}
CARD = parse_card(FIELDS)
ROWS_CARD = parse_card(FIELDS | {"unit": None, "max_rows_per_unit": 1})
Row = tuple[str | None, float | None, str | None, str | None]


def table_of(rows: Sequence[Row]) -> pa.Table:
    kinds = {"citizen": pa.string(), "age": pa.float64(), "sex": pa.string(), "answer": pa.string()}
    columns = zip(*rows, strict=True) if rows else [[]] * 4
    return pa.table({n: pa.array(list(c), k) for (n, k), c in zip(kinds.items(), columns, strict=True)})


def crowd(count: int, rows_each: int = 2) -> list[Row]:
    return [
        (f"c{i}", float((7 * i + 13 * row) % 101), "fm"[(i + row) % 2], ("no", "yes")[(i + row) % 3 % 2])
        for i in range(count)
        for row in range(rows_each)
    ]


def build(rows: Sequence[Row], card: UseCaseCard = CARD, key: bytes = KEY) -> Dataset:
    return build_dataset(card, table_of(rows), key)


def bytes_of(citizens: Citizens) -> list[bytes]:
    """Render each citizen, in the order of the array."""
    parts = zip(citizens.x_BRF, citizens.y_BR, citizens.mask_BR, strict=True)
    return [x.tobytes() + y.tobytes() + mask.tobytes() for x, y, mask in parts]


def content_of(dataset: Dataset) -> tuple[list[bytes], list[bytes]]:
    return bytes_of(dataset.training), bytes_of(dataset.held_out)


def count_of(dataset: Dataset) -> int:
    return len(dataset.training) + len(dataset.held_out)


def is_held_out(name: str, key: bytes = KEY, rows: list[Row] | None = None) -> bool:
    dataset = build(rows or [(name, 50.0, "f", "no")], key=key)
    assert count_of(dataset) == 1
    return len(dataset.held_out) == 1


ages = st.sampled_from([0.0, 10.0, 25.0, 50.0, 99.0]) | st.none()
answers = st.sampled_from(["no", "yes"])
one_citizen = st.lists(st.tuples(ages, st.sampled_from(["f", "m", None]), answers), min_size=1, max_size=6)
names = st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6
)  # no database holds a NUL
populations = st.dictionaries(names, one_citizen, max_size=6)


def rows_of(population: dict[str, list[Any]]) -> list[Row]:
    return [(name, *row) for name, rows in population.items() for row in rows]


# The rows of a citizen


def test_citizens_are_padded_to_the_cap_of_the_card() -> None:
    dataset = build(crowd(20))
    for part in (dataset.training, dataset.held_out):
        assert part.x_BRF.shape[1:] == (CAP, 5)
        assert part.mask_BR.sum(axis=1).tolist() == [2] * len(part)
        assert not part.x_BRF[~part.mask_BR].any()
        assert [str(array.dtype) for array in (part.x_BRF, part.y_BR, part.mask_BR)] == ["float32", "int64", "bool"]
    assert count_of(dataset) == 20


@settings(max_examples=50)
@given(populations)
def test_a_citizen_has_at_most_the_cap_and_no_row_twice(population: dict[str, list[Any]]) -> None:
    dataset = build(rows_of(population))
    assert count_of(dataset) == len(population)
    for part in (dataset.training, dataset.held_out):
        for x_RF, y_R, mask_R in zip(part.x_BRF, part.y_BR, part.mask_BR, strict=True):
            rows = [(x.tobytes(), int(y)) for x, y in zip(x_RF[mask_R], y_R[mask_R], strict=True)]
            assert 1 <= len(rows) <= CAP
            assert len(set(rows)) == len(rows)
    distinct = sorted(min(CAP, len(set(rows))) for rows in population.values())
    used = sorted([*dataset.training.mask_BR.sum(axis=1).tolist(), *dataset.held_out.mask_BR.sum(axis=1).tolist()])
    assert used == distinct


@settings(max_examples=50)
@given(populations, st.randoms(use_true_random=False), st.integers(1, 3))
def test_order_and_duplicates_of_rows_change_nothing(population: dict[str, list[Any]], random: Any, times: int) -> None:
    rows = rows_of(population)
    shuffled = rows * times
    random.shuffle(shuffled)
    assert content_of(build(shuffled)) == content_of(build(rows))


def test_rows_beyond_the_cap_are_those_with_the_larger_hashes_whatever_their_order() -> None:
    many = [("c", float(age), "f", "no") for age in range(30)]
    kept = content_of(build(many))
    assert kept == content_of(build(many[::-1]))
    # A row that was not chosen can go, and nothing changes; so what was chosen does not rest on the others' number.
    chosen = {tuple(x) for part in (build(many).training, build(many).held_out) for x in part.x_BRF[part.mask_BR]}
    left = [row for row in many if (np.float32(2 * row[1] / 100 - 1), 0.0, 1.0, 0.0, 0.0) in chosen]
    assert len(left) == CAP
    assert content_of(build(left)) == kept


def test_which_rows_are_used_rests_on_the_key() -> None:
    many = [(f"c{i}", float(age), "f", "no") for i in range(10) for age in range(30)]
    used = [{*training, *held_out} for training, held_out in map(content_of, (build(many), build(many, key=OTHER_KEY)))]
    assert not used[0] & used[1]
    assert len(used[0]) == 10, "citizens with the same rows have theirs chosen apart"


# The part of a citizen


@settings(max_examples=50)
@given(populations, names, one_citizen)
def test_adding_a_citizen_changes_nothing_about_the_others(
    population: dict[str, list[Any]], name: str, rows: list[Any]
) -> None:
    others = {other: theirs for other, theirs in population.items() if other != name}
    without, alone, whole = (build(rows_of(p)) for p in (others, {name: rows}, {**others, name: rows}))
    for few, one, everybody in zip(content_of(without), content_of(alone), content_of(whole), strict=True):
        for content in one:
            everybody.remove(content)
        assert everybody == few


@given(names)
def test_a_citizens_part_is_for_life(name: str) -> None:
    first = is_held_out(name)
    later: list[Row] = [(name, float(age), None, "yes") for age in range(5)]
    assert is_held_out(name, rows=later) == first
    dataset = build([*later, *crowd(5), (name, 1.0, "m", "no")])
    alone = build([*later, (name, 1.0, "m", "no")])
    assert len(alone.held_out) == first
    assert set(content_of(alone)[first]) <= set(content_of(dataset)[first])


def test_a_citizens_part_does_not_rest_on_the_type_of_its_column() -> None:
    numbers = [3, 1_234_567_890, 10**12, 10**15 + 1, *range(100, 140)]
    rest = table_of([("x", 50.0, "f", "no")] * len(numbers)).drop_columns("citizen")
    columns = (pa.array(numbers), pa.array(numbers, pa.float64()), pa.array([str(number) for number in numbers]))
    parts = [content_of(build_dataset(CARD, rest.append_column("citizen", column), KEY)) for column in columns]
    assert [len(part) for part in parts[0]] == [len(part) for part in parts[1]] == [len(part) for part in parts[2]]
    held = [is_held_out(str(number)) for number in numbers]
    assert len(parts[0][1]) == sum(held)


def test_the_share_held_out_is_about_the_cards_and_independent_of_the_table() -> None:
    unit_N = np.arange(20_000).astype(np.str_)
    for share in (0.1, 0.4, 0.9):
        held_N = KeyedPartition(key=KEY).held_out(table_of([]), unit_N, share)
        assert held_N.mean() == pytest.approx(share, abs=5 * (share * (1 - share) / 20_000) ** 0.5)
        smaller_N = KeyedPartition(key=KEY).held_out(table_of([]), unit_N, share / 2)
        assert (smaller_N <= held_N).all()


def test_other_keys_hold_out_others_independently() -> None:
    unit_N = np.arange(20_000).astype(np.str_)
    one_N, two_N = (KeyedPartition(key=key).held_out(table_of([]), unit_N, 0.5) for key in (KEY, OTHER_KEY))
    assert (one_N == two_N).mean() == pytest.approx(0.5, abs=0.02)


def test_another_partition_may_be_given() -> None:
    class Elders:
        def held_out(self, table: pa.Table, unit_N: Any, share: float) -> Any:
            return np.asarray(table.column("age")) > 50

    rows: list[Row] = [(f"c{age}", float(age), "f", "no") for age in range(0, 101, 10)]
    dataset = build_dataset(CARD, table_of(rows), KEY, Elders())
    assert (len(dataset.training), len(dataset.held_out)) == (6, 5)


# What cannot be used


def test_rows_without_a_citizen_or_with_an_undeclared_label_are_dropped() -> None:
    good = crowd(10)
    bad: list[Row] = [(None, 5.0, "f", "no"), ("", 6.0, "f", "yes"), ("c1", 7.0, "f", None), ("new", 8.0, "f", "?")]
    assert content_of(build([*bad, *good])) == content_of(build(good))


def test_a_citizens_row_that_is_dropped_takes_no_place_of_its_others() -> None:
    rows: list[Row] = [("c", float(age), "f", "no") for age in range(3)]
    dropped: list[Row] = [("c", float(age), "f", "?") for age in range(50)]
    assert content_of(build(rows + dropped)) == content_of(build(rows))


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32()])
def test_a_number_that_is_missing_names_no_citizen(kind: pa.DataType) -> None:
    table = table_of([("x", 50.0, "f", "no"), ("x", 60.0, "f", "no"), ("x", 70.0, "f", "no")])
    column = pa.array(np.array([1, np.nan, np.nan]), kind)
    assert count_of(build_dataset(CARD, table.drop_columns("citizen").append_column("citizen", column), KEY)) == 1


def test_features_that_are_missing_cost_nobody_a_place() -> None:
    assert count_of(build([("c", None, None, "no"), ("d", float("nan"), "x", "yes")])) == 2


def test_an_empty_population_has_two_empty_parts() -> None:
    for card in (CARD, ROWS_CARD):
        dataset = build([], card)
        for part in (dataset.training, dataset.held_out):
            assert part.x_BRF.shape == (0, card.max_rows_per_unit, 5)
            assert part.weight_BR.shape == (0, card.max_rows_per_unit)


def test_where_a_row_is_a_citizen_every_row_counts_once() -> None:
    rows: list[Row] = [("same", 50.0, "f", "no")] * 50 + [(None, 60.0, "m", "yes")] * 50
    dataset = build(rows, ROWS_CARD)
    assert count_of(dataset) == 100
    assert dataset.training.mask_BR.all()
    assert 0 < len(dataset.held_out) < 100
    longer = build([*rows, ("x", 70.0, "f", "no")], ROWS_CARD)
    assert content_of(longer)[0][: len(dataset.training)] == content_of(dataset)[0]
