"""The binary format v2 (docs/protocol-v2.md), by a client that was written from the page."""

import hashlib
import os
import socket
import threading
from contextlib import ExitStack

import pytest

from rig.client import login, stream_open
from rig.poll import eventually
from rig.targets import Sink, Target, echo, full_backlog, refusing_port, resetting, silent, source
from rig.v2 import Credit, Data, Finish, GoAway, Open, Reset, enter


@pytest.fixture(scope="module")
def gateway(start_shared):
    return start_shared(GATEWAY_UPSTREAM_MODE="direct", GATEWAY_EGRESS_ALLOW="127.0.0.0/8", GATEWAY_DIAL_TIMEOUT="800ms")


@pytest.fixture(scope="module")
def echoing(start_shared):
    return start_shared()


@pytest.fixture
def device(gateway):
    with enter(gateway) as device:
        yield device


def answering(connection):
    """Reads to the end of file, then answers with the digest: what a half-closing client needs."""
    digest = hashlib.sha256()
    while data := connection.recv(65536):
        digest.update(data)
    connection.sendall(digest.digest())
    connection.close()


def fill(device, stream):
    """Sends to a target that reads nothing until the credit ends; returns the bytes."""
    device.pump(lambda: device.streams[stream].opened)
    sent = 0
    # The kernel's buffers take some megabytes.
    for _ in range(4000):
        count = min(device.credit[stream], device.credit[0], 65_536)
        if count == 0:
            break
        device.say(device.spend(stream, bytes(count)))
        device.round_trip()
        sent += count
    assert device.credit[stream] == 0, "a target that reads nothing is credited for ever"
    return sent


# --- negotiation -------------------------------------------------------------------------------


def test_only_a_client_that_names_v2_gets_it(echoing):
    with login(echoing, capabilities=["go_away", "nonsense"]) as old:
        assert "v2" not in old.auth["capabilities"]
        old.lives()
    with enter(echoing) as new:
        assert new.auth["capabilities"] == ["v2"]


def test_both_formats_work_at_once(echoing):
    with login(echoing) as old, enter(echoing) as new:
        old.send(stream_open("a"))
        stream = new.open(data=b"binary")
        old.echo("a", b"json")
        new.pump(lambda: new.streams[stream].received == b"binary")
        old.lives()


# --- bytes -------------------------------------------------------------------------------------


def test_data_straight_behind_open_arrives(device):
    with Target(echo) as target:
        stream = device.open(target.address, b"knock knock")
        device.pump(lambda: device.streams[stream].received == b"knock knock")
        assert device.streams[stream].opened


@pytest.mark.parametrize("size", [1, 65_535, 65_536, 3_000_000])
def test_a_half_closing_client_gets_its_answer(device, size):
    payload = os.urandom(size)
    with Target(answering) as target:
        stream = device.open(target.address)
        device.write(stream, payload)
        device.finish(stream)
        device.pump(lambda: device.streams[stream].finished)
        assert device.streams[stream].received == hashlib.sha256(payload).digest()


def test_a_download_arrives_whole_and_ends_with_finish(device):
    payload = os.urandom(5_000_000)
    with Target(source(payload)) as target:
        stream = device.open(target.address)
        device.pump(lambda: device.streams[stream].finished, 30)
        assert device.streams[stream].received == payload and device.streams[stream].reset is None


def test_a_target_that_finished_first_still_gets_the_rest(device):
    got = Sink()

    def first_finishes(connection):
        connection.shutdown(socket.SHUT_WR)
        got(connection)

    with Target(first_finishes) as target:
        stream = device.open(target.address)
        device.pump(lambda: device.streams[stream].finished)
        device.write(stream, b"x" * 200_000)
        device.finish(stream)
        assert got.ended.wait(10) and got.how == "eof" and len(got.received) == 200_000


def test_the_echo_upstream_finishes_with_its_client(echoing):
    with enter(echoing) as device:
        stream = device.open(data=b"x" * 65_536)
        device.finish(stream)
        device.pump(lambda: device.streams[stream].finished)
        assert len(device.streams[stream].received) == 65_536
        # 65,536 without the headers of TCP and IP, those of four records, of the message, and of the frame.
        assert device.largest == 65_332


def test_the_books_are_even_afterwards(gateway):
    with Target(answering) as target:
        before = gateway.metric("bytes_in_total")
        with enter(gateway) as device:
            stream = device.open(target.address)
            device.write(stream, b"x" * 100_000)
            device.round_trip()
            assert gateway.metric("active_streams") >= 1
            device.finish(stream)
            device.pump(lambda: device.streams[stream].finished)
        assert gateway.metric("bytes_in_total") - before == 100_000
    eventually(lambda: gateway.metric("active_streams") == 0, what="no stream is left")
    eventually(lambda: gateway.metric("active_sessions") == 0, what="no session is left")


# --- ends --------------------------------------------------------------------------------------


def test_every_failure_has_its_code(device):
    with Target(resetting) as target:
        cases = {
            device.open(f"127.0.0.1:{refusing_port()}"): "refused",
            device.open("192.168.0.1:80"): "denied",
            device.open("no port"): "bad_target",
            device.open(""): "bad_target",
            device.open("name.invalid:80"): "resolve_failed",
            device.open(target.address, b"x"): "reset",
        }
        device.pump(lambda: all(device.streams[stream].reset for stream in cases), 15)
        assert {stream: device.streams[stream].reset for stream in cases} == cases


def test_a_reset_of_the_client_resets_the_target(device):
    got = Sink()
    with Target(got) as target:
        stream = device.open(target.address, b"half")
        device.pump(lambda: device.streams[stream].opened)
        device.say(Reset(stream, "cancelled"))
        assert got.ended.wait(5) and got.how == "reset"
        device.round_trip()


def test_the_stream_limit_is_a_reset_and_frees_again(gateway):
    with Target(silent) as target, enter(gateway) as device:
        streams = [device.open(target.address) for _ in range(9)]
        device.pump(lambda: device.streams[streams[8]].reset)
        assert device.streams[streams[8]].reset == "limit"
        device.say(Reset(streams[0], "cancelled"))
        tenth = device.open(target.address)
        device.pump(lambda: device.streams[tenth].opened)


# --- credit ------------------------------------------------------------------------------------


def test_a_stuck_target_gets_no_more_credit_and_delays_no_other_stream(device):
    with Target(silent) as stuck, Target(echo) as alive:
        held = device.open(stuck.address)
        device.pump(lambda: device.streams[held].opened)
        fill(device, held)
        assert device.credit[0] > 0, "the session lives from the same credit"
        stream = device.open(alive.address)
        for _ in range(20):
            device.write(stream, b"x" * 65_536)
        device.pump(lambda: len(device.streams[stream].received) == 20 * 65_536)


def test_what_waits_is_on_a_gauge_and_leaves_it(gateway):
    def waits():
        return gateway.metric("target_queue_bytes")

    gate = threading.Event()

    def gated(connection):
        gate.wait(30)
        Sink()(connection)

    with Target(gated) as target, Target(silent) as stuck:
        with enter(gateway) as device:
            stream = device.open(target.address)
            device.pump(lambda: device.streams[stream].opened)
            assert waits() == 0
            fill(device, stream)
            # The sockets in between hold the rest.
            eventually(lambda: waits() >= 32_768, what="bytes that the target does not take")
            gate.set()
            eventually(lambda: waits() == 0, what="nothing, once the target takes them")
            fill(device, device.open(stuck.address))
            eventually(lambda: waits() >= 32_768, what="bytes for the next target")
        eventually(lambda: waits() == 0, what="nothing, once the session is gone")


def test_what_a_client_does_not_read_is_on_a_gauge(gateway):
    with Target(source(bytes(1 << 26))) as target:
        with enter(gateway) as device:
            stream = device.open(target.address)
            # So much credit that the sockets in between cannot hold it.
            for granted in (stream, 0):
                device.grant(granted, 1 << 26)
            eventually(lambda: gateway.metric("client_queue_bytes") >= 65_536, what="bytes that the client does not take")
        eventually(lambda: gateway.metric("client_queue_bytes") == 0, what="nothing, once the session is gone")


def test_windows_take_from_their_budget_and_give_back(gateway):
    with Target(Sink()) as target:
        with enter(gateway) as device:
            stream = device.open(target.address)
            device.pump(lambda: device.streams[stream].opened)
            for _ in range(100):
                device.write(stream, b"x" * 65_536)
            device.round_trip()
            assert 0 < gateway.metric("window_growth_bytes") <= 16 << 20
        eventually(lambda: gateway.metric("window_growth_bytes") == 0, what="nothing, once the session is gone")


def test_of_what_stuck_targets_hold_a_bounded_part_outlives_the_session(gateway):
    gate, sinks = threading.Event(), []

    def gated(connection):
        sink = Sink()
        sinks.append(sink)
        gate.wait(30)
        sink(connection)

    with Target(gated) as target:
        with enter(gateway) as device:
            sent = {}
            for stream in [device.open(target.address) for _ in range(8)]:
                sent[stream] = fill(device, stream)
                device.finish(stream)
            device.round_trip()
        eventually(lambda: gateway.metric("active_streams") == 0, what="the session is gone")
        gate.set()
        assert all(sink.ended.wait(20) for sink in sinks) and len(sinks) == 8
        whole = [sink for sink in sinks if sink.how == "eof"]
        # At least 64 KiB wait for each, and 256 KiB may be delivered.
        assert len(whole) <= 4, [sink.how for sink in sinks]
        assert all(len(sink.received) in sent.values() for sink in whole)


def test_what_was_sent_before_the_connection_closed_is_delivered(gateway):
    got = Sink()
    with Target(got) as target:
        with enter(gateway) as device:
            device.open(target.address, b"x" * 50_000)
            device.round_trip()
        assert got.ended.wait(5) and got.how == "eof" and len(got.received) == 50_000


def test_the_gateway_obeys_the_credit_of_the_client(device):
    payload = os.urandom(1_000_000)
    with Target(source(payload)) as target:
        device.grants = False
        stream = device.open(target.address)
        device.pump(lambda: len(device.streams[stream].received) == 65_536)
        device.round_trip()
        assert len(device.streams[stream].received) == 65_536
        device.grant(stream, 1000)
        device.pump(lambda: len(device.streams[stream].received) == 66_536)
        device.grant(stream, 1_000_000)
        device.pump(lambda: len(device.streams[stream].received) == 262_144)
        device.round_trip()
        assert len(device.streams[stream].received) == 262_144, "the session has a credit of its own"
        device.grant(0, 1_000_000)
        device.pump(lambda: device.streams[stream].finished)
        assert device.streams[stream].received == payload


def test_many_streams_share_a_session(start_shared):
    gateway = start_shared(GATEWAY_UPSTREAM_MODE="direct", GATEWAY_EGRESS_ALLOW="127.0.0.0/8", GATEWAY_MAX_STREAMS=200)
    payload = os.urandom(50_000)
    with Target(source(payload)) as target, enter(gateway) as device:
        streams = [device.open(target.address) for _ in range(100)]
        device.pump(lambda: all(device.streams[stream].finished for stream in streams), 30)
        assert all(device.streams[stream].received == payload for stream in streams)


# --- breaches ----------------------------------------------------------------------------------


@pytest.mark.parametrize("frames, words", [
    ([b"\x03\x00\x00"], "message ends inside a frame"),
    ([b"\x7f\x00\x00\x00\x00\x00\x00\x01"], "unknown frame type"),
    ([Data(1, b"x")], "frame for a stream that was never opened"),
    ([Open(1, "bytes", ""), Open(1, "bytes", "")], "stream ids must grow"),
    ([Credit(0, 2**31 - 1)], "too much credit"),
    (["{}"], "text message after v2 was accepted"),
])
def test_a_breach_is_told_and_closes_with_1002(start_shared, frames, words):
    gateway = start_shared(GATEWAY_UPSTREAM_MODE="blackhole")
    with enter(gateway) as device:
        held = enter(gateway)
        for frame in frames:
            if isinstance(frame, (bytes, str)):
                device.send_message(frame)
            else:
                device.say(frame)
        assert device.until_gone() == (1002, words)
        assert [type(f) for f in device.others] == [GoAway] and device.others[0].code == "protocol_error"
        held.round_trip()
        held.close()


def test_data_beyond_the_credit_ends_the_session(gateway):
    # A dial that does not end: what a target takes is credited again, and on loopback it may stand at once.
    with full_backlog() as address, enter(gateway) as device:
        device.say(Open(1, "bytes", address), Data(1, bytes(65_536)), Data(1, b"x"))
        assert device.until_gone() == (1002, "data beyond the credit")
    eventually(lambda: gateway.metric("active_streams") == 0, what="no stream is left")


def test_resets_by_the_thousand_close_the_session_of_their_cause(start_shared):
    gateway = start_shared(GATEWAY_MAX_STREAMS=1, GATEWAY_MAX_ERROR_BURST=50, GATEWAY_MAX_ERRORS_PER_SECOND=1,
                           GATEWAY_MAX_STREAM_OPENS_PER_SECOND=0)
    with enter(gateway) as device:
        device.say(*(Open(stream, "bytes", "") for stream in range(1, 100)))
        code, _ = device.until_gone()
        assert code == 1008


# --- drain -------------------------------------------------------------------------------------


def test_a_drain_is_announced_and_running_streams_go_on(launch, backend):
    with ExitStack() as stack:
        gateway = stack.enter_context(launch(
            backend.url, may_exit=True, GATEWAY_DRAIN_SPREAD="500ms", GATEWAY_DRAIN_TIMEOUT="5s"))
        device = stack.enter_context(enter(gateway))
        stream = device.open(data=b"one")
        device.pump(lambda: device.streams[stream].received == b"one")
        gateway.terminate()
        device.pump(lambda: device.others)
        announced = device.others[0]
        assert isinstance(announced, GoAway) and announced.code == "going_away" and announced.deadline_ms == 5000
        late = device.open(data=b"late")
        device.write(stream, b"two")
        device.pump(lambda: device.streams[late].reset)
        assert device.streams[late].reset == "going_away"
        device.pump(lambda: device.streams[stream].received == b"onetwo")
        device.finish(stream)
        code, _ = device.until_gone(8)
        assert code == 1012
        assert gateway.exit_code(8) == 0
