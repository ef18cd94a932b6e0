"""The client as local programs and its gateway see it: its request, paths that die, and places that run out."""

import socket
import ssl
from contextlib import ExitStack

import pytest

from rig.local_proxy import LocalProxy, Path, socks_datagram
from rig.poll import eventually
from rig.targets import UdpTarget, udp_echo


@pytest.fixture(scope="module")
def gateway(start_shared):
    return start_shared(GATEWAY_UPSTREAM_MODE="direct", GATEWAY_EGRESS_ALLOW="127.0.0.0/8")


@pytest.fixture
def connect(gateway, authority, tmp_path):
    """Starts a client of the gateway, or of another port."""
    with ExitStack() as stack:
        def start(*flags, port=None):
            proxy = stack.enter_context(LocalProxy(tmp_path, authority, port or gateway.port, *flags))
            eventually(lambda: "is up" in proxy.text, 10, "a session stands")
            return proxy
        yield start


def echoes(connection, payload=b"hello"):
    connection.sendall(payload)
    got = b""
    while len(got) < len(payload) and (part := connection.recv(64)):
        got += part
    return got == payload


def test_a_path_that_died_costs_waiting_programs_neither_their_connection_nor_their_datagram(connect, gateway, target):
    with Path(gateway.port) as path, UdpTarget(udp_echo) as udp:
        proxy = connect(port=path.port)
        control, flow = proxy.associate()
        flow.send(socks_datagram(udp.port, b"before"))
        assert flow.recv(100).endswith(b"before")
        path.die()
        flow.send(socks_datagram(udp.port, b"after"))
        connection, code = proxy.connect(target.port)
        assert code == 0 and echoes(connection), proxy.text
        assert flow.recv(100).endswith(b"after")
        assert "does not answer" in proxy.text and "keep-alive" not in proxy.text
        for one in (control, flow, connection):
            one.close()


def test_flows_of_datagrams_leave_places_to_connections_and_the_client_says_so(connect, target):
    with ExitStack() as stack:
        proxy = connect("--max-sessions", 8)
        targets = [stack.enter_context(UdpTarget(udp_echo)) for _ in range(32)]
        for _ in range(3):
            control, flow = map(stack.enter_context, proxy.associate())
            for udp in targets:
                flow.send(socks_datagram(udp.port, b"hello"))
                assert flow.recv(100).endswith(b"hello")
        for _ in range(32):
            connection, code = proxy.connect(target.port)
            stack.enter_context(connection)
            assert code == 0 and echoes(connection), proxy.text
        eventually(lambda: "UDP flows that gave theirs to others" in proxy.text, 10, "the client says it")


def test_a_client_with_idle_connections_opens_further_sessions_and_cuts_none(connect, target):
    with ExitStack() as stack:
        proxy = connect()
        held = []
        for _ in range(80):
            connection, code = proxy.connect(target.port)
            held.append(stack.enter_context(connection))
            assert code == 0, proxy.text
        assert all(echoes(connection) for connection in held)


@pytest.mark.parametrize("flags, field", [
    ((), b"User-Agent: Mozilla/5.0 ("),
    (("--user-agent", "door/7"), b"User-Agent: door/7\r\n"),
    (("--header", "X-Door: 7"), b"X-Door: 7\r\n"),
], ids=["default", "user agent", "header"])
def test_the_request_for_the_websocket_has_a_user_agent_and_the_fields_that_were_set(authority, pair, tmp_path, flags, field):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    with socket.create_server(("127.0.0.1", 0)) as listener, LocalProxy(tmp_path, authority, listener.getsockname()[1], *flags):
        listener.settimeout(10)
        near, _ = listener.accept()
        near.settimeout(10)
        with context.wrap_socket(near, server_side=True) as tls:
            head = b""
            while b"\r\n\r\n" not in head and (part := tls.recv(4096)):
                head += part
    assert head.startswith(b"GET /ws HTTP/1.1\r\n")
    assert field in head and head.lower().count(b"\r\nuser-agent:") == 1
