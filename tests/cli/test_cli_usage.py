"""The command line itself: where options may stand, what is a mistake, and what each mistake ends with."""

import io
import json
from pathlib import Path

import pytest

from keylane import cli


class Ran:
    """A command that ran in this process."""

    def __init__(self, *arguments: str, stdin: bytes = b"") -> None:
        out, err = io.StringIO(), io.StringIO()
        self.code = cli.run(arguments, out, err, io.BytesIO(stdin))
        self.out, self.err = out.getvalue(), err.getvalue()


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KEYLANE_URL", raising=False)
    monkeypatch.delenv("KEYLANE_DEBUG", raising=False)
    return tmp_path


@pytest.mark.parametrize("arguments", [["--help"], ["submit", "--help"], ["worker", "--help"], ["--version"], []])
def test_help_and_version_are_no_errors(arguments: list[str]) -> None:
    ran = Ran(*arguments)
    assert (ran.code, ran.err) == (0, "")


GROUPS = ("worker", "lock", "session", "conflict", "config", "deadletters", "topics", "ingest")


@pytest.mark.parametrize("group", [(), *((name,) for name in GROUPS)])
def test_help_says_what_each_command_does(group: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """Commands whose modules are imported late have no such line."""
    assert Ran(*group, "--help").code == 0
    _, commands, *_ = capsys.readouterr().out.split("╭─ ")
    lines = [line.strip("│ ") for line in commands.splitlines()[1:] if line.startswith("│ ") and line[2] != " "]
    assert lines and all(len(line.split()) > 1 for line in lines), lines


@pytest.mark.parametrize(
    "arguments",
    [
        ["bogus"],
        ["submit", "deploy://api"],
        ["submit", "deploy://api", "restart", "--bogus"],
        ["--output", "yaml", "who", "deploy://api"],
        ["worker", "run", "no-colon"],
        ["worker", "run", "no_such_module_here:worker"],
        ["worker", "run", "json:dumps"],
        ["submit", "deploy://api", "restart", "--data", "{not json"],
        ["submit", "deploy://api", "restart", "--data", "@no-such-file"],
        ["ingest", "github", "no-such-file"],
        ["up", "--url", "memory://x"],
    ],
    ids=" ".join,
)
def test_a_mistake_in_the_command_line_is_2(arguments: list[str]) -> None:
    ran = Ran(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("USAGE: ")


@pytest.mark.parametrize("where", ["before", "after"])
def test_common_options_stand_before_or_after_the_command(where: str, tmp_path: Path) -> None:
    common, command = ["--output", "json", "--url", f"sqlite:///{tmp_path}/j.db"], ["who", "deploy://api"]
    ran = Ran(*(common + command if where == "before" else command + common))
    assert ran.code == 69
    assert json.loads(ran.err)["error"]["code"] == "UNAVAILABLE"


@pytest.mark.parametrize("arguments", [["who", "deploy://api"], ["conflicts"], ["submit", "deploy://api", "x"]])
def test_a_journal_that_no_router_has_set_up_is_69_and_says_so(arguments: list[str]) -> None:
    ran = Ran(*arguments)
    assert ran.code == 69
    assert "no router has set up this journal" in ran.err


@pytest.mark.parametrize("url", ["http://x", "nonsense", "kafka://127.0.0.1:1?bogus=1"])
def test_a_url_that_names_no_journal_is_a_configuration_error(url: str) -> None:
    assert Ran("who", "deploy://api", "--url", url).code == 78


def test_a_wrong_configuration_is_78_and_names_the_key(empty_folder: Path) -> None:
    (empty_folder / "keylane.toml").write_text('[defaults]\nleese = "5m"\n')
    ran = Ran("up", "--output", "json")
    assert ran.code == 78
    assert "leese" in json.loads(ran.err)["error"]["message"]


def test_a_missing_configuration_file_is_78() -> None:
    assert Ran("router", "--config", "no-such.toml").code == 78


def test_a_fault_is_70_without_a_traceback_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(arguments: object) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(cli, "build", faulty)
    ran = Ran("who", "deploy://api", "--output", "json")
    assert ran.code == 70
    assert "Traceback" not in ran.err
    monkeypatch.setenv("KEYLANE_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        Ran("who", "deploy://api")
