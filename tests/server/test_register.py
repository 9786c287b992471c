"""The register remembers every key that was ever admitted, and one at most for each municipality is admitted now."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from faelles.errors import EnrolmentError
from server.register import Enrolment, Register
from tests.peers import Applicant

NOW = datetime(2026, 3, 2, 10, tzinfo=UTC)
BIGGEST = 2**64 - 1  # Flower's ids have no sign


@pytest.fixture
def register(tmp_path: Path) -> Iterator[Register]:
    opened = Register(tmp_path / "register.sqlite")
    yield opened
    opened.close()


def enrolment(code: str = "0851", node: int = 7, minutes: int = 0) -> Enrolment:
    return Enrolment(request=Applicant(code).request(), node=node, enrolled_at=NOW + timedelta(minutes=minutes))


def test_what_is_added_comes_back_from_disk(register: Register, tmp_path: Path) -> None:
    made = [enrolment("0851", BIGGEST), enrolment("0101", 1, minutes=1)]
    for one in made:
        register.add(one)
    other = Register(tmp_path / "register.sqlite")
    assert other.history() == made
    assert other.current() == {one.municipality: one for one in made}
    other.close()


def test_a_new_key_takes_the_place_of_the_old_one_which_is_not_forgotten(register: Register) -> None:
    old, new = enrolment(node=1), enrolment(node=2, minutes=5)
    register.add(old)
    register.add(new)
    assert register.current() == {"0851": new}
    (first, second) = register.history()
    assert (first.request, first.revoked_at) == (old.request, new.enrolled_at)
    assert second == new


def test_a_revoked_municipality_is_not_there_and_not_forgotten(register: Register) -> None:
    made = enrolment()
    register.add(made)
    register.revoke("0851", NOW + timedelta(hours=1))
    register.revoke("0851", NOW + timedelta(hours=2))  # once is enough
    assert register.current() == {}
    (kept,) = register.history()
    assert (kept.request, kept.revoked_at) == (made.request, NOW + timedelta(hours=1))


def test_revoking_one_leaves_the_others(register: Register) -> None:
    stays = enrolment("0101", 2)
    register.add(enrolment("0851"))
    register.add(stays)
    register.revoke("0851", NOW)
    register.revoke("0147", NOW)  # nobody
    assert register.current() == {"0101": stays}


def test_a_key_is_admitted_once_for_ever_and_a_refused_one_changes_nothing(register: Register) -> None:
    first, second = enrolment(node=1), enrolment(node=2, minutes=1)
    register.add(first)
    register.add(second)
    with pytest.raises(EnrolmentError, match="cannot be read or written"):
        register.add(first)
    assert register.current() == {"0851": second}


def test_two_commands_at_once_leave_one_key_admitted(register: Register, tmp_path: Path) -> None:
    def admit(number: int) -> None:
        own = Register(tmp_path / "register.sqlite")
        own.add(enrolment(node=number))
        own.close()

    threads = [threading.Thread(target=admit, args=(number,)) for number in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(register.history()) == 8
    assert len(register.current()) == 1


@pytest.mark.parametrize("spoil", ["no database", "torn", "forged"])
def test_a_register_that_is_spoilt_is_named_in_one_line(register: Register, tmp_path: Path, spoil: str) -> None:
    path = tmp_path / "register.sqlite"
    register.add(enrolment())
    register.close()
    if spoil == "no database":
        path.write_bytes(b"no database at all, but long enough to be taken for one" * 40)
    elif spoil == "torn":
        with sqlite3.connect(path) as database:
            database.execute("ALTER TABLE enrolment RENAME COLUMN node TO knude")
        database.close()
    else:  # a row whose request nobody signed
        with sqlite3.connect(path) as database:
            database.execute("UPDATE enrolment SET request = replace(request, '0851', '0101')")
        database.close()

    def read() -> None:
        with closing(Register(path)) as opened:
            opened.current()

    with pytest.raises(EnrolmentError) as caught:
        read()
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnrolmentError, match="look for space and rights"):
        Register(tmp_path / "nowhere" / "register.sqlite")
