"""SIGTERM: not ready, no newcomers, everybody told, exit 0 in time."""

import signal
from contextlib import ExitStack

import pytest
from websockets.exceptions import ConnectionClosed

from rig.backend import allowed
from rig.client import fresh_device, hello, login, stream_open
from rig.poll import Stopwatch, eventually
from rig.wire import CLOSE, Ended, Wire, wire_login


@pytest.fixture
def start(launch, backend):
    """Gateways that are meant to end; they drain faster than by default."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(launch(backend.url, may_exit=True, **(
            {"GATEWAY_DRAIN_SPREAD": "500ms", "GATEWAY_DRAIN_TIMEOUT": "5s", "admin": True} | settings)))


def refuses(gateway):
    """A newcomer gets no TLS connection."""
    try:
        gateway.tls(timeout=2).close()
        return False
    except OSError:
        return True


def readiness(gateway):
    try:
        return gateway.get("/readyz", admin=True, timeout=2).status
    except OSError:
        return None


def test_an_idle_gateway_exits_0_at_once(start):
    gateway = start()
    clock = Stopwatch()
    gateway.terminate()
    assert gateway.exit_code(6) == 0
    assert clock.seconds < 3, f"took {clock.seconds:.2f} s"


def test_sessions_are_closed_with_1012_and_the_exit_code_is_0(start):
    gateway = start()
    with login(gateway) as one, login(gateway) as two:
        one.send(stream_open("a"))
        one.echo("a", b"x")
        gateway.terminate()
        for device in (one, two):
            frames, code = device.until_closed(5)
            assert code == 1012, (frames, code)
            assert all(f["type"] in ("error", "stream_close", "go_away") for f in frames), frames
        assert gateway.exit_code(6) == 0


def test_while_it_drains_it_is_not_ready_and_takes_no_newcomers(start):
    gateway = start(GATEWAY_DRAIN_SPREAD="3s", GATEWAY_DRAIN_TIMEOUT="8s")
    wires = [wire_login(gateway) for _ in range(10)]
    assert readiness(gateway) == 200 and not refuses(gateway)
    gateway.terminate()
    eventually(lambda: readiness(gateway) == 503, 2, "readyz says 503")
    eventually(lambda: refuses(gateway), 2, "newcomers are refused")
    assert gateway.alive and gateway.get("/healthz", admin=True).status == 200
    for wire in wires:
        assert wire.close_code(8) == 1012
    assert gateway.exit_code(9) == 0


def test_a_session_works_until_its_turn_comes(start):
    gateway = start(GATEWAY_DRAIN_SPREAD="2s")
    with ExitStack() as stack:
        devices = [stack.enter_context(login(gateway)) for _ in range(10)]
        for device in devices:
            device.send(stream_open("a"))
            device.echo("a", b"before")
        gateway.terminate()
        eventually(lambda: readiness(gateway) != 200, 2, "the drain has begun")
        served = 0
        for device in devices:
            try:
                device.echo("a", b"during")
                served += 1
            except ConnectionClosed:
                pass
        assert served >= 5, f"only {served} of 10 sessions went on"
        for device in devices:
            assert device.until_closed(6)[1] in (1012, None)


def test_the_closes_are_spread_out(start):
    gateway = start(GATEWAY_DRAIN_SPREAD="2s", GATEWAY_DRAIN_TIMEOUT="8s")
    wires = [wire_login(gateway) for _ in range(30)]
    gateway.terminate()
    clock, closed = Stopwatch(), []

    def poll():
        for wire in [w for w in wires if w not in [c for c, _ in closed]]:
            try:
                opcode, payload = wire.recv_frame(0.01)
                assert opcode != CLOSE or payload[:2] == b"\x03\xf4"
                if opcode == CLOSE:
                    closed.append((wire, clock.seconds))
                    wire.frame(CLOSE, payload[:2])
            except TimeoutError:
                pass
            except Ended:
                closed.append((wire, clock.seconds))
        return len(closed) == len(wires)
    eventually(poll, 8, "all are closed")
    times = sorted(when for _, when in closed)
    assert times[-1] - times[0] > 0.8, f"all closed within {times[-1] - times[0]:.2f} s"
    assert times[-1] < 4, f"the last close came after {times[-1]:.2f} s"
    assert gateway.exit_code(9) == 0


def test_a_client_that_ignores_the_close_does_not_hold_the_gateway(start):
    gateway = start(GATEWAY_DRAIN_SPREAD="200ms", GATEWAY_DRAIN_TIMEOUT="2s")
    wire = wire_login(gateway)
    with Wire(gateway), gateway.tcp():
        clock = Stopwatch()
        gateway.terminate()
        assert gateway.exit_code(6) == 0
        assert clock.seconds < 4, f"took {clock.seconds:.2f} s"
    wire.socket.close()


def test_a_second_signal_ends_it_at_once(start):
    gateway = start(GATEWAY_DRAIN_SPREAD="15s", GATEWAY_DRAIN_TIMEOUT="20s")
    wires = [wire_login(gateway) for _ in range(5)]
    gateway.terminate()
    eventually(lambda: readiness(gateway) != 200, 2, "the drain has begun")
    clock = Stopwatch()
    gateway.terminate()
    gateway.exit_code(3)
    assert clock.seconds < 2.5, f"took {clock.seconds:.2f} s"
    for wire in wires:
        wire.socket.close()


def test_an_interrupt_drains_too(start):
    gateway = start()
    with login(gateway) as device:
        gateway.signal(signal.SIGINT)
        assert device.until_closed(5)[1] == 1012
    assert gateway.exit_code(6) == 0


def test_a_handshake_under_way_does_not_hold_the_gateway(start, backend):
    gateway = start(GATEWAY_DRAIN_TIMEOUT="3s", BACKEND_TIMEOUT="20s")
    device_id = fresh_device()
    backend.set(device_id, allowed(delay=20))
    with Wire(gateway) as wire:
        wire.upgrade()
        wire.text(hello(device_id))
        eventually(lambda: backend.requests_of(device_id), 3, "the backend is asked")
        gateway.terminate()
        assert gateway.exit_code(6) == 0


def test_the_port_is_free_again_after_the_exit(start, launch, backend):
    gateway = start()
    gateway.terminate()
    assert gateway.exit_code(6) == 0
    with launch(backend.url, port=gateway.port) as again, login(again) as device:
        device.lives()
