"""The guard of Kubernetes over real HTTP, against `api_server`, which has the API server's conflicts and no more."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError, URLError

import pytest
from guards.api_server import BEARER, Cluster, Object, deployment, image_of, serving, set_image
from guards.test_guard_tokens import NO_TOKENS

from keylane.guards import Busy, StaleToken, Unusable
from keylane.guards.kubernetes import ANNOTATION, HttpObject, change, highest

PATH, CART = deployment("cart", "cart:v0")
DEADLINE_S = 60.0


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with serving() as running:
        running.create(PATH, CART)
        yield running


@pytest.fixture
def cart(cluster: Cluster) -> HttpObject:
    return HttpObject(cluster.url + PATH, headers={"Authorization": f"Bearer {BEARER}"})


def deploy(cart: HttpObject, image: str, token: int, **options: int) -> Object:
    return change(cart.read, cart.replace, token, lambda found: set_image(found, image), **options)


def test_a_lower_token_is_refused_and_an_equal_one_passes(cluster: Cluster, cart: HttpObject) -> None:
    for token, image in ((5, "cart:v1"), (5, "cart:v2"), (9, "cart:v3")):
        deploy(cart, image, token)
    with pytest.raises(StaleToken) as refused:
        deploy(cart, "cart:late", 8)
    assert (refused.value.resource, refused.value.token, refused.value.highest) == ("Deployment/shop/cart", 8, 9)
    found = cluster.get(PATH)
    assert image_of(found) == "cart:v3"
    assert found["metadata"]["annotations"] == {ANNOTATION: "9"}
    assert highest(found) == 9


def test_without_the_guard_who_reads_again_overwrites(cluster: Cluster, cart: HttpObject) -> None:
    """`resourceVersion` stops what was read before; not a client that, told so, reads again and writes."""
    early = cart.read()
    deploy(cart, "cart:v3", 9)
    set_image(early, "cart:late")
    with pytest.raises(HTTPError, match="the object has been modified") as refused:
        cart.replace(early)
    assert refused.value.code == 409
    again = cart.read()
    set_image(again, "cart:late")
    cart.replace(again)
    assert image_of(cluster.get(PATH)) == "cart:late"


def test_what_else_is_in_the_object_stays(cluster: Cluster, cart: HttpObject) -> None:
    path, found = deployment("pay", "pay:v0")
    found["metadata"]["annotations"] = {"team": "payments"}
    pay = HttpObject(cluster.create(path, found), headers={"Authorization": f"Bearer {BEARER}"})
    deploy(pay, "pay:v1", 5)
    metadata = cluster.get(path)["metadata"]
    assert metadata["annotations"] == {"team": "payments", ANNOTATION: "5"}
    assert metadata["labels"] == {"app": "pay"}


def test_a_token_is_remembered_before_a_change(cluster: Cluster, cart: HttpObject) -> None:
    change(cart.read, cart.replace, 9, lambda found: None)
    with pytest.raises(StaleToken):
        deploy(cart, "cart:late", 8)
    assert image_of(cluster.get(PATH)) == "cart:v0"


def test_who_was_overtaken_between_reading_and_writing_reads_again_and_is_refused(
    cluster: Cluster, cart: HttpObject
) -> None:
    def overtake() -> None:
        cluster.before_write = lambda: None
        deploy(cart, "cart:v9", 9)

    cluster.before_write = overtake
    with pytest.raises(StaleToken) as refused:
        deploy(cart, "cart:late", 8)
    assert refused.value.highest == 9
    assert [image_of(write) for write in cluster.writes] == ["cart:v9"]


def test_who_meets_a_stranger_reads_again_and_keeps_what_the_stranger_did(cluster: Cluster, cart: HttpObject) -> None:
    def scale() -> None:
        cluster.before_write = lambda: None
        found = cart.read()
        found["spec"]["replicas"] = 3
        cart.replace(found)

    cluster.before_write = scale
    deploy(cart, "cart:v1", 8)
    found = cluster.get(PATH)
    assert (image_of(found), found["spec"]["replicas"], highest(found)) == ("cart:v1", 3, 8)


def test_conflicts_without_end_are_given_up(cluster: Cluster, cart: HttpObject) -> None:
    strangers = iter(range(100))

    def touch() -> None:
        found = cluster.get(PATH)
        found["spec"]["replicas"] = next(strangers)
        cluster.put(PATH, found)

    cluster.before_write = touch
    with pytest.raises(Busy, match="3 times"):
        deploy(cart, "cart:v1", 8, attempts=3)
    assert next(strangers) == 3
    assert image_of(cluster.get(PATH)) == "cart:v0"


def test_at_once_the_highest_is_last(cluster: Cluster, cart: HttpObject) -> None:
    together = threading.Barrier(4)

    def writer(number: int) -> int:
        refused = 0
        together.wait(DEADLINE_S)
        for token in range(1 + number, 81, 4):
            try:
                deploy(cart, f"cart:v{token}", token, attempts=12)
            except StaleToken:
                refused += 1
        return refused

    with ThreadPoolExecutor(4) as threads:
        refused = sum(threads.map(writer, range(4)))
    assert refused > 0, "they met"
    tokens = [highest(write) for write in cluster.writes]
    assert tokens == sorted(tokens, key=lambda token: token or 0)
    assert len(tokens) + refused == 80
    assert image_of(cluster.get(PATH)) == "cart:v80"


def test_an_edit_cannot_undo_the_condition(cluster: Cluster, cart: HttpObject) -> None:
    def careless(found: Object) -> None:
        found["metadata"] = {"name": "cart", "namespace": "shop", "annotations": {ANNOTATION: "1"}}
        set_image(found, "cart:v1")

    change(cart.read, cart.replace, 8, careless)
    assert highest(cluster.get(PATH)) == 8
    cluster.before_write = lambda: deploy_once(cluster, cart)
    with pytest.raises(StaleToken):
        change(cart.read, cart.replace, 8, careless)


def deploy_once(cluster: Cluster, cart: HttpObject) -> None:
    cluster.before_write = lambda: None
    deploy(cart, "cart:v9", 9)


def test_an_object_without_a_version_is_not_replaced() -> None:
    replaced: list[Object] = []
    _, found = deployment("cart", "cart:v0")
    with pytest.raises(Unusable, match="no resourceVersion") as refused:
        change(lambda: found, lambda new: replaced.append(new) or new, 5, lambda found: None)  # type: ignore[func-returns-value]
    assert refused.value.code == "BAD_TARGET"
    assert not replaced


class ApiException(Exception):
    """As of the Kubernetes client for Python: a `status` and no `code`."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@pytest.mark.parametrize(("status", "attempts"), [(409, 2), (403, 1), (500, 1)])
def test_any_client_s_conflict_is_known_and_other_errors_come_as_they_are(status: int, attempts: int) -> None:
    tried: list[Object] = []
    _, found = deployment("cart", "cart:v0")
    found["metadata"]["resourceVersion"] = "1"

    def replace(new: Object) -> Object:
        tried.append(new)
        raise ApiException(status)

    with pytest.raises(Busy if status == 409 else ApiException):
        change(lambda: found, replace, 5, lambda found: None, attempts=2)
    assert len(tried) == attempts


@pytest.mark.parametrize("token", NO_TOKENS, ids=repr)
def test_what_is_no_token_is_not_asked_about(token: object) -> None:
    with pytest.raises(Unusable):
        change(lambda: pytest.fail("read"), lambda new: new, token, lambda found: None)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "nine", "-1", "9.0", str(2**53)])
def test_an_annotation_that_is_no_token_lets_nobody_pass(cluster: Cluster, cart: HttpObject, text: str) -> None:
    found = cart.read()
    found["metadata"]["annotations"] = {ANNOTATION: text}
    cart.replace(found)
    with pytest.raises(Unusable, match=r"annotation keylane.dev/token of Deployment/shop/cart|below 2"):
        deploy(cart, "cart:v1", 9)
    assert image_of(cluster.get(PATH)) == "cart:v0"


def test_an_annotation_of_another_name(cluster: Cluster, cart: HttpObject) -> None:
    change(cart.read, cart.replace, 9, lambda found: None, annotation="example.com/fence")
    assert highest(cluster.get(PATH), "example.com/fence") == 9
    assert highest(cluster.get(PATH)) is None


def test_errors_of_the_server_say_what_it_said(cluster: Cluster) -> None:
    stranger = HttpObject(cluster.url + PATH)
    with pytest.raises(HTTPError, match="401: Unauthorized"):
        stranger.read()
    nothing = HttpObject(cluster.url + PATH + "s", headers={"Authorization": f"Bearer {BEARER}"})
    with pytest.raises(HTTPError, match=r'404: deployments\.apps "carts" not found') as refused:
        nothing.read()
    assert b'"kind": "Status"' in refused.value.read()


def test_a_server_that_is_not_there(unused_port: int) -> None:
    with pytest.raises(URLError):
        HttpObject(f"http://127.0.0.1:{unused_port}/x").read()


def test_redirects_take_the_credentials_nowhere() -> None:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(302)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, ThreadPoolExecutor(1) as threads:
        threads.submit(server.serve_forever, 0.01)
        try:
            with pytest.raises(HTTPError, match="302"):
                HttpObject(f"http://127.0.0.1:{server.server_address[1]}/here", headers={"Authorization": "x"}).read()
        finally:
            server.shutdown()
    assert asked == ["/here"]
