"""Whatever a coordinator sends, neighbouring data sets answer alike, and all that leaves is charged or constant."""

import itertools
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.dataset import build_dataset
from simulations.grid import FIRST_NODE_ID
from simulations.population import Site
from simulations.reference import ReferenceGrid
from simulations.worker import Crew
from tests.builders import DECLARED_SIZE, FEDERATION, code_of
from tests.crafted import Draft, Known
from tests.hostile import ATTACKS, Attack, Coordinator, Happening, seen, ten_thousand_rounds
from tests.privacy.neighbours import (
    CAP,
    CARD,
    CITIZENS,
    MANY,
    NOBODY,
    OTHERS,
    WILD,
    Side,
    both,
    check_guarded,
    check_same,
    rows_of,
    with_one_more,
)
from tests.privacy.real_path import KEY

UNDISTURBED = [attack for attack in ATTACKS if attack.happening is Happening.NOTHING]
TO_DATA = [attack for attack in UNDISTURBED if attack.codes == {None} and "head" not in attack.name]
SAMPLE = 12  # drafts of each attack, where all attacks come in a row
Move = tuple[int, int] | Happening  # an attack's draft by its numbers, or what happens
DRAFTS = [(number, place) for number in range(len(ATTACKS)) for place in range(SAMPLE)]
HAPPENINGS = [one for one in Happening if one is not Happening.SET_BACK]


def names_of(attack: Attack) -> str:
    return attack.name.replace(" ", "-")


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[list[Side]]:
    """Set up two pairs of neighbours, of many citizens and of none, who both gain the wildest of all citizens."""
    yield from both(tmp_path, MANY, with_one_more(WILD, False), NOBODY, with_one_more(WILD, True, NOBODY))


@pytest.mark.parametrize("attack", ATTACKS, ids=names_of)
def test_an_attack_gets_its_codes_and_the_same_ones_from_neighbours(sides: list[Side], attack: Attack) -> None:
    for side in sides:
        replies = side.coordinator.play(attack, side.happen)
        assert {code_of(reply) for reply in replies} == attack.codes
        check_guarded(side)
    check_same(sides)


@pytest.mark.parametrize("held_out", [False, True], ids=["training", "held-out"])
@pytest.mark.parametrize("attack", TO_DATA, ids=names_of)
def test_no_kind_of_citizen_changes_more_than_numbers(tmp_path: Path, attack: Attack, held_out: bool) -> None:
    one_more = [with_one_more(rows, held_out) for rows in CITIZENS.values()]
    for found in both(tmp_path, MANY, *one_more):
        for side in found:
            side.coordinator.play(attack, side.happen)
            check_guarded(side)
        check_same(found)


@pytest.mark.parametrize("held_out", [False, True], ids=["training", "held-out"])
def test_an_only_citizen_of_any_kind_is_answered_as_nobody_is(tmp_path: Path, held_out: bool) -> None:
    alone = [with_one_more(rows, held_out, NOBODY) for rows in CITIZENS.values()]
    (spotlights,) = (attack for attack in TO_DATA if "stands out" in attack.name)
    for found in both(tmp_path, NOBODY, *alone):
        for side in found:
            side.coordinator.play(spotlights, side.happen)
        check_same(found)


def test_an_endless_name_takes_no_room_from_the_others() -> None:
    # A reply that fails for want of memory would tell that its citizen is there.
    named = [pa.concat_tables([rows_of("x" * letters, CITIZENS["ordinary"]), MANY]) for letters in (1, 200_000)]
    tracemalloc.start()
    parts = [build_dataset(CARD, table, KEY) for table in named]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [len(one.training) + len(one.held_out) for one in parts] == [61, 61]
    assert peak < 10e6


def test_names_that_differ_in_what_cannot_be_seen_are_two_citizens() -> None:
    names = ("c1", "c1\0", "c1\0\0", "\0")
    parts = build_dataset(CARD, pa.concat_tables(rows_of(name, CITIZENS["ordinary"]) for name in names), KEY)
    assert len(parts.training) + len(parts.held_out) == len(names)


@settings(max_examples=20)
@given(st.lists(st.one_of(st.sampled_from(DRAFTS), st.sampled_from(HAPPENINGS)), min_size=5, max_size=20))
def test_attacks_in_any_order_are_answered_alike(moves: list[Move]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for pair in both(Path(folder), MANY, with_one_more(WILD, False)):
            for side in pair:
                side.coordinator.send(side.coordinator.known.ready())
                for move in moves:
                    make(side, move)
                check_guarded(side)
            check_same(pair)


def make(side: Side, move: Move) -> None:
    """Make a move; of a draft that an attack does not have, its last."""
    if isinstance(move, Happening):
        side.happen(move)
        return
    *_, draft = itertools.islice(all_of(ATTACKS[move[0]], side.coordinator.known), move[1] + 1)
    side.coordinator.send(draft)


def all_of(attack: Attack, known: Known) -> Iterator[Draft]:
    return itertools.chain(attack.opening(known), attack.drafts(known))


def test_worker_processes_answer_all_attacks_in_a_row_alike(tmp_path: Path) -> None:
    def site(table: pa.Table) -> Site:
        return Site(label="0101", name="0101", table=table, citizens=table.num_rows, declared_size=DECLARED_SIZE)

    sites = dict(enumerate(map(site, (MANY, with_one_more(WILD, False))), FIRST_NODE_ID))
    crew = Crew(card=CARD, sites=sites, folder=tmp_path, seed=7, epsilon_cap=CAP, partition=None)
    shown = []
    with ReferenceGrid([crew]) as grid:
        for node_id in sites:
            known = Known(card=CARD, declared_size=DECLARED_SIZE, federation=FEDERATION, others=OTHERS, foreign="{}")
            coordinator = Coordinator(grid, node_id, known)
            coordinator.send(known.ready())
            for attack in UNDISTURBED:
                for draft in itertools.islice(all_of(attack, known), SAMPLE):
                    coordinator.send(draft)
            shown.append([seen(reply) for reply in coordinator.replies])
    assert shown[0] == shown[1]
    assert len(shown[0]) > 200


def test_ten_thousand_rounds_get_ten_thousand_refusals(tmp_path: Path) -> None:
    for pair in both(tmp_path, MANY, with_one_more(WILD, False)):
        for side in pair:
            every = Attack(name="every round", drafts=ten_thousand_rounds, codes=frozenset())
            replies = side.coordinator.play(every, side.happen)
            assert len(replies) > 9_990
            assert len({code_of(reply) for reply in replies}) == 1
            check_guarded(side)
        check_same(pair)
