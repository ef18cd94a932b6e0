"""Every limit that bites says so: its name, which is its settings key, appears in a metric or in the log."""

import json
import re
from contextlib import ExitStack

import pytest

from rig.backend import Answer, allowed
from rig.client import Device, fresh_device, hello, login, stream_close, stream_data, stream_open
from rig.poll import eventually
from rig.targets import Sink, Target, full_backlog, silent
from rig.v2 import enter
from rig.wire import CONTINUATION, TEXT, UPGRADE, Ended, Wire, request_bytes, wire_login

DIRECT = {"GATEWAY_UPSTREAM_MODE": "direct", "GATEWAY_EGRESS_ALLOW": "127.0.0.0/8"}


def says(gateway, limit):
    """The limit is counted, or named in a log line."""
    def named():
        counted = sum(value for name, labels, value in gateway.metrics().samples
                      if name.startswith("httvps_gateway_") and limit in labels.values())
        # As a whole word: `handshake_timeout` is not `tls_handshake_timeout`.
        return counted > 0 or any(re.search(rf"\b{limit}\b", line) for line in gateway.lines())
    eventually(named, 6, f"{limit} is named in a metric or the log")


def until_ended(wire, within=6):
    assert wire.ended_within(within), "the connection is still open"


def first(gateway, frame):
    """Sends a first message and waits for the end."""
    with Device(gateway) as device:
        device.send(frame)
        device.until_closed()


def test_max_streams_per_session(start):
    gateway = start(GATEWAY_MAX_STREAMS=1)
    with login(gateway) as device:
        device.send(stream_open("a"), stream_open("b"))
        device.expect_error("stream_error", "b")
    says(gateway, "max_streams_per_session")


def test_max_stream_opens_per_second(start):
    gateway = start(GATEWAY_MAX_STREAM_OPENS_PER_SECOND=1, GATEWAY_MAX_STREAM_OPEN_BURST=1)
    with login(gateway) as device:
        for _ in range(4):
            device.send(stream_open("a"), stream_close("a"))
        device.until_pong()
    says(gateway, "max_stream_opens_per_second")


def test_max_errors_per_second(start):
    gateway = start(GATEWAY_MAX_ERRORS_PER_SECOND=1, GATEWAY_MAX_ERROR_BURST=1)
    with wire_login(gateway) as wire:
        for _ in range(20):
            wire.text("garbage")
        until_ended(wire)
    says(gateway, "max_errors_per_second")


def test_max_sessions(start):
    gateway = start(GATEWAY_MAX_SESSIONS=1)
    with login(gateway):
        first(gateway, hello())
        says(gateway, "max_sessions")


def test_max_sessions_per_device(start):
    gateway = start(GATEWAY_MAX_SESSIONS_PER_DEVICE=1)
    with login(gateway) as device:
        first(gateway, hello(device.device_id))
        says(gateway, "max_sessions_per_device")


def test_max_sessions_per_device_is_64_unless_it_is_set(start):
    gateway, name = start(), fresh_device()
    with ExitStack() as stack:
        for _ in range(64):
            stack.enter_context(login(gateway, name))
        first(gateway, hello(name))
        says(gateway, "max_sessions_per_device")
        stack.enter_context(login(gateway))


def test_max_streams_per_device_counts_all_of_its_sessions(start):
    gateway, name = start(GATEWAY_MAX_STREAMS=2, GATEWAY_MAX_STREAMS_PER_DEVICE=3), fresh_device()
    with login(gateway, name) as one, enter(gateway, device_id=name) as two, login(gateway) as other:
        one.send(stream_open("a"), stream_open("b"))
        one.until_pong()
        two.open()
        full = two.open()
        two.pump(lambda: two.streams[full].reset)
        assert two.streams[full].reset == "limit"
        says(gateway, "max_streams_per_device")
        other.send(stream_open("a"))
        other.lives()
        one.send(stream_close("a"))
        one.until_pong()
        free = two.open()
        two.round_trip()
        assert not two.streams[free].reset
        one.send(stream_open("c"))
        assert one.expect_error("stream_error", "c")["reason"] == "stream_limit"
        one.until_pong()


def test_max_device_opens_per_second_outlasts_the_session(start):
    gateway, name = start(GATEWAY_MAX_STREAM_OPENS_PER_SECOND=1, GATEWAY_MAX_STREAM_OPEN_BURST=4,
                          GATEWAY_MAX_DEVICE_OPENS_PER_SECOND=1, GATEWAY_MAX_DEVICE_OPEN_BURST=4), fresh_device()
    with login(gateway, name) as device:
        device.send(*(stream_open(f"{number}") for number in range(4)))
        device.until_pong()
    eventually(lambda: gateway.metric("active_sessions") == 0, what="it has left")
    with login(gateway, name) as device:
        device.send(*(stream_open(f"{number}") for number in range(4)))
        device.expect_error("stream_error")
    says(gateway, "max_device_opens_per_second")


def test_max_descriptors_per_device(start):
    gateway, name = start(**DIRECT, GATEWAY_MAX_DESCRIPTORS_PER_DEVICE=3), fresh_device()
    with Target(silent) as target, login(gateway, name) as device, login(gateway) as other:
        device.send(*(stream_open(f"{number}", target.address) for number in range(3)))
        device.expect_error("stream_error", "2")
        says(gateway, "max_descriptors_per_device")
        other.send(stream_open("a", target.address))
        other.until_pong()


@pytest.mark.parametrize("limit", ["max_deliveries", "max_deliveries_per_device"])
def test_a_stream_without_a_place_for_its_delivery_ends_in_order(start, limit):
    """One stream takes the only place: its target does not answer. What the kernel has of another arrives all the same."""
    gateway, name = start(**DIRECT, **{f"GATEWAY_{limit.upper()}": 1}), fresh_device()
    sink, payload = Sink(), b"p" * 40_000
    with full_backlog() as address, Target(sink) as target, login(gateway, name) as device:
        device.send(stream_open("stuck", address), stream_data("stuck", b"x"), stream_close("stuck"))
        device.send(stream_open("a", target.address))
        eventually(lambda: target.accepted, what="the target is reached")
        device.send(stream_data("a", payload))
        device.until_pong()
        device.send(stream_close("a"))
        assert sink.ended.wait(10) and (sink.how, bytes(sink.received)) == ("eof", payload)
    says(gateway, limit)


@pytest.mark.parametrize("limit, frame", [
    ("max_device_id_bytes", hello("d" * 200)), ("max_token_bytes", hello(token="t" * 9000)),
    ("max_message_bytes_before_auth", hello(client_version="v" * 20_000))], ids=lambda value: value if isinstance(value, str) else "")
def test_limits_of_a_hello(start, limit, frame):
    gateway = start()
    first(gateway, frame)
    says(gateway, limit)


def test_max_stream_id_bytes(start):
    gateway = start()
    with login(gateway) as device:
        device.send(stream_open("s" * 65))
        device.expect_error({"bad_stream", "stream_error"})
    says(gateway, "max_stream_id_bytes")


def test_max_message_bytes(start):
    gateway = start()
    with wire_login(gateway) as wire:
        wire.frame(TEXT, b"", claim=2 << 20)
        assert wire.close_code() == 1009
    says(gateway, "max_message_bytes")


def test_max_message_fragments(start):
    gateway = start(GATEWAY_MAX_MESSAGE_FRAGMENTS=3)
    with wire_login(gateway) as wire:
        wire.frame(TEXT, b"{", fin=False)
        for _ in range(3):
            wire.frame(CONTINUATION, b" ", fin=False)
        assert wire.close_code() == 1009
    says(gateway, "max_message_fragments")


def test_handshake_timeout(start):
    gateway = start(GATEWAY_HANDSHAKE_TIMEOUT="300ms")
    with Wire(gateway) as wire:
        wire.upgrade()
        until_ended(wire)
    says(gateway, "handshake_timeout")


def test_tls_handshake_timeout(start):
    gateway = start(GATEWAY_TLS_HANDSHAKE_TIMEOUT="300ms")
    with gateway.tcp(5) as connection:
        assert connection.recv(100) == b""
    says(gateway, "tls_handshake_timeout")


def test_header_timeout(start):
    gateway = start(GATEWAY_HEADER_TIMEOUT="300ms")
    with Wire(gateway) as wire:
        wire.send(b"GET /ws HTTP/1.1\r\nHost: x\r\n")
        until_ended(wire)
    says(gateway, "header_timeout")


@pytest.mark.parametrize("limit, more", [("max_headers", [(f"X-{n}", "v") for n in range(120)]), ("max_header_bytes", [("X", "v" * 40_000)])],
                         ids=lambda value: value if isinstance(value, str) else "")
def test_limits_of_a_request(start, limit, more):
    gateway = start()
    with Wire(gateway) as wire:
        try:
            wire.send(request_bytes(headers=list(UPGRADE.items()) + more))
            assert wire.response()[0] >= 400
        except Ended:
            pass
    says(gateway, limit)


def test_max_handshakes_per_source(start):
    gateway = start(GATEWAY_MAX_HANDSHAKES_PER_SOURCE=2, admin=True)
    connections = [gateway.tcp() for _ in range(6)]
    says(gateway, "max_handshakes_per_source")
    for connection in connections:
        connection.close()


def test_max_handshakes(start):
    gateway = start(GATEWAY_MAX_HANDSHAKES=2, admin=True)
    connections = [gateway.tcp() for _ in range(6)]
    says(gateway, "max_handshakes")
    for connection in connections:
        connection.close()


def test_allowed_origins(start):
    gateway = start(GATEWAY_ALLOWED_ORIGINS="https://app.example")
    with Wire(gateway) as wire:
        wire.send(request_bytes(headers=UPGRADE | {"Origin": "https://evil.example"}))
        assert wire.response()[0] >= 400
    says(gateway, "allowed_origins")


def test_write_timeout(start):
    gateway = start(GATEWAY_WRITE_TIMEOUT="300ms")
    wire = wire_login(gateway)
    wire.text(stream_open("a"))
    wire.socket.settimeout(3)
    message = stream_data("a", bytes(300_000))
    try:
        for _ in range(200):
            wire.text(message)
    except Ended:
        pass
    says(gateway, "write_timeout")
    wire.socket.close()


def test_keepalive_max_missed(start):
    gateway = start(GATEWAY_KEEPALIVE_INTERVAL="100ms")
    with wire_login(gateway) as wire:
        until_ended(wire)
    says(gateway, "keepalive_max_missed")


def test_dial_timeout(start):
    gateway = start(GATEWAY_DIAL_TIMEOUT="200ms", **DIRECT)
    with full_backlog() as address, login(gateway) as device:
        device.send(stream_open("a", address))
        device.expect_error("stream_error", "a")
    says(gateway, "dial_timeout")


def test_stream_idle_timeout(start):
    gateway = start(GATEWAY_STREAM_IDLE_TIMEOUT="200ms", **DIRECT)
    with Target(silent) as target, login(gateway) as device:
        device.send(stream_open("a", target.address))
        device.expect_error("stream_error", "a")
    says(gateway, "stream_idle_timeout")


def test_stream_stall_timeout(start):
    gateway = start(GATEWAY_STREAM_STALL_TIMEOUT="300ms", **DIRECT)
    with Target(silent) as target, login(gateway) as device:
        device.send(stream_open("a", target.address))
        for _ in range(40):
            device.send(stream_data("a", bytes(500_000)))
        device.expect_error("stream_error", "a")
    says(gateway, "stream_stall_timeout")


@pytest.mark.parametrize("limit, reply", [("backend_timeout", allowed(delay=20)), ("backend_max_body_bytes", Answer(200, b" " * 100_000))],
                         ids=lambda value: value if isinstance(value, str) else "")
def test_limits_of_a_backend_answer(start, backend, limit, reply):
    gateway = start(BACKEND_TIMEOUT="300ms")
    device_id = fresh_device()
    backend.set(device_id, reply)
    first(gateway, hello(device_id))
    says(gateway, limit)


def test_backend_breaker_failures(start, backend):
    gateway = start(BACKEND_BREAKER_FAILURES=2)
    backend.stop()
    for _ in range(4):
        first(gateway, hello())
    says(gateway, "backend_breaker_failures")
    backend.start()
    eventually(lambda: gets_in(gateway), 10, "a device gets in again", every=0.2)


def gets_in(gateway):
    with Device(gateway) as device:
        return device.ask()["allowed"]


def test_drain_timeout(launch, backend):
    with launch(backend.url, may_exit=True, GATEWAY_DRAIN_TIMEOUT="500ms", GATEWAY_DRAIN_SPREAD="500ms", BACKEND_TIMEOUT="9s") as gateway:
        device_id = fresh_device()
        backend.set(device_id, allowed(delay=9))
        with Wire(gateway) as wire:
            wire.upgrade()
            wire.text(hello(device_id))
            eventually(lambda: backend.requests_of(device_id), 3, "the backend is asked")
            gateway.terminate()
            assert gateway.exit_code(5) == 0
        ended = [json.loads(line) for line in gateway.lines() if "drain_finished" in line]
        assert len(ended) == 1, "the line of the end, not only that of the start"
        assert ended[0]["duration_seconds"] < 9, "the time-out ended it, not the backend"
