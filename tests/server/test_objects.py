"""Nobody can say something false of a part of a message so that others cannot send it, or that stays."""

import contextlib
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_children_ids_from_object_content,
    get_object_tree,
    iterate_object_tree,
)
from flwr.supercore.object_store.object_store import NoObjectInStoreError
from flwr.supercore.state.schema.objectstore_models import ObjectChild, StoredObject
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from server.objects import Parts
from tests.builders import identify

pytestmark = pytest.mark.filterwarnings(
    "ignore:No path_separator:DeprecationWarning"
)  # alembic's, of Flower's settings
RUN = 7
JUNK = "f" * 64


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a database once; Flower takes half a second for it."""
    path = tmp_path_factory.mktemp("blank") / "objects.sqlite"
    Parts(str(path)).initialize()
    return path


@pytest.fixture
def store(blank: Path, tmp_path: Path) -> Parts:
    return opened(blank, tmp_path)


def opened(blank: Path, folder: Path) -> Parts:
    made = Parts(str(shutil.copy(blank, folder / "objects.sqlite")))
    made.initialize()
    return made


def message(value: int) -> Message:
    """Make a message of which one part holds public constants only, so that anybody can guess its hash."""
    identify()
    content = RecordDict({
        "arrays": ArrayRecord({"w": Array(np.full(3, value, dtype=np.float32))}), "config": ConfigRecord({"round": 1}),
    })  # fmt: skip
    return Message(content, 7, "train")


def parts_of(one: Message) -> dict[str, bytes]:
    return {name: part.deflate() for name, part in get_all_nested_objects(one).items()}


def guessed() -> str:
    return ConfigRecord({"round": 1}).object_id


def lie(about: str, *children: str) -> ObjectTree:
    """Claim that a part consists of others."""
    return ObjectTree(object_id=about, children=[ObjectTree(object_id=child) for child in children])


def state(store: Parts) -> tuple[dict[str, set[str]], dict[str, int]]:
    """Read what every part consists of, and how many refer to it."""
    with store.session() as session:
        rows = session.execute(select(ObjectChild.parent_id, ObjectChild.child_id)).all()
        counts = {
            str(row[0]): int(row[1]) for row in session.execute(select(StoredObject.object_id, StoredObject.ref_count))
        }
    found: dict[str, set[str]] = {}
    for parent, child in rows:
        found.setdefault(parent, set()).add(child)
    return found, counts


def check_whole(store: Parts, contents: Mapping[str, bytes]) -> None:
    """Check that parts are here, consist of what they say, and are counted as often as somebody refers to them."""
    children, counts = state(store)
    for name, content in contents.items():
        assert store.get(name) == content
        assert children.get(name, set()) == set(get_object_children_ids_from_object_content(content))
    named = [child for some in children.values() for child in some]
    assert counts == {name: named.count(name) for name in counts}


@pytest.mark.parametrize("when", ["before", "between", "after the first part"])
def test_what_is_said_falsely_of_a_part_keeps_nobody_from_sending_it(store: Parts, when: str) -> None:
    honest = message(1)
    contents = parts_of(honest)
    if when == "before":
        store.preregister(RUN, lie(guessed(), JUNK))
    assert set(store.preregister(RUN, get_object_tree(honest))) == set(contents)
    for number, (name, content) in enumerate(contents.items()):
        if (when, number) in (("between", 0), ("after the first part", 1)):
            store.preregister(RUN, lie(guessed() if name != guessed() else honest.object_id, JUNK))
        store.put(name, content)
    check_whole(store, contents)
    assert {node.object_id for node in iterate_object_tree(store.get_object_tree(honest.object_id))} == set(contents)


def test_what_is_here_is_not_spoken_of_otherwise(store: Parts) -> None:
    honest = message(1)
    contents = parts_of(honest)
    store.preregister(RUN, get_object_tree(honest))
    for name, content in contents.items():
        store.put(name, content)
    before = state(store)
    for name in contents:
        with pytest.raises(ValueError, match="expected what the content"):
            store.preregister(RUN, lie(name, JUNK))
    assert state(store) == before
    assert store.preregister(RUN, get_object_tree(honest)) == []


def test_no_circle_is_believed(store: Parts) -> None:
    honest = message(1)
    contents = parts_of(honest)
    store.preregister(RUN, get_object_tree(honest))
    store.preregister(RUN, lie(guessed(), honest.object_id))  # a part of it says that it consists of it
    store.get_object_tree(honest.object_id)
    for name, content in contents.items():
        store.put(name, content)
    check_whole(store, contents)


@pytest.mark.parametrize("tree", [lie("0101701234"), lie(JUNK, "x"), lie(JUNK, "e" * 64, "e" * 64)])
def test_what_is_no_tree_is_refused(store: Parts, tree: ObjectTree) -> None:
    with pytest.raises(ValueError, match="expected different SHA-256 hashes"):
        store.preregister(RUN, tree)
    assert state(store) == ({}, {})


def test_content_of_another_part_is_refused(store: Parts) -> None:
    (name, content), (other, _), *_ = parts_of(message(1)).items()
    store.preregister(RUN, lie(name))
    with pytest.raises(ValueError, match="expected the content whose hash"):
        store.put(name, content + b" ")
    with pytest.raises(NoObjectInStoreError):
        store.put(other, parts_of(message(1))[other])
    assert store.get(name) == b""


def test_with_the_last_message_that_holds_it_a_part_goes(store: Parts) -> None:
    messages = message(1), message(2)
    for one in messages:
        tell(store, lie(guessed(), JUNK))
        store.preregister(RUN, get_object_tree(one))
        for name, content in parts_of(one).items():
            store.put(name, content)
    store.delete(messages[0].object_id)
    assert guessed() in store
    check_whole(store, parts_of(messages[1]))
    store.delete(messages[1].object_id)
    assert guessed() not in store


LIES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 12)), max_size=8)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lies=LIES)
def test_whatever_is_said_in_between_messages_arrive(lies: list[tuple[int, int, int]], store: Parts) -> None:
    store.clear()
    messages = [message(1), message(2)]
    contents = {name: content for one in messages for name, content in parts_of(one).items()}
    names = [*contents, JUNK]
    acts: list[Callable[[], object]] = []
    acts += [partial(store.preregister, RUN, get_object_tree(one)) for one in messages]
    acts += [partial(store.put, name, content) for name, content in contents.items()]
    for about, child, when in sorted(lies, key=lambda one: -one[2]):
        tree = lie(names[about % len(names)], names[child % len(names)])
        acts.insert(min(when, len(acts)), partial(tell, store, tree))
    for act in acts:
        act()
    check_whole(store, contents)
    for one in messages:
        store.get_object_tree(one.object_id)


def tell(store: Parts, tree: ObjectTree) -> None:
    """Say something false, whether it is believed or not."""
    with contextlib.suppress(ValueError):
        store.preregister(RUN, tree)
