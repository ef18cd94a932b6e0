"""RFC 6455 on /ws: control frames, closing, and what is a violation."""

import os
import struct

import pytest

from rig.client import Device, login, stream_data, stream_open
from rig.poll import Stopwatch, eventually
from rig.wire import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Ended, Wire, encode, wire_login


@pytest.fixture(scope="module")
def gateway(start_shared):
    return start_shared()


@pytest.fixture
def wire(gateway):
    with wire_login(gateway) as wire:
        yield wire


# --- ping and pong -----------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [b"", b"x", b"\x00\xff", bytes(125)], ids=["empty", "one", "binary", "125"])
def test_a_ping_gets_a_pong_with_its_payload(wire, payload):
    wire.frame(PING, payload)
    assert wire.recv_frame() == (PONG, payload)


def test_a_third_party_client_measures_its_round_trip(gateway):
    with login(gateway) as device:
        assert device.ping() > 0


def test_an_unsolicited_pong_is_ignored(wire):
    wire.frame(PONG, b"unasked for")
    wire.text({"type": "ping"})
    assert wire.recv_json() == {"type": "pong"}


def test_the_gateway_pings_and_a_client_that_answers_stays(start_shared):
    gateway = start_shared(GATEWAY_KEEPALIVE_INTERVAL="200ms")
    with wire_login(gateway) as wire:
        for _ in range(8):
            opcode, payload = wire.recv_frame(2)
            assert opcode == PING
            wire.frame(PONG, payload)
        wire.text({"type": "ping"})
        assert wire.recv_json() == {"type": "pong"}


def test_a_client_that_answers_no_ping_is_ended(start_shared):
    gateway = start_shared(GATEWAY_KEEPALIVE_INTERVAL="200ms")
    with wire_login(gateway) as wire:
        clock = Stopwatch()
        assert wire.ended_within(4), "a dead client is kept"
        assert clock.seconds > 0.35, "one unanswered ping is no death"
    eventually(gateway.is_idle, 3, "gauges at 0")


def test_a_third_party_client_that_only_reads_outlives_many_keep_alives(start_shared):
    gateway = start_shared(GATEWAY_KEEPALIVE_INTERVAL="100ms")
    with login(gateway) as device:
        with pytest.raises(TimeoutError):
            device.recv(1.5)
        device.lives()


# --- close -------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1008, 1011, 3000, 3999, 4000, 4999])
def test_a_close_is_answered_with_its_code(wire, code):
    wire.frame(CLOSE, struct.pack("!H", code) + "går".encode())
    opcode, payload = wire.recv_frame()
    assert opcode == CLOSE and struct.unpack("!H", payload[:2])[0] == code
    assert wire.ended_within(3), "the gateway leaves the connection open"


def test_an_empty_close_is_answered(wire):
    wire.frame(CLOSE)
    assert wire.close_code() in (1000, 1005)


def test_a_close_ends_the_session_and_its_streams(gateway):
    with login(gateway) as device:
        device.send(stream_open("a"), stream_open("b"))
        device.echo("b", b"x")
        device.close()
    eventually(gateway.is_idle, 3, "gauges at 0")


def test_a_close_before_the_hello_is_answered(gateway):
    with Wire(gateway) as wire:
        wire.upgrade()
        wire.frame(CLOSE, b"\x03\xe8")
        assert wire.close_code() == 1000


def test_frames_behind_a_close_are_not_served(wire):
    wire.send(encode(CLOSE, b"\x03\xe8") + encode(TEXT, b'{"type":"ping"}'))
    assert wire.recv_frame() == (CLOSE, b"\x03\xe8")
    assert wire.rest(3) == b""


# --- violations --------------------------------------------------------------------------------

VIOLATIONS = {
    "unmasked text": (encode(TEXT, b'{"type":"ping"}', masked=False), 1002),
    "unmasked ping": (encode(PING, b"", masked=False), 1002),
    "reserved bit 1": (encode(TEXT, b'{"type":"ping"}', rsv=4), 1002),
    "reserved bit 2": (encode(TEXT, b'{"type":"ping"}', rsv=2), 1002),
    "reserved bit 3": (encode(TEXT, b'{"type":"ping"}', rsv=1), 1002),
    "reserved bit on a ping": (encode(PING, b"", rsv=4), 1002),
    "opcode 3": (encode(3, b"x"), 1002),
    "opcode 7": (encode(7, b"x"), 1002),
    "opcode 11": (encode(11, b""), 1002),
    "opcode 15": (encode(15, b""), 1002),
    "fragmented ping": (encode(PING, b"x", fin=False), 1002),
    "fragmented close": (encode(CLOSE, b"\x03\xe8", fin=False), 1002),
    "ping of 126 bytes": (encode(PING, bytes(126)), 1002),
    "continuation of nothing": (encode(CONTINUATION, b"x"), 1002),
    "open continuation of nothing": (encode(CONTINUATION, b"x", fin=False), 1002),
    "text inside a message": (encode(TEXT, b"{", fin=False) + encode(TEXT, b"}"), 1002),
    "binary inside a message": (encode(TEXT, b"{", fin=False) + encode(BINARY, b"}"), 1002),
    "close with one byte": (encode(CLOSE, b"\x03"), 1002),
    "close with code 0": (encode(CLOSE, struct.pack("!H", 0)), 1002),
    "close with code 999": (encode(CLOSE, struct.pack("!H", 999)), 1002),
    "close with code 1004": (encode(CLOSE, struct.pack("!H", 1004)), 1002),
    "close with code 1005": (encode(CLOSE, struct.pack("!H", 1005)), 1002),
    "close with code 1006": (encode(CLOSE, struct.pack("!H", 1006)), 1002),
    "close with code 1015": (encode(CLOSE, struct.pack("!H", 1015)), 1002),
    "close with code 2999": (encode(CLOSE, struct.pack("!H", 2999)), 1002),
    "close with code 5000": (encode(CLOSE, struct.pack("!H", 5000)), 1002),
    "close with a reason that is no UTF-8": (encode(CLOSE, b"\x03\xe8\xff"), 1007),
    "text that is no UTF-8": (encode(TEXT, b'{"type":"\xff"}'), 1007),
    "text with an overlong form": (encode(TEXT, b'{"a":"\xc0\xaf"}'), 1007),
    "text with a surrogate": (encode(TEXT, b'{"a":"\xed\xa0\x80"}'), 1007),
    "text cut inside a character": (encode(TEXT, b'{"a":"\xf0\x9f\x98'), 1007),
    "fragments that are no UTF-8 together": (encode(TEXT, b'"\xf0\x9f', fin=False) + encode(CONTINUATION, b'"'), 1007),
    "message over 1 MiB": (encode(TEXT, b" " * ((1 << 20) + 1)), 1009),
    "claim of 1 MiB and a byte": (encode(TEXT, b"", claim=(1 << 20) + 1), 1009),
    "claim of 2^62": (encode(TEXT, b"", claim=1 << 62), 1009),
    "fragments over 1 MiB": (encode(TEXT, b" " * (600 << 10), fin=False) + encode(CONTINUATION, b" " * (600 << 10)), 1009),
    "1,025 fragments": (encode(TEXT, b" ", fin=False) + encode(CONTINUATION, b" ", fin=False) * 1024, 1009),
}


@pytest.mark.parametrize("data, code", VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_a_violation_ends_the_connection_with_its_code_and_hurts_no_other(gateway, data, code):
    with login(gateway) as other, wire_login(gateway) as wire:
        wire.send(data)
        assert wire.close_code() == code
        other.lives()
    eventually(gateway.is_idle, 3, "gauges at 0")


def test_a_length_with_the_highest_bit_set_ends_the_connection(wire):
    wire.frame(TEXT, b"", claim=(1 << 64) - 1)
    assert wire.close_code() in (1002, 1009)


@pytest.mark.parametrize("name", ["unmasked text", "reserved bit 1", "opcode 3", "continuation of nothing", "ping of 126 bytes",
                                  "close with one byte", "claim of 2^62"])
def test_a_violation_before_the_hello_ends_the_connection_too(gateway, name):
    data, code = VIOLATIONS[name]
    with Wire(gateway) as wire:
        wire.upgrade()
        wire.send(data)
        assert wire.close_code() == code


def test_a_message_of_exactly_1_mib_is_fine(gateway):
    with login(gateway) as device:
        frame = '{"type":"ping","pad":""}'
        device.send_message(frame.replace('""', '"' + "x" * ((1 << 20) - len(frame)) + '"'))
        assert device.recv()["type"] == "pong"


def test_a_message_of_1024_fragments_is_fine(gateway):
    message = b'{"type":"ping"}'.rjust(1024)
    with wire_login(gateway) as wire:
        for at in range(1024):
            wire.frame(CONTINUATION if at else TEXT, message[at:at + 1], fin=at == 1023)
        assert wire.recv_json() == {"type": "pong"}


def test_the_message_limit_is_a_setting(start_shared):
    gateway = start_shared(GATEWAY_MAX_MESSAGE_BYTES="32KiB")
    with login(gateway) as device:
        device.send(stream_open("a"))
        device.echo("a", os.urandom(20_000))
        device.send(stream_data("a", os.urandom(25_000)))
        assert device.until_closed()[1] == 1009


def test_every_message_of_the_gateway_is_text_and_well_formed_whatever_its_size(gateway):
    with wire_login(gateway) as wire:
        wire.text(stream_open("a"))
        for size in (1, 60, 70, 125, 126, 127, 40_000, 65_536, 200_000):
            payload = os.urandom(size)
            wire.text(stream_data("a", payload))
            assert wire.recv_json() == stream_data("a", payload)


def test_a_tcp_connection_that_breaks_leaves_nothing_behind(gateway):
    for _ in range(5):
        wire = wire_login(gateway)
        wire.text(stream_open("a"))
        wire.text(stream_data("a", bytes(100_000)))
        wire.reset()
    eventually(gateway.is_idle, 5, "gauges at 0")


def test_a_tls_connection_that_ends_without_a_close_frame_leaves_nothing_behind(gateway):
    wire = wire_login(gateway)
    wire.text(stream_open("a"))
    try:
        wire.socket.settimeout(3)
        wire.socket.unwrap().close()
    except OSError:
        wire.socket.close()
    eventually(gateway.is_idle, 5, "gauges at 0")


def test_extensions_and_subprotocols_that_were_not_negotiated_are_not_used(gateway):
    with Device(gateway, compression="deflate", subprotocols=None) as device:
        assert "Sec-WebSocket-Extensions" not in device.response_headers
        device.login().lives()
    with Wire(gateway) as wire:
        headers = wire.upgrade(**{"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"})
        assert "sec-websocket-extensions" not in headers


def test_a_peer_that_violates_and_never_reads_is_still_let_go(gateway):
    wire = wire_login(gateway)
    try:
        wire.send(encode(3, b"x"))
        wire.send(bytes(1 << 20))
    except Ended:
        pass
    eventually(gateway.is_idle, 10, "gauges at 0")
    wire.socket.close()
