"""What others can use, or own, is refused where credentials are kept."""

import os
from pathlib import Path

import pytest
from cli.keeping import KEY, URL, credential, everything_in

from keylane.credentials import Credentials
from keylane.errors import ConfigError
from keylane.private_files import read_private


@pytest.fixture
def kept(tmp_path: Path) -> Credentials:
    return Credentials(tmp_path, URL)


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o620, 0o666])
def test_a_file_that_others_can_use_is_refused(kept: Credentials, tmp_path: Path, mode: int) -> None:
    session = kept.session("agent")
    kept.keep(credential(session))
    for file in [path for path in everything_in(tmp_path) if path.is_file()]:
        file.chmod(mode)
        with pytest.raises(ConfigError, match=f"mode {mode:04o}, and lets others in"):
            kept.of_key(KEY)
        file.chmod(0o600)
    assert kept.of_key(KEY)


@pytest.mark.parametrize("which", ["sessions", "session"])
def test_a_folder_that_others_can_use_is_refused(kept: Credentials, tmp_path: Path, which: str) -> None:
    kept.session("agent")
    (folder,) = (tmp_path / "sessions").iterdir()
    (tmp_path / "sessions" if which == "sessions" else folder).chmod(0o750)
    with pytest.raises(ConfigError, match="mode 0750, and lets others in"):
        kept.session("agent")


def test_what_another_user_owns_is_refused(kept: Credentials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.session("agent")
    (folder,) = (tmp_path / "sessions").iterdir()
    owner = os.geteuid()
    monkeypatch.setattr("keylane.private_files.os.geteuid", lambda: owner + 1)
    for use in (lambda: kept.session("agent"), lambda: kept.known("agent"), lambda: read_private(folder / "x")):
        with pytest.raises(ConfigError, match=f"belongs to user {owner}, and you are {owner + 1}"):
            use()


def test_a_link_and_what_is_no_file_are_refused(kept: Credentials, tmp_path: Path) -> None:
    kept.session("agent")
    (folder,) = (tmp_path / "sessions").iterdir()
    file = folder / "session.json"
    elsewhere = tmp_path / "elsewhere"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    with pytest.raises(ConfigError, match="is a link"):
        kept.session("agent")
    file.unlink()
    os.mkfifo(file, 0o600)
    with pytest.raises(ConfigError, match="is no file"):
        kept.session("agent")
    file.unlink()
    file.write_bytes(b'{"id": ')
    file.chmod(0o600)
    with pytest.raises(ConfigError, match="damaged") as damaged:
        kept.session("agent")
    assert damaged.value.code == "CONFIG"
    folder.rename(tmp_path / "aside")
    folder.symlink_to(tmp_path / "aside")
    with pytest.raises(ConfigError, match="is no folder"):
        kept.session("agent")
