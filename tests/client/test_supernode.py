"""Flower's node is started with what it needs and nothing more, and little of what it says is passed on."""

import logging
from pathlib import Path

import pytest

from client.connection import Address, Connection
from client.runtime import Runtime
from client.supernode import Ear, Ending, command, environment

RUNTIME = Runtime(folder=Path("/agent/run"))
REFUSED = (
    "\x1b[91mERROR \x1b[0m:     Exit Code: 305",
    "Failed to initialize the connection to the SuperLink.",
    "[code: 2004] Failed to activate SuperNode.",
)


def connection(ca: bool = True) -> Connection:
    return Connection(address=Address("federation.example.dk:8443"), ca=Path("/agent/ca.pem") if ca else None,
                      login_key=Path("/agent/login.key"), cvr="29189420")  # fmt: skip


@pytest.fixture
def ear(caplog: pytest.LogCaptureFixture) -> Ear:
    caplog.set_level(logging.INFO, "client")
    return Ear()


def test_keys_and_secrets_go_by_file() -> None:
    words = command(connection(), RUNTIME, 1234)
    assert words[0].endswith("/flower-supernode")
    given = dict(zip(words[1::2], words[2::2], strict=True))
    assert given == {
        "--superlink": "federation.example.dk:8443", "--root-certificates": "/agent/ca.pem",
        "--auth-supernode-private-key": "/agent/login.key", "--isolation": "process",
        "--superexec-auth-secret-file": "/agent/run/superexec.secret", "--host": "127.0.0.1", "--port": "1234",
        "--ssl-certfile": "/agent/run/loopback.pem", "--ssl-keyfile": "/agent/run/loopback.key",
        "--ssl-ca-certfile": "/agent/run/loopback.pem",
    }  # fmt: skip


def test_without_a_ca_of_its_own_the_machine_decides() -> None:
    assert "--root-certificates" not in command(connection(ca=False), RUNTIME, 1234)
    chosen = environment(connection(ca=False), RUNTIME, {})
    assert chosen.get("SSL_CERT_FILE") == (str(trust) if (trust := connection(ca=False).trust) else None)


def test_the_node_gets_the_proxy_and_not_the_passwords_of_sources() -> None:
    ours = {"HTTPS_PROXY": "http://proxy:3128", "no_proxy": "example.dk", "PATH": "/bin", "LC_ALL": "C",
            "AGENT_PASSWORD": "hemmelig", "PGPASSWORD": "hemmelig"}  # fmt: skip
    chosen = environment(connection(), RUNTIME, ours)
    assert "hemmelig" not in chosen.values()
    assert {name: chosen[name] for name in ("HTTPS_PROXY", "PATH", "LC_ALL", "FLWR_HOME")} == {
        "HTTPS_PROXY": "http://proxy:3128", "PATH": "/bin", "LC_ALL": "C", "FLWR_HOME": "/agent/run/flower",
    }  # fmt: skip
    assert chosen["NO_PROXY"] == chosen["no_proxy"] == "example.dk,127.0.0.1,localhost,::1"
    assert chosen["FLWR_TELEMETRY_ENABLED"] == "0"


def test_only_warnings_are_passed_on_and_each_once(ear: Ear, caplog: pytest.LogCaptureFixture) -> None:
    for line in (
        "INFO:     Started server process [1]", "\x1b[92mINFO \x1b[0m:      Starting Flower SuperNode",
        "\x1b[93mWARNING \x1b[0m:   EXPERIMENTAL: SuperExec authentication is experimental", "a line that goes on",
        *(f"\x1b[93mWARNING \x1b[0m:   Connection attempt failed, retrying in {n}.25 seconds" for n in range(5)),
    ):  # fmt: skip
        ear.hear(line)
    assert [record.getMessage() for record in caplog.records] == [
        "from=flower-supernode Connection attempt failed, retrying in 0.25 seconds"
    ]


def test_what_was_said_before_is_news_after_it_was_well_again(ear: Ear, caplog: pytest.LogCaptureFixture) -> None:
    for line in ("WARNING : away", "INFO : Connection successful after 3.1 seconds and 2 tries.", "WARNING : away"):
        ear.hear(line)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "WARNING"]


def test_a_coordinator_cannot_write_lines_or_colours_into_the_log(ear: Ear, caplog: pytest.LogCaptureFixture) -> None:
    ear.hear("ERROR : \x1b[2J\x1b]0;title\x07 \u202e" + "x" * 5000)
    (record,) = caplog.records
    assert record.getMessage().isprintable()
    assert len(record.getMessage()) < 400


@pytest.mark.parametrize(("lines", "status", "ending"), [
    (REFUSED, 1, Ending.REFUSED),
    ((), 0, Ending.REFUSED),
    (REFUSED[:2], 1, Ending.UNREACHED),
    (("Traceback (most recent call last):",), 1, Ending.FAILED),
    ((), -9, Ending.FAILED),
])  # fmt: skip
def test_why_it_ended_is_known(lines: tuple[str, ...], status: int, ending: Ending, ear: Ear) -> None:
    for line in lines:
        ear.hear(line)
    assert ear.ending(status) is ending
    ear.forget()
    assert ear.ending(1) is Ending.FAILED


def test_it_is_connected_once_it_has_its_id_and_until_it_ends(ear: Ear, caplog: pytest.LogCaptureFixture) -> None:
    assert not ear.connected
    ear.hear("\x1b[92mINFO \x1b[0m:      SuperNode ID: 123")
    assert ear.connected
    assert caplog.messages == ["event=connected"]
    ear.forget()
    assert not ear.connected


def test_a_message_that_a_run_left_behind_is_noticed_and_no_other_line_is_taken_for_it(ear: Ear) -> None:
    ear.hear("INFO : Run ID 7 is not in `RUNNING` status. Ignoring reply message abc.")
    ear.hear("INFO : Run transitioned to a non-`RUNNING` status while receiving a message. Ignoring the message.")
    assert not ear.stranded
    ear.hear("\x1b[92mINFO \x1b[0m:      Run ID 7 is not in `RUNNING` status. Ignoring message abc.")
    assert ear.stranded
    ear.forget()
    assert not ear.stranded
