"""Know what the agent's processes hand each other, in the folder `run` beside the store; nothing of it outlives them.

lock             held by the agent that runs here, one at a time
superexec.secret what the worker shows the node to be given a message
loopback.pem     the certificate that the node shows the worker, on loopback, and loopback.key
runtime.json     where the node listens
worker.ready     touched by the worker as long as the node answers it
task             there while the worker has a message in hand
lost             there when a message can no longer be answered, and the node would wait for ever
mistake.json     why the worker cannot start, for people
flower           what Flower itself writes
"""

import fcntl
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from client.language import reason
from faelles.certificates import make_own_certificate
from faelles.errors import ConfigError, FaellesError
from faelles.loopback import HOST

log = logging.getLogger(__name__)
RUN: Final = "run"
SECRET_BYTES: Final = 32
CERTIFICATE_DAYS: Final = 3650  # it is made anew at every start, and an agent may run for years
STALE_S: Final = 30.0


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Hold the folder of one agent that runs.

    Args:
        folder: `run` in the agent's own.
    """

    folder: Path

    @classmethod
    def of(cls, folder: Path) -> "Runtime":
        """Find it in an agent's folder."""
        return cls(folder=folder.resolve() / RUN)

    @property
    def secret(self) -> Path:
        """Return the file with the secret that the worker shows the node."""
        return self.folder / "superexec.secret"

    @property
    def certificate(self) -> Path:
        """Return the file with the node's certificate on loopback."""
        return self.folder / "loopback.pem"

    @property
    def key(self) -> Path:
        """Return the file with the certificate's key."""
        return self.folder / "loopback.key"

    @property
    def flower(self) -> Path:
        """Return the folder that Flower may write in."""
        return self.folder / "flower"

    @property
    def address(self) -> str:
        """Read where the node listens; it may be elsewhere each time it starts."""
        return str(json.loads((self.folder / "runtime.json").read_text(encoding="utf-8"))["address"])

    def listen_on(self, port: int) -> None:
        """Write where the node listens: before it starts."""
        _write(self.folder / "runtime.json.new", json.dumps({"address": f"{HOST}:{port}"}).encode())
        os.replace(self.folder / "runtime.json.new", self.folder / "runtime.json")

    def touch_ready(self) -> None:
        """Note that the node answers the worker now."""
        (self.folder / "worker.ready").touch(mode=0o600)

    def forget_ready(self) -> None:
        """Forget it: another worker starts."""
        (self.folder / "worker.ready").unlink(missing_ok=True)

    def ready(self) -> bool:
        """Say whether the node answered the worker lately; with a message in hand the worker asks for no other."""
        try:
            age_s = time.time() - (self.folder / "worker.ready").stat().st_mtime
        except FileNotFoundError:
            return False
        return abs(age_s) <= STALE_S or self.holding()  # abs: a clock that was set back

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Note that a message is in hand; the note stays where the process dies, and only there."""
        try:
            (self.folder / "task").touch(mode=0o600)
        except OSError as error:  # a full disk; the note shortens a wait and decides nothing
            log.warning("event=unnoted error=%s", type(error).__name__)
        try:
            yield
        finally:
            (self.folder / "task").unlink(missing_ok=True)

    def holding(self) -> bool:
        """Say whether a message is in hand, or was when the worker died."""
        return (self.folder / "task").exists()

    def lose(self) -> None:
        """Note that the message in hand can no longer be answered."""
        (self.folder / "lost").touch(mode=0o600)

    def lost(self) -> bool:
        """Say whether a message can no longer be answered."""
        return (self.folder / "lost").exists()

    def forget_task(self) -> None:
        """Forget the message: a new node starts, which knows of none."""
        for name in ("task", "lost"):
            (self.folder / name).unlink(missing_ok=True)

    def give_up(self, error: FaellesError) -> None:
        """Write down why the worker cannot start."""
        texts = {"en": error.text("en"), "da": error.text("da")}
        _write(self.folder / "mistake.json", json.dumps(texts).encode())

    def mistake(self) -> FaellesError | None:
        """Read why the worker could not start, if it wrote it down."""
        try:
            texts = json.loads((self.folder / "mistake.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return FaellesError(texts["en"], da=texts["da"])


@contextmanager
def only_agent(folder: Path) -> Iterator[Runtime]:
    """Be the one agent that runs in a folder, with fresh files for its processes; they are gone afterwards.

    Raises:
        ConfigError: Another runs there, or the folder cannot be written.
    """
    runtime = Runtime.of(folder)
    try:
        runtime.folder.mkdir(mode=0o700, exist_ok=True)
        runtime.folder.chmod(0o700)
        descriptor = os.open(runtime.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unwritable(runtime.folder, error) from None
    try:
        _lock(descriptor, folder)
        try:
            _clear(runtime.folder)
            _lay_out(runtime)
        except OSError as error:
            raise _unwritable(runtime.folder, error) from None
        try:
            yield runtime
        finally:
            with suppress(OSError):
                _clear(runtime.folder)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ConfigError(
            f"{folder}: expected a folder where no agent runs, one does; stop it first",
            da=f"{folder}: der kører allerede en agent i mappen; stop den først",
        ) from None


def _lay_out(runtime: Runtime) -> None:
    own = make_own_certificate([HOST], CERTIFICATE_DAYS)
    _write(runtime.secret, secrets.token_hex(SECRET_BYTES).encode())
    _write(runtime.certificate, own.certificate)
    _write(runtime.key, own.key)
    runtime.flower.mkdir(mode=0o700)


def _clear(folder: Path) -> None:
    """Take away everything but the lock: a new one in its place would let two agents in."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()


def _write(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(data)


def _unwritable(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"{folder}: expected a folder that can be written, {reason(error, 'en')}; correct its permissions or make room",
        da=f"{folder}: der kan ikke skrives i mappen ({reason(error, 'da')}); ret rettighederne, eller skaf plads",
    )
