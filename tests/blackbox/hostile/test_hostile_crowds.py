"""Clients in numbers: all at once, coming and going, out of descriptors, sending noise."""

import os
import resource
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

from rig.client import Device, stream_data, stream_open
from rig.hostile import client_hello, close, many, push
from rig.poll import Stopwatch, eventually
from rig.wire import TEXT, UPGRADE, Ended, Wire, encode, request_bytes, wire_login


def test_1000_sessions_reset_at_once(case):
    case = case()
    context = case.gateway.authority.client_context()

    def make():
        wire = wire_login(case.gateway, context=context)
        wire.text(stream_open("a"))
        wire.text(stream_data("a", b"x" * 1000))
        return wire
    with many(make, 1000) as wires:
        eventually(lambda: case.gateway.metric("active_streams") == 1000, 10, "1,000 streams")
        open_at_peak = case.gateway.descriptors
        clock = Stopwatch()
        for wire in wires:
            wire.reset()
        eventually(case.gateway.is_idle, 10, "gauges at 0")
        case.note = f"gauges at 0 after {clock.seconds:.2f} s; {open_at_peak} descriptors at the peak"
    case.recovered()


def test_1000_connections_reset_inside_the_tls_handshake(case):
    case = case(GATEWAY_TLS_HANDSHAKE_TIMEOUT="5s", GATEWAY_HANDSHAKE_TIMEOUT="10s")
    flight = client_hello(case.gateway.authority.client_context())

    def make():
        connection = case.gateway.tcp()
        try:
            connection.sendall(flight)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        except OSError:
            pass
        connection.close()
    with many(make, 0):
        for _ in range(1000):
            make()
    case.note = "1,000 resets"
    case.recovered()


def limit_descriptors():
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def test_150_clients_at_a_gateway_with_64_descriptors(case):
    case = case(preexec=limit_descriptors)
    context = case.gateway.authority.client_context()
    lock, wires, refused = threading.Lock(), [], [0]

    def visit(_):
        try:
            wire = Wire.__new__(Wire)
            wire.socket, wire.buffer = case.gateway.tls(context, timeout=3), b""
            with lock:
                wires.append(wire)
            wire.login()
        except (OSError, Ended, AssertionError, TimeoutError):
            with lock:
                refused[0] += 1
    with ThreadPoolExecutor(50) as pool:
        list(pool.map(visit, range(150)))
    inside = sum(answers_ping(wire) for wire in wires)
    assert case.gateway.alive
    assert case.gateway.descriptors <= 64
    lines = len(case.gateway.lines())
    for wire in wires:
        close(wire)
    case.note = f"{inside} of 150 got in, {refused[0]} were turned away, {lines} log lines"
    assert inside >= 1, case.note
    assert lines < 150 * 4 + 50, f"{lines} log lines"
    case.recovered()


def answers_ping(wire):
    try:
        wire.text({"type": "ping"})
        return wire.recv_json(2) == {"type": "pong"}
    except (OSError, Ended, TimeoutError, AssertionError, ValueError):
        return False


def test_a_crowd_that_only_produces_errors(case):
    case = case()
    garbage = encode(TEXT, b"garbage") * 200

    def make():
        wire = wire_login(case.gateway)
        push(wire, garbage, 50, 2)
        return wire
    with many(make, 16) as wires:
        case.note = f"{len(wires)} clients with 10,000 errors each"
        assert case.peak_growth_kib < 32 << 10
    case.recovered()


def test_random_bytes_in_every_phase(case):
    case = case()
    for size in (1, 10, 100, 5000):
        noise = os.urandom(size)
        for phase in ("tcp", "tls", "websocket", "session"):
            if phase == "tcp":
                with case.gateway.tcp() as connection:
                    connection.sendall(noise)
                continue
            with wire_login(case.gateway) if phase == "session" else Wire(case.gateway) as wire:
                if phase == "websocket":
                    wire.upgrade()
                try:
                    wire.send(noise)
                except Ended:
                    pass
    case.note = "16 connections of noise"
    case.recovered()


def test_devices_that_come_and_go_2000_times(case):
    case = case()
    context = case.gateway.authority.client_context()

    def visit(_):
        wire = wire_login(case.gateway, context=context)
        close(wire)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(visit, range(2000)))
    case.note = "2,000 sessions, no close frame"
    assert case.gateway.metric("handshakes_total", result="accepted") >= 2005
    case.recovered()


def test_headers_of_every_size_up_to_the_flood(case):
    case = case()
    for count in (50, 95, 500, 5000):
        with Wire(case.gateway) as wire:
            try:
                wire.send(request_bytes(headers=list(UPGRADE.items()) + [(f"X-{n}", "v" * 50) for n in range(count)]))
                wire.response()
            except Ended:
                pass
    assert case.peak_growth_kib < 16 << 10
    case.recovered()


def test_a_device_with_a_long_life_and_little_to_say_costs_little(case):
    case = case()
    with many(lambda: wire_login(case.gateway), 500) as wires:
        growth = case.gateway.rss_kib - case.rss
        case.note = f"500 idle sessions, {growth / 500:.1f} KiB each"
        assert growth / len(wires) < 40, case.note
        with Device(case.gateway) as device:
            device.login().lives()
    case.recovered()
