"""What a user's agents hold, on disk: the secret of each session, and a credential for each of its locks.

`$KEYLANE_STATE_DIR`, else `keylane` under the XDG state home, holds `sessions/`, and in it a folder for each session of
a journal, whose name is a digest: ids and keys can hold anything. In a session's folder are

- `session.json`: its id and its secret. Written before anything is asked for under it, by one of the processes that
  use it, and read by the others;
- `KEY.TOKEN.json`: the credential of a lock. A later one of a key has a higher token, so none is ever written over;
- `KEY.asked-…`: a process asks for the lock. It is locked while that process lives: one that is left over says that
  the lock may be held and its credential was never written;
- `tmp/`: temporary paths of what runs under the session.

Where a journal is named in another way (other brokers of one cluster) its sessions are others here.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import TypeVar

import msgspec

from keylane.errors import ConfigError, LeaseLost, Refused
from keylane.locks import Credential
from keylane.private_files import (
    FOLDER_MODE,
    create_private,
    is_locked,
    locked_private,
    private_folder,
    read_private,
    replace_private,
)
from keylane.sessions import Session

SESSION = "session.json"
ASKED = ".asked-"
TEMPORARY = "tmp"
REMOVED = ".removed-"
TRIES_MAX = 100
DIGEST_CHARACTERS = 32
FORGET_AFTER_S = 7 * 24 * 3_600
"""What nobody has touched for so long is removed, unless a process is at work there: no lock is held so long without a
renewal."""

S = TypeVar("S", bound=msgspec.Struct)


class KeptSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session as its file has it."""

    id: str
    secret: str
    named: bool
    """Somebody named it, and several commands may use it. Else it is over with its one lock."""

    @property
    def session(self) -> Session:
        """What locks are had by."""
        return Session(self.id, self.secret)

    def __repr__(self) -> str:
        return f"KeptSession(id={self.id!r}, secret='…', named={self.named})"


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A lock of a session: with its credential; or without, where that was never written or another process asks."""

    session: KeptSession
    credential: Credential | None
    asking: bool = False
    """A process that lives is asking for it."""


def state_folder(environ: Mapping[str, str]) -> Path:
    """Where all of this lies. Raises `ConfigError` where there is no place for it."""
    if named := environ.get("KEYLANE_STATE_DIR"):
        return Path(named).absolute()
    state = environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(state):  # the XDG specification has others ignored
        return Path(state) / "keylane"
    try:
        return Path.home() / ".local" / "state" / "keylane"
    except RuntimeError as error:
        raise ConfigError("there is no home folder to keep secrets of sessions in: set KEYLANE_STATE_DIR") from error


class Credentials:
    """Those of one journal."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder / "sessions"
        self._journal = _digest(_place(url))[: DIGEST_CHARACTERS // 2]

    def session(self, named: str | None) -> KeptSession:
        """The session of that name, made where there is none; without a name one of its own. It is on disk.

        Raises `ConfigError` where it cannot be kept, or was not kept private.
        """
        self._begin()
        id = token_hex(16) if named is None else named
        path = self._folder_of(id) / SESSION
        for _ in range(TRIES_MAX):
            if (found := self.known(id)) is not None:
                return found
            new = KeptSession(id=id, secret=Session.new(id).secret, named=named is not None)
            if create_private(path, msgspec.json.encode(new)):
                return new
        raise ConfigError(f"{path} is made and removed all the time")

    def known(self, id: str) -> KeptSession | None:
        """The session of that id, if it is kept here."""
        return _decoded(self._folder_of(id) / SESSION, KeptSession)

    @contextmanager
    def asking(self, session: KeptSession, key: str) -> Iterator[None]:
        """Leave word that `key` is asked for. It stays where the process dies, or it is not known what became of it.

        A refusal and a loss are known: a session that is there for this alone goes with them.
        """
        path = self._folder_of(session.id) / f"{_digest(key)}{ASKED}{token_hex(8)}"
        with locked_private(path):
            try:
                yield
            except (Refused, LeaseLost):
                path.unlink(missing_ok=True)
                if not session.named:
                    self.forget(session)
                raise

    def keep(self, credential: Credential) -> None:
        """Write the credential, and remove those of the key before it. It is on disk when this returns."""
        folder = self._folder_of(credential.session)
        replace_private(folder / _name(credential), msgspec.json.encode(credential))
        for other, token in _credentials_in(folder, credential.resource):
            if token < credential.token:
                other.unlink(missing_ok=True)

    def of_key(self, key: str) -> list[Kept]:
        """What is kept of `key`, of every session; at most one each."""
        folders = [name for name in sorted(_names_in(self.folder)) if name.startswith(f"{self._journal}-")]
        found = (self._of(self.folder / name, key) for name in folders)
        return [kept for kept in found if kept is not None]

    def of_session(self, session: KeptSession, key: str) -> Kept | None:
        """What is kept of `key` in one session."""
        return self._of(self._folder_of(session.id), key)

    def drop(self, kept: Kept, key: str) -> None:
        """Forget a lock that is over, and its session with it if it was that session's own."""
        folder = self._folder_of(kept.session.id)
        for path, token in _credentials_in(folder, key):
            if kept.credential is None or token <= kept.credential.token:
                path.unlink(missing_ok=True)
        for path in _asked_in(folder, key):
            if not is_locked(path):
                path.unlink(missing_ok=True)
        if not kept.session.named:
            self.forget(kept.session)

    def touch(self, session: KeptSession) -> None:
        """Say that it is in use."""
        with suppress(OSError):
            os.utime(self._folder_of(session.id))

    def forget(self, session: KeptSession) -> None:
        """Remove a session that is over, with all that belonged to it."""
        _remove(self._folder_of(session.id))

    def temporary(self, session: KeptSession) -> Path:
        """A folder for temporary paths of what runs under the session, apart from any other's. Goes with it."""
        folder = self._folder_of(session.id) / TEMPORARY
        private_folder(folder)
        return folder

    def _begin(self) -> None:
        private_folder(self.folder)
        before = time.time() - FORGET_AFTER_S
        for name in _names_in(self.folder):
            folder = self.folder / name
            with suppress(OSError):
                if name.startswith(REMOVED) or (os.lstat(folder).st_mtime < before and not _is_in_use(folder)):
                    _remove(folder)

    def _folder_of(self, id: str) -> Path:
        return self.folder / f"{self._journal}-{_digest(id)}"

    def _of(self, folder: Path, key: str) -> Kept | None:
        session = _decoded(folder / SESSION, KeptSession)
        for path, _ in sorted(_credentials_in(folder, key), key=lambda each: -each[1]):
            if (credential := _decoded(path, Credential)) is not None:
                # Its session may have been ended, and begun anew, while it was acquired.
                own = KeptSession(id=credential.session, secret=credential.secret, named=True)
                return Kept(
                    session=own if session is None or session.secret != own.secret else session, credential=credential
                )
        asked = list(_asked_in(folder, key))
        if session is None or not asked:
            return None
        return Kept(session=session, credential=None, asking=any(is_locked(path) for path in asked))


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:DIGEST_CHARACTERS]


def _place(url: str) -> str:
    """What of a URL says which journal it is."""
    scheme, _, rest = url.partition("://")
    where, _, options = rest.partition("?")
    if scheme == "sqlite":
        return f"{scheme}://{os.path.realpath(where)}"
    prefix = [option for option in options.split("&") if option.startswith("prefix=")]
    return f"{scheme}://{','.join(sorted(where.split(',')))}?{'&'.join(prefix)}"


def _name(credential: Credential) -> str:
    return f"{_digest(credential.resource)}.{credential.token}.json"


def _credentials_in(folder: Path, key: str) -> Iterator[tuple[Path, int]]:
    for name in _names_of(folder, key):
        _, _, rest = name.partition(".")
        token, _, kind = rest.partition(".")
        if kind == "json" and token.isdigit():
            yield folder / name, int(token)


def _asked_in(folder: Path, key: str) -> Iterator[Path]:
    return (folder / name for name in _names_of(folder, key) if ASKED in name)


def _names_of(folder: Path, key: str) -> list[str]:
    return [name for name in _names_in(folder) if name.startswith(_digest(key) + ".")]


def _names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror}") from error


def _decoded(path: Path, kind: type[S]) -> S | None:
    data = read_private(path)
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{path} is damaged ({type(error).__name__}): remove it") from None


def _is_in_use(folder: Path) -> bool:
    return any(ASKED in name and is_locked(folder / name) for name in _names_in(folder))


def _remove(folder: Path) -> None:
    """In one step for everybody else: who begins the session anew meanwhile begins with a new folder."""
    aside = folder.parent / f"{REMOVED}{token_hex(8)}"
    with suppress(FileNotFoundError):
        os.rename(folder, aside)
        os.chmod(aside, FOLDER_MODE)
        for _ in range(TRIES_MAX):
            shutil.rmtree(aside, ignore_errors=True)
            if not os.path.lexists(aside):
                break  # else who had the folder open by its old name has just made a file in it
