"""A roll holds for each municipality what its own agent would build, and nobody at the end."""

import numpy as np
import pytest

from client.dataset import build_dataset
from faelles.features import Citizens, input_width
from simulations.population import ColumnPartition
from simulations.questions import site_key
from simulations.roll import Part, Roll, build_roll
from tests.builders import build_card, build_sites

CARD = build_card()
SITES = build_sites({"0101": 40, "0147": 1, "0400": 0, "0751": 25})
ROLL = build_roll(CARD, SITES, 7, None)


def check_equal(ours: Citizens, theirs: Citizens) -> None:
    np.testing.assert_array_equal(ours.x_BRF, theirs.x_BRF)
    np.testing.assert_array_equal(ours.y_BR, theirs.y_BR)
    np.testing.assert_array_equal(ours.mask_BR, theirs.mask_BR)
    np.testing.assert_array_equal(ours.weight_BR, theirs.weight_BR)


def test_every_municipality_has_what_its_agent_would_build() -> None:
    assert ROLL.labels == ("0101", "0147", "0400", "0751")
    for place, site in enumerate(SITES):
        expected = build_dataset(CARD, site.table, site_key(7, site.label), None)
        check_equal(ROLL.dataset(place).training, expected.training)
        check_equal(ROLL.dataset(place).held_out, expected.held_out)


def test_a_partition_by_column_is_kept_to() -> None:
    partition = ColumnPartition(column="brand", value="city")
    roll = build_roll(CARD, SITES[:1], 7, partition)
    expected = build_dataset(CARD, SITES[0].table, site_key(7, "0101"), partition)
    check_equal(roll.dataset(0).held_out, expected.held_out)
    assert len(expected.held_out) != len(ROLL.dataset(0).held_out)


@pytest.mark.parametrize("part", [ROLL.training, ROLL.held_out], ids=["training", "held-out"])
def test_nobody_comes_last_and_is_no_ones(part: Part) -> None:
    whole = part.citizens
    assert len(whole) == part.edges[-1] + 1
    assert not whole.mask_BR[-1].any()
    assert not whole.weight_BR[-1].any()
    assert not whole.x_BRF[-1].any()
    assert len(part.everybody) == sum(len(part.of(place)) for place in range(4)) == part.edges[-1]
    assert part.of(3).mask_BR[:, 0].all()


def test_no_rows_are_copied() -> None:
    whole = ROLL.training.citizens
    assert np.shares_memory(ROLL.dataset(0).training.x_BRF, whole.x_BRF)
    assert np.shares_memory(ROLL.training.everybody.x_BRF, whole.x_BRF)


def test_a_municipality_without_citizens_is_empty_and_keeps_its_place() -> None:
    assert len(ROLL.dataset(2).training) == len(ROLL.dataset(2).held_out) == 0
    empty: Roll = build_roll(CARD, SITES[2:3], 7, None)
    assert empty.training.citizens.x_BRF.shape == (1, CARD.max_rows_per_unit, input_width(CARD))
