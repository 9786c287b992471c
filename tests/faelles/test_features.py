"""Encoding rests on the contract alone: no row changes another, and whatever a column holds stays in [-1, 1]."""

from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faelles.card import UseCaseCard, parse_card
from faelles.errors import DataError
from faelles.features import Citizens, as_text, category_index, encode_rows, input_width, numbers

CARD = parse_card(
    {
        "id": "features",
        "version": 1,
        "title": {"da": "Træk", "en": "Features"},
        "category": "forecasting",
        "model_type": "general",
        "unit": None,
        "label": {"column": "answer", "kind": "binary", "values": ["no", "yes"]},
        "features": [
            {"name": "age", "kind": "number", "min": 60, "max": 100},
            {"name": "visits", "kind": "number", "min": 0, "max": 10, "bins": 5},
            {"name": "sex", "kind": "category", "values": ["f", "m"]},
        ],
        "model": {"kind": "logistic"},
        "training": {"rounds": 1, "local_steps": 1, "batch_size": 1, "learning_rate": 1},
        "privacy": {"epsilon": 1, "delta": 1e-5, "clipping_norm": 1},
        "law": {"special_categories": False, "ai_act": "none", "basis": {}},
    }
)
AGE, VISITS, SEX = slice(0, 2), slice(2, 8), slice(8, 11)


def table(**columns: Any) -> pa.Table:
    """Make a table of the card's columns; those not given are missing everywhere."""
    rows = len(next(iter(columns.values())))
    empty = {name: pa.nulls(rows) for name in ("age", "visits", "sex", "answer")}
    return pa.table(empty | columns)


def encode(**columns: Any) -> Any:
    return encode_rows(CARD, table(**columns))[0]


def with_kind(feature: dict[str, Any]) -> UseCaseCard:
    """Give the card with one feature only."""
    fields = CARD.model_dump(mode="json")
    fields["features"] = [feature]
    return parse_card(fields)


def test_the_width_counts_bins_categories_and_flags() -> None:
    assert input_width(CARD) == 2 + 6 + 3 == encode(age=[70]).shape[1]


def test_a_number_is_scaled_by_its_declared_range_and_clipped_outside() -> None:
    x_NF = encode(age=[60, 80, 100, 90, 0, 1000])[:, AGE]
    np.testing.assert_array_equal(x_NF, [[-1, 0], [0, 0], [1, 0], [0.5, 0], [-1, 0], [1, 0]])


def test_a_number_that_is_missing_or_not_finite_is_flagged() -> None:
    x_NF = encode(age=pa.array([None, float("nan"), float("inf"), -float("inf")]))[:, AGE]
    np.testing.assert_array_equal(x_NF, [[0, 1]] * 4)


def test_a_binned_number_falls_into_equal_widths() -> None:
    values = [0, 1.99, 2, 9.99, 10, -5, 50, None]
    hot_N = encode(visits=pa.array(values, pa.float64()))[:, VISITS].argmax(axis=1)
    np.testing.assert_array_equal(hot_N, [0, 0, 1, 4, 4, 0, 4, 5])
    np.testing.assert_array_equal(encode(visits=pa.array(values, pa.float64()))[:, VISITS].sum(axis=1), 1)


def test_a_category_is_one_hot_with_a_flag_for_missing_and_undeclared() -> None:
    x_NF = encode(sex=["f", "m", None, "x", ""])[:, SEX]
    np.testing.assert_array_equal(x_NF, [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1], [0, 0, 1]])


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, 2, 7, None]),
        pa.array([1, 2, 7, None], pa.uint64()),
        pa.array([1.0, 2.0, 1.5, float("nan")]),
        pa.array([1.0, 2.0, 1e300, None]),
        pa.array([1.0, 2.0, float("inf"), None]),
        pa.array(np.array([1, 2, 1.5, np.nan], dtype=np.float16)),
        pa.array(["1", "2", "1.0", None]),
        pa.array(["1", "2", "3", None], pa.large_string()),
        pa.array(["1", "2", "3", None]).dictionary_encode(),
        pa.array([1, 2, 3, None]).dictionary_encode(),
        pa.array([Decimal(1), Decimal(2), Decimal(3), None], pa.decimal128(10, 0)),
    ],
    ids=lambda column: str(column.type),
)
def test_a_category_reads_the_same_from_every_type(column: pa.Array) -> None:
    card = with_kind({"name": "sex", "kind": "category", "values": [1, 2]})
    x_NF, _ = encode_rows(card, table(sex=column))
    np.testing.assert_array_equal(x_NF, [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]])


@pytest.mark.parametrize("values", [("0", "1"), ("false", "true")])
def test_truth_values_are_0_and_1_or_false_and_true_as_declared(values: tuple[str, ...]) -> None:
    index_N = category_index(pa.array([False, True, None]), values, "sex")
    np.testing.assert_array_equal(index_N, [0, 1, -1])


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, None], pa.int8()),
        pa.array([1, None], pa.uint64()),
        pa.array(np.array([1, np.nan], dtype=np.float16)),
        pa.array([1, None], pa.float32()),
        pa.array([True, None]),
        pa.array([Decimal("1.00"), None]),
        pa.array([1, None]).dictionary_encode(),
    ],
    ids=lambda column: str(column.type),
)
def test_a_number_reads_the_same_from_every_type(column: pa.Array) -> None:
    x_NF = encode(visits=column)[:, VISITS]
    np.testing.assert_array_equal(x_NF, [[1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1]])


def test_no_whole_number_is_too_large_to_be_read() -> None:
    column = pa.array([2**64 - 1, 2**53 + 1], pa.uint64())
    np.testing.assert_array_equal(numbers(column, "age"), [2.0**64, 2.0**53])
    np.testing.assert_array_equal(encode(age=column)[:, AGE], [[1, 0], [1, 0]])


def test_whole_numbers_have_one_text_whatever_type_holds_them() -> None:
    wholes = [0, 7, 1_234_567_890, 10**12, 10**15 + 1]
    expected = [str(whole) for whole in wholes]
    assert as_text(pa.array(wholes), "id").to_pylist() == expected
    assert as_text(pa.array(wholes, pa.float64()), "id").to_pylist() == expected
    assert as_text(pa.array(expected), "id").to_pylist() == expected


def test_the_label_is_a_class_index_and_minus_1_where_it_cannot_be_used() -> None:
    _, y_N = encode_rows(CARD, table(answer=["no", "yes", None, "maybe"]))
    np.testing.assert_array_equal(y_N, [0, 1, -1, -1])


def test_columns_that_no_contract_names_are_ignored() -> None:
    plain = table(age=[70, 80])
    x_NF, _ = encode_rows(CARD, plain.append_column("secret", pa.array([object.__name__, None])))
    np.testing.assert_array_equal(x_NF, encode_rows(CARD, plain)[0])


def test_a_table_in_chunks_encodes_as_one() -> None:
    whole = table(age=[60, 70, 80], sex=["f", "m", "f"])
    chunked = pa.concat_tables([whole.slice(0, 1), whole.slice(1, 0), whole.slice(1)])
    np.testing.assert_array_equal(encode_rows(CARD, chunked)[0], encode_rows(CARD, whole)[0])


def test_an_empty_table_encodes_to_nothing() -> None:
    x_NF, y_N = encode_rows(CARD, table(age=[60]).slice(0, 0))
    assert x_NF.shape == (0, input_width(CARD))
    assert y_N.shape == (0,)


tables = st.lists(
    st.tuples(
        st.none() | st.floats(),
        st.none() | st.floats(-1, 12),
        st.none() | st.sampled_from(["f", "m"]) | st.text(),
        st.none() | st.sampled_from(["no", "yes", "?"]),
    ),
    min_size=1,
    max_size=8,
).map(
    lambda rows: pa.table(
        {
            name: pa.array([row[place] for row in rows], kind)
            for place, (name, kind) in enumerate(
                {"age": pa.float64(), "visits": pa.float64(), "sex": pa.string(), "answer": pa.string()}.items()
            )
        }
    )
)


@given(tables)
def test_no_row_changes_how_another_is_encoded(rows: pa.Table) -> None:
    x_NF, y_N = encode_rows(CARD, rows)
    for i in range(rows.num_rows):
        x_1F, y_1 = encode_rows(CARD, rows.slice(i, 1))
        np.testing.assert_array_equal(x_NF[i], x_1F[0])
        assert y_N[i] == y_1[0]


@given(tables)
def test_whatever_a_column_holds_is_encoded_within_minus_1_and_1(rows: pa.Table) -> None:
    x_NF, y_N = encode_rows(CARD, rows)
    assert x_NF.dtype == np.float32
    assert np.isfinite(x_NF).all()
    assert np.abs(x_NF).max() <= 1
    assert set(y_N.tolist()) <= {-1, 0, 1}


@given(st.floats(-1e308, 1e308), st.floats(-1e308, 1e308), st.floats())
def test_no_range_takes_a_number_out_of_minus_1_and_1(one: float, two: float, value: float) -> None:
    if one == two:
        return
    for bins in (None, 7):
        feature = {"name": "age", "kind": "number", "min": min(one, two), "max": max(one, two), "bins": bins}
        try:
            card = with_kind(feature)
        except ValueError:
            continue  # wider than a number: refused with the card
        x_NF, _ = encode_rows(card, table(age=pa.array([value])))
        assert np.isfinite(x_NF).all()
        assert np.abs(x_NF).max() <= 1


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"age": ["SECRET"]}, "column age: expected numbers, its type is string; convert it or declare it a category"),
        ({"age": [[7]]}, "column age: expected numbers, its type is list<item: int64>; "),
        ({"sex": [["SECRET"]]}, "column sex: expected text or whole numbers, its type is list<item: string>; "),
        ({"sex": [b"SECRET"]}, "column sex: expected text or whole numbers, its type is binary; convert it"),
        ({"sex": [Decimal("1.5")]}, "column sex: expected text or whole numbers, its type is decimal"),
        ({"answer": pa.array([7], pa.date32())}, "column answer: expected text or whole numbers, its type is date32"),
    ],
)
def test_a_wrong_type_is_told_in_one_line_without_a_value(columns: dict[str, Any], expected: str) -> None:
    with pytest.raises(DataError) as caught:
        encode(**columns)
    assert str(caught.value).startswith(expected)
    assert str(caught.value).isprintable()
    assert "SECRET" not in str(caught.value)


def test_a_missing_column_is_told_by_its_name() -> None:
    with pytest.raises(DataError, match="column sex: expected by the contract, not found; have age, visits, answer"):
        encode_rows(CARD, table(age=[70]).drop_columns("sex"))


def test_a_column_that_is_there_twice_is_refused() -> None:
    twice = table(age=[70]).append_column("age", pa.array([80]))
    with pytest.raises(DataError, match="column age: expected once, found 2 times"):
        encode_rows(CARD, twice)


def test_the_rows_of_a_citizen_weigh_1_together() -> None:
    mask_BR = np.array([[True, False, False], [True, True, False], [True, True, True], [False, False, False]])
    citizens = Citizens(
        x_BRF=np.zeros((4, 3, 1), dtype=np.float32), y_BR=np.zeros((4, 3), dtype=np.int64), mask_BR=mask_BR
    )
    np.testing.assert_allclose(citizens.weight_BR.sum(axis=1), [1, 1, 1, 0], atol=1e-7)
    np.testing.assert_array_equal(citizens.weight_BR > 0, mask_BR)
    assert len(citizens) == 4
