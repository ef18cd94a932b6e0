"""Messages in every form that JSON and WebSocket allow, and the payloads in them, as the echo upstream sends them back."""

import base64
import itertools
import json
import os

import pytest

from rig.client import login, stream_data, stream_open
from rig.wire import BINARY, CONTINUATION, PING, PONG, TEXT, encode, wire_login


@pytest.fixture(scope="module")
def gateway(start_shared):
    return start_shared()


@pytest.fixture
def device(gateway):
    with login(gateway) as device:
        yield device


@pytest.fixture
def stream(device):
    """A device with the open stream `a`."""
    device.send(stream_open("a"))
    return device


# --- JSON as JSON allows -----------------------------------------------------------------------


def test_every_order_of_the_fields_means_the_same(stream):
    fields = ['"type":"stream_data"', '"stream_id":"a"', '"data":"eHl6"', '"extra":{"data":"*","type":"ping"}']
    for order in itertools.permutations(fields):
        stream.send_message("{" + ",".join(order) + "}")
        assert stream.recv_data("a") == b"xyz"


def test_white_space_between_tokens_means_nothing(stream):
    stream.send_message(' \t\r\n{ "type" : "stream_data" ,\n"stream_id"\t:\r"a", "data" : "eHl6"\n} \n')
    assert stream.recv_data("a") == b"xyz"
    stream.send_message(json.dumps(stream_data("a", b"pretty"), indent=4))
    assert stream.recv_data("a") == b"pretty"


def test_escapes_in_the_data_are_undone_before_base64(stream):
    stream.send_message('{"type":"stream_data","stream_id":"a","data":"\\/\\/\\u002b\\u002F\\u0041\\u0041\\u003D="}')
    assert stream.recv_data("a") == base64.b64decode("//+/AA==")


def test_escapes_in_keys_types_and_ids_are_undone(stream):
    stream.send_message('{"\\u0074ype":"stream\\u005fdata","stre\\u0061m_id":"\\u0061","d\\u0061ta":"eHl6"}')
    assert stream.recv_data("a") == b"xyz"


def test_escaped_slashes_all_through_a_long_payload(stream):
    payload = b"\xff" * 30_000
    stream.send_message(json.dumps(stream_data("a", payload)).replace("/", "\\/"))
    assert stream.collect("a", len(payload)) == payload


def test_text_inside_values_is_never_read_as_a_field(stream):
    decoy = '\\"data\\":\\"AAAA\\",\\"stream_id\\":\\"b\\"}'
    stream.send_message('{"note":"%s","type":"stream_data","stream_id":"a","more":["data","stream_id"],"data":"eHl6"}' % decoy)
    assert stream.recv_data("a") == b"xyz"
    stream.assert_quiet()


def test_deep_json_within_the_limit_is_ignored_and_beyond_it_is_a_bad_frame(stream):
    for depth, open_, close in ((100, "[", "]"), (100, '{"a":', "}")):
        inner = "1" if open_ != "[" else ""
        stream.send_message('{"type":"ping","x":' + open_ * depth + inner + close * depth + "}")
        assert stream.recv()["type"] == "pong"
    for depth in (1_000, 200_000):
        for open_, inner, close in (("[", "", "]"), ('{"a":', "1", "}")):
            stream.send_message('{"type":"ping","x":' + open_ * min(depth, 150_000) + inner + close * min(depth, 150_000) + "}")
            stream.expect_error("bad_frame")
    stream.echo("a", b"x")


# --- payloads ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 4, 47, 48, 49, 125, 126, 4095, 4096, 65535, 65536, 700 << 10])
def test_a_payload_comes_back_byte_for_byte_in_one_message(stream, size):
    stream.echo("a", os.urandom(size))
    stream.assert_quiet()


def test_every_byte_value_comes_back(stream):
    stream.echo("a", bytes(range(256)) * 3)


def test_answers_come_back_in_order_one_per_message(stream):
    payloads = [os.urandom(1 + number * 37 % 3000) for number in range(200)]
    for payload in payloads:
        stream.send(stream_data("a", payload))
    assert [stream.recv_data("a") for _ in payloads] == payloads


def test_empty_data_is_no_error(stream):
    stream.send(stream_data("a", b""), stream_data("a", b"x"))
    got = b""
    while not got:
        got = stream.recv_data("a")
    assert got == b"x"
    stream.assert_quiet()


def test_streams_of_a_session_do_not_mix(device):
    ids = [f"s{number}" for number in range(8)]
    for stream_id in ids:
        device.send(stream_open(stream_id))
    sent = {stream_id: b"" for stream_id in ids}
    for round_ in range(25):
        for stream_id in ids:
            payload = os.urandom(1 + round_ * 11)
            sent[stream_id] += payload
            device.send(stream_data(stream_id, payload))
    got = {stream_id: b"" for stream_id in ids}
    while sum(map(len, got.values())) < sum(map(len, sent.values())):
        frame = device.recv()
        assert frame["type"] == "stream_data", frame
        got[frame["stream_id"]] += base64.b64decode(frame["data"], validate=True)
    assert got == sent


def test_the_answer_is_a_stream_data_with_nothing_a_founding_client_would_stumble_over(stream):
    stream.send(stream_data("a", b"\xfb\xff\xfe!"))
    assert stream.recv() == {"type": "stream_data", "stream_id": "a", "data": "+//+IQ=="}


# --- fragments ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size, payload", [(1, 500), (2, 1000), (4096, 65536), (4096, 700 << 10), (65536, 700 << 10)])
def test_a_message_may_come_in_fragments(stream, size, payload):
    payload = os.urandom(payload)
    message = json.dumps(stream_data("a", payload))
    stream.send_message(message[at:at + size] for at in range(0, len(message), size))
    assert stream.collect("a", len(payload)) == payload
    stream.assert_quiet()


def test_pings_between_fragments_are_answered_and_disturb_nothing(gateway):
    payload = os.urandom(20_000)
    message = json.dumps(stream_data("a", payload)).encode()
    parts = [message[at:at + 4096] for at in range(0, len(message), 4096)]
    with wire_login(gateway) as wire:
        wire.text(stream_open("a"))
        for number, part in enumerate(parts):
            wire.frame(CONTINUATION if number else TEXT, part, fin=number == len(parts) - 1)
            if number < len(parts) - 1:
                wire.frame(PING, b"p%d" % number)
                assert wire.recv_frame() == (PONG, b"p%d" % number)
        assert base64.b64decode(wire.recv_json()["data"]) == payload


def test_empty_fragments_around_and_inside_a_message_are_fine(gateway):
    message = json.dumps(stream_data("a", b"xyz")).encode()
    with wire_login(gateway) as wire:
        wire.text(stream_open("a"))
        for number, part in enumerate([b"", b"", message[:9], b"", message[9:], b""]):
            wire.frame(CONTINUATION if number else TEXT, part, fin=number == 5)
        assert wire.recv_json() == stream_data("a", b"xyz")


def test_many_messages_in_one_tls_record_and_one_message_in_many_are_the_same(gateway):
    frames = b"".join(encode(TEXT, json.dumps(stream_data("a", b"%d" % n)).encode()) for n in range(100))
    with wire_login(gateway) as wire:
        wire.text(stream_open("a"))
        wire.send(frames)
        assert [wire.recv_json() for _ in range(100)] == [stream_data("a", b"%d" % n) for n in range(100)]
        for at in range(0, len(frames), 701):
            wire.send(frames[at:at + 701])
        assert [wire.recv_json() for _ in range(100)] == [stream_data("a", b"%d" % n) for n in range(100)]


def test_a_binary_message_in_fragments_is_one_bad_frame(gateway):
    with wire_login(gateway) as wire:
        wire.frame(BINARY, b"ab", fin=False)
        wire.frame(CONTINUATION, b"cd")
        assert wire.recv_json()["code"] == "bad_frame"
        wire.text({"type": "ping"})
        assert wire.recv_json() == {"type": "pong"}
