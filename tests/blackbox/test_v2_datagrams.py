"""Streams of datagrams in the binary format v2 (docs/protocol-v2.md), against real UDP sockets."""

import os
import socket
from contextlib import ExitStack

import pytest

from rig.poll import Stopwatch, eventually
from rig.targets import Target, UdpTarget, echo, refusing_port, source, udp_echo
from rig.v2 import Credit, Data, Datagram, Finish, GoAway, Open, Reset, enter

DIRECT = {"GATEWAY_UPSTREAM_MODE": "direct", "GATEWAY_EGRESS_ALLOW": "127.0.0.0/8,::1/128"}
# What the queues of one stream, its session's link and the allocator may come to; a flood is many times that.
GROWTH_KIB = 12 * 1024


@pytest.fixture(scope="module")
def gateway(start_shared):
    return start_shared(**DIRECT)


@pytest.fixture
def device(gateway):
    with enter(gateway) as device:
        yield device


@pytest.fixture
def own_gateway(start_shared):
    """A gateway whose memory and descriptors no other test moves."""
    return start_shared(**DIRECT)


def dropped(gateway, direction):
    return gateway.metric("datagrams_dropped_total", direction=direction)


def lives(device, stream):
    """A byte stream to an echo goes on, and soon."""
    clock, before = Stopwatch(), len(device.streams[stream].received)
    payload = os.urandom(10_000)
    device.write(stream, payload)
    device.pump(lambda: len(device.streams[stream].received) == before + len(payload))
    assert device.streams[stream].received.endswith(payload) and clock.seconds < 3


# --- datagrams ---------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_boundaries_are_kept_both_ways(device, host):
    sizes = [1, 0, 1_200, 65_507, 0, 0, 2]
    with UdpTarget(udp_echo, host) as target:
        stream = device.open_datagrams(target.address)
        for count, size in enumerate(sizes, 1):
            device.send_datagrams(stream, os.urandom(size))
            device.pump(lambda: len(device.streams[stream].datagrams) == count)
        assert [len(one) for one in device.streams[stream].datagrams] == sizes
        assert device.streams[stream].opened and device.streams[stream].reset is None


def test_datagrams_straight_behind_open_arrive_in_order(device):
    with UdpTarget(udp_echo) as target:
        stream = device.open_datagrams(target.address, b"one", b"", b"two")
        device.pump(lambda: len(device.streams[stream].datagrams) == 3)
        assert device.streams[stream].datagrams == [b"one", b"", b"two"]


def test_only_the_target_is_heard(device):
    with UdpTarget() as target, socket.socket(type=socket.SOCK_DGRAM) as stranger:
        stream = device.open_datagrams(target.address, b"hello")
        _, where = target.socket.recvfrom(10)
        stranger.sendto(b"a stranger's", where)
        target.socket.sendto(b"the target's", where)
        device.pump(lambda: device.streams[stream].datagrams)
        assert device.streams[stream].datagrams == [b"the target's"]


def test_the_test_upstreams_echo_and_swallow(start_shared):
    echoing, swallowing = start_shared(), start_shared(GATEWAY_UPSTREAM_MODE="blackhole")
    with enter(echoing) as device:
        stream = device.open_datagrams("", b"one", b"", bytes(65_507))
        device.pump(lambda: len(device.streams[stream].datagrams) == 3)
        assert device.streams[stream].opened
        assert device.streams[stream].datagrams == [b"one", b"", bytes(65_507)]
    with enter(swallowing) as device:
        stream = device.open_datagrams("", b"one")
        device.round_trip()
        assert device.streams[stream].opened and not device.streams[stream].datagrams
        assert swallowing.metric("bytes_in_total") == 3


def test_the_books_are_even_afterwards(own_gateway):
    with UdpTarget(udp_echo) as target, enter(own_gateway) as device:
        stream = device.open_datagrams(target.address, b"12345")
        device.pump(lambda: device.streams[stream].datagrams)
        assert own_gateway.metric("active_streams") == 1 and own_gateway.metric("streams_total") == 1
        device.say(Reset(stream, "cancelled"))
        device.round_trip()
        assert own_gateway.metric("stream_ends_total", reason="client_closed") == 1
    eventually(own_gateway.is_idle, what="nothing is left")
    assert own_gateway.metric("bytes_in_total") == own_gateway.metric("bytes_out_total") == 5
    own_gateway.says("session_ended")
    line = next(line for line in own_gateway.lines() if "session_ended" in line)
    assert '"bytes_in":5' in line and '"bytes_out":5' in line and '"streams":1' in line


def test_no_credit_is_needed(device):
    """Neither for datagrams in plenty, nor when the client has none left for its streams of bytes."""
    with UdpTarget(udp_echo) as target, Target(source(bytes(65_536))) as filler:
        device.grants = False
        for _ in range(4):
            device.open(filler.address)
        device.pump(lambda: device.granted[0] == 0)
        stream = device.open_datagrams(target.address)
        for count in range(1, 21):
            device.send_datagrams(stream, bytes(30_000))
            device.pump(lambda: len(device.streams[stream].datagrams) == count)


# --- ends --------------------------------------------------------------------------------------


def test_every_failure_has_its_code(device):
    cases = {
        device.open_datagrams(f"127.0.0.1:{refusing_port(socket.SOCK_DGRAM)}", b"anybody?"): "refused",
        device.open_datagrams("192.168.0.1:53", b"x"): "denied",
        device.open_datagrams("[fe80::1]:53"): "denied",
        device.open_datagrams("224.0.0.1:5353"): "denied",
        device.open_datagrams("no port"): "bad_target",
        device.open_datagrams(""): "bad_target",
        device.open_datagrams("name.invalid:53"): "resolve_failed",
    }
    device.pump(lambda: all(device.streams[stream].reset for stream in cases), 15)
    assert {stream: device.streams[stream].reset for stream in cases} == cases


def test_a_target_that_goes_away_refuses_the_next_datagram(device):
    with UdpTarget(udp_echo) as target:
        stream = device.open_datagrams(target.address, b"there?")
        device.pump(lambda: device.streams[stream].datagrams)
    device.send_datagrams(stream, b"still there?")
    device.pump(lambda: device.streams[stream].reset)
    assert device.streams[stream].reset == "refused"
    # What crossed is ignored.
    device.send_datagrams(stream, b"hello?")
    device.round_trip()


def test_idle_streams_end(start_shared):
    gateway = start_shared(**DIRECT, GATEWAY_DATAGRAM_IDLE_TIMEOUT="300ms")
    with UdpTarget() as target, Target(echo) as alive, enter(gateway) as device:
        held = device.open(alive.address)
        clock = Stopwatch()
        stream = device.open_datagrams(target.address, b"x")
        device.pump(lambda: device.streams[stream].reset)
        assert device.streams[stream].reset == "idle" and 0.25 < clock.seconds < 3
        assert gateway.metric("limits_hit_total", limit="datagram_idle_timeout") == 1
        lives(device, held)


def test_the_stream_limit_counts_them_and_a_reset_frees(own_gateway):
    with UdpTarget() as target, enter(own_gateway) as device:
        before = own_gateway.descriptors
        streams = [device.open_datagrams(target.address) for _ in range(9)]
        device.pump(lambda: device.streams[streams[8]].reset)
        assert device.streams[streams[8]].reset == "limit"
        assert all(device.streams[stream].opened for stream in streams[:8])
        assert own_gateway.descriptors >= before + 8
        device.say(Reset(streams[0], "cancelled"))
        tenth = device.open_datagrams(target.address)
        device.pump(lambda: device.streams[tenth].opened)
        device.say(*(Reset(stream, "cancelled") for stream in [*streams[1:8], tenth]))
        eventually(lambda: own_gateway.metric("active_streams") == 0, what="no stream is left")
        eventually(lambda: own_gateway.descriptors <= before, what="no socket is left")


def test_a_session_leaves_nothing(own_gateway):
    def is_gone():
        return own_gateway.is_idle() and own_gateway.metric("open_connections") <= 1

    with UdpTarget(udp_echo) as target:
        # The connection to the backend stays; a first session opens it.
        enter(own_gateway).close()
        # One connection is that of the look at the metrics.
        eventually(is_gone, what="the first session is gone")
        before = own_gateway.descriptors
        with enter(own_gateway) as device:
            streams = [device.open_datagrams(target.address, b"x") for _ in range(8)]
            device.pump(lambda: all(device.streams[stream].datagrams for stream in streams))
            # The connection of the look at the metrics may have been counted before.
            assert own_gateway.descriptors >= before + 8
        eventually(is_gone, what="nothing is counted")
        eventually(lambda: own_gateway.descriptors <= before, what="no descriptor is left")


@pytest.mark.parametrize("frame", [Data(1, b"x"), Data(1, b""), Finish(1), Credit(1, 1)], ids=lambda f: type(f).__name__)
def test_frames_of_bytes_break_the_protocol(gateway, frame):
    with UdpTarget() as target, enter(gateway) as device:
        device.say(Open(1, "datagrams", target.address), frame)
        assert device.until_gone() == (1002, "frame does not fit the kind of the stream")


def test_a_datagram_on_a_stream_of_bytes_breaks_the_protocol(gateway):
    with Target(echo) as target, enter(gateway) as device:
        device.say(Open(1, "bytes", target.address), Datagram(1, b"x"))
        assert device.until_gone() == (1002, "frame does not fit the kind of the stream")


def test_a_running_stream_outlives_the_announcement_of_a_drain(launch, backend):
    with ExitStack() as stack:
        gateway = stack.enter_context(launch(
            backend.url, may_exit=True, GATEWAY_DRAIN_SPREAD="300ms", GATEWAY_DRAIN_TIMEOUT="5s", **DIRECT))
        target = stack.enter_context(UdpTarget(udp_echo))
        device = stack.enter_context(enter(gateway))
        stream = device.open_datagrams(target.address, b"one")
        device.pump(lambda: device.streams[stream].datagrams)
        gateway.terminate()
        device.pump(lambda: device.others)
        assert isinstance(device.others[0], GoAway)
        late = device.open_datagrams(target.address, b"late")
        device.send_datagrams(stream, b"two")
        device.pump(lambda: device.streams[late].reset and len(device.streams[stream].datagrams) == 2)
        assert device.streams[late].reset == "going_away"
        device.say(Reset(stream, "cancelled"))
        code, _ = device.until_gone(8)
        assert code == 1012 and gateway.exit_code(8) == 0


# --- floods ------------------------------------------------------------------------------------


def test_a_flood_to_a_target_that_reads_nothing_delays_no_other_stream(own_gateway):
    with UdpTarget() as deaf, Target(echo) as alive, enter(own_gateway) as device:
        held = device.open(alive.address, b"x")
        device.pump(lambda: device.streams[held].received)
        stream = device.open_datagrams(deaf.address)
        before = own_gateway.rss_kib
        own_gateway.reset_peak()
        for _ in range(60):
            device.send_datagrams(stream, *[bytes(1_200)] * 850)
            lives(device, held)
        assert own_gateway.peak_rss_kib - before < GROWTH_KIB
        assert device.streams[stream].reset is None


def test_a_message_full_of_datagrams_goes_in_turns_and_holds_up_no_session(own_gateway):
    with UdpTarget() as deaf, Target(echo) as alive, enter(own_gateway) as device, enter(own_gateway) as other:
        held, others = device.open(alive.address, b"x"), other.open(alive.address, b"x")
        stream = device.open_datagrams(deaf.address)
        device.pump(lambda: device.streams[stream].opened and device.streams[held].received)
        other.pump(lambda: other.streams[others].received)
        device.send_datagrams(stream, *[b""] * 100_000)
        lives(other, others)
        lives(device, held)
        # What the target's socket has no room for its kernel drops.
        assert dropped(own_gateway, "in") == 0


def flood_until_dropped(gateway, target, where, batch=2_000):
    """Datagrams of a target to a client that does not read, until more are dropped.

    Once is not enough: the kernel's buffers between gateway and client may still grow.
    """
    seen = dropped(gateway, "out")

    def flood():
        for _ in range(batch):
            target.socket.sendto(bytes(1_200), where)
        return dropped(gateway, "out") > seen
    eventually(flood, 30, "datagrams are dropped")


def test_a_flood_to_a_client_that_does_not_read_is_dropped_oldest_first(own_gateway):
    with UdpTarget() as target, Target(echo) as alive, enter(own_gateway) as device:
        held = device.open(alive.address, b"x")
        device.pump(lambda: device.streams[held].received)
        stream = device.open_datagrams(target.address, b"hello")
        _, where = target.socket.recvfrom(10)
        flood_until_dropped(own_gateway, target, where)
        # The link is full and so is the queue: whatever comes now must not add anything.
        before = own_gateway.rss_kib
        own_gateway.reset_peak()
        for _ in range(40):
            flood_until_dropped(own_gateway, target, where, 500)
        assert own_gateway.peak_rss_kib - before < 4 * 1024
        last = send_marked(own_gateway, target, where)
        # The last 64 are what is left of the queue; the client reads them and goes on.
        device.pump(lambda: device.streams[stream].datagrams[-1:] == [last], 20)
        lives(device, held)


def send_marked(gateway, target, where):
    """Sends marked datagrams to a full queue until one has pushed out the oldest; returns the last of them.

    One is not enough: the kernel may have taken the queue when its buffers grew once more.
    """
    counts = [-1, dropped(gateway, "out")]
    marks = []

    def is_settled():
        counts[:] = [counts[1], dropped(gateway, "out")]
        return counts[0] == counts[1]

    def push():
        for _ in range(20):
            marks.append((b"mark %d" % len(marks)).ljust(1_200))
            target.socket.sendto(marks[-1], where)
        return dropped(gateway, "out") > counts[1]

    eventually(is_settled, what="the flood is over", every=0.1)
    eventually(push, what="a marked one is in the queue")
    return marks[-1]


def test_what_waits_needs_no_credit_to_go_on(own_gateway):
    """The queue is sent as soon as the client reads, also when no stream of bytes may send a byte."""
    with UdpTarget() as target, Target(source(bytes(65_536))) as filler, enter(own_gateway) as device:
        device.grants = False
        for _ in range(4):
            device.open(filler.address)
        device.pump(lambda: device.granted[0] == 0)
        stream = device.open_datagrams(target.address, b"hello")
        _, where = target.socket.recvfrom(10)
        flood_until_dropped(own_gateway, target, where)
        last = send_marked(own_gateway, target, where)
        device.pump(lambda: device.streams[stream].datagrams[-1:] == [last], 20)
