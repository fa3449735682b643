"""One spelling a resource: what is equal, what is refused and why, and that a canonical key stays what it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keylane.schemas.keys import KEY_BYTES_MAX, BadKey, canonical_key

UNCHANGED = [
    "github://acme/app/issues/42",
    "github://acme",
    "deploy://api-prod",
    "deploy://api_prod:8080",
    "k8s://prod/pods/shop/cart/7f9",
    "k8s://prod/Pods/Shop",
    "file:///etc/hosts",
    "urn:isbn:0451450523",
    "urn:a/../b",
    "https://example.com/a%2Fb/c?x=1&y=%20",
    "http://[2001:db8::1]:8080/x",
    "arn:aws:s3:::my-Bucket/Some/Key/",
    "arn:aws:ec2:eu-central-1:123456789012:instance/i-0abc",
    "arn:aws:lambda:us-east-1:123456789012:function:f:1",
]

SAME = [
    ("GitHub://Acme/App/issues/42", "github://acme/app/issues/42"),
    ("github://acme/App", "github://acme/app"),
    ("github://acme/app/labels/Bug", "github://acme/app/labels/Bug"),
    ("github://acme/App%2Ddocs/x", "github://acme/app-docs/x"),
    ("DEPLOY://API-Prod/", "deploy://api-prod"),
    ("deploy://api-prod///", "deploy://api-prod"),
    ("https://Example.COM:443/a", "https://example.com/a"),
    ("http://example.com:0080/", "http://example.com"),
    ("https://example.com:/a", "https://example.com/a"),
    ("http://example.com:443/a", "http://example.com:443/a"),
    ("http://h/a/./b/../c", "http://h/a/c"),
    ("http://h/../../a/..", "http://h"),
    ("http://h/%2e%2E/a", "http://h/a"),
    ("http://h/%7euser/%c3%a9", "http://h/~user/%C3%A9"),
    ("http://h/é", "http://h/%C3%A9"),
    ("http://h/e\u0301", "http://h/%C3%A9"),
    ("http://h/e%CC%81", "http://h/%C3%A9"),
    ("http://h/%3ce\u0301", "http://h/%3C%C3%A9"),
    ("http://h/<\u0301", "http://h/%3C%CC%81"),
    ("http://h/%3C\u0301", "http://h/%3C%CC%81"),
    ("http://h/a{b}[c]\\", "http://h/a%7Bb%7D%5Bc%5D%5C"),
    ("http://h/a?", "http://h/a"),
    ("http://h/?b=%7e&a=1", "http://h?b=~&a=1"),
    ("http://bücher.example/x", "http://xn--bcher-kva.example/x"),
    ("http://b%C3%BCcher.example/x", "http://xn--bcher-kva.example/x"),
    ("http://XN--bcher-KVA.example/x", "http://xn--bcher-kva.example/x"),
    ("http://[2001:DB8:0::1]/", "http://[2001:db8::1]"),
    ("a://host%2d1", "a://host-1"),
    ("ARN:AWS:S3:::Bucket", "arn:aws:s3:::Bucket"),
    ("arn:aws:s3:::cafe\u0301", "arn:aws:s3:::café"),
]

REFUSED = {
    "": "is a URI",
    "api-prod": "is a URI",
    "1a://x": "is a URI",
    "//host/path": "is a URI",
    "not a uri": "U+0020",
    "a://b\n": "U+000A",
    "a://b\u00a0c": "U+00A0",
    "a://b/%00": "U+0000",
    "a://b/%C2%85": "U+0085",
    "a://b/\ud800": "surrogate",
    "a://": "names nothing",
    "a:": "names nothing",
    "file:///": "names nothing",
    "a://b#c": "fragment",
    "a://b#": "fragment",
    "a://user@b": "password",
    "a://user:hunter2@b": "password",
    "a://b:x": "port",
    "a://b:65536": "port",
    "a://:80/x": "port",
    "http://[::1": "in brackets",
    "http://[::1]x": "in brackets",
    "http://[zz]": "in brackets",
    "http://[1:2]": "no valid",
    "http://[fe80::1%25eth0]": "zone",
    "http://%3Cé": "escaped",
    "a://b/%": "percent",
    "a://b/%4": "percent",
    "a://b/%zz": "percent",
    "a://b/%ff": "UTF-8",
    "a://b<c": "host",
    "a:/.//b": "//",
    "arn:aws": "ARN",
    "arn:aws:s3:::": "ARN",
    "arn::s3:::b": "ARN",
    "arn:aws:s 3:::b": "U+0020",
    "arn:aws:s/3:::b": "ARN",
    "a://" + "b" * KEY_BYTES_MAX: "512",
    "arn:aws:s3:::" + "é" * 250: "512",
    "a" * 10_000: "512",
}


@pytest.mark.parametrize("key", UNCHANGED)
def test_a_canonical_key_is_left_alone(key: str) -> None:
    assert canonical_key(key) == key


@pytest.mark.parametrize(("text", "key"), SAME)
def test_spellings_of_one_resource_become_one_key(text: str, key: str) -> None:
    assert canonical_key(text) == key
    assert canonical_key(key) == key


@pytest.mark.requirement("S3.4")
@pytest.mark.parametrize("text", REFUSED, ids=lambda text: ascii(text[:24]))
def test_what_names_no_resource_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(BadKey) as caught:
        canonical_key(text)
    assert REFUSED[text] in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_the_longest_key_is_just_accepted() -> None:
    key = "a://" + "b" * (KEY_BYTES_MAX - 4)
    assert canonical_key(key) == key


def test_a_long_spelling_of_a_short_key_is_accepted() -> None:
    assert canonical_key("a://b" + "/." * 400) == "a://b"


piece = st.sampled_from(["a", "B", "é", "e\u0301", "İ", ".", "..", "/", "//", "%2e", "%2F", "%c3%A9", "%CC%81"])
piece |= st.sampled_from([":", ":80", "@", "?", "#", "[::1]", "%", "%20", "{", "+", "~", "xn--", "arn:", "://"])
texts = st.builds(
    lambda begin, pieces: begin + "".join(pieces),
    st.sampled_from(["", "a://", "HTTP://h", "github://", "GitHub://A/B/", "urn:", "a:/", "arn:aws:s3:::"]),
    st.lists(piece | st.text(max_size=2), max_size=8),
)


@given(text=texts)
def test_any_text_is_refused_or_has_one_canonical_spelling(text: str) -> None:
    """Whatever is accepted is stable, bounded and printable; whatever is not has a reason."""
    try:
        key = canonical_key(text)
    except BadKey as refusal:
        assert str(refusal)
        return
    assert canonical_key(key) == key
    assert len(key.encode()) <= KEY_BYTES_MAX
    assert not any(character.isspace() for character in key)
    assert key.isascii() or key.startswith("arn:")


names = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789-_.", min_size=1, max_size=8).filter(
    lambda name: set(name) != {"."}
)


@given(owner=names, repository=names, rest=names)
def test_the_case_of_a_github_owner_and_repository_does_not_count(owner: str, repository: str, rest: str) -> None:
    lower = canonical_key(f"github://{owner.lower()}/{repository.lower()}/{rest}")
    assert canonical_key(f"GITHUB://{owner.upper()}/{repository.upper()}/{rest}") == lower
    assert lower == f"github://{owner.lower()}/{repository.lower()}/{rest}"
