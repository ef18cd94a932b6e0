"""How connections end that are not sessions yet: as those of a web server do, and without cost to others."""

import os
import socket
import ssl
from contextlib import ExitStack

import pytest

from rig.client import fresh_device, hello, login
from rig.poll import eventually
from rig.wire import PING, TEXT, UPGRADE, Ended, Wire, encode, request_bytes, wire_login

QUICK = {"GATEWAY_HEADER_TIMEOUT": "500ms", "GATEWAY_HANDSHAKE_TIMEOUT": "1s"}


def limit_hits(gateway, limit):
    return gateway.metric("limits_hit_total", limit=limit)


def tls(gateway, source="127.0.0.1"):
    """A TLS connection that tells a missing close_notify from an ordinary end."""
    context = gateway.authority.client_context()
    plain = socket.create_connection(("127.0.0.1", gateway.port), 10, source_address=(source, 0))
    return context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False)


def until_close_notify(connection):
    """What arrives until close_notify; an end without it is an error of the ssl module."""
    got = b""
    while data := connection.recv(65536):
        got += data
    return got


@pytest.mark.parametrize("request_, answer", [
    (request_bytes("/", {"Host": "localhost", "Connection": "close"}), b"HTTP/1.1 404 "),
    (b"GET / HTTP/1.0\r\n\r\n", b"HTTP/1.1 404 "),
    (b"garbage\r\n\r\n", b"HTTP/1.1 400 "),
    (request_bytes(headers=UPGRADE | {"Sec-WebSocket-Key": "x", "Connection": "Upgrade, close"}), b"HTTP/1.1 400 "),
    (request_bytes("/", {"Host": "localhost"}), b"HTTP/1.1 404 "),
    (b"GET / HTTP/1.1\r\nHost:", b""),
    (b"", b""),
], ids=["close", "http 1.0", "garbage", "bad key", "kept alive to its end", "half a head", "nothing"])
def test_an_https_connection_ends_with_close_notify(start, request_, answer):
    gateway = start(**QUICK)
    with tls(gateway) as connection:
        if request_:
            connection.sendall(request_)
        assert until_close_notify(connection).startswith(answer)


def test_an_answer_to_http_1_0_says_that_the_connection_ends(start):
    gateway = start()
    with Wire(gateway) as wire:
        wire.send(b"GET / HTTP/1.0\r\n\r\n")
        status, headers = wire.response()
        assert (status, headers["connection"]) == (404, "close")
    with Wire(gateway) as wire:
        for _ in range(2):
            wire.send(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
            status, headers = wire.response()
            assert (status, headers["connection"]) == (404, "keep-alive")
            wire.body(headers)


def test_an_upload_that_is_not_read_does_not_lose_its_answer(start):
    gateway = start()
    size = 5_000_000
    for _ in range(5):
        with tls(gateway) as connection:
            connection.sendall(f"POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode())
            connection.sendall(bytes(size))
            assert until_close_notify(connection).startswith(b"HTTP/1.1 404 ")


def test_a_connection_sends_so_many_requests(start):
    gateway = start(GATEWAY_MAX_EXCHANGES_BEFORE_AUTH=3, admin=True)
    with Wire(gateway) as wire:
        for turn in range(3):
            wire.send(request_bytes("/", {"Host": "localhost"}))
            _, headers = wire.response()
            assert (headers.get("connection") == "close") == (turn == 2)
            wire.body(headers)
        assert wire.ended_within(5)
    assert limit_hits(gateway, "max_exchanges_before_auth") == 1


def test_a_connection_sends_so_many_pings_before_its_hello(start):
    gateway = start(GATEWAY_MAX_EXCHANGES_BEFORE_AUTH=3, admin=True)
    with Wire(gateway) as wire:
        wire.upgrade()
        for _ in range(3):
            wire.frame(PING, b"x")
        wire.text(hello(fresh_device()))
        assert wire.recv_json()["allowed"] is True
    with Wire(gateway) as wire:
        wire.upgrade()
        for _ in range(4):
            wire.frame(PING, b"x")
        assert wire.close_code() == 1008
    assert limit_hits(gateway, "max_exchanges_before_auth") == 1


def test_a_request_for_ws_that_is_no_upgrade_is_counted_and_named(start):
    gateway = start(admin=True, GATEWAY_LOG_LEVEL="debug")
    for lost, missing in [("Upgrade", "upgrade_header"), ("Connection", "connection_header")]:
        headers = {name: value for name, value in UPGRADE.items() if name != lost}
        with Wire(gateway) as wire:
            wire.send(request_bytes(headers=headers))
            assert wire.response()[0] == 404
        gateway.says(f'"missing":"{missing}"')
        assert gateway.metric("not_upgraded_total", missing=missing) == 1


def test_a_proxy_protocol_header_is_named(start):
    gateway = start(GATEWAY_LOG_LEVEL="debug")
    with gateway.tcp() as connection:
        connection.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 443\r\n")
        gateway.says('"msg":"proxy_header"')


# --- places and memory -------------------------------------------------------------------------


def idle(gateway, count, source):
    """Connections that say nothing."""
    return [socket.create_connection(("127.0.0.1", gateway.port), 10, source_address=(source, 0)) for _ in range(count)]


LONG = {"GATEWAY_HANDSHAKE_TIMEOUT": "60s", "GATEWAY_TLS_HANDSHAKE_TIMEOUT": "60s"}


def closing(stack, connections):
    for connection in connections:
        stack.callback(connection.close)
    return connections


def test_idle_connections_of_a_source_do_not_shut_its_newcomers_out(start):
    gateway = start(GATEWAY_MAX_HANDSHAKES_PER_SOURCE=4, admin=True, **LONG)
    with ExitStack() as stack:
        closing(stack, idle(gateway, 12, "127.0.0.1"))
        for _ in range(4):
            with login(gateway) as device:
                device.lives()
    gateway.says('"msg":"source_limited"', times=1)
    gateway.says('"source":"127.0.0.1"')


def test_idle_connections_of_some_sources_do_not_shut_others_out_of_a_full_gateway(start):
    gateway = start(GATEWAY_MAX_HANDSHAKES=32, GATEWAY_MAX_HANDSHAKES_PER_SOURCE=16, admin=True, **LONG)
    with ExitStack() as stack:
        for host in range(3):
            closing(stack, idle(gateway, 16, f"127.0.9.{host + 1}"))
        eventually(lambda: limit_hits(gateway, "max_handshakes") >= 16, 5, "the gateway is full")
        for _ in range(8):
            with login(gateway) as device:
                device.lives()


def test_an_exempt_network_has_no_bound_per_source(start):
    gateway = start(GATEWAY_MAX_HANDSHAKES_PER_SOURCE=2, GATEWAY_MAX_HANDSHAKES_PER_SOURCE_EXEMPT="127.0.0.0/8", admin=True, **LONG)
    with ExitStack() as stack:
        closing(stack, idle(gateway, 12, "127.0.0.1"))
        with login(gateway) as device:
            device.lives()
        assert limit_hits(gateway, "max_handshakes_per_source") == 0


def hello_in_part(size):
    """The first `size` bytes of a ClientHello of 60,000."""
    message = (b"\x01" + (60_000).to_bytes(3, "big") + b"\x03\x03").ljust(size, b"\0")
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part
                    for part in (message[at:at + 16_384] for at in range(0, size, 16_384)))


def test_unfinished_hellos_are_bounded_in_all_and_the_largest_go_first(start):
    gateway = start(GATEWAY_HANDSHAKE_BUDGET_BYTES="1MiB", admin=True, **LONG)
    before = gateway.rss_kib
    with ExitStack() as stack:
        small = closing(stack, idle(gateway, 8, "127.0.0.1"))
        for connection in closing(stack, idle(gateway, 200, "127.0.0.2")):
            try:
                connection.sendall(hello_in_part(30_000))
            except OSError:
                pass
        eventually(lambda: limit_hits(gateway, "handshake_budget_bytes") > 100, 10, "the largest go")
        with login(gateway) as device:
            device.lives()
        for connection in small:
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):
                connection.recv(1)
        assert gateway.rss_kib - before < 8 << 10


def test_answers_that_are_not_read_are_bounded_in_all(start):
    gateway = start(GATEWAY_HANDSHAKE_BUDGET_BYTES="1MiB", **LONG)
    with ExitStack() as stack:
        for _ in range(60):
            wire = stack.enter_context(Wire(gateway))
            wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            try:
                for _ in range(20):
                    wire.send(request_bytes("/metrics", {"Host": "localhost"}))
            except Ended:
                pass
        with login(gateway) as device:
            device.lives()
        assert limit_hits(gateway, "handshake_budget_bytes") > 0


def test_a_message_that_has_begun_must_end(start):
    gateway = start(GATEWAY_MESSAGE_TIMEOUT="300ms", admin=True)
    with wire_login(gateway) as wire:
        wire.send(encode(TEXT, b"{" * 1000, claim=100_000))
        assert wire.close_code() == 1008
    assert limit_hits(gateway, "message_timeout") == 1
    with login(gateway) as device:
        device.lives()


# --- what the system leaves --------------------------------------------------------------------

GROUPS = "/sys/fs/cgroup/memory"


@pytest.fixture
def group():
    """A control group of 200 MiB, below one without a limit."""
    root = f"{GROUPS}/httvps-test-{os.getpid()}"
    path, limit = f"{root}/unit", "memory.limit_in_bytes"
    if not os.access(f"{GROUPS}/{limit}", os.W_OK):
        pytest.skip("control groups (version 1, memory) are not writable here")
    os.makedirs(path)
    try:
        with open(f"{root}/{limit}", "w") as file:
            file.write(str(200 << 20))
        yield path
    finally:
        def is_gone():
            try:
                os.rmdir(path)
                os.rmdir(root)
                return True
            except OSError:
                return False
        eventually(is_gone, 10, "the control group is empty")


def test_the_limit_of_a_group_above_is_the_budget_and_holds_against_a_crowd(group, start):
    def enter():
        with open(f"{group}/cgroup.procs", "w") as file:
            file.write(str(os.getpid()))
    gateway = start(preexec=enter, admin=True, **LONG)
    gateway.says(f"{200 << 20} bytes (control group")
    with ExitStack() as stack:
        for host in range(16):
            for connection in closing(stack, idle(gateway, 100, f"127.0.8.{host + 1}")):
                try:
                    connection.sendall(hello_in_part(30_000))
                except OSError:
                    pass
        with login(gateway) as device:
            device.lives()
        assert gateway.peak_rss_kib < 150 << 10
    assert limit_hits(gateway, "handshake_budget_bytes") > 0
