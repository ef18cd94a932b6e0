"""`hello` comes first, and what an accepted `hello` gets."""

import json
import re

import pytest

from rig.backend import allowed
from rig.client import TOKEN, Device, fresh_device, hello, login, stream_data, stream_open
from rig.wire import CONTINUATION, PING, PONG, TEXT, Wire

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
CODES = {"bad_frame", "bad_stream", "stream_error", "unsupported", "session_error", "bad_hello"}


@pytest.fixture(scope="module")
def gateway(start_shared):
    return start_shared()


def text(value):
    return json.dumps(value)


def with_field(**fields):
    """A hello with fields replaced; None leaves a field out."""
    return text({k: v for k, v in (hello() | fields).items() if v is not None})


BAD_HELLOS = {
    "empty message": "",
    "plain words": "hello",
    "JSON array": text([hello()]),
    "JSON number": "1",
    "JSON null": "null",
    "JSON string": text("hello"),
    "empty object": "{}",
    "cut off": text(hello())[:-1],
    "something behind the object": text(hello()) + "x",
    "two objects": text(hello()) * 2,
    "no type": with_field(type=None),
    "type is a number": with_field(type=1),
    "type in capitals": with_field(type="HELLO"),
    "unknown type": with_field(type="greeting"),
    "ping": text({"type": "ping"}),
    "pong": text({"type": "pong"}),
    "auth_result": text({"type": "auth_result", "allowed": True}),
    "error": text({"type": "error", "code": "bad_hello"}),
    "stream_open": text(stream_open("a")),
    "stream_data": text(stream_data("a", b"x")),
    "stream_close": text({"type": "stream_close", "stream_id": "a"}),
    "no device_id": with_field(device_id=None),
    "empty device_id": with_field(device_id=""),
    "device_id is a number": with_field(device_id=7),
    "device_id is an object": with_field(device_id={"a": 1}),
    "device_id is an array": with_field(device_id=["a"]),
    "device_id is null": text(hello() | {"device_id": None}),
    "device_id is true": with_field(device_id=True),
    "device_id of 129 bytes": with_field(device_id="d" * 129),
    "no token": with_field(token=None),
    "empty token": with_field(token=""),
    "token is a number": with_field(token=7),
    "token is null": text(hello() | {"token": None}),
    "token is an array": with_field(token=["a"]),
    "token over 8 KiB": with_field(token="t" * 8193),
    "capabilities is a string": with_field(capabilities="open_ack"),
    "capabilities of numbers": with_field(capabilities=[1]),
    "region is a number": with_field(region=1),
    "client_version is an object": with_field(client_version={}),
    "nested 5,000 deep": '{"type":"hello","device_id":"a","token":"b","x":' + "[" * 5000 + "]" * 5000 + "}",
}


@pytest.mark.parametrize("message", BAD_HELLOS.values(), ids=BAD_HELLOS.keys())
def test_a_first_message_that_is_no_valid_hello_is_a_bad_hello_and_the_end(gateway, message):
    with Device(gateway) as device:
        device.send_message(message)
        device.expect_error("bad_hello")
        device.assert_closes()


def test_a_hello_in_a_binary_message_is_a_bad_hello(gateway):
    with Device(gateway) as device:
        device.send_message(text(hello()).encode())
        device.expect_error("bad_hello")
        device.assert_closes()


def test_a_first_message_over_16_kib_never_becomes_a_session(gateway):
    with Device(gateway) as device:
        device.send_message(with_field(client_version="v" * (20 << 10)))
        frames, code = device.until_closed()
        assert code == 1009 or [f.get("code") for f in frames] == ["bad_hello"], (frames, code)


def test_the_backend_is_not_asked_about_a_bad_hello(gateway, shared_backend):
    device_id = fresh_device()
    with Device(gateway) as device:
        device.send_message(text({"type": "hello", "device_id": device_id}))
        device.expect_error("bad_hello")
        device.assert_closes()
    assert shared_backend.requests_of(device_id) == []


def test_frames_behind_a_bad_hello_do_nothing(gateway, shared_backend):
    device_id = fresh_device()
    with Wire(gateway) as wire:
        wire.upgrade()
        wire.text({"type": "ping"})
        wire.text(hello(device_id))
        answer = wire.recv_json()
        assert (answer["type"], answer["code"]) == ("error", "bad_hello")
        wire.close_code()
    assert shared_backend.requests_of(device_id) == []


def test_an_accepted_hello_gets_allowed_a_session_id_and_the_subscription_status(gateway):
    with login(gateway) as device:
        assert device.auth["type"] == "auth_result"
        assert device.auth["allowed"] is True
        assert device.auth["subscription_status"] == "active"
        assert UUID.fullmatch(device.auth["session_id"]), device.auth


def test_the_subscription_status_is_the_backends_word(gateway, shared_backend):
    device_id = fresh_device()
    shared_backend.set(device_id, allowed("trial-\"ünïcode\""))
    with login(gateway, device_id) as device:
        assert device.auth["subscription_status"] == "trial-\"ünïcode\""


def test_every_session_has_an_id_of_its_own(gateway):
    device_id = fresh_device()
    ids = set()
    for _ in range(5):
        with login(gateway, device_id) as device:
            ids.add(device.auth["session_id"])
    assert len(ids) == 5


def test_the_auth_result_tells_the_stream_limit(gateway):
    with login(gateway) as device:
        assert device.auth["max_streams"] == 8


def test_a_client_that_names_no_capabilities_is_told_none(gateway):
    with login(gateway) as device:
        assert "capabilities" not in device.auth


def test_unknown_capabilities_are_not_accepted(gateway):
    with login(gateway, capabilities=["tcp", "x-unknown", ""]) as device:
        assert not device.auth.get("capabilities")
        device.lives()


def test_open_ack_is_accepted_when_the_client_names_it_and_then_used(gateway):
    with login(gateway, capabilities=["x-unknown", "open_ack"]) as device:
        assert device.auth["capabilities"] == ["open_ack"]
        device.send(stream_open("a"))
        assert device.recv() == {"type": "stream_opened", "stream_id": "a"}
        device.echo("a", b"x")


def test_a_stream_open_has_no_positive_answer_for_a_client_of_the_founding_page(gateway):
    with login(gateway, capabilities=["tcp"]) as device:
        device.send(stream_open("a"))
        device.assert_quiet()
        device.echo("a", b"x")


@pytest.mark.parametrize("fields", [
    {}, {"client_version": "1.2.3"}, {"capabilities": []}, {"capabilities": ["tcp", "udp"]}, {"region": "eu-1"},
    {"client_version": "1", "capabilities": ["a"], "region": ""},
], ids=str)
def test_the_optional_fields_are_optional(gateway, fields):
    with login(gateway, **fields) as device:
        device.lives()


def test_unknown_fields_are_ignored(gateway):
    with login(gateway, os="android", nested={"type": "ping", "device_id": "other", "list": [1, {"token": 2}]},
               number=1.5e300, nothing=None) as device:
        device.lives()


def test_the_optional_fields_have_no_limit_but_that_of_the_message(gateway):
    with login(gateway, client_version="Mozilla/5.0 " * 40, region="r" * 300, capabilities=["c" * 300] * 20) as device:
        device.lives()


def test_the_order_of_fields_and_white_space_do_not_matter(gateway, shared_backend):
    device_id = fresh_device()
    with Device(gateway) as device:
        device.send_message(f' \n{{ "token" :\t"{TOKEN}",\r\n "region":"x", "device_id" : "{device_id}" , "type": "hello" }}\n ')
        assert device.recv()["allowed"] is True
    assert shared_backend.requests_of(device_id)[0].json == {"device_id": device_id, "token": TOKEN}


def test_json_escapes_in_the_hello_are_undone(gateway, shared_backend):
    device_id = fresh_device() + "/é😀"
    escaped = json.dumps(device_id).replace("/", "\\/").replace("d", "\\u0064", 1)
    with Device(gateway) as device:
        device.send_message(f'{{"\\u0074ype":"h\\u0065llo","device_id":{escaped},"token":"a\\"b\\\\c\\u0080"}}')
        assert device.recv()["allowed"] is True
    assert shared_backend.requests_of(device_id)[0].json == {"device_id": device_id, "token": 'a"b\\c\x80'}


def test_a_device_id_of_128_bytes_and_a_token_of_8_kib_are_fine(gateway):
    device_id = fresh_device().ljust(128, "d")
    with login(gateway, device_id, token="t" * 8192) as device:
        device.lives()


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_hello_may_come_in_many_fragments(gateway, size):
    message = text(hello())
    with Device(gateway) as device:
        device.send_message(message[at:at + size] for at in range(0, len(message), size))
        assert device.recv()["allowed"] is True
        device.lives()


def test_a_hello_may_be_cut_inside_a_character_with_pings_between(gateway, shared_backend):
    device_id = fresh_device() + "-😀é"
    message = json.dumps(hello(device_id), ensure_ascii=False).encode()
    with Wire(gateway) as wire:
        wire.upgrade()
        for at, byte in enumerate(message):
            last = at == len(message) - 1
            wire.frame(CONTINUATION if at else TEXT, bytes([byte]), fin=last)
            if at % 16 == 0:
                wire.frame(PING, b"%d" % at)
                assert wire.recv_frame() == (PONG, b"%d" % at)
        assert wire.recv_json()["allowed"] is True
    assert len(shared_backend.requests_of(device_id)) == 1


def test_a_websocket_ping_before_the_hello_is_answered_and_is_no_message(gateway):
    with Wire(gateway) as wire:
        wire.upgrade()
        wire.frame(PING, b"early")
        assert wire.recv_frame() == (PONG, b"early")
        wire.text(hello())
        assert wire.recv_json()["allowed"] is True


def test_frames_sent_right_behind_the_hello_are_served_after_the_answer(gateway):
    with Wire(gateway) as wire:
        wire.upgrade()
        for frame in (hello(), stream_open("a"), stream_data("a", b"early bird")):
            wire.text(frame)
        assert wire.recv_json()["allowed"] is True
        assert wire.recv_json() == stream_data("a", b"early bird")


def test_a_second_hello_is_an_error_and_the_session_lives(gateway):
    with login(gateway) as device:
        device.send(stream_open("a"))
        device.send(hello())
        device.expect_error(CODES)
        device.echo("a", b"x")
        device.assert_quiet()


def test_the_same_device_may_hold_two_sessions(gateway):
    device_id = fresh_device()
    with login(gateway, device_id) as one, login(gateway, device_id) as two:
        assert one.auth["session_id"] != two.auth["session_id"]
        one.lives()
        two.lives()


def test_streams_of_two_sessions_do_not_know_each_other(gateway):
    with login(gateway) as one, login(gateway) as two:
        one.send(stream_open("a"))
        two.send(stream_data("a", b"x"))
        two.expect_error("stream_error", "a")
        two.send(stream_open("a"))
        one.echo("a", b"of one")
        two.echo("a", b"of two")
