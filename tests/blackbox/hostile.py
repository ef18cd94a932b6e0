"""The hostile list. After each case the process lives, a new session works, the gauges are at 0, and descriptors and memory are back.

The measured figures go into the table target/hostile.md.
"""

import json
import os
import resource
import select
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from websockets.exceptions import WebSocketException

from rig.client import Device, hello, login, stream_data, stream_open
from rig.gateway import ROOT
from rig.poll import Stopwatch, eventually
from rig.targets import Target
from rig.wire import CONTINUATION, PING, TEXT, UPGRADE, Ended, Wire, encode, request_bytes, wire_login

MIB = 1 << 20
FOREVER = 1 << 40
# Short deadlines, so that the cases which must run into them stay short.
QUICK = {"GATEWAY_HANDSHAKE_TIMEOUT": "2s", "GATEWAY_TLS_HANDSHAKE_TIMEOUT": "1s", "GATEWAY_HEADER_TIMEOUT": "1s",
         "GATEWAY_WRITE_TIMEOUT": "2s"}
# What may be kept above the figures of a gateway that has served a few sessions: memory, and the idle connections of
# the backend pool, one for each of up to 16 logins at once.
RSS_SLACK_KIB = 24 << 10
DESCRIPTOR_SLACK = 20
# How long a closed connection may wait for the peer to read the close frame.
LINGER = 3


@pytest.fixture(scope="module")
def table():
    """Rows of figures, written out at the end."""
    rows = []
    yield rows
    head = ["case", "seconds", "descriptors before", "after", "RSS before, MiB", "peak", "after", "CPU seconds", "what happened"]
    path = ROOT / "target" / "hostile.md"
    path.parent.mkdir(exist_ok=True)
    lines = ["# Hostile cases, measured", "", "| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    path.write_text("\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows]) + "\n")


class Case:
    """One hostile case: figures before, then `recovered` checks and notes them after."""

    def __init__(self, name, gateway, table):
        self.name, self.gateway, self.table, self.note = name, gateway, table, ""
        self.clock, self.is_recorded = Stopwatch(), False
        self.descriptors, self.rss, self.cpu = gateway.descriptors, gateway.rss_kib, gateway.cpu_seconds
        gateway.reset_peak()

    @property
    def peak_growth_kib(self):
        return self.gateway.peak_rss_kib - self.rss

    def recovered(self, rss_slack_kib=RSS_SLACK_KIB):
        gateway = self.gateway
        seconds, peak = self.clock.seconds, gateway.peak_rss_kib
        cpu = gateway.cpu_seconds - self.cpu
        assert gateway.alive
        eventually(lambda: try_session(gateway), 15, "a new session works", every=0.2)
        eventually(gateway.is_idle, 15, "gauges at 0", every=0.1)

        def back():
            return gateway.descriptors <= self.descriptors + DESCRIPTOR_SLACK and gateway.rss_kib <= self.rss + rss_slack_kib
        try:
            eventually(back, 15, "descriptors and memory are back", every=0.1)
        finally:
            self.record(seconds, peak, cpu)

    def record(self, seconds, peak, cpu):
        gateway, self.is_recorded = self.gateway, True
        self.table.append([self.name, f"{seconds:.1f}", self.descriptors, gateway.descriptors, mib(self.rss), mib(peak),
                           mib(gateway.rss_kib), f"{cpu:.2f}", self.note])

    def record_failure(self):
        """The figures of a case that failed before it was over."""
        if not self.is_recorded and self.gateway.alive:
            self.note = f"FAILED; {self.note}"
            self.record(self.clock.seconds, self.gateway.peak_rss_kib, self.gateway.cpu_seconds - self.cpu)


def mib(kib):
    return f"{kib / 1024:.1f}"


def try_session(gateway):
    """True when a newcomer gets a session that works."""
    try:
        with login(gateway, options={"open_timeout": 3}) as device:
            if gateway.settings.get("GATEWAY_UPSTREAM_MODE") == "direct":
                device.assert_quiet()
            else:
                device.lives()
        return True
    except (OSError, AssertionError, WebSocketException) as why:
        print("no session yet:", why)
        return False


@pytest.fixture
def case(start, table, request):
    """case(**settings): starts a gateway, warms it up and takes the first figures."""
    name, begun = request.node.name.removeprefix("test_").replace("_", " "), []

    def begin(**settings):
        gateway = start(**(QUICK | {"admin": True} | settings))
        for _ in range(5):
            assert try_session(gateway)
        eventually(gateway.is_idle, 5, "the warm-up is over")
        begun.append(Case(name, gateway, table))
        return begun[-1]
    yield begin
    for one in begun:
        one.record_failure()


@contextmanager
def many(make, count, workers=16):
    """`count` things made in parallel and closed in the end."""
    made = []
    try:
        with ThreadPoolExecutor(workers) as pool:
            made = list(pool.map(lambda _: make(), range(count)))
        yield made
    finally:
        for one in made:
            close(one)


def close(one):
    try:
        (one.socket if isinstance(one, Wire) else one).close()
    except OSError:
        pass


# --- slowloris ---------------------------------------------------------------------------------


def client_hello(context):
    """The first flight of a TLS client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


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


def upgraded(gateway):
    wire = Wire(gateway)
    wire.upgrade()
    return wire


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


# --- messages ----------------------------------------------------------------------------------


def push(wire, data, times, stall, within=60):
    """Sends `data` again and again: how often it went out before the peer ended it or took nothing for `stall` seconds."""
    wire.socket.settimeout(stall)
    clock = Stopwatch()
    for done in range(times):
        assert clock.seconds < within, f"{done} x {len(data)} bytes went out, and the end never came"
        try:
            wire.socket.sendall(data)
        except (TimeoutError, socket.timeout):
            return done, "blocked"
        except (OSError, ssl.SSLError):
            return done, "ended"
    return times, "sent"


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


def test_600000_pings_whose_pongs_nobody_reads(case):
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


def test_600000_json_pings_whose_pongs_nobody_reads(case):
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


# --- crowds ------------------------------------------------------------------------------------


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
