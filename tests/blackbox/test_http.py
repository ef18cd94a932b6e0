"""TLS and HTTP/1.1: who may upgrade, and that everything else meets an ordinary web server."""

import socket
import ssl
import threading

import pytest

from rig.client import hello, login
from rig.gateway import insecure_context
from rig.wire import KEY, UPGRADE, Ended, Wire, request_bytes, websocket_accept_of


@pytest.fixture(scope="module")
def gateway(start_shared):
    return start_shared()


def ask(gateway, data):
    """Sends raw bytes; the status of the answer, or None when the connection just ends."""
    with Wire(gateway) as wire:
        try:
            wire.send(data)
            return wire.response()[0]
        except Ended:
            return None


def without(name):
    return {k: v for k, v in UPGRADE.items() if k != name}


# --- the ordinary web server -------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/index.html", "/favicon.ico", "/robots.txt", "/admin", "/ws/", "/ws/x", "/wsx", "/WS", "//ws",
                                  "/api/v1/auth/validate-device", "/..", "/metrics/", "/healthz/x", "/?x=/ws", "/" + "a" * 2000])
def test_any_other_path_is_an_ordinary_404(gateway, path):
    answer = gateway.get(path)
    assert answer.status == 404
    told = (str(answer.headers) + answer.body.decode()).lower()
    for word in ("httvps", "gateway", "hyper", "rust", "tokio", "tungstenite", "websocket", "0.1.0"):
        assert word not in told, f"{word!r} in {told!r}"
    assert answer.headers["content-length"] or answer.headers["transfer-encoding"]


@pytest.mark.parametrize("path", ["/", "/other"])
def test_an_upgrade_on_any_other_path_is_the_same_404(gateway, path):
    assert ask(gateway, request_bytes(path)) == 404


def test_all_404s_look_the_same(gateway):
    def shape(answer):
        return answer.status, sorted(k.lower() for k in answer.headers if k.lower() != "date"), answer.body
    assert shape(gateway.get("/a")) == shape(gateway.get("/b/c?d=e"))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "HEAD", "FOO"])
def test_another_method_never_upgrades(gateway, method):
    assert ask(gateway, request_bytes(method=method)) in (400, 404, 405, 501)


def test_a_connect_request_never_upgrades(gateway):
    assert ask(gateway, request_bytes("localhost:443", method="CONNECT")) in (400, 404, 405, 501, None)


def test_a_head_request_has_no_body(gateway):
    answer = gateway.get("/", method="HEAD")
    assert (answer.status, answer.body) == (404, b"")


def test_a_request_with_a_body_is_a_404_too(gateway):
    answer = gateway.get("/login", method="POST", headers={"Content-Length": "0"})
    assert answer.status in (404, 405)


def test_two_requests_on_one_connection(gateway):
    with Wire(gateway) as wire:
        for _ in range(2):
            wire.send(request_bytes("/", {"Host": "localhost"}))
            status, headers = wire.response()
            assert status == 404
            assert headers.get("connection", "").lower() != "close"
            wire.body(headers)


# --- the upgrade -------------------------------------------------------------------------------


def test_the_upgrade_is_answered_as_rfc_6455_has_it(gateway):
    with Wire(gateway) as wire:
        headers = wire.upgrade()
        assert headers["upgrade"].lower() == "websocket"
        assert "upgrade" in headers["connection"].lower()
        assert headers["sec-websocket-accept"] == websocket_accept_of(KEY)
        assert not set(headers) & {"server", "content-length", "transfer-encoding", "sec-websocket-extensions", "sec-websocket-protocol"}


@pytest.mark.parametrize("headers", [
    UPGRADE | {"Upgrade": "WebSocket"}, UPGRADE | {"Connection": "keep-alive, Upgrade"}, UPGRADE | {"Connection": "upgrade"},
    {k.lower(): v for k, v in UPGRADE.items()}, {k.upper(): v for k, v in UPGRADE.items()},
    UPGRADE | {"Origin": "https://example.com", "Cookie": "a=b; c=d", "User-Agent": "x", "Pragma": "no-cache"},
    UPGRADE | {"Sec-WebSocket-Protocol": "chat, superchat"}, UPGRADE | {"Host": "other.example:8443"},
], ids=["Upgrade in capitals", "Connection list", "connection lower", "names lower", "names upper", "browser", "subprotocol", "other host"])
def test_an_upgrade_may_be_written_as_http_allows(gateway, headers):
    with Wire(gateway) as wire:
        wire.send(request_bytes(headers=headers))
        assert wire.response()[0] == 101
        wire.text(hello())
        assert wire.recv_json()["allowed"] is True


def test_an_upgrade_may_arrive_byte_by_byte(gateway):
    with Wire(gateway) as wire:
        for byte in request_bytes():
            wire.send(bytes([byte]))
        assert wire.response()[0] == 101
        wire.text(hello())
        assert wire.recv_json()["allowed"] is True


def test_only_listed_origins_upgrade_when_there_is_a_list(start_shared):
    gateway = start_shared(GATEWAY_ALLOWED_ORIGINS="https://app.example")
    for origin, upgraded in (("https://app.example", True), ("https://evil.example", False), ("null", False),
                             ("https://app.example.evil", False), ("http://app.example", False)):
        assert (ask(gateway, request_bytes(headers=UPGRADE | {"Origin": origin})) == 101) is upgraded, origin
    assert ask(gateway, request_bytes()) == 101


BAD_UPGRADES = {
    "no upgrade at all": request_bytes(headers={"Host": "localhost"}),
    "no Upgrade": request_bytes(headers=without("Upgrade")),
    "no Connection": request_bytes(headers=without("Connection")),
    "Connection: close": request_bytes(headers=UPGRADE | {"Connection": "close"}),
    "Upgrade: h2c": request_bytes(headers=UPGRADE | {"Upgrade": "h2c"}),
    "no key": request_bytes(headers=without("Sec-WebSocket-Key")),
    "empty key": request_bytes(headers=UPGRADE | {"Sec-WebSocket-Key": ""}),
    "short key": request_bytes(headers=UPGRADE | {"Sec-WebSocket-Key": "dGhl"}),
    "key that is no base64": request_bytes(headers=UPGRADE | {"Sec-WebSocket-Key": "!" * 24}),
    "no version": request_bytes(headers=without("Sec-WebSocket-Version")),
    "version 8": request_bytes(headers=UPGRADE | {"Sec-WebSocket-Version": "8"}),
    "version 14": request_bytes(headers=UPGRADE | {"Sec-WebSocket-Version": "14"}),
    "version x": request_bytes(headers=UPGRADE | {"Sec-WebSocket-Version": "x"}),
    "HTTP/1.0": request_bytes(version="HTTP/1.0"),
    "no Host": request_bytes(headers=without("Host")),
}


@pytest.mark.parametrize("data", BAD_UPGRADES.values(), ids=BAD_UPGRADES.keys())
def test_a_bad_upgrade_is_a_4xx_and_never_a_101(gateway, data):
    assert ask(gateway, data) in range(400, 500)


BROKEN = {
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/9.9": request_bytes(version="HTTP/9.9"),
    "no version": b"GET /ws\r\n\r\n",
    "garbage": b"\x00\x01\x02\x03\xff\xfe\r\n\r\n",
    "space before the colon": request_bytes(headers=list(UPGRADE.items()) + [("X-A ", "b")]),
    "folded header": request_bytes(headers=UPGRADE | {"X-A": "b\r\n c"}),
    "NUL in a value": request_bytes(headers=UPGRADE | {"X-A": "b\0c"}),
    "length and chunks": request_bytes(headers=UPGRADE | {"Content-Length": "5", "Transfer-Encoding": "chunked"}) + b"0\r\n\r\n",
    "two lengths": request_bytes(headers=list(UPGRADE.items()) + [("Content-Length", "0"), ("Content-Length", "5")]),
    "bad length": request_bytes(headers=UPGRADE | {"Content-Length": "-1"}),
    "101 fields": request_bytes(headers=list(UPGRADE.items()) + [(f"X-{n}", "v") for n in range(100)]),
    "5,000 fields": request_bytes(headers=list(UPGRADE.items()) + [(f"X-{n}", "v") for n in range(5000)]),
    "one header of 17 KiB": request_bytes(headers=UPGRADE | {"X-A": "a" * (17 << 10)}),
    "headers of 1 MiB": request_bytes(headers=list(UPGRADE.items()) + [(f"X-{n}", "v" * 10_000) for n in range(100)]),
    "a path of 20 KiB": request_bytes("/" + "a" * (20 << 10)),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_request_is_refused_or_cut_off_and_never_upgraded(gateway, data):
    status = ask(gateway, data)
    assert status is None or 400 <= status < 600, status
    with login(gateway) as device:
        device.lives()


@pytest.mark.parametrize("in_one_record", [True, False], ids=["in one TLS record", "in records of 1 KiB"])
@pytest.mark.parametrize("size", [4 << 10, 9 << 10, 12 << 10, 15 << 10])
def test_headers_up_to_16_kib_are_fine(gateway, size, in_one_record):
    head = request_bytes(headers=UPGRADE | {"Cookie": "c" * size})
    step = len(head) if in_one_record else 1024
    with Wire(gateway) as wire:
        for at in range(0, len(head), step):
            wire.send(head[at:at + step])
        assert wire.response()[0] == 101
        wire.text(hello())
        assert wire.recv_json()["allowed"] is True


def test_100_fields_are_fine(gateway):
    more = [(f"X-{n}", "v") for n in range(100 - len(UPGRADE))]
    assert ask(gateway, request_bytes(headers=list(UPGRADE.items()) + more)) == 101


def test_plain_http_on_the_tls_port_gets_nothing_of_ours(gateway):
    with gateway.tcp() as plain:
        plain.settimeout(8)
        plain.sendall(request_bytes())
        try:
            told = plain.recv(4096)
        except OSError:
            told = b""
        assert not told.startswith(b"HTTP/1.1 101") and b"httvps" not in told.lower()
    with login(gateway) as device:
        device.lives()


# --- health and metrics on the main listener ---------------------------------------------------


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz"])
def test_the_operators_routes_are_on_the_main_listener(gateway, path):
    answer = gateway.get(path)
    assert answer.status == 200
    assert "httvps" not in str(answer.headers).lower() and "server" not in answer.headers


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz"])
def test_the_operators_routes_are_read_only(gateway, path):
    assert gateway.get(path, method="POST").status in (404, 405)


# --- TLS ---------------------------------------------------------------------------------------


def handshake(gateway, context):
    """The cipher and version that were agreed on, or None when the gateway refuses."""
    try:
        with gateway.tls(context) as link:
            return link.version(), link.cipher()[0]
    except (ssl.SSLError, ConnectionError):
        return None


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_tls_1_2_and_1_3_carry_a_session(gateway, version):
    context = gateway.authority.client_context()
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    with login(gateway, options={"ssl": context}) as device:
        assert device.tls_version == version.replace("_", ".")
        device.lives()


def old_tls(version):
    return insecure_context(version, version, "ALL:@SECLEVEL=0")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
def test_tls_below_1_2_is_refused(gateway, version, pair):
    version = ssl.TLSVersion[version]
    assert speaks_old_tls(version, pair), "this Python cannot speak old TLS, so the test would prove nothing"
    assert handshake(gateway, old_tls(version)) is None


def speaks_old_tls(version, pair):
    """A control: the same client context against a server of the same age."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.set_ciphers("ALL:@SECLEVEL=0")
    server.minimum_version = server.maximum_version = version
    server.load_cert_chain(pair.cert, pair.key)
    near, far = socket.socketpair()

    def serve():
        try:
            server.wrap_socket(far, server_side=True).close()
        except OSError:
            far.close()
    threading.Thread(target=serve, daemon=True).start()
    try:
        with old_tls(version).wrap_socket(near) as link:
            return link.version() is not None
    except ssl.SSLError:
        return False


AEAD = ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"]
CBC = ["ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES256-SHA384", "ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA"]


@pytest.mark.parametrize("cipher", AEAD)
def test_every_aead_suite_of_tls_1_2_is_served(gateway, cipher):
    context = insecure_context(ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2, cipher)
    assert handshake(gateway, context) == ("TLSv1.2", cipher)


@pytest.mark.parametrize("cipher", CBC)
def test_cbc_suites_are_refused(gateway, cipher):
    assert handshake(gateway, insecure_context(ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2, cipher + ":@SECLEVEL=0")) is None


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_a_ticket_resumes_a_connection(gateway, version):
    context = gateway.authority.client_context()
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    with gateway.tls(context) as first:
        # TLS 1.3 sends tickets behind the handshake; an answer read means they were seen.
        first.sendall(request_bytes("/", {"Host": "localhost"}))
        first.recv(4096)
        ticket = first.session
        assert ticket.has_ticket
    with gateway.tls(context, session=ticket) as second:
        second.sendall(request_bytes("/", {"Host": "localhost"}))
        assert second.recv(4096).startswith(b"HTTP/1.1 404")
        assert second.session_reused


def test_alpn_never_promises_what_is_not_served(gateway):
    for offer, agreed in ((["http/1.1"], {"http/1.1", None}), (["h2", "http/1.1"], {"http/1.1", None})):
        context = gateway.authority.client_context()
        context.set_alpn_protocols(offer)
        with gateway.tls(context) as link:
            assert link.selected_alpn_protocol() in agreed


def test_a_client_of_any_server_name_or_none_is_served(gateway):
    for name in ("unknown.example", "127.0.0.1"):
        with insecure_context().wrap_socket(gateway.tcp(), server_hostname=name) as link:
            assert link.getpeercert(binary_form=True)
