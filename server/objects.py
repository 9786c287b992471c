"""Keep the parts of messages, and believe of what a part consists nobody but the part itself.

Flower 1.41 knows a part by the hash of its content, takes what its sender says of its children before the content is
there, and refuses whoever says otherwise later. A municipality could guess the hash of a part that others will send,
for some hold public constants only, and say something false of it first: nobody could send it any more, and the run
would wait for ever. Here a claim holds until the next one, and the content decides when it comes.
"""

from collections.abc import Collection
from typing import Any

from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import (
    get_object_children_ids_from_object_content,
    get_object_id,
    is_valid_sha256_hash,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import validate_object_content
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from flwr.supercore.state.schema.objectstore_models import ObjectChild, RunObject, StoredObject
from flwr.supercore.utils import uint64_to_int64
from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session


class Parts(SqlObjectStore):
    """Store parts in Flower's own tables.

    Guarantees: what a sender says of a part can neither keep another from sending it nor change of what it consists; a
        part that is here has the children that its content names.
    """

    def preregister(self, run_id: int, object_tree: ObjectTree) -> list[str]:
        """Take a claim about parts, in place of earlier ones about those that are not here; return what is missing.

        Raises:
            ValueError: It is no tree of parts, or contradicts the content of one that is here.
        """
        with self._mutation_session() as session:
            nodes = list(iterate_object_tree(object_tree))  # children come before their parents
            return [node.object_id for node in nodes if self._announce(session, run_id, node)]

    def put(self, object_id: str, object_content: bytes) -> None:
        """Store the content of a part, which says what its children are.

        Raises:
            ValueError: It is not this part's content.
            NoObjectInStoreError: Nobody has announced it.
        """
        if get_object_id(object_content) != object_id:
            raise ValueError("object: expected the content whose hash is its id, another came")
        validate_object_content(content=object_content)
        children = get_object_children_ids_from_object_content(object_content)
        with self._mutation_session() as session:
            if _absent(session, object_id) and _children(session, object_id) != set(children):
                _replace(session, object_id, children)
            super().put(object_id, object_content)

    def _announce(self, session: Session, run_id: int, node: ObjectTree) -> bool:
        """Announce one part; whether it is still to come."""
        part, children = node.object_id, [child.object_id for child in node.children]
        if not is_valid_sha256_hash(part) or len(children) != len(set(children)):
            raise ValueError("object tree: expected different SHA-256 hashes, something else came")
        rows: tuple[tuple[type, dict[str, object]], ...] = (
            (StoredObject, {"object_id": part, "content": b"", "is_available": 0, "ref_count": 0}),
            (RunObject, {"run_id": uint64_to_int64(run_id), "object_id": part}),
        )
        for table, values in rows:
            insertion: Any = self.dialect_insert(table)
            session.execute(insertion.values(**values).on_conflict_do_nothing())
        absent = _absent(session, part)
        if _children(session, part) != set(children):
            if not absent:
                raise ValueError("object tree: expected what the content that is here says, something else came")
            _replace(session, part, children)
        return absent


def _absent(session: Session, part: str) -> bool:
    """Say whether a part was announced and is not here."""
    return session.scalar(select(StoredObject.is_available).where(StoredObject.object_id == part)) == 0


def _children(session: Session, part: str) -> set[str]:
    return set(session.scalars(select(ObjectChild.child_id).where(ObjectChild.parent_id == part)))


def _replace(session: Session, parent: str, children: Collection[str]) -> None:
    """Note of what a part consists, in place of what was said before."""
    for child in _children(session, parent):
        _cut(session, parent, child)
    for above in _below(session, set(children)) & _parents(session, parent):
        # A circle: one of its claims is false, and not that of a part which is here.
        if not _absent(session, above):
            raise ValueError("object tree: expected parts below it, one that it is part of came")
        _cut(session, above, parent)
    for child in children:
        session.execute(insert(ObjectChild).values(parent_id=parent, child_id=child))
        _count(session, child, 1)


def _parents(session: Session, part: str) -> set[str]:
    return set(session.scalars(select(ObjectChild.parent_id).where(ObjectChild.child_id == part)))


def _below(session: Session, parts: set[str]) -> set[str]:
    """Find all that parts consist of, and they themselves."""
    found, new = set(parts), set(parts)
    while new:
        new = set(session.scalars(select(ObjectChild.child_id).where(ObjectChild.parent_id.in_(new)))) - found
        found |= new
    return found


def _cut(session: Session, parent: str, child: str) -> None:
    session.execute(delete(ObjectChild).where(ObjectChild.parent_id == parent, ObjectChild.child_id == child))
    _count(session, child, -1)


def _count(session: Session, part: str, by: int) -> None:
    """Count who refers to a part: Flower deletes it with the last of them."""
    session.execute(
        update(StoredObject).where(StoredObject.object_id == part).values(ref_count=StoredObject.ref_count + by)
    )
