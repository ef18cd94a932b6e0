"""The direct upstream: bytes to TCP targets and back, every way a stream ends, and the guarded egress."""

import base64
import hashlib
import os

import pytest

from rig.client import Device, login, stream_close, stream_data, stream_open
from rig.poll import Stopwatch, eventually
from rig.targets import Sink, Target, echo, full_backlog, refusing_port, resetting, silent, source
from rig.wire import wire_login


@pytest.fixture(scope="module")
def gateway(start_shared):
    return start_shared(GATEWAY_UPSTREAM_MODE="direct", GATEWAY_EGRESS_ALLOW="127.0.0.0/8", GATEWAY_DIAL_TIMEOUT="800ms")


@pytest.fixture(scope="module")
def guarded(start_shared):
    """Direct with the default egress policy: nothing but public addresses."""
    return start_shared(GATEWAY_UPSTREAM_MODE="direct", GATEWAY_DIAL_TIMEOUT="2s",
                        GATEWAY_MAX_ERRORS_PER_SECOND=1000, GATEWAY_MAX_ERROR_BURST=1000)


@pytest.fixture
def device(gateway):
    with login(gateway) as device:
        yield device


def read_to_end(device, stream_id, timeout=10):
    """The bytes of one stream and the frame that ended it."""
    got = bytearray()
    while True:
        frame = device.recv(timeout)
        assert frame.get("stream_id") == stream_id, frame
        if frame["type"] != "stream_data":
            return bytes(got), frame
        got += base64.b64decode(frame["data"], validate=True)


def digest(data):
    return hashlib.sha256(data).hexdigest()


# --- bytes -------------------------------------------------------------------------------------


def test_bytes_go_to_the_target_and_back(device):
    with Target(echo) as target:
        device.send(stream_open("a", target.address))
        device.send(stream_data("a", b"knock knock"))
        assert device.collect("a", 11) == b"knock knock"


def test_a_target_by_name_is_resolved(device):
    with Target(echo) as target:
        device.send(stream_open("a", f"localhost:{target.port}"))
        device.send(stream_data("a", b"x"))
        assert device.collect("a", 1) == b"x"


def test_data_sent_before_the_dial_is_done_is_not_lost(device):
    with Target(echo) as target:
        device.send(stream_open("a", target.address), *(stream_data("a", b"%04d" % n) for n in range(50)))
        assert device.collect("a", 200) == b"".join(b"%04d" % n for n in range(50))


def test_8_mib_down_arrive_whole_and_end_with_eof(device):
    payload = os.urandom(8 << 20)
    with Target(source(payload)) as target:
        device.send(stream_open("a", target.address))
        got, end = read_to_end(device, "a", 20)
        assert (len(got), digest(got)) == (len(payload), digest(payload))
        assert (end["type"], end["reason"]) == ("stream_close", "eof")


def test_8_mib_up_and_a_close_deliver_every_byte(device):
    payload, sink = os.urandom(8 << 20), Sink()
    with Target(sink) as target:
        device.send(stream_open("a", target.address))
        for at in range(0, len(payload), 48 << 10):
            device.send(stream_data("a", payload[at:at + (48 << 10)]))
        device.send(stream_close("a"))
        assert sink.ended.wait(20), "the target saw no end"
        assert (len(sink.received), digest(sink.received)) == (len(payload), digest(payload))
        assert sink.how == "eof"
        device.assert_quiet()


def test_a_close_right_behind_the_data_delivers_the_data(device):
    sink = Sink()
    with Target(sink) as target:
        device.send(stream_open("a", target.address), stream_data("a", b"last words"), stream_close("a"))
        assert sink.ended.wait(10), "the target saw no end"
        assert bytes(sink.received) == b"last words"


def test_eight_streams_at_once_do_not_mix(device):
    sources = {f"s{n}": os.urandom(300_000 + n) for n in range(8)}
    targets = {stream_id: Target(source(payload)) for stream_id, payload in sources.items()}
    try:
        for stream_id, target in targets.items():
            device.send(stream_open(stream_id, target.address))
        got, ends = {stream_id: bytearray() for stream_id in sources}, {}
        while len(ends) < 8:
            frame = device.recv()
            if frame["type"] == "stream_data":
                assert frame["stream_id"] not in ends, "data after the end"
                got[frame["stream_id"]] += base64.b64decode(frame["data"], validate=True)
            else:
                ends[frame["stream_id"]] = frame["reason"]
        assert {k: digest(v) for k, v in got.items()} == {k: digest(v) for k, v in sources.items()}
        assert set(ends.values()) == {"eof"}
    finally:
        for target in targets.values():
            target.__exit__()


# --- ends --------------------------------------------------------------------------------------


def test_the_targets_end_of_file_is_a_stream_close_and_frees_the_id(device):
    with Target(source(b"bye")) as target:
        for _ in range(3):
            device.send(stream_open("a", target.address))
            got, end = read_to_end(device, "a")
            assert got == b"bye" and end == {"type": "stream_close", "stream_id": "a", "reason": "eof"}
        device.send(stream_data("a", b"x"))
        device.expect_error("stream_error", "a")
        device.assert_quiet()


def test_a_reset_by_the_target_is_a_stream_error_reset_and_frees_the_id(device):
    with Target(resetting) as target:
        for _ in range(3):
            device.send(stream_open("a", target.address), stream_data("a", b"x"))
            assert device.expect_error("stream_error", "a")["reason"] == "reset"
        device.assert_quiet()


def test_a_refused_dial_is_a_stream_error_refused_and_frees_the_id(device):
    for _ in range(3):
        device.send(stream_open("a", f"127.0.0.1:{refusing_port()}"))
        assert device.expect_error("stream_error", "a")["reason"] == "refused"
    device.assert_quiet()


def test_a_dial_that_hangs_is_a_stream_error_timeout_after_the_dial_timeout(device):
    with full_backlog() as address:
        clock = Stopwatch()
        device.send(stream_open("a", address))
        assert device.expect_error("stream_error", "a")["reason"] == "timeout"
        assert 0.7 < clock.seconds < 3, f"took {clock.seconds:.2f} s"
        device.assert_quiet()


def test_a_name_that_does_not_exist_is_a_stream_error_resolve_failed(device):
    device.send(stream_open("a", "no-such-host.invalid:80"))
    assert device.expect_error("stream_error", "a", timeout=12)["reason"] in ("resolve_failed", "timeout")
    device.assert_quiet()


def test_a_network_without_a_way_is_a_stream_error_unreachable(device):
    # TCP to a broadcast address is refused by the system itself, with "network is unreachable".
    device.send(stream_open("a", "127.255.255.255:80"))
    assert device.expect_error("stream_error", "a")["reason"] == "unreachable"
    device.assert_quiet()


def test_a_stream_on_which_nothing_moves_is_a_stream_error_idle(start):
    gateway = start(GATEWAY_UPSTREAM_MODE="direct", GATEWAY_EGRESS_ALLOW="127.0.0.0/8", GATEWAY_STREAM_IDLE_TIMEOUT="500ms")
    with Target(silent) as target, Target(echo) as live, login(gateway) as device:
        device.send(stream_open("a", target.address), stream_open("live", live.address))
        clock = Stopwatch()
        while clock.seconds < 0.4:
            device.send(stream_data("live", b"x"))
            device.recv_data("live")
        while (frame := device.recv())["type"] == "stream_data":
            pass
        assert (frame["code"], frame["stream_id"], frame["reason"]) == ("stream_error", "a", "idle")
        device.send(stream_data("live", b"y"))
        assert device.recv_data("live") == b"y"


def test_a_hanging_dial_blocks_no_other_stream(device):
    with full_backlog() as address, Target(echo) as target:
        device.send(stream_open("hangs", address), stream_data("hangs", b"x"), stream_open("a", target.address))
        device.send(stream_data("a", b"meanwhile"))
        assert device.collect("a", 9) == b"meanwhile"
        assert device.expect_error("stream_error", "hangs")["reason"] == "timeout"


def test_a_hanging_dial_can_be_closed_by_the_client(device):
    with full_backlog() as address, Target(echo) as target:
        device.send(stream_open("a", address), stream_close("a"), stream_open("a", target.address))
        device.send(stream_data("a", b"second"))
        assert device.collect("a", 6) == b"second"
    # The first dial's end, most of a second later, is not reported.
    clock = Stopwatch()
    while clock.seconds < 1.2:
        frames = device.until_pong()
        assert all(f == {"type": "stream_close", "stream_id": "a", "reason": "eof"} or f.get("reason") == "reset"
                   for f in frames), frames


def test_hanging_dials_count_as_streams(device):
    with full_backlog() as address:
        for number in range(8):
            device.send(stream_open(f"s{number}", address))
        device.send(stream_open("s8", address))
        device.expect_error("stream_error", "s8")
        for _ in range(8):
            assert device.expect_error("stream_error")["reason"] == "timeout"


def test_dials_end_with_their_session(start):
    gateway = start(GATEWAY_UPSTREAM_MODE="direct", GATEWAY_EGRESS_ALLOW="127.0.0.0/8", GATEWAY_DIAL_TIMEOUT="1m")
    with full_backlog() as address:
        before = gateway.descriptors
        with login(gateway) as device:
            for number in range(8):
                device.send(stream_open(f"s{number}", address))
            device.assert_quiet()
        eventually(gateway.is_idle, 3, "gauges at 0")
        eventually(lambda: gateway.descriptors <= before + 2, 3, "the sockets of the dials are closed")


@pytest.mark.parametrize("how", ["close", "reset"])
def test_when_the_client_goes_its_targets_are_let_go(gateway, how):
    sink = Sink()
    with Target(sink) as target:
        wire = wire_login(gateway)
        wire.text(stream_open("a", target.address))
        wire.text(stream_data("a", b"x"))
        eventually(lambda: sink.received, 5, "the target has the byte")
        wire.reset() if how == "reset" else wire.frame(8, b"\x03\xe8")
        assert sink.ended.wait(5), "the target's connection is still open"
    eventually(gateway.is_idle, 5, "gauges at 0")


def test_a_client_close_ends_the_connection_to_a_target_that_goes_on_sending(device):
    def endless(connection):
        while True:
            connection.sendall(bytes(65536))
    with Target(endless) as target:
        device.send(stream_open("a", target.address))
        device.recv_data("a")
        device.send(stream_close("a"))
        device.send({"type": "ping"})
        while device.recv()["type"] != "pong":
            pass
        device.assert_quiet()


def test_a_target_that_reads_nothing_stalls_its_own_session_only(start):
    gateway = start(GATEWAY_UPSTREAM_MODE="direct", GATEWAY_EGRESS_ALLOW="127.0.0.0/8", GATEWAY_STREAM_STALL_TIMEOUT="1s")
    with Target(silent) as dead, Target(echo) as live, login(gateway) as device, login(gateway) as other:
        device.send(stream_open("dead", dead.address), stream_open("live", live.address))
        before = gateway.rss_kib
        chunk = stream_data("dead", bytes(256 << 10))
        # The sender is blocked by backpressure until the stalled stream is given up; then its data meets no stream.
        for _ in range(64):
            device.send(chunk)
        other.send(stream_open("a", live.address), stream_data("a", b"unaffected"))
        assert other.collect("a", 10) == b"unaffected"
        assert device.expect_error("stream_error", "dead", timeout=10)["reason"] == "stalled"
        frames = device.until_pong(10)
        assert all(f["code"] == "stream_error" and f["stream_id"] == "dead" for f in frames)
        device.send(stream_data("live", b"again"))
        assert device.collect("live", 5) == b"again"
        assert gateway.rss_kib - before < 24 << 10


def test_a_client_that_does_not_read_bounds_what_is_taken_from_the_target(start):
    sent = [0]

    def endless(connection):
        while True:
            sent[0] += connection.send(bytes(65536))
    gateway = start(GATEWAY_UPSTREAM_MODE="direct", GATEWAY_EGRESS_ALLOW="127.0.0.0/8", GATEWAY_WRITE_TIMEOUT="2s")
    with Target(endless) as target, login(gateway) as other:
        wire = wire_login(gateway)
        before = gateway.rss_kib
        wire.text(stream_open("a", target.address))
        eventually(lambda: gateway.metric("active_sessions") == 1, 15, "the client that does not read is ended")
        assert sent[0] < 64 << 20, f"{sent[0] >> 20} MiB were taken for a client that read nothing"
        assert gateway.rss_kib - before < 24 << 10
        other.assert_quiet()
        wire.socket.close()


# --- targets -----------------------------------------------------------------------------------


def test_a_missing_target_is_an_error_about_the_stream(device):
    device.send(stream_open("a"))
    device.expect_error({"bad_stream", "stream_error"}, "a")
    with Target(echo) as target:
        device.send(stream_open("a", target.address), stream_data("a", b"x"))
        assert device.collect("a", 1) == b"x"


BAD_TARGETS = ["", "host", "host:", ":80", "host:0", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:http", "127.0.0.1: 80",
               "127.0.0.1:80 ", "a b:80", "[::1:80", "::1:80", "[]:80", "[::1]80", "127.0.0.1:80:80", "http://127.0.0.1:80",
               "user@127.0.0.1:80", "127.0.0.1:80/", "127.0.0.1:+80", "127.0.0.1:0x50", "127.0.0.1:８０", "\x00:80", "a\n:80",
               "x" * 256 + ":80", "x" * 5000 + ":80", "..:80", "[fe80::1%25eth0]:80", "[127.0.0.1]:80"]


@pytest.mark.parametrize("target", BAD_TARGETS, ids=lambda target: ascii(target[:24]))
def test_a_bad_target_is_an_error_about_the_stream_and_frees_the_id(guarded, target):
    with login(guarded) as device:
        device.send(stream_open("a", target))
        device.expect_error({"bad_stream", "stream_error"}, "a", timeout=12)
        device.send(stream_data("a", b"x"))
        device.expect_error("stream_error", "a")
        device.assert_quiet()


LOOPBACK = ["127.0.0.1", "127.1.2.3", "2130706433", "0x7f.1", "0x7f000001", "0X7F.0.0.1", "0177.0.0.1", "017700000001",
            "127.1", "127.0.1", "localhost", "LOCALHOST", "localhost.", "[::1]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::127.0.0.1]", "[2002:7f00:1::]", "0.0.0.0", "0", "[::]",
            "127.0.0.1."]


@pytest.mark.parametrize("host", LOOPBACK)
def test_loopback_is_denied_by_default_in_every_spelling(guarded, host):
    with Target(echo) as target, login(guarded) as device:
        device.send(stream_open("a", f"{host}:{target.port}"))
        assert device.expect_error("stream_error", "a", timeout=12)["reason"] == "denied"
        assert target.accepted == []
        device.assert_quiet()


NOT_PUBLIC = ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "169.254.169.254", "169.254.0.1",
              "224.0.0.1", "239.1.2.3", "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.51.100.1", "203.0.113.1", "198.18.0.1",
              "192.0.0.1", "[fe80::1]", "[fc00::1]", "[fd00::1]", "[ff02::1]", "[2001:db8::1]", "[::ffff:10.0.0.1]",
              "[::ffff:169.254.169.254]", "[64:ff9b::a00:1]", "[2002:a00:1::]", "[fec0::1]", "[100::1]", "167772161", "0xa9fea9fe"]


@pytest.mark.parametrize("host", NOT_PUBLIC)
def test_what_is_not_public_is_denied_by_default(guarded, host):
    with login(guarded) as device:
        clock = Stopwatch()
        device.send(stream_open("a", f"{host}:80"))
        assert device.expect_error("stream_error", "a", timeout=12)["reason"] == "denied"
        assert clock.seconds < 1, "a denied target is not dialled"
        device.assert_quiet()


def test_the_allow_list_allows_what_it_names_and_no_more(start):
    gateway = start(GATEWAY_UPSTREAM_MODE="direct", GATEWAY_EGRESS_ALLOW="127.0.0.1/32")
    with Target(echo) as target, login(gateway) as device:
        device.send(stream_open("a", target.address), stream_data("a", b"x"))
        assert device.collect("a", 1) == b"x"
        device.send(stream_open("b", f"127.0.0.2:{target.port}"))
        assert device.expect_error("stream_error", "b")["reason"] == "denied"
        device.send(stream_open("c", "10.0.0.1:80"))
        assert device.expect_error("stream_error", "c")["reason"] == "denied"


def test_the_allow_list_takes_several_networks(start):
    gateway = start(GATEWAY_UPSTREAM_MODE="direct", GATEWAY_EGRESS_ALLOW="10.0.0.0/8, 127.0.0.0/8,::1/128")
    with Target(echo) as target, login(gateway) as device:
        device.send(stream_open("a", f"[::ffff:127.0.0.1]:{target.port}"), stream_data("a", b"x"))
        assert device.recv()["stream_id"] == "a"
        device.send(stream_open("b", target.address), stream_data("b", b"x"))
        assert device.collect("b", 1) == b"x"


def test_open_ack_comes_when_the_target_is_connected_and_not_before(gateway):
    with Target(echo) as target, full_backlog() as address, Device(gateway) as device:
        device.login(capabilities=["open_ack"])
        device.send(stream_open("hangs", address), stream_open("a", target.address))
        assert device.recv() == {"type": "stream_opened", "stream_id": "a"}
        assert device.expect_error("stream_error", "hangs")["reason"] == "timeout"
