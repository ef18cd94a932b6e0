"""Connections that are slow, silent or halves: none of them gets further than its deadline."""

import json
import threading

from rig.client import hello
from rig.hostile import LINGER, client_hello, many, upgraded
from rig.poll import Stopwatch, eventually
from rig.wire import PING, TEXT, Ended, Wire, encode, request_bytes


def ended(connection, within):
    """Seconds until the peer ended a plain socket."""
    clock = Stopwatch()
    try:
        while (left := within - clock.seconds) > 0:
            connection.settimeout(left)
            if not connection.recv(65536):
                return clock.seconds
    except TimeoutError:
        pass
    except OSError:
        return clock.seconds
    raise AssertionError(f"still open after {within} s")


def assert_all_end(case, things, deadline):
    """Every connection is ended by the deadline, none by more than a second and a half late."""
    clock = Stopwatch()
    for one in things:
        left = max(0.2, deadline + 1.5 - clock.seconds)
        if isinstance(one, Wire):
            assert one.ended_within(left), f"still open {clock.seconds:.1f} s after a deadline of {deadline} s"
        else:
            ended(one, left)
    assert case.peak_growth_kib < 32 << 10
    case.note = f"{len(things)} connections, all ended after {clock.seconds:.1f} s (deadline {deadline} s)"


def test_connections_that_send_nothing(case):
    case = case()
    with many(case.gateway.tcp, 200) as connections:
        assert_all_end(case, connections, 2)
    case.recovered()


def test_partial_client_hellos(case):
    case = case()
    flight = client_hello(case.gateway.authority.client_context())

    def make():
        connection = case.gateway.tcp()
        connection.sendall(flight[: len(flight) // 2])
        return connection
    with many(make, 200) as connections:
        assert_all_end(case, connections, 2)
    case.recovered()


def test_a_client_hello_byte_by_byte(case):
    case = case()
    flight = client_hello(case.gateway.authority.client_context())
    with case.gateway.tcp() as connection:
        clock = drip(lambda n: connection.sendall(flight[n:n + 1]), 0.05, 5)
        assert clock < 3.5, f"dripped for {clock:.1f} s"
        case.note = f"ended after {clock:.1f} s"
    case.recovered()


def drip(send, pause, within):
    """Calls send(0), send(1), … with pauses until it fails; the seconds that took."""
    clock, step, rest = Stopwatch(), 0, threading.Event()
    while clock.seconds < within:
        try:
            send(step)
        except (OSError, Ended):
            return clock.seconds
        step += 1
        rest.wait(pause)
    raise AssertionError(f"could drip for {within} s")


def test_partial_headers(case):
    case = case()

    def make():
        wire = Wire(case.gateway)
        wire.send(request_bytes()[:60])
        return wire
    with many(make, 200) as wires:
        assert_all_end(case, wires, 2)
    case.recovered()


def test_endless_dripping_headers(case):
    case = case()
    with Wire(case.gateway) as wire:
        wire.send(request_bytes()[:-2])
        clock = drip(lambda n: wire.send(b"X-%d: y\r\n" % n), 0.05, 5)
        assert clock < 3.5, f"dripped for {clock:.1f} s"
        case.note = f"ended after {clock:.1f} s"
    case.recovered()


def test_connections_that_stay_after_a_404(case):
    case = case()

    def make():
        wire = Wire(case.gateway)
        wire.send(request_bytes("/", {"Host": "localhost"}))
        wire.response()
        return wire
    with many(make, 100) as wires:
        assert_all_end(case, wires, 2)
    case.recovered()


def test_upgrades_without_a_hello(case):
    case = case()
    with many(lambda: upgraded(case.gateway), 200) as wires:
        assert_all_end(case, wires, 2)
    case.recovered()


def test_a_dripping_hello(case):
    case = case()
    message = encode(TEXT, json.dumps(hello(client_version="v" * 2000)).encode())
    with Wire(case.gateway) as wire:
        wire.upgrade()
        clock = drip(lambda n: wire.send(message[n:n + 1]), 0.05, 6)
        assert clock < 2 + LINGER, f"dripped for {clock:.1f} s"
        case.note = f"ended after {clock:.1f} s"
    case.recovered()


def test_pings_instead_of_a_hello(case):
    case = case()
    with Wire(case.gateway) as wire:
        wire.upgrade()
        clock = drip(lambda n: wire.frame(PING, b"%d" % n), 0.05, 6)
        assert clock < 2 + LINGER, f"pings for {clock:.1f} s"
        case.note = f"ended after {clock:.1f} s"
    case.recovered()


def test_half_open_connections_over_the_cap_of_their_source(case):
    case = case(GATEWAY_MAX_HANDSHAKES_PER_SOURCE=8, GATEWAY_HANDSHAKE_TIMEOUT="20s", GATEWAY_TLS_HANDSHAKE_TIMEOUT="20s")
    with many(case.gateway.tcp, 40, workers=1) as connections:
        def alive():
            count = 0
            for connection in connections:
                connection.setblocking(False)
                try:
                    count += bool(connection.recv(1))
                except BlockingIOError:
                    count += 1
                except OSError:
                    pass
            return count
        eventually(lambda: alive() <= 8, 5, "no more than 8 are half open")
        case.note = f"{alive()} of 40 kept (cap 8)"
        assert alive() == 8
    case.recovered()
