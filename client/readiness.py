"""Look at the way to the coordinator: proxy, reachability, TLS, answer and clock, each with what to do about it.

It goes the way that the node's own messages go: through the same proxy, trusting the same CA.
"""

import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, Final

import httpx

from client.connection import CA, Connection, read_ca
from client.proxy import LOOPBACK, Way, way_to
from faelles.errors import ConfigError, FaellesError, ReachError

TIMEOUT_S: Final = 5.0
SOON: Final = timedelta(days=30)
# Flower refuses a message whose time differs more than this from the coordinator's.
AHEAD_S: Final = 5.0
BEHIND_S: Final = 300.0

# What OpenSSL finds wrong with a certificate.
NOT_YET, EXPIRED, WRONG_NAME = 9, 10, (62, 64)
WRONG_CA: Final = (2, 7, 18, 19, 20, 21)


class Mark(StrEnum):
    """Say how a thing stands."""

    OK = "ok"
    NOTE = "note"  # works, and something should be done soon
    MEND = "mend"  # does not work
    SKIPPED = "-"  # could not be looked at before something above is mended


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Hold one line: what was looked at, how it stands, and in both languages what to do or what was seen."""

    mark: Mark
    subject: tuple[str, str]
    da: str
    en: str


PROXY, REACH, TLS = ("proxy", "proxy"), ("forbindelse", "connection"), ("TLS", "TLS")
ANSWER, CLOCK = ("koordinator", "coordinator"), ("ur", "clock")


def found(subject: tuple[str, str], da: str, en: str, mark: Mark = Mark.OK) -> Finding:
    """Write a finding."""
    return Finding(mark=mark, subject=subject, da=da, en=en)


def mend(subject: tuple[str, str], error: FaellesError) -> Finding:
    """Write what an error says is to be done."""
    return found(subject, error.text("da"), str(error), Mark.MEND)


def look_at_way(connection: Connection, clock: Callable[[], datetime]) -> Iterator[Finding]:
    """Look at everything between this machine and the coordinator, nearest first."""
    rest = [REACH, TLS, ANSWER, CLOCK]
    try:
        way = way_to(connection.address)
        yield _proxy_finding(way)
        reach(way)
        yield found(rest.pop(0), f"{way.place} svarer", f"{way.place} answers")
        reply = ask(connection, clock)
        yield _tls_finding(connection, reply, clock())
        yield _answer_finding(reply)
        yield _clock_finding(reply)
        return
    except ConfigError as error:
        yield mend(PROXY, error)
    except ReachError as error:
        yield mend(rest.pop(0), error)
    for subject in rest:
        yield found(subject, "ses efter, når det ovenfor er rettet", "looked at once what is above is mended",
                    Mark.SKIPPED)  # fmt: skip


# The connection


def _proxy_finding(way: Way) -> Finding:
    if not way.loopback:
        return mend(PROXY, ConfigError(
            f"NO_PROXY: expected {LOOPBACK} in it, so that nothing within this machine goes through the proxy; set "
            f"NO_PROXY={LOOPBACK},localhost",
            da=f"NO_PROXY: skal nævne {LOOPBACK}, så intet inden for maskinen går gennem proxyen; sæt "
            f"NO_PROXY={LOOPBACK},localhost",
        ))  # fmt: skip
    if not way.variable:
        return found(PROXY, "ingen; koordinatoren spørges direkte", "none; the coordinator is asked directly")
    return found(PROXY, f"{way.place}, fra {way.variable}", f"{way.place}, from {way.variable}")


def reach(way: Way) -> None:
    """Open a connection and close it again.

    Raises:
        ReachError: Nothing answers there, or the name is not known.
    """
    try:
        socket.create_connection((way.host, way.port), timeout=TIMEOUT_S).close()
    except (socket.gaierror, UnicodeError):
        raise ReachError(
            f"{way.place}: expected a name that is known here, it is not; look for a typo, or ask municipal IT for DNS",
            da=f"{way.place}: navnet kendes ikke her; se efter slåfejl, eller spørg kommunens it om DNS",
        ) from None
    except ConnectionRefusedError:
        raise ReachError(
            f"{way.place}: expected an answer, nothing listens there; check the port, or ask {_who(way, 'en')}",
            da=f"{way.place}: der er ingen, der lytter; se efter porten, eller spørg {_who(way, 'da')}",
        ) from None
    except OSError:
        raise ReachError(
            f"{way.place}: expected an answer within {TIMEOUT_S:g} s, none came; have outbound TCP opened in the "
            "firewall, or set HTTPS_PROXY",
            da=f"{way.place}: svarer ikke inden for {TIMEOUT_S:g} s; få åbnet for udgående TCP i firewallen, eller sæt "
            "HTTPS_PROXY",
        ) from None


def _who(way: Way, language: str) -> str:
    if way.variable:
        return "kommunens it om proxyen" if language == "da" else "municipal IT about the proxy"
    return "KOMBIT"


@dataclass(frozen=True, kw_only=True)
class Reply:
    """Hold what came of asking for the coordinator's health.

    Args:
        status: Of HTTP.
        until: When its certificate expires.
        ahead_s: How many seconds this machine's clock is ahead of the coordinator's; None where it tells no time.
    """

    status: int
    until: datetime
    ahead_s: float | None


def ask(connection: Connection, clock: Callable[[], datetime]) -> Reply:
    """Ask the coordinator how it is, over TLS, and look at its certificate and its clock.

    Raises:
        ReachError: No answer came, or from somebody who does not show to be the coordinator.
        ConfigError: The environment's NO_PROXY cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=connection.ca)
        with (
            httpx.Client(verify=context, timeout=TIMEOUT_S) as client,
            client.stream("GET", f"https://{connection.address}/health", headers={"Connection": "close"}) as response,
        ):
            # Its head has come; its body is nobody's business and may be of any length.
            arrived = clock()
            channel: Any = response.extensions["network_stream"].get_extra_info("ssl_object")
            until = ssl.cert_time_to_seconds(channel.getpeercert()["notAfter"])
            return Reply(
                status=response.status_code, until=datetime.fromtimestamp(until, UTC),
                ahead_s=_ahead(response.headers.get("date"), arrived),
            )  # fmt: skip
    except httpx.ProxyError as error:
        raise _refused_by_proxy(str(error)) from None
    except httpx.InvalidURL:  # the address is one, so it is what the environment says of proxies
        raise ConfigError(
            "NO_PROXY: expected names and addresses with commas between them, something else came; correct it in the "
            "environment",
            da="NO_PROXY: skal være navne og adresser med komma imellem, men er noget andet; ret den i miljøet",
        ) from None
    except (httpx.HTTPError, OSError) as error:
        raise _unreached(connection, error) from None


def _ahead(date: str | None, arrived: datetime) -> float | None:
    try:
        told = parsedate_to_datetime(date or "")
    except ValueError:
        return None
    told = told if told.tzinfo else told.replace(tzinfo=UTC)
    # The header has whole seconds, rounded down.
    return (arrived - told).total_seconds() - 0.5


def _refused_by_proxy(text: str) -> ReachError:
    if text.startswith("407"):
        return ReachError(
            "proxy: expected to be let through, it wants a login (407); ask municipal IT for one, and write it into "
            "HTTPS_PROXY as http://NAME:PASSWORD@HOST:PORT",
            da="proxy: den kræver login (407); få et af kommunens it, og skriv det i HTTPS_PROXY som "
            "http://NAVN:KODE@VÆRT:PORT",
        )
    return ReachError(
        "proxy: expected to be let through, it refused; ask municipal IT to allow CONNECT to the coordinator",
        da="proxy: den afviser forbindelsen; bed kommunens it om at tillade CONNECT til koordinatoren",
    )


def _unreached(connection: Connection, error: BaseException) -> ReachError:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _distrusted(connection, cause)
    where = connection.address
    return ReachError(
        f"{where}: expected an answer over TLS, none came; check host and port, or ask KOMBIT",
        da=f"{where}: svarer ikke med TLS; se efter vært og port, eller spørg KOMBIT",
    )


def _distrusted(connection: Connection, error: ssl.SSLCertVerificationError) -> ReachError:
    """Word what is wrong with the coordinator's certificate."""
    where, code = connection.address, error.verify_code
    if code == EXPIRED:
        return ReachError(
            f"{where}: expected a certificate that is valid, it has expired; tell KOMBIT, unless this machine's clock "
            "is wrong",
            da=f"{where}: certifikatet er udløbet; sig det til KOMBIT, medmindre maskinens ur går forkert",
        )
    if code == NOT_YET:
        return ReachError(
            f"{where}: expected a certificate that is valid, it is not yet; look at this machine's clock",
            da=f"{where}: certifikatet gælder ikke endnu; se efter, om maskinens ur går rigtigt",
        )
    if code in WRONG_NAME:
        return ReachError(
            f"{where}: expected a certificate for {where.host}, it is for another; enrol with the name that KOMBIT "
            "gave, or ask KOMBIT",
            da=f"{where}: certifikatet er ikke til {where.host}; tilmeld jer med det navn, KOMBIT oplyste, eller spørg "
            "KOMBIT",
        )
    if code in WRONG_CA:
        return _signed_by_another(connection)
    return ReachError(
        f"{where}: expected a certificate that can be trusted, it cannot ({error.verify_message}); ask KOMBIT",
        da=f"{where}: certifikatet er ikke til at stole på ({error.verify_message}); spørg KOMBIT",
    )


def _signed_by_another(connection: Connection) -> ReachError:
    where = connection.address
    between = "or ask municipal IT whether something in between opens TLS, and to let this address past it"
    mellem = "eller spørg kommunens it, om noget undervejs åbner TLS, og få denne adresse undtaget"
    if connection.ca is None:
        return ReachError(
            f"{where}: expected a certificate by a CA that this machine trusts, it is by another; run "
            f"`faelles-agent enrol --ca FILE` with KOMBIT's CA, {between}",
            da=f"{where}: certifikatet er fra en CA, som maskinen ikke stoler på; kør "
            f"`faelles-agent enrol --ca FIL` med KOMBITs CA, {mellem}",
        )
    return ReachError(
        f"{where}: expected a certificate by the CA in {CA}, it is by another; run `faelles-agent enrol --ca FILE` "
        f"with KOMBIT's present CA, {between}",
        da=f"{where}: certifikatet er ikke fra den CA, der ligger i {CA}; kør `faelles-agent enrol --ca FIL` med "
        f"KOMBITs nuværende CA, {mellem}",
    )


# What the answer says


def _tls_finding(connection: Connection, reply: Reply, now: datetime) -> Finding:
    until = [reply.until, *(one.not_valid_after_utc for one in (read_ca(connection.ca) if connection.ca else []))]
    first = min(until)
    if first - now < SOON:
        whose = ("koordinatorens certifikat", "the coordinator's certificate") if first == reply.until else (CA, CA)
        return found(TLS, f"{whose[0]} udløber {first.date()}; spørg KOMBIT, hvornår det skiftes",
                     f"{whose[1]} expires on {first.date()}; ask KOMBIT when it is renewed", Mark.NOTE)  # fmt: skip
    who = (CA, CA) if connection.ca else ("maskinens egne CA'er", "this machine's own CAs")
    return found(TLS, f"certifikatet er ægte efter {who[0]} og gælder til {reply.until.date()}",
                 f"the certificate is genuine by {who[1]}, and valid until {reply.until.date()}")  # fmt: skip


def _answer_finding(reply: Reply) -> Finding:
    if reply.status == httpx.codes.OK:
        return found(ANSWER, "er klar", "is ready")
    return mend(ANSWER, ReachError(
        f"coordinator: expected status 200 from its /health, {reply.status} came; ask KOMBIT whether it runs, and for "
        "its address",
        da=f"koordinator: svarer {reply.status} i stedet for 200 på /health; spørg KOMBIT, om den kører, og efter dens "
        "adresse",
    ))  # fmt: skip


def _clock_finding(reply: Reply) -> Finding:
    if reply.ahead_s is None:
        return found(CLOCK, "koordinatoren sagde ikke, hvad klokken er; sørg for, at NTP er slået til",
                     "the coordinator did not tell the time; make sure that NTP is on", Mark.NOTE)  # fmt: skip
    seconds, ahead = round(abs(reply.ahead_s)), reply.ahead_s > 0
    off = (f"går {seconds} s for {'stærkt' if ahead else 'langsomt'}", f"{seconds} s {'ahead' if ahead else 'behind'}")
    if reply.ahead_s > AHEAD_S or reply.ahead_s < -BEHIND_S:
        return found(
            CLOCK, f"{off[0]}, og koordinatoren afviser alt; slå NTP til (timedatectl set-ntp true)",
            f"{off[1]} of the coordinator's, which refuses everything; turn on NTP (timedatectl set-ntp true)",
            Mark.MEND,
        )  # fmt: skip
    if abs(reply.ahead_s) > AHEAD_S:
        return found(
            CLOCK, f"{off[0]}; slå NTP til (timedatectl set-ntp true), inden koordinatoren afviser alt",
            f"{off[1]} of the coordinator's; turn on NTP (timedatectl set-ntp true) before it refuses everything",
            Mark.NOTE,
        )  # fmt: skip
    return found(CLOCK, "går rigtigt", "right")
