"""Enrol at a coordinator, and check that the agent is ready to go there: one line each, ok or what to do."""

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial

from client import consent, head, keys
from client.connection import CA, LOGIN, REQUEST, Connection
from client.consent import Approval, Standing
from client.desk.views import STANDINGS
from client.enrolment import Enrolled
from client.home import Home
from client.language import Language, say
from client.ledger import utc_now
from client.policy import Policy
from client.readiness import Finding, Mark, found, look_at_way, mend
from client.store import Store
from faelles.enrolment import parse_request_file
from faelles.errors import ConfigError, EnrolmentError, FaellesError, LedgerError, PolicyError
from faelles.municipalities import by_code

FOLDER, POLICY, STORE = ("mappe og nøgle", "folder and key"), ("politik", "policy"), ("lager", "store")
CARDS, ENROLLED = ("kort", "cards"), ("tilmelding", "enrolment")
MARKS = {Mark.OK: ("ok", "ok"), Mark.NOTE: ("obs", "note"), Mark.MEND: ("ret", "mend"), Mark.SKIPPED: ("-", "-")}


def enrolled_lines(done: Enrolled, language: Language) -> Iterator[str]:
    """Say what was written, what to read over the phone, and what comes next."""
    request, town = done.request, by_code(done.request.municipality)
    trusted = say(language, f"kun CA'en i {CA}", f"only the CA in {CA}") if done.settings.ca else say(
        language, "maskinens egne CA'er", "this machine's own CAs")  # fmt: skip
    yield say(language, f"koordinator: {done.settings.address}; dens certifikat godkendes af: {trusted}",
              f"coordinator: {done.settings.address}; its certificate is checked by: {trusted}")  # fmt: skip
    yield say(language, f"anmodningen fra {town.name} ({town.code}, CVR {request.cvr}) ligger i {done.path}",
              f"the request of {town.name} ({town.code}, CVR {request.cvr}) lies in {done.path}")  # fmt: skip
    yield say(language, f"anmodningens fingeraftryk: {request.fingerprint}",
              f"fingerprint of the request: {request.fingerprint}")  # fmt: skip
    if done.previous is not None:
        yield say(
            language, f"den gamle nøgle ligger i {done.previous}. En agent, der kører, fortsætter med den, til "
            "KOMBIT har tilmeldt den nye, og forbinder sig så selv igen; genstart den ikke imens, og slet så den gamle",
            f"the old key lies in {done.previous}. An agent that runs goes on with it until KOMBIT has enrolled "
            "the new, and then connects anew by itself; do not restart it in between, and delete the old afterwards",
        )  # fmt: skip
    yield say(
        language, f"send {REQUEST} til KOMBIT, og læs fingeraftrykket op, når de ringer tilbage; de kører "
        f"faelles-server enrol {REQUEST}. Se imens efter med faelles-agent check",
        f"send {REQUEST} to KOMBIT, and read the fingerprint aloud when they call back; they run "
        f"faelles-server enrol {REQUEST}. Meanwhile look with faelles-agent check",
    )  # fmt: skip


def check_lines(home: Home, language: Language) -> Iterator[str]:
    """Look at all that taking part rests on and that can be seen without logging in, nearest first.

    Raises:
        ConfigError: Something has to be mended; the lines say what.
    """
    wrong = 0
    for one in findings(home):
        wrong += one.mark is Mark.MEND
        yield f"{say(language, *MARKS[one.mark]):<5} {say(language, *one.subject)}: {say(language, one.da, one.en)}"
    if wrong:
        raise ConfigError(
            f"check: expected every line to be ok, {wrong} to mend; do what they say and check again",
            da=f"check: {wrong} linje(r) skal rettes; gør, som de siger, og prøv igen",
        )


def findings(home: Home) -> Iterator[Finding]:
    """Look at the folder, the rules, the account, each card and its rows, the enrolment, and the way."""
    yield _look(FOLDER, partial(_folder, home))
    yield _look(POLICY, partial(_policy, home))
    try:
        with closing(home.store()) as store:
            yield _look(STORE, partial(_store, store))
            yield from _cards(home, store, home.policy_or_nothing())
    except FaellesError as error:
        yield mend(STORE, error)
    try:
        connection = Connection.open(home)
        yield _look(ENROLLED, partial(_enrolled, home, connection))
    except FaellesError as error:
        yield mend(ENROLLED, error)
        return
    yield from look_at_way(connection, utc_now)


def _look(subject: tuple[str, str], see: Callable[[], Finding]) -> Finding:
    try:
        return see()
    except FaellesError as error:
        return mend(subject, error)


def _folder(home: Home) -> Finding:
    if home.folder.stat().st_mode & 0o022:
        raise ConfigError(
            f"{home.folder}: expected a folder that only its owner can write in, others can too; run chmod go-w",
            da=f"{home.folder}: kun ejeren må kunne skrive i mappen, men andre kan også; kør chmod go-w",
        )
    home.signer()
    return found(FOLDER, "kun ejeren kan læse nøglen", "only its owner can read the key")


def _policy(home: Home) -> Finding:
    if home.policy().cards == ():
        raise PolicyError(
            "policy.yaml: expected a card under cards, none is there and everything is refused; write it there",
            da="policy.yaml: der står intet kort under cards, så alt afvises; skriv det dér",
        )
    return found(POLICY, "kan læses", "can be read")


def _store(store: Store) -> Finding:
    if head.frozen(store.database):
        raise LedgerError(
            "store: expected the newest copy, this is an older one and frozen; run `faelles-agent ledger recover`",
            da="lager: er en ældre kopi og spærret; kør `faelles-agent ledger recover`",
        )
    return found(STORE, "kan bruges", "can be used")


def _cards(home: Home, store: Store, policy: Policy) -> Iterator[Finding]:
    now = utc_now()
    standings = [(one, consent.standing(store.database, one, policy, now)) for one in consent.approvals(store.database)]
    lasting = [(one, standing) for one, standing in standings if standing is not Standing.WITHDRAWN]
    for one, standing in lasting:
        subject = (f"kort {one.card.id}", f"card {one.card.id}")
        if standing is Standing.VALID:
            yield found(subject, f"godkendt for {one.population}", f"approved for {one.population}")
            yield _look((f"data til {one.card.id}", f"data for {one.card.id}"), partial(_data, home, store, one))
        else:
            yield _not_valid(subject, one, standing)
    if not lasting:
        yield found(CARDS, "intet er godkendt, så alt afvises; godkend et med faelles-agent approve",
                    "none is approved, so everything is refused; approve one with faelles-agent approve",
                    Mark.NOTE)  # fmt: skip


def _not_valid(subject: tuple[str, str], one: Approval, standing: Standing) -> Finding:
    what_to_do = {
        Standing.WAITING: tuple(f"{verb} faelles-agent countersign {one.card.id}" for verb in ("kør", "run")),
        Standing.EXPIRED: ("godkend det igen, eller træk det tilbage", "approve it again, or withdraw it"),
    }  # fmt: skip
    do = what_to_do.get(standing, ("skriv det under cards i policy.yaml, eller træk det tilbage",
                                   "write it under cards in policy.yaml, or withdraw it"))  # fmt: skip
    da, en = STANDINGS[standing]
    return found(subject, f"{da}; {do[0]}", f"{en}; {do[1]}", Mark.MEND)


def _data(home: Home, store: Store, one: Approval) -> Finding:
    """Check a population's rows against the very card that was approved, whatever the catalogue holds today."""
    from client.contract import examine  # after the limits on threads hold
    from client.population import read_raw

    subject = (f"data til {one.card.id}", f"data for {one.card.id}")
    if one.declared_size == 0:
        return found(subject, "kommunen har ingen borgere at lære af", "the municipality has nobody to learn from")
    settings = home.check_population(store, one.population)
    report = examine(one.card, read_raw(settings, one.card, home.folder), store.key, held_out=settings.held_out)
    if blocking := len(report.of("blocks")):
        command = f"faelles-agent check-data {one.card.id} --population {one.population}"
        return found(subject, f"{blocking} fund spærrer; se dem med {command}",
                     f"{blocking} finding(s) block; see them with {command}", Mark.MEND)  # fmt: skip
    return found(subject, "rækkerne passer", "the rows fit")


def _enrolled(home: Home, connection: Connection) -> Finding:
    try:
        request = parse_request_file(home.folder / REQUEST)
    except EnrolmentError as error:  # it tells whoever received a request what to do; this one is our own
        raise EnrolmentError(
            f"{REQUEST}: expected the request as it was written, it is missing or changed; run `faelles-agent enrol`",
            da=error.text("da"),
        ) from None
    login, signer = keys.load_login(connection.login_key), home.signer()
    if (request.login_key, request.signing_key, request.cvr) != (login, signer.public, connection.cvr):
        raise EnrolmentError(
            f"{REQUEST}: expected the request for {LOGIN}, signing key and CVR number as they are, it is for others; "
            "run `faelles-agent enrol --rotate` and send the new one",
            da=f"{REQUEST}: passer ikke til {LOGIN}, signeringsnøgle og CVR-nummer; kør `faelles-agent enrol "
            "--rotate`, og send den nye",
        )
    # Only a login would show whether it was admitted, revoked or never seen, and a check does not log in.
    return found(
        ENROLLED, f"anmodning til {connection.address} med fingeraftryk {request.fingerprint}; om KOMBIT har tilmeldt "
        "nøglen, ses først i loggen fra faelles-agent up (event=connected)",
        f"request to {connection.address} with fingerprint {request.fingerprint}; whether KOMBIT has admitted the key "
        "shows only in the log of faelles-agent up (event=connected)",
    )  # fmt: skip
