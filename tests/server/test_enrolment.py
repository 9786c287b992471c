"""Admit, replace and turn away: against Flower's own register of nodes, behind the coordinator's doors."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from faelles.errors import CoordinatorError, EnrolmentError
from server.control import ONLINE, UNREGISTERED, Control
from server.enrolment import admit, check_request, public_bytes, restore, revoke
from server.home import Home
from server.register import Enrolment, Register
from tests.peers import Applicant, Listening


@dataclass(frozen=True, kw_only=True)
class Desk:
    """Hold what KOMBIT's command line opens."""

    register: Register
    control: Control

    def admitted(self) -> dict[str, int]:
        return {code: one.node for code, one in self.register.current().items()}

    def let_in(self) -> set[int]:
        """List the nodes that Flower would let in."""
        return {node for node, status in self.control.nodes().items() if status != UNREGISTERED}


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with Listening(tmp_path_factory.mktemp("srv") / "home").serving() as home:
        yield home


@pytest.fixture
def desk(coordinator: Home, tmp_path: Path) -> Iterator[Desk]:
    """Open a new register; what earlier tests left at Flower is nobody's."""
    register, control = Register(tmp_path / "register.sqlite"), Control(coordinator)
    for node, status in control.nodes().items():
        if status != UNREGISTERED:
            control.unregister(node)
    yield Desk(register=register, control=control)
    register.close()
    control.close()


def test_a_first_request_is_admitted_under_its_name(desk: Desk) -> None:
    request = Applicant("0851").request()
    assert check_request(request, desk.register) is None
    assert desk.let_in() == set()  # looking changes nothing
    made = admit(request, desk.register, desk.control)
    assert desk.admitted() == {"0851": made.node}
    assert desk.let_in() == {made.node}
    assert desk.control.node_of(public_bytes(request.login_key)) == made.node
    assert desk.control.nodes()[made.node] != ONLINE


def test_the_same_request_again_is_nothing_to_do(desk: Desk) -> None:
    request = Applicant("0851").request()
    made = admit(request, desk.register, desk.control)
    with pytest.raises(EnrolmentError, match="is enrolled with this very key; nothing to do"):
        admit(request, desk.register, desk.control)
    assert desk.let_in() == {made.node}


def test_a_rotation_is_signed_by_the_enrolled_key_and_turns_the_old_login_key_away(desk: Desk) -> None:
    one = Applicant("0851")
    first = admit(one.request(), desk.register, desk.control)
    rotated = one.rotated().request()
    earlier = check_request(rotated, desk.register)
    assert earlier is not None
    assert earlier.node == first.node
    second = admit(rotated, desk.register, desk.control)
    assert desk.admitted() == {"0851": second.node}
    assert desk.let_in() == {second.node}
    assert second.node != first.node


def test_a_new_signing_key_must_be_signed_by_the_old_one(desk: Desk) -> None:
    one, stranger = Applicant("0851"), Applicant("0851")
    first = admit(one.request(), desk.register, desk.control)
    for request in (
        stranger.request(),
        stranger.request(previous=stranger),
        stranger.request(previous=Applicant("0101")),
    ):
        with pytest.raises(
            EnrolmentError, match="signed by the enrolled signing key, it is not; if they lost"
        ) as caught:
            admit(request, desk.register, desk.control)
        assert "\n" not in str(caught.value)
    assert desk.let_in() == {first.node}
    second = admit(stranger.request(previous=one), desk.register, desk.control)
    assert desk.let_in() == {second.node}


def test_an_old_request_does_not_bring_an_old_key_back(desk: Desk) -> None:
    one = Applicant("0851")
    old = one.request()
    admit(old, desk.register, desk.control)
    current = admit(one.rotated().request(), desk.register, desk.control)
    for request in (old, one.request(previous=one)):
        with pytest.raises(EnrolmentError, match="expected a key that was never enrolled, this one was"):
            admit(request, desk.register, desk.control)
    assert desk.let_in() == {current.node}


def test_a_municipality_cannot_come_with_anothers_key(desk: Desk) -> None:
    one = Applicant("0851")
    made = admit(one.request(), desk.register, desk.control)
    thief = Applicant("0101", login=one.login)
    with pytest.raises(EnrolmentError, match="municipality 0101: expected a key that was never enrolled"):
        admit(thief.request(), desk.register, desk.control)
    assert desk.admitted() == {"0851": made.node}


def test_one_who_is_revoked_comes_back_with_new_keys_only(desk: Desk) -> None:
    one = Applicant("0851")
    request = one.request()
    admit(request, desk.register, desk.control)
    revoke("0851", desk.register, desk.control)
    assert desk.admitted() == {}
    assert desk.let_in() == set()
    with pytest.raises(EnrolmentError, match=r"municipality 0851: .*, it is revoked already, since .*; nothing to do"):
        revoke("0851", desk.register, desk.control)
    with pytest.raises(EnrolmentError, match=r"municipality 0101: expected one that is enrolled \(none\)"):
        revoke("0101", desk.register, desk.control)
    with pytest.raises(EnrolmentError, match="never enrolled"):
        admit(request, desk.register, desk.control)
    again = admit(Applicant("0851").request(), desk.register, desk.control)  # somebody compared fingerprints
    assert desk.let_in() == {again.node}


def test_a_command_that_died_between_the_two_registers_is_typed_again(desk: Desk) -> None:
    one = Applicant("0851")
    request = one.request()
    node = desk.control.register("0851", public_bytes(request.login_key))  # and there it died
    made = admit(request, desk.register, desk.control)
    assert made.node == node
    assert desk.let_in() == {node}


def test_a_revocation_that_reached_the_register_only_is_finished_by_typing_it_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = admit(Applicant("0851").request(), desk.register, desk.control)

    def dies(node: int) -> None:
        raise CoordinatorError("coordinator: gone")

    monkeypatch.setattr(desk.control, "unregister", dies)
    with pytest.raises(CoordinatorError):
        revoke("0851", desk.register, desk.control)
    monkeypatch.undo()
    assert desk.let_in() == {made.node}
    revoke("0851", desk.register, desk.control)
    assert desk.let_in() == set()


def test_a_rotation_that_died_before_the_old_key_was_turned_away_does_not_leave_two(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Applicant("0851")
    admit(one.request(), desk.register, desk.control)

    def dies(node: int) -> None:
        raise CoordinatorError("coordinator: gone")

    monkeypatch.setattr(desk.control, "unregister", dies)
    rotated = one.rotated().request()
    with pytest.raises(CoordinatorError):
        admit(rotated, desk.register, desk.control)
    monkeypatch.undo()
    made = admit(rotated, desk.register, desk.control)
    assert desk.let_in() == set(desk.admitted().values()) == {made.node}


def test_without_a_coordinator_nothing_is_admitted(desk: Desk, tmp_path: Path) -> None:
    control = Control(Listening(tmp_path / "away").home)
    with pytest.raises(CoordinatorError, match=r"expected it to answer on .*, it does not; start it with"):
        admit(Applicant("0851").request(), desk.register, control)
    control.close()
    assert desk.admitted() == {}


def test_a_lost_database_is_filled_from_the_register(desk: Desk) -> None:
    request = Applicant("0851").request()
    # A register of another coordinator's life: Flower has never heard of the key.
    desk.register.add(Enrolment(request=request, node=7, enrolled_at=datetime.now(UTC)))
    restore(desk.register, desk.control)
    assert desk.let_in() == set(desk.admitted().values())
    assert desk.admitted() == {"0851": desk.control.node_of(public_bytes(request.login_key))}
    before = desk.control.nodes()
    restore(desk.register, desk.control)
    assert desk.control.nodes() == before


def test_a_crash_in_the_middle_of_turning_away_lets_nobody_in_again(desk: Desk) -> None:
    made = admit(Applicant("0851").request(), desk.register, desk.control)
    desk.control.unregister(made.node)  # and here the command died, before the register knew
    restore(desk.register, desk.control)
    assert desk.let_in() == set()
    assert desk.admitted() == {"0851": made.node}
