"""What is a token and what is a name; and the one envelope in which a stale token is refused."""

import pytest

from keylane.guards.tokens import TOKEN_MAX, Busy, StaleToken, Unusable, check_resource, check_token, parse_token
from keylane.schemas.errors import KeylaneError

NO_TOKENS = [0, -1, 2**53, 2**53 + 1, 2**64, True, 1.0, 7.5, "7", b"7", None]
NO_NAMES = ["", "x" * 513, "a\0b", "half \ud800", 7, None, b"x"]
ODD_NAMES = [
    "deploy://api-prod",
    "'; DROP TABLE keylane_tokens; --",
    "%s %(resource)s %% :resource ?1 {token}",
    "naïve/日本語/🙂",
    " ",
    "a\nb\t\\",
    "x" * 512,
    "arn:aws:s3:::Bucket/Key",
]
"""Names that are good, and would not be where they got into a statement or a path as they are."""


@pytest.mark.parametrize("token", NO_TOKENS, ids=repr)
def test_what_is_no_token(token: object) -> None:
    with pytest.raises(Unusable) as refused:
        check_token(token)  # type: ignore[arg-type]
    assert refused.value.code == "BAD_TOKEN"


@pytest.mark.parametrize("token", [1, 1793358000000081, TOKEN_MAX])
def test_what_is_one(token: int) -> None:
    check_token(token)
    assert parse_token(str(token), "here") == token


@pytest.mark.parametrize(
    "text", ["", " 7", "7 ", "+7", "-7", "7.0", "1e3", "0x7", "0", "\u0667", "7, 8", "7_0", str(2**53)]
)
def test_text_that_is_none(text: str) -> None:
    with pytest.raises(Unusable, match=r"here is no token|below 2\^53") as refused:
        parse_token(text, "here")
    assert refused.value.code == "BAD_TOKEN"


@pytest.mark.parametrize("name", NO_NAMES, ids=lambda name: repr(name)[:20])
def test_names_that_no_store_can_keep(name: object) -> None:
    with pytest.raises(Unusable) as refused:
        check_resource(name)  # type: ignore[arg-type]
    assert refused.value.code == "BAD_RESOURCE"


@pytest.mark.parametrize("name", ODD_NAMES, ids=lambda name: repr(name)[:20])
def test_odd_names_are_names(name: str) -> None:
    check_resource(name)


def test_a_stale_token_is_said_in_the_one_envelope() -> None:
    error = StaleToken("deploy://api-prod", 7, 9)
    assert isinstance(error, KeylaneError)
    assert (error.resource, error.token, error.highest, error.code) == ("deploy://api-prod", 7, 9, "FENCED")
    assert error.to_envelope() == {
        "error": {
            "code": "FENCED",
            "message": "token 7 is too old for 'deploy://api-prod': 9 has been seen there",
            "suggestion": "Stop: another holder has taken over. Read the resource before anything else.",
        }
    }


def test_only_what_can_pass_later_says_when() -> None:
    assert Busy("x").body.retry_after_ms == 1_000
    assert StaleToken("x", 1, 2).body.retry_after_ms is None
