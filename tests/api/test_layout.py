"""Where the face looks for a resource: by its owning key, also in what it filters by one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from keylane import Refused
from keylane.commands import record_of
from keylane.journal.errors import Unavailable
from keylane.journal.partitioner import partition_of
from keylane.layout import Layout
from keylane.schemas.metadata import Metadata, ScopeRule
from keylane.schemas.requests import WorkRequest

OWNER, POD, OTHER = "k8s://prod/deployments/cart", "k8s://prod/pods/cart/a", "k8s://prod/pods/till/a"
RULE = ScopeRule(match="k8s://{c}/pods/{app}/{pod}", owner="k8s://{c}/deployments/{app}")
LAYOUT = Layout(Metadata(partitions=64, scopes=(RULE,)))


def test_a_record_goes_under_its_owning_key_to_the_partition_that_any_partitioner_finds_for_it() -> None:
    request = WorkRequest(id="r1", resource=POD, action="restart")
    record = record_of(request, LAYOUT, "/test", None)
    assert (record.key, record.partition) == (OWNER.encode(), partition_of(OWNER.encode(), 64))
    assert LAYOUT.chosen(POD) == LAYOUT.chosen(OWNER) == [record.partition]
    assert LAYOUT.chosen(None) == list(range(64))


@pytest.mark.parametrize(
    ("resource", "owner", "key", "concerned"),
    [
        (POD, None, None, True),
        (POD, None, POD, True),
        (POD, None, OWNER, True),
        (POD, OWNER, OWNER, True),
        (OWNER, None, POD, False),
        (OTHER, None, OWNER, False),
        (None, None, OWNER, False),
    ],
)
def test_a_record_is_about_the_key_that_it_names_and_the_one_that_owns_it(
    resource: str | None, owner: str | None, key: str | None, concerned: bool
) -> None:
    assert LAYOUT.concerns(SimpleNamespace(resource=resource, owner=owner), key) is concerned


def test_a_rule_that_makes_no_key_of_one_refuses_it_and_hides_nothing() -> None:
    layout = Layout(Metadata(partitions=4, scopes=(ScopeRule(match="a://{x}", owner="b://" + "y" * 400 + "/{x}"),)))
    long = "a://" + "x" * 200
    with pytest.raises(Refused, match="BAD_KEY: resource: its owning key"):
        layout.partition_of(long)
    assert not layout.concerns(SimpleNamespace(resource=long), "b://z")
    assert layout.concerns(SimpleNamespace(resource=long), long)


def test_rules_of_a_later_keylane_are_not_guessed_at() -> None:
    with pytest.raises(Unavailable, match="cannot be followed"):
        Layout(Metadata(partitions=4, scopes=(ScopeRule(match="a://{", owner="b://c"),)))
