"""Certificates, and a server that shows one on loopback, for the tests of the way to a coordinator."""

import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Authority:
    """Hold a CA of a test's own."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls, days: int = 365, name: str = "test CA", since: int = 400) -> "Authority":
        """Make one; it began `since` days ago."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(subject, subject, key, -since, days)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        return cls(key=key, certificate=builder.sign(key, hashes.SHA256()))

    def pem(self, path: Path) -> Path:
        """Write its certificate."""
        path.write_bytes(self.certificate.public_bytes(Encoding.PEM))
        return path

    def server(self, path: Path, host: str = "127.0.0.1", since: int = -30, days: int = 90) -> Path:
        """Write a server's key and certificate, valid from `since` to `days` from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        builder = _builder(subject, self.certificate.subject, key, since, days)
        names: list[x509.GeneralName]
        try:
            names = [x509.IPAddress(ipaddress.ip_address(host))]
        except ValueError:
            names = [x509.DNSName(host)]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.write_bytes(private + certificate.public_bytes(Encoding.PEM))
        return path


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, since: int, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    named = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    numbered = named.serial_number(x509.random_serial_number())
    return numbered.not_valid_before(now + since * DAY).not_valid_after(now + days * DAY)


@contextmanager
def serve(pem: Path | None, *, status: int = 200, ahead_s: float = 0, date: str | None = "") -> Iterator[int]:
    """Answer /health on a port of loopback that is given, over TLS where there is a certificate.

    Args:
        pem: Key and certificate.
        status: Of each answer.
        ahead_s: How far the server's clock is ahead.
        date: What it says the time is, None for nothing; empty for the time itself.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told = format_datetime(datetime.now(UTC) + timedelta(seconds=ahead_s), usegmt=True) if date == "" else date
            self.send_response_only(status if self.path == "/health" else 404)
            if told is not None:
                self.send_header("Date", told)
            self.end_headers()

        def do_CONNECT(self) -> None:
            self.send_error(status)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(HTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # who does not trust the certificate goes away

    server = Server(("127.0.0.1", 0), Handler)
    if pem is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def unused_port() -> int:
    """Find a port that nothing listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
