"""Messages that are endless, oversized, empty or many, and clients that do not read."""

import json
import os
import select
import ssl

import pytest

from rig.client import login, stream_data, stream_open
from rig.hostile import FOREVER, LINGER, MIB, close, many, mib, push, try_session, upgraded
from rig.poll import Stopwatch, eventually
from rig.targets import Target
from rig.wire import CONTINUATION, PING, TEXT, encode, wire_login


# --- messages ----------------------------------------------------------------------------------


@pytest.mark.parametrize("authenticated", [False, True], ids=["before hello", "in a session"])
def test_an_endless_message(case, authenticated):
    case = case()
    wire = wire_login(case.gateway) if authenticated else upgraded(case.gateway)
    wire.send(encode(TEXT, b" " * 1000, fin=False))
    done, how = push(wire, encode(CONTINUATION, b" " * 65536, fin=False), FOREVER, 5, within=1 + LINGER)
    assert how == "ended", how
    assert case.peak_growth_kib < 32 << 10
    case.note = f"{how} after {done // 16} MiB"
    close(wire)
    case.recovered()


def test_oversized_claims(case):
    case = case()
    for claim in (MIB + 1, 1 << 31, 1 << 32, 1 << 62):
        with many(lambda: wire_login(case.gateway), 20) as wires:
            for wire in wires:
                wire.frame(TEXT, b"", claim=claim)
            assert {wire.close_code() for wire in wires} == {1009}
    assert case.peak_growth_kib < 32 << 10
    case.note = "80 claims, all closed 1009"
    case.recovered()


def test_allowed_claims_that_are_never_filled(case):
    case = case()
    with many(lambda: wire_login(case.gateway), 200) as wires:
        for wire in wires:
            wire.frame(TEXT, b"", claim=MIB)
        assert try_session(case.gateway)
        assert case.peak_growth_kib < 48 << 10, "memory for bytes that never came"
        case.note = "200 claims of 1 MiB, no bytes"
    case.recovered()


def test_messages_that_stop_half_way(case):
    case = case()
    part = 64 * 1024
    with many(lambda: wire_login(case.gateway), 200) as wires:
        for wire in wires:
            wire.frame(TEXT, b"x" * part, claim=MIB)
        assert try_session(case.gateway)
        case.note = f"200 x 64 KiB of 1 MiB, {mib(case.peak_growth_kib)} MiB more at the peak"
        assert case.peak_growth_kib < 200 * 3 * 64, case.note
    case.recovered()


def test_a_flood_of_empty_fragments(case):
    case = case()
    wire = wire_login(case.gateway)
    wire.send(encode(TEXT, b"", fin=False))
    done, how = push(wire, encode(CONTINUATION, b"", fin=False) * 1000, FOREVER, 5, within=1 + LINGER)
    assert how == "ended", how
    assert case.peak_growth_kib < 32 << 10
    case.note = f"{how} after {done * 1000} fragments"
    close(wire)
    case.recovered()


def test_a_flood_of_empty_messages(case):
    case = case()
    wire = wire_login(case.gateway)
    done, how = push(wire, encode(TEXT, b"") * 1000, FOREVER, 5, within=5 + LINGER)
    assert how == "ended", how
    assert case.peak_growth_kib < 32 << 10
    case.note = f"{how} after {done * 1000} messages"
    close(wire)
    case.recovered()


def test_600000_pings_whose_pongs_are_not_read(case):
    case = case()
    wire = wire_login(case.gateway)
    block = encode(PING, bytes(125)) * 1000
    done, how = push(wire, block, 600, 6)
    growth = case.peak_growth_kib
    case.note = f"{how} after {done * 1000} pings, {mib(growth)} MiB more at the peak"
    assert growth < 16 << 10, case.note
    close(wire)
    case.recovered()


def test_600000_pings_whose_pongs_are_read(case):
    case = case()
    wire = wire_login(case.gateway)
    block = b"".join(encode(PING, b"%05d" % n) for n in range(1000))
    last, pong = b"the last one", b"\x8a\x0cthe last one"
    seen = 0
    for _ in range(600):
        seen += len(exchange(wire, block)) // 7
    wire.send(encode(PING, last))
    tail = b""
    while not tail.endswith(pong):
        wire.socket.settimeout(10)
        data = wire.socket.recv(65536)
        assert data, "the last ping has no pong"
        seen, tail = seen + len(data) // 7, (tail + data)[-len(pong):]
    case.note = f"about {seen} pongs, the last ping answered"
    close(wire)
    case.recovered()


def exchange(wire, data):
    """Sends `data` while it reads, in one thread; what was read."""
    wire.socket.setblocking(False)
    got, clock = bytearray(), Stopwatch()
    while data:
        assert clock.seconds < 20, "nothing moves"
        try:
            data = data[wire.socket.send(data):]
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            select.select([wire.socket], [wire.socket], [], 1)
        try:
            got += wire.socket.recv(65536)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
    return got


def test_600000_json_pings_whose_pongs_are_not_read(case):
    case = case()
    wire = wire_login(case.gateway)
    done, how = push(wire, encode(TEXT, b'{"type":"ping"}') * 1000, 600, 6)
    growth = case.peak_growth_kib
    case.note = f"{how} after {done * 1000} pings, {mib(growth)} MiB more at the peak"
    assert growth < 16 << 10, case.note
    close(wire)
    case.recovered()


# --- readers -----------------------------------------------------------------------------------


def test_a_reader_that_never_reads_while_160_mib_are_pushed_through_the_echo(case):
    case = case()
    with login(case.gateway) as other:
        wire = wire_login(case.gateway)
        wire.text(stream_open("a"))
        message = encode(TEXT, json.dumps(stream_data("a", os.urandom(700 << 10))).encode())
        done, how = push(wire, message, 160 * MIB // (700 << 10) + 1, 6)
        growth = case.peak_growth_kib
        case.note = f"{how} after {done * 700 // 1024} MiB, {mib(growth)} MiB more at the peak"
        assert how != "sent", "160 MiB were taken in for a reader that reads nothing"
        assert growth < 24 << 10, case.note
        other.lives()
        close(wire)
    case.recovered()


def test_a_reader_that_never_reads_while_a_target_pushes_160_mib(case):
    taken = [0]

    def pour(connection):
        while taken[0] < 160 * MIB:
            taken[0] += connection.send(bytes(65536))
    case = case(GATEWAY_UPSTREAM_MODE="direct", GATEWAY_EGRESS_ALLOW="127.0.0.0/8")
    with Target(pour) as target, login(case.gateway) as other:
        wire = wire_login(case.gateway)
        wire.text(stream_open("a", target.address))
        eventually(lambda: case.gateway.metric("active_sessions") == 1, 15, "the reader that reads nothing is ended")
        growth = case.peak_growth_kib
        case.note = f"{taken[0] // MIB} MiB taken from the target, {mib(growth)} MiB more at the peak"
        assert taken[0] < 64 * MIB and growth < 16 << 10, case.note
        other.assert_quiet()
        close(wire)
    case.recovered()


@pytest.mark.parametrize("payload", [64 << 10, 700 << 10], ids=["64 KiB messages", "700 KiB messages"])
def test_many_readers_that_never_read(case, payload):
    case = case()
    message = encode(TEXT, json.dumps(stream_data("a", os.urandom(payload))).encode())

    def make():
        wire = wire_login(case.gateway)
        wire.text(stream_open("a"))
        push(wire, message, 400, 0.3)
        return wire
    with many(make, 32) as wires:
        growth = case.peak_growth_kib
        case.note = f"{len(wires)} readers, {mib(growth)} MiB more at the peak"
        # For each: 256 KiB queued, half as much again for the allocator, and a message under way in each direction.
        bound = 32 * (384 + 2 * len(message) // 1024) + (16 << 10)
        assert growth < bound, f"{case.note}; {mib(bound)} MiB are fair"
        eventually(lambda: case.gateway.metric("active_sessions") == 0, 15, "they are ended")
    case.recovered()
