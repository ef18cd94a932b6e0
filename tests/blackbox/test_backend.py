"""What the backend says decides; what it fails to say never lets a device in."""

import json
import ssl

import pytest

from rig.backend import REASONS, VALIDATE, Answer, Backend, allowed, answer, refused
from rig.client import TOKEN, Device, fresh_device, hello, login
from rig.poll import Stopwatch, eventually
from rig.targets import full_backlog
from rig.wire import Wire, wire_login


def assert_not_let_in(gateway, device_id=None, **fields):
    """The answer is an `auth_result` that says no and why; then the connection closes."""
    with Device(gateway) as device:
        auth = device.ask(device_id, **fields)
        assert auth["type"] == "auth_result", auth
        assert auth["allowed"] is False, auth
        assert isinstance(auth.get("reason"), str) and auth["reason"], f"no reason: {auth}"
        assert not auth.get("session_id"), f"a session id for a device that is not let in: {auth}"
        device.assert_closes()
        return auth


def assert_counted(gateway, **results):
    """The handshakes are counted as given, and all others are 0."""
    def counts():
        now = gateway.metrics()
        return {r: now.sum("httvps_gateway_handshakes_total", result=r) for r in ("accepted", "rejected", "error")}
    wanted = {"accepted": 0, "rejected": 0, "error": 0} | results
    eventually(lambda: counts() == wanted, 3, f"handshakes_total is {wanted}, not {counts()}")


def backend_errors(gateway):
    """{code: count} of those above 0."""
    return {labels["code"]: value for labels, value
            in gateway.metrics().series("httvps_gateway_backend_errors_total") if value}


# --- refusals ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared(start_shared):
    return start_shared()


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "wrapped in detail"])
@pytest.mark.parametrize("reason", REASONS)
def test_a_403_is_a_refusal_with_the_backends_reason(shared, shared_backend, reason, wrapped):
    device_id = fresh_device()
    shared_backend.set(device_id, refused(reason, wrapped))
    auth = assert_not_let_in(shared, device_id)
    assert auth["reason"] == reason
    assert not auth.get("subscription_status")


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "wrapped in detail"])
def test_a_refusal_carries_the_subscription_status_when_the_backend_gave_one(shared, shared_backend, wrapped):
    device_id = fresh_device()
    shared_backend.set(device_id, refused("no_active_subscription", wrapped, subscription_status="expired", user_id=7))
    auth = assert_not_let_in(shared, device_id)
    assert auth["reason"] == "no_active_subscription" and auth["subscription_status"] == "expired"


def test_a_200_with_allowed_false_is_a_refusal_too(shared, shared_backend):
    device_id = fresh_device()
    shared_backend.set(device_id, refused("device_mismatch", status=200))
    assert assert_not_let_in(shared, device_id)["reason"] == "device_mismatch"


def test_a_refusal_without_a_reason_still_tells_one(shared, shared_backend):
    device_id = fresh_device()
    shared_backend.set(device_id, answer({"allowed": False}, 403))
    assert_not_let_in(shared, device_id)


def test_a_reason_that_the_page_does_not_know_reaches_the_client(shared, shared_backend):
    device_id = fresh_device()
    shared_backend.set(device_id, refused("device_blocked"))
    assert assert_not_let_in(shared, device_id)["reason"] == "device_blocked"


def test_refusals_are_counted_as_rejected_and_are_no_backend_errors(start, backend):
    gateway = start()
    for reply in (refused("invalid_token"), refused("invalid_token", wrapped=True), refused("x", status=200)):
        device_id = fresh_device()
        backend.set(device_id, reply)
        assert_not_let_in(gateway, device_id)
    assert_counted(gateway, rejected=3)
    assert backend_errors(gateway) == {}


def test_a_refused_device_is_let_in_once_the_backend_says_so(shared, shared_backend):
    device_id = fresh_device()
    shared_backend.set(device_id, refused("no_active_subscription"))
    assert_not_let_in(shared, device_id)
    shared_backend.set(device_id, allowed())
    with login(shared, device_id) as device:
        device.lives()


def test_many_refusals_do_not_stop_others_from_being_let_in(start, backend):
    gateway = start()
    for _ in range(30):
        device_id = fresh_device()
        backend.set(device_id, refused("device_not_found"))
        assert_not_let_in(gateway, device_id)
    with login(gateway) as device:
        device.lives()


# --- failures ----------------------------------------------------------------------------------

YES = json.dumps({"allowed": True, "user_id": 7, "subscription_status": "active"}).encode()
HTML = b"<!doctype html><html><body>allowed: true</body></html>"

FAILURES = {
    "500": Answer(500, b"oops"),
    "500 that says allowed": Answer(500, YES),
    "502 HTML": Answer(502, HTML, {"Content-Type": "text/html"}),
    "503": Answer(503, b"{}"),
    "401 with a refusal": refused("invalid_token", status=401),
    "404": Answer(404, b'{"detail":"Not Found"}'),
    "422": answer({"detail": [{"loc": ["body", "token"], "msg": "field required"}]}, 422),
    "429": Answer(429, b""),
    "201 that says allowed": Answer(201, YES),
    "202 that says allowed": Answer(202, YES),
    "200 without a body": Answer(200, b""),
    "200 garbage": Answer(200, b"\x00\xff\xfegarbage"),
    "200 HTML": Answer(200, HTML, {"Content-Type": "text/html"}),
    "200 array": Answer(200, b"[" + YES + b"]"),
    "200 null": Answer(200, b"null"),
    "200 true": Answer(200, b"true"),
    "200 empty object": Answer(200, b"{}"),
    "200 cut-off JSON": Answer(200, YES[:-1]),
    "200 with something behind": Answer(200, YES + b"x"),
    "200 allowed is the string true": answer({"allowed": "true", "user_id": 7, "subscription_status": "active"}),
    "200 allowed is 1": answer({"allowed": 1, "user_id": 7, "subscription_status": "active"}),
    "200 allowed is null": answer({"allowed": None, "user_id": 7, "subscription_status": "active"}),
    "200 allowed missing": answer({"user_id": 7, "subscription_status": "active"}),
    "200 Allowed in another case": answer({"Allowed": True, "user_id": 7, "subscription_status": "active"}),
    "403 without a body": Answer(403, b""),
    "403 HTML": Answer(403, HTML, {"Content-Type": "text/html"}),
    "403 garbage": Answer(403, b"{{{"),
    "403 with a string for detail": answer({"detail": "Forbidden"}, 403),
    "body of 1 MiB": answer({"allowed": True, "user_id": 7, "subscription_status": "active", "pad": "x" * (1 << 20)}),
    "body shorter than announced": Answer(200, YES + b" " * 200, manner="truncate"),
    "closed without an answer": Answer(manner="close"),
    "reset": Answer(manner="reset"),
    "redirect 301": Answer(301, YES, {"Location": "/elsewhere"}),
    "redirect 302": Answer(302, YES, {"Location": "/elsewhere"}),
    "redirect 307": Answer(307, YES, {"Location": "/elsewhere"}),
    "redirect 308": Answer(308, YES, {"Location": VALIDATE}),
}


@pytest.mark.parametrize("reply", FAILURES.values(), ids=FAILURES.keys())
def test_a_broken_answer_admits_no_device_and_is_counted(start, backend, reply):
    gateway = start(BACKEND_TIMEOUT="2s")
    device_id = fresh_device()
    backend.set(device_id, reply)
    assert_not_let_in(gateway, device_id)
    assert_counted(gateway, error=1)
    assert sum(backend_errors(gateway).values()) >= 1
    eventually(gateway.is_idle, 3, "no session is left")


def test_a_403_that_says_allowed_admits_no_device(start, backend):
    gateway = start()
    device_id = fresh_device()
    backend.set(device_id, answer({"allowed": True, "user_id": 7, "subscription_status": "active"}, 403))
    assert_not_let_in(gateway, device_id)
    assert gateway.metric("handshakes_total", result="accepted") == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(start, backend, status):
    gateway = start()
    other = Backend()
    try:
        device_id = fresh_device()
        backend.set(device_id, Answer(status, b"", {"Location": other.url + VALIDATE}))
        assert_not_let_in(gateway, device_id)
        assert other.requests == []
        assert {r.path for r in backend.requests} == {VALIDATE}
    finally:
        other.stop()


def test_a_backend_that_refuses_the_connection_admits_no_device(start, backend):
    gateway = start()
    backend.stop()
    assert_not_let_in(gateway)
    assert_counted(gateway, error=1)
    assert sum(backend_errors(gateway).values()) >= 1
    backend.start()


@pytest.mark.parametrize("reply", [allowed(delay=30), Answer(200, manner="drip")], ids=["silent", "dripping"])
def test_a_slow_backend_costs_the_time_out_and_no_more(start, backend, reply):
    gateway = start(BACKEND_TIMEOUT="400ms")
    device_id = fresh_device()
    backend.set(device_id, reply)
    clock = Stopwatch()
    assert_not_let_in(gateway, device_id)
    assert 0.35 < clock.seconds < 2, f"took {clock.seconds:.2f} s"
    assert_counted(gateway, error=1)
    assert sum(backend_errors(gateway).values()) == 1


def test_a_backend_that_does_not_take_the_connection_costs_the_time_out_and_no_more(start):
    with full_backlog() as address:
        gateway = start(backend_url=f"http://{address}", BACKEND_TIMEOUT="400ms")
        clock = Stopwatch()
        assert_not_let_in(gateway)
        assert clock.seconds < 2, f"took {clock.seconds:.2f} s"


def test_a_backend_whose_certificate_is_not_trusted_admits_no_device(start, pair):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    secure = Backend(tls=context)
    try:
        gateway = start(backend_url=secure.url)
        assert_not_let_in(gateway)
        assert secure.requests == [], "the token went to an untrusted backend"
        assert_counted(gateway, error=1)
    finally:
        secure.stop()


def test_a_backend_whose_certificate_is_trusted_by_a_setting_is_asked(start, pair, authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    secure = Backend(tls=context)
    try:
        with login(start(backend_url=secure.url, BACKEND_CA_PATH=authority.root)) as device:
            device.lives()
    finally:
        secure.stop()


def test_the_code_of_a_backend_error_tells_a_time_out_from_a_status_from_nonsense_from_no_connection(start, backend):
    replies = [Answer(500, b""), allowed(delay=30), Answer(200, b"nonsense"), None]
    seen = []
    for reply in replies:
        gateway = start(BACKEND_TIMEOUT="300ms")
        device_id = fresh_device()
        if reply:
            backend.set(device_id, reply)
        else:
            backend.stop()
        assert_not_let_in(gateway, device_id)
        seen.append(frozenset(backend_errors(gateway)))
    assert all(len(codes) == 1 for codes in seen), seen
    assert len(set(seen)) == len(replies), f"the same code for different failures: {seen}"
    backend.start()


def test_a_failure_tells_the_client_nothing_about_the_inside(start, backend):
    gateway = start()
    device_id = fresh_device()
    backend.set(device_id, Answer(500, b"Traceback: password=hunter2"))
    told = json.dumps(assert_not_let_in(gateway, device_id))
    assert "hunter2" not in told and str(backend.port) not in told and TOKEN not in told


def test_a_slow_answer_for_one_device_delays_no_other(start, backend):
    gateway = start(BACKEND_TIMEOUT="5s")
    slow = fresh_device()
    backend.set(slow, allowed(delay=3))
    with Device(gateway) as waiting:
        waiting.send({"type": "hello", "device_id": slow, "token": TOKEN})
        eventually(lambda: backend.requests_of(slow), 3, "the backend has the slow question")
        clock = Stopwatch()
        with login(gateway):
            assert clock.seconds < 1.5, f"took {clock.seconds:.2f} s"
        assert waiting.recv(6)["allowed"] is True


def test_a_client_that_leaves_while_the_backend_thinks_leaves_nothing_behind(start, backend):
    gateway = start(BACKEND_TIMEOUT="5s")
    device_id = fresh_device()
    backend.set(device_id, allowed(delay=1))
    with Device(gateway) as device:
        device.send({"type": "hello", "device_id": device_id, "token": TOKEN})
        eventually(lambda: backend.requests_of(device_id), 3, "the backend is asked")
        device.drop()
    eventually(gateway.is_idle, 4, "no session is left")
    with login(gateway) as other:
        other.lives()
    eventually(gateway.is_idle, 3, "no session is left")


# --- recovery ----------------------------------------------------------------------------------


def try_login(gateway):
    with Device(gateway) as device:
        return device.ask()["allowed"]


def test_after_a_restart_of_the_backend_devices_get_in_without_a_restart_of_the_gateway(start, backend):
    gateway = start()
    with login(gateway) as early:
        backend.stop()
        for _ in range(12):
            assert_not_let_in(gateway)
        early.lives()
        backend.start()
        eventually(lambda: try_login(gateway), 35, "a device gets in", every=0.2)
        early.lives()


def test_after_a_spell_of_500_devices_get_in_again(start, backend):
    gateway = start()
    device_id = fresh_device()
    backend.set(device_id, Answer(500, b""))
    for _ in range(12):
        assert_not_let_in(gateway, device_id)
    eventually(lambda: try_login(gateway), 35, "a device gets in", every=0.2)


def test_a_pooled_connection_that_the_backend_closed_costs_no_device_a_login(start, backend):
    gateway = start()
    for _ in range(3):
        with login(gateway):
            pass
        backend.stop()
        backend.start()
        with login(gateway) as device:
            device.lives()


# --- the request -------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix, path", [
    ("", VALIDATE), ("/", VALIDATE), ("/prefix", "/prefix" + VALIDATE), ("/prefix/", "/prefix" + VALIDATE),
    ("/a/b/", "/a/b" + VALIDATE),
])
def test_the_request_goes_to_the_documented_path_below_the_base_url(start, backend, suffix, path):
    gateway = start(backend_url=backend.url + suffix)
    with login(gateway):
        assert [(r.method, r.path) for r in backend.requests] == [("POST", path)]


def test_the_request_is_json_with_exactly_device_id_and_token(start, backend):
    gateway = start()
    with login(gateway, token="a/b+c=\"ü\"", client_version="1", capabilities=["x"], region="eu", more=1) as device:
        [request] = backend.requests
        assert request.json == {"device_id": device.device_id, "token": "a/b+c=\"ü\""}
        assert request.headers["content-type"].split(";")[0].strip().lower() == "application/json"
        assert request.headers["host"] == f"127.0.0.1:{backend.port}"


def test_the_shared_secret_is_sent_when_configured(start, backend):
    gateway = start(BACKEND_GATEWAY_SECRET="s3cret-of-the-backend")
    with login(gateway):
        assert backend.requests[0].headers["x-internal-secret"] == "s3cret-of-the-backend"


def test_without_a_configured_secret_no_such_header_is_sent(start, backend):
    gateway = start()
    with login(gateway):
        assert "x-internal-secret" not in backend.requests[0].headers


def test_every_hello_is_one_question(start, backend):
    gateway = start()
    device_id = fresh_device()
    for _ in range(3):
        with login(gateway, device_id):
            pass
    assert len(backend.requests_of(device_id)) == 3


@pytest.mark.parametrize("reply", [
    allowed(manner="chunked"),
    answer({"allowed": True, "user_id": 7, "subscription_status": "active", "expires_at": "2030-01-01", "x": [1]}),
    Answer(200, b"\n " + YES + b"\n"),
    Answer(200, YES, {"Content-Type": "application/json; charset=utf-8"}),
    Answer(200, YES, {"Connection": "close"}),
], ids=["chunked", "more fields", "white space", "charset", "connection: close"])
def test_an_answer_may_be_written_as_http_and_json_allow(shared, shared_backend, reply):
    device_id = fresh_device()
    shared_backend.set(device_id, reply)
    with login(shared, device_id) as device:
        assert device.auth["subscription_status"] == "active"
        device.lives()


def test_the_accepted_are_counted(start):
    gateway = start()
    for _ in range(2):
        with wire_login(gateway):
            pass
    assert_counted(gateway, accepted=2)
    assert backend_errors(gateway) == {}


# --- what a stranger may cause ---------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"\x81\xfe\x10\x00\0\0\0\0" + b" " * 4096], ids=["silent", "with a message behind hello"])
def test_the_call_of_a_client_that_has_gone_is_dropped(start, backend, sent):
    gateway = start(BACKEND_MAX_CONCURRENT=1, BACKEND_TIMEOUT="8s", GATEWAY_HANDSHAKE_TIMEOUT="9s")
    gone = fresh_device()
    backend.set(gone, allowed(delay=30))
    with Wire(gateway) as wire:
        wire.upgrade()
        wire.text(hello(gone))
        eventually(lambda: backend.requests_of(gone), 5, "the backend is asked")
        wire.send(sent)
    eventually(lambda: gateway.metric("handshake_failures_total", phase="backend") == 1, 5, "the call is dropped")
    with login(gateway):
        pass
    assert_counted(gateway, accepted=1)


@pytest.mark.parametrize("character", ["\0", "\x1f", "\n", "\x7f"], ids=ascii)
@pytest.mark.parametrize("member", ["device_id", "token"])
def test_a_control_character_is_a_bad_hello_and_the_backend_is_not_asked(shared, shared_backend, member, character):
    fields = {"device_id": fresh_device(), "token": TOKEN}
    fields[member] += character
    before = len(shared_backend.requests)
    with Device(shared) as device:
        frame = device.ask(**fields)
        assert (frame["type"], frame["code"]) == ("error", "bad_hello"), frame
        device.assert_closes()
    assert len(shared_backend.requests) == before


@pytest.mark.parametrize("reply, said", [
    (answer({"allow": True, "token": "hunter2"}), 'status=200 path=/api/v1/auth/validate-device problem="allowed is missing"'),
    (answer({"detail": "hunter2"}, 404), "status=404 path=/api/v1/auth/validate-device"),
    (answer({"detail": "hunter2"}, 401), "BACKEND_GATEWAY_SECRET"),
    (Answer(403, b"<html>hunter2</html>"), "firewall"),
], ids=["no allowed", "404", "401", "403 of another party"])
def test_the_log_says_what_was_wrong_with_an_answer_and_nothing_of_it(start, backend, reply, said):
    gateway = start(GATEWAY_LOG_FORMAT="text", BACKEND_GATEWAY_SECRET="swordfish")
    device_id = fresh_device()
    backend.set(device_id, reply)
    assert_not_let_in(gateway, device_id)
    gateway.says("backend_error")
    gateway.says(said)
    gateway.never_says("hunter2", "swordfish", TOKEN)
