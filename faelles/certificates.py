"""Make and read TLS certificates: an authority for trials, a server's certificate, one that a process gives itself.

In production the server's certificate comes from the authority that KOMBIT already uses; these are for the rest, and
for the loopback connections between processes of one machine.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from faelles.errors import KeyFileError

BACKDATED = timedelta(minutes=5)  # a peer whose clock is a little behind accepts it at once


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Hold a certificate and its private key, both in PEM."""

    certificate: bytes
    key: bytes


def make_authority(name: str, days: int) -> Pair:
    """Make an authority that can sign servers' certificates and nothing else."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(name, name, key.public_key(), days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(authority=True), critical=True)
    return _pair(builder.sign(key, hashes.SHA256()), key)


def make_server_certificate(authority: Pair, hosts: Sequence[str], days: int) -> Pair:
    """Make a server's certificate that an authority signs.

    Args:
        authority: Signs it.
        hosts: Names and addresses that the server is reached by.
        days: How long it is valid.
    """
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    signer = serialization.load_pem_private_key(authority.key, password=None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    name = issuer.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    builder = _server(_builder(hosts[0], str(name), key.public_key(), days), hosts)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    builder = builder.add_extension(identifier, critical=False)
    return _pair(builder.sign(signer, hashes.SHA256()), key)


def make_own_certificate(hosts: Sequence[str], days: int) -> Pair:
    """Make a certificate that a process signs itself; who connects trusts exactly this one."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _server(_builder(hosts[0], hosts[0], key.public_key(), days), hosts)
    return _pair(builder.sign(key, hashes.SHA256()), key)


def load_certificate(path: Path) -> x509.Certificate:
    """Read the first certificate of a PEM file.

    Raises:
        KeyFileError: There is none.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        raise KeyFileError(
            f"{path}: expected a certificate in PEM, found none that can be read; name another file",
            da=f"{path}: her skulle ligge et certifikat i PEM, der kan læses; angiv en anden fil",
        ) from None


def days_left(certificate: x509.Certificate, now: datetime) -> float:
    """Count the days until a certificate expires; negative where it has."""
    return (certificate.not_valid_after_utc - now) / timedelta(days=1)


def _builder(subject: str, issuer: str, public: ec.EllipticCurvePublicKey, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _server(builder: x509.CertificateBuilder, hosts: Sequence[str]) -> x509.CertificateBuilder:
    return (
        builder.add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )


def _usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])  # 64: the standard's longest


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Pair(certificate=certificate.public_bytes(serialization.Encoding.PEM), key=private)
