"""Scope rules: what owns what, and which rules cannot be."""

from __future__ import annotations

import pytest

from keylane.schemas.keys import BadKey
from keylane.schemas.metadata import ScopeRule
from keylane.schemas.scopes import BadScope, Scopes

PODS = ("k8s://{c}/pods/{ns}/{app}/{pod}", "k8s://{c}/deployments/{ns}/{app}")
INSTANCES = ("arn:aws:ec2:{region}:{account}:instance/{id}", "arn:aws:ec2:{region}:{account}:fleet")


def scopes(*rules: tuple[str, str]) -> Scopes:
    return Scopes([ScopeRule(match=match, owner=owner) for match, owner in rules])


@pytest.mark.parametrize(
    ("key", "owner"),
    [
        ("k8s://prod/pods/shop/cart/7f9", "k8s://prod/deployments/shop/cart"),
        ("k8s://prod/pods/shop/cart/7:9", "k8s://prod/deployments/shop/cart"),
        ("k8s://prod/pods/shop/cart", "k8s://prod/pods/shop/cart"),
        ("k8s://prod/pods/shop/cart/7f9/logs", "k8s://prod/pods/shop/cart/7f9/logs"),
        ("k8s://prod/pods/shop/cart/7f9?x=1", "k8s://prod/pods/shop/cart/7f9?x=1"),
        ("k8s://prod/deployments/shop/cart", "k8s://prod/deployments/shop/cart"),
        ("arn:aws:ec2:eu-1:12:instance/i-0", "arn:aws:ec2:eu-1:12:fleet"),
        ("arn:aws:ec2:eu-1:12:volume/i-0", "arn:aws:ec2:eu-1:12:volume/i-0"),
        ("deploy://api", "deploy://api"),
    ],
)
def test_a_key_that_matches_has_an_owner_and_any_other_owns_itself(key: str, owner: str) -> None:
    assert scopes(PODS, INSTANCES).owner_of(key) == owner


def test_the_owner_is_canonical_whatever_the_segments_hold() -> None:
    assert scopes(("x://{a}/{b}", "github://h/{b}")).owner_of("x://h/Upper") == "github://h/upper"


def test_an_owner_that_is_no_key_is_told() -> None:
    with pytest.raises(BadKey, match="its owning key: "):
        scopes(("x://{a}/{b}", "y://{a}/{b}/{b2}".replace("{b2}", "z" * 300))).owner_of("x://h/" + "b" * 300)


def test_without_rules_every_key_owns_itself() -> None:
    assert scopes().owner_of("k8s://prod/pods/shop/cart/7f9") == "k8s://prod/pods/shop/cart/7f9"


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ([("x://{a}/p", "x://{b}/q")], "scopes[0].owner: {b} is not in match"),
        ([("x://{a}/p-{b}", "x://{a}/q")], "scopes[0].match: 'p-{b}': a variable"),
        ([("x://{a}/{}", "x://{a}/q")], "scopes[0].match: '{}': a variable"),
        ([("x://{a}/{a}", "x://{a}/q/r")], "scopes[0].match: a variable stands in it twice"),
        ([("X://{a}/p", "x://{a}/q")], "scopes[0].match: no key is written so"),
        ([("x://{a}/p", "x://{a}/q/")], "scopes[0].owner: no key is written so"),
        ([("x://{a}/p", "q")], "scopes[0].owner: a key is a URI"),
        ([("x://{a}/{b}", "y://{a}"), ("x://h/{b}", "y://h")], "scopes[1].match: a key can match scopes[0] as well"),
        ([("x://{a}/{b}", "x://{a}/all")], "scopes[0].owner: scopes[0] would give its owner an owner again"),
        ([("x://{a}/p", "y://{a}"), ("y://{a}", "z://{a}")], "scopes[0].owner: scopes[1] would give its owner"),
    ],
)
def test_rules_that_cannot_be_are_refused_by_their_place(rules: list[tuple[str, str]], said: str) -> None:
    with pytest.raises(BadScope) as error:
        scopes(*rules)
    assert str(error.value).startswith(said)


def test_rules_that_cannot_meet_are_taken() -> None:
    assert scopes(("x://{a}/p", "x://{a}"), ("x://{a}/p/{b}", "x://{a}"), ("x://{a}/q", "x://{a}"))
