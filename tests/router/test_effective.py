"""Which value holds and where it comes from; and that an error of it says place, key and what it can be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keylane.router.config import BadConfig, load_config
from keylane.router.core.policy import ActionPolicy
from keylane.router.effective import effective
from keylane.schemas.durations import duration

FILE = """
partitions = 3
retention = "90s"
[defaults]
lease = "2m"
[actions.deploy]
attempts = 2
on_conflict = { default = "queue", rollback = "supersede" }
version = "required"
harmless = false
requires = ["build"]
quiet = "2s"
max_delay = "20s"
max_count = 50
min_interval = "1m"
then = "review"
review = "2d"
limit = { count = 2, until = ["undeploy"] }
[[scopes]]
match = "k8s://{c}/pods/{ns}/{app}/{pod}"
owner = "k8s://{c}/deployments/{ns}/{app}"
[runbooks]
stale_version = "https://wiki/stale"
[bounds]
runs = 7
"""


def written(folder: Path, text: str = FILE) -> Path:
    file = folder / "keylane.toml"
    file.write_text(text)
    return file


def test_flags_stand_over_variables_over_the_file_over_defaults(tmp_path: Path) -> None:
    file = written(tmp_path)
    environ = {"KEYLANE_RETENTION": "2h", "KEYLANE_METRICS": "127.0.0.1:1"}
    found = {each.key: each[1:] for each in effective(file, environ, {"metrics": "127.0.0.1:2", "url": None})}
    assert found["partitions"] == (3, str(file))
    assert found["retention"] == ("2h", "KEYLANE_RETENTION")
    assert found["metrics"] == ("127.0.0.1:2", "--metrics")
    assert found["session_lapse"] == ("10s", "default")
    assert found["defaults.lease"] == ("2m", str(file))
    assert found["defaults.attempts"] == (3, "default")
    assert found["actions.deploy.attempts"] == (2, str(file))
    assert found["actions.deploy.on_conflict"] == ({"default": "queue", "rollback": "supersede"}, str(file))
    assert found["actions.deploy.version"] == ("required", str(file))
    assert found["actions.deploy.requires"] == (["build"], str(file))
    assert found["actions.deploy.limit"] == ({"count": 2, "until": ["undeploy"]}, str(file))
    assert found["runbooks.stale_version"] == ("https://wiki/stale", str(file))
    assert found["scopes[0]"][0]["owner"] == "k8s://{c}/deployments/{ns}/{app}"
    assert "actions.deploy.lease" not in found, "it is that of the defaults"
    assert found["bounds.runs"] == (7, str(file)) and found["bounds.refusals"][1] == "default"


def test_what_is_shown_can_be_written_and_means_the_same(tmp_path: Path) -> None:
    shown = [each for each in effective(None, {}, {}) if each.key.startswith("defaults.")]
    # A text, a number and a truth value are written alike in JSON and TOML.
    lines = [f"{each.key.removeprefix('defaults.')} = {json.dumps(each.value)}" for each in shown]
    text = "\n".join(["[defaults]", *lines])
    assert load_config(written(tmp_path, text), {}, {}).policy.defaults == ActionPolicy()


@pytest.mark.parametrize(("ms", "text"), [(0, "0ms"), (1, "1ms"), (1_500, "1500ms"), (60_000, "1m"), (90_000, "90s")])
def test_durations_are_in_the_greatest_unit_that_is_whole(ms: int, text: str) -> None:
    assert duration(ms) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("partitons = 3", "partitons: there is no such key: is it partitions?"),
        ("[defaults]\nleas = 3", "defaults.leas: there is no such key: is it lease?"),
        ("[actions.deploy]\nattemts = 3", "actions.deploy.attemts: there is no such key: is it attempts?"),
        ("[bounds]\nrunz = 3", "bounds.runz: there is no such key: is it runs?"),
        (
            "[actions.deploy]\non_conflict = 'wait'",
            "actions.deploy.on_conflict: Invalid enum value 'wait': it can be queue",
        ),
        ("[actions.deploy]\npool = 'A/B'", "actions.deploy.pool: 'A/B': lower-case"),
        ("[defaults]\nlease = '5x'", "defaults.lease: '5x' is no duration"),
        (
            "[actions.terminate]\nversion = 'yes'",
            "actions.terminate.version: Invalid enum value 'yes': it can be optional, required",
        ),
        ("[actions.t]\nrequires = ['t']", "actions.t.requires: must name other actions"),
        ("[actions.t]\nrequires = []", "actions.t.requires: must name other actions"),
        ("[defaults]\nrequires = ['t']", "defaults.requires: belongs to one action"),
        ("[actions.d]\nlimit = { count = 0, until = ['u'] }", "actions.d.limit.count: must be from 1 to 1000"),
        ("[actions.d]\nlimit = { count = 1, until = ['d'] }", "actions.d.limit.until: must name other actions"),
        ("[actions.d]\nlimit = { count = 1 }", "actions.d.limit: Object missing required field `until`"),
        (
            "[actions.d]\nlimit = { count = 1, unti = ['u'] }",
            "actions.d.limit.unti: there is no such key: is it until?",
        ),
        ("[actions.b]\nquiet = '2s'", "actions.b.quiet: needs a max_delay"),
        ("[actions.b]\nquiet = '2s'\nmax_delay = '9s'", "actions.b.quiet: needs a max_delay"),
        ("[actions.b]\nquiet = '2s'\nmax_delay = '1s'\nmax_count = 9", "actions.b.quiet: needs a max_delay"),
        ("[runbooks]\nstale = 'https://wiki'", "runbooks.stale: no conflict is of this kind: there are lock_held, "),
        ("[runbooks]\nparked = ''", "runbooks.parked: must be a link"),
        ("[defaults]\nthen = 'wait'", "defaults.then: Invalid enum value 'wait': it can be fail, review"),
        ("[actions.b]\nmax_count = -1", "actions.b.max_count: must be from 0 to 256"),
        ("[[scopes]]\nmatch = 'x://{a}'\nowner = 'y://{b}'", "scopes[0].owner: {b} is not in match"),
        ("[[scopes]]\nmatch = 'x://{a}'\nownr = 'y://{a}'", "scopes[0].ownr: there is no such key: is it owner?"),
        ("[[scopes]]\nmatch = 'x://{a}'", "scopes[0]: Object missing required field `owner`"),
        ("actions = 3", "actions: a table of tables"),
        ("[actions]\ndeploy = 3", "actions.deploy: Expected `object`"),
        ("metrics_exposed = 3", "metrics_exposed: Expected `bool`"),
    ],
)
def test_an_error_names_the_file_the_key_and_what_it_can_be(text: str, said: str, tmp_path: Path) -> None:
    file = written(tmp_path, text)
    with pytest.raises(BadConfig) as error:
        load_config(file, {}, {})
    assert str(error.value).startswith(f"{file}: {said}")


def test_an_error_names_the_variable_or_the_flag() -> None:
    with pytest.raises(BadConfig, match=r"^KEYLANE_PARTITIONS: partitions: Expected"):
        load_config(None, {"KEYLANE_PARTITIONS": "abc"}, {})
    with pytest.raises(BadConfig, match=r"^--partitions: partitions: must be from 1"):
        load_config(None, {}, {"partitions": 0})
    with pytest.raises(BadConfig, match=r"^KEYLANE_METRICS_EXPOSED: metrics_exposed"):
        load_config(None, {"KEYLANE_METRICS_EXPOSED": "yes"}, {})
