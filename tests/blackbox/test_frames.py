"""Frames after the handshake: every error code, that the session outlives each, and the limits of a session."""

import base64
import json
import os

import pytest
from websockets.exceptions import ConnectionClosed

from rig.client import Device, login, stream_close, stream_data, stream_open
from rig.poll import eventually


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


# --- ping --------------------------------------------------------------------------------------


def test_a_ping_is_answered_with_a_pong_that_has_no_fields(device):
    device.send({"type": "ping"})
    assert device.recv() == {"type": "pong"}


def test_every_ping_gets_a_pong(device):
    for _ in range(50):
        device.send({"type": "ping"})
    assert [device.recv()["type"] for _ in range(50)] == ["pong"] * 50


def test_a_pong_gets_no_answer(device):
    device.send({"type": "pong"})
    device.lives()


def test_unknown_fields_of_a_ping_are_ignored(device):
    device.send({"type": "ping", "ts": 1, "stream_id": "x", "data": "???"})
    assert device.recv()["type"] == "pong"


# --- bad_frame and unsupported -----------------------------------------------------------------

NOT_JSON = ["", " ", "x", "{", "{]", '{"type":"ping"', '{"type":"ping"}}', '{"type":"ping"}{"type":"ping"}',
            "{'type':'ping'}", '{"type":"ping",}', '{"type":ping}', '{"type":"ping" "a":1}', '{"type":"pi\nng"}',
            '{"type":"\\x"}', "nul", '{type:"ping"}', '{"type":"ping","a":01}', '{"type":"ping","a":.5}',
            '{"type":"ping","a":NaN}', '{"type":"ping"}\x00']


@pytest.mark.parametrize("message", NOT_JSON, ids=ascii)
def test_what_is_not_json_is_a_bad_frame_and_the_session_lives(stream, message):
    stream.send_message(message)
    stream.expect_error("bad_frame")
    stream.echo("a", b"x")
    stream.assert_quiet()


@pytest.mark.parametrize("message", ["[]", "1", "null", "true", '"ping"', '[{"type":"ping"}]', "{}", '{"type":1}',
                                     '{"type":null}', '{"type":["ping"]}', '{"Type":"ping"}'], ids=ascii)
def test_json_that_is_no_frame_is_an_error_and_the_session_lives(stream, message):
    stream.send_message(message)
    stream.expect_error({"bad_frame", "unsupported"})
    stream.echo("a", b"x")


def test_a_binary_message_is_a_bad_frame_and_the_session_lives(stream):
    stream.send_message(json.dumps({"type": "ping"}).encode())
    stream.expect_error("bad_frame")
    stream.send_message(b"\x00\xff")
    stream.expect_error("bad_frame")
    stream.echo("a", b"x")


@pytest.mark.parametrize("kind", ["", "PING", "Ping", "stream", "stream_reset", "ping ", "x" * 1000, "stream_datа"],
                         ids=lambda kind: ascii(kind[:20]))
def test_an_unknown_type_is_unsupported_and_the_session_lives(stream, kind):
    stream.send({"type": kind, "stream_id": "a", "data": "eA=="})
    stream.expect_error("unsupported")
    stream.echo("a", b"x")


@pytest.mark.parametrize("field", ["type", "stream_id", "data"])
def test_half_a_surrogate_pair_is_an_error_and_the_session_lives(stream, field):
    text = json.dumps(stream_data("a", b"x") | {field: "HERE"}).replace("HERE", "\\ud800x")
    stream.send_message(text)
    stream.expect_error({"bad_frame", "bad_stream", "unsupported", "stream_error"})
    stream.echo("a", b"x")


@pytest.mark.parametrize("frame", [
    {"type": "auth_result", "allowed": True}, {"type": "error", "code": "bad_frame"},
    {"type": "stream_opened", "stream_id": "a"},
], ids=lambda frame: frame["type"])
def test_a_frame_that_only_the_gateway_sends_does_no_harm(stream, frame):
    stream.send(frame)
    assert [f["type"] for f in stream.until_pong()] in ([], ["error"])
    stream.echo("a", b"x")


# --- bad_stream --------------------------------------------------------------------------------

MALFORMED = {
    "open without id": {"type": "stream_open"},
    "open with empty id": stream_open(""),
    "open with number as id": stream_open(1),
    "open with null as id": stream_open(None),
    "open with array as id": stream_open(["a"]),
    "open with number as target": stream_open("b", target=80),
    "open with object as target": stream_open("b", target={"host": "x"}),
    "data without id": {"type": "stream_data", "data": "eA=="},
    "data with number as id": stream_data(1, b"x"),
    "data with empty id": stream_data("", b"x"),
    "data without data": {"type": "stream_data", "stream_id": "a"},
    "data with number as data": {"type": "stream_data", "stream_id": "a", "data": 1},
    "data with null as data": {"type": "stream_data", "stream_id": "a", "data": None},
    "data with array as data": {"type": "stream_data", "stream_id": "a", "data": [1, 2]},
    "close without id": {"type": "stream_close"},
    "close with number as id": stream_close(1),
    "close with empty id": stream_close(""),
}


@pytest.mark.parametrize("frame", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_stream_frame_is_a_bad_stream_and_the_session_lives(stream, frame):
    stream.send(frame)
    stream.expect_error("bad_stream")
    stream.echo("a", b"x")
    stream.assert_quiet()


NOT_BASE64 = ["YQ", "YQ=", "Y", "YQ===", "YQ==YQ==", "=", "====", "YWI", "-_8=", "_-8=", "YQ!=", "YW Jj", " YWJj",
              "YWJj ", "YWJj\n", "YW\r\nJj", "YW\tJj", "ÿÿÿÿ", "YWJ\u0000", "YWJ😀", "a" * 4097, "YWJj=", "Y=Jj"]


@pytest.mark.parametrize("data", NOT_BASE64, ids=lambda data: ascii(data[:20]))
def test_bad_base64_is_a_bad_stream_and_the_stream_lives(stream, data):
    stream.send({"type": "stream_data", "stream_id": "a", "data": data})
    stream.expect_error("bad_stream", "a")
    stream.echo("a", b"the stream goes on")
    stream.assert_quiet()


def test_bad_base64_deep_inside_a_long_message_is_found(stream):
    good = base64.b64encode(os.urandom(60_000)).decode()
    for at in (0, 31, 32, 33, 40_000, len(good) - 5, len(good) - 1):
        stream.send({"type": "stream_data", "stream_id": "a", "data": good[:at] + "*" + good[at + 1:]})
        stream.expect_error("bad_stream", "a")
    stream.echo("a", b"x")


# --- stream_error ------------------------------------------------------------------------------


def test_a_duplicate_stream_id_is_a_stream_error_and_the_first_stream_lives(stream):
    stream.send(stream_open("a"))
    stream.expect_error("stream_error", "a")
    stream.echo("a", b"first")
    stream.assert_quiet()


def test_data_for_an_unknown_stream_is_a_stream_error(stream):
    stream.send(stream_data("unknown", b"x"))
    stream.expect_error("stream_error", "unknown")
    stream.echo("a", b"x")


def test_a_close_of_an_unknown_stream_is_a_stream_error(stream):
    stream.send(stream_close("unknown"))
    stream.expect_error("stream_error", "unknown")
    stream.echo("a", b"x")


def test_a_closed_stream_is_unknown(stream):
    stream.echo("a", b"x")
    stream.send(stream_close("a", reason="done"))
    stream.assert_quiet()
    stream.send(stream_data("a", b"x"))
    stream.expect_error("stream_error", "a")
    stream.send(stream_close("a"))
    stream.expect_error("stream_error", "a")
    stream.lives()


def test_the_ninth_stream_is_a_stream_error_and_the_eight_live(device):
    for number in range(8):
        device.send(stream_open(f"s{number}"))
    device.send(stream_open("s8"))
    device.expect_error("stream_error", "s8")
    device.send(stream_data("s8", b"x"))
    device.expect_error("stream_error", "s8")
    for number in range(8):
        device.echo(f"s{number}", b"%d" % number)
    device.assert_quiet()


def test_closing_a_stream_makes_room_for_another(device):
    for number in range(8):
        device.send(stream_open(f"s{number}"))
    device.send(stream_close("s3"), stream_open("new"))
    device.echo("new", b"x")
    device.send(stream_open("too many"))
    device.expect_error("stream_error", "too many")


def test_a_duplicate_and_a_malformed_open_take_no_room(device):
    device.send(stream_open("s0"))
    for _ in range(8):
        device.send(stream_open("s0"))
        device.expect_error("stream_error", "s0")
        device.send(stream_open(""))
        device.expect_error("bad_stream")
    for number in range(1, 8):
        device.send(stream_open(f"s{number}"))
    device.echo("s7", b"x")


def test_a_stream_id_can_be_used_again_after_its_close(device):
    for round_ in range(20):
        device.send(stream_open("a"))
        device.echo("a", b"round %d" % round_)
        device.send(stream_close("a"))
    device.assert_quiet()


def test_a_close_has_no_answer(stream):
    stream.send(stream_close("a"))
    stream.assert_quiet()


def test_an_open_has_no_answer(device):
    device.send(stream_open("a"), stream_open("b", "example.com:443"))
    device.assert_quiet()


def test_every_error_after_every_other_leaves_the_session_alive(device):
    device.send(stream_open("a"))
    for _ in range(5):
        device.send_message("not json")
        device.expect_error("bad_frame")
        device.send({"type": "stream_data", "stream_id": "a", "data": "*"})
        device.expect_error("bad_stream", "a")
        device.send(stream_data("b", b""))
        device.expect_error("stream_error", "b")
        device.send({"type": "telepathy"})
        device.expect_error("unsupported")
        device.echo("a", b"x")


# --- stream ids --------------------------------------------------------------------------------


@pytest.mark.parametrize("stream_id", ["a", "1", "A" * 64, "é" * 32, "with space", 'quote"d', "back\\slash", "a/b",
                                       "line\nbreak", "\u0001", "😀", "{}", '","type":"ping', "\u2028", "null"], ids=ascii)
def test_a_stream_id_is_any_string_and_comes_back_as_it_was(device, stream_id):
    device.send(stream_open(stream_id))
    device.echo(stream_id, b"x")
    device.send(stream_open(stream_id))
    device.expect_error("stream_error", stream_id)
    device.send(stream_close(stream_id))
    device.assert_quiet()


def test_a_stream_id_of_65_bytes_is_an_error(stream):
    stream.send(stream_open("x" * 65))
    stream.expect_error({"bad_stream", "stream_error"})
    stream.echo("a", b"x")


def test_stream_ids_differ_in_case_and_white_space(device):
    for stream_id in ("a", "A", "a ", " a"):
        device.send(stream_open(stream_id))
    for stream_id in ("a", "A", "a ", " a"):
        device.echo(stream_id, stream_id.encode())


# --- limits of a session -----------------------------------------------------------------------


def test_a_stream_limit_of_two_is_told_and_kept(start_shared):
    gateway = start_shared(GATEWAY_MAX_STREAMS=2)
    with login(gateway) as device:
        assert device.auth["max_streams"] == 2
        device.send(stream_open("a"), stream_open("b"), stream_open("c"))
        device.expect_error("stream_error", "c")
        device.echo("a", b"x")
        device.echo("b", b"x")


def test_opens_faster_than_the_bucket_are_stream_errors_and_the_session_lives(start_shared):
    gateway = start_shared(GATEWAY_MAX_STREAM_OPENS_PER_SECOND=1, GATEWAY_MAX_STREAM_OPEN_BURST=5)
    with login(gateway) as device:
        for number in range(20):
            device.send(stream_open(f"s{number}"), stream_close(f"s{number}"))
        refused = {f["stream_id"] for f in device.until_pong() if f["code"] == "stream_error"}
        assert 10 <= len(refused) <= 15, sorted(refused)
        assert not refused & {f"s{number}" for number in range(5)}
        device.assert_quiet()


def test_zero_opens_per_second_means_no_limit(start_shared):
    gateway = start_shared(GATEWAY_MAX_STREAM_OPENS_PER_SECOND=0)
    with login(gateway) as device:
        for _ in range(1000):
            device.send(stream_open("a"), stream_close("a"))
        device.lives()


def test_a_client_that_only_produces_errors_is_closed(start_shared):
    gateway = start_shared(GATEWAY_MAX_ERRORS_PER_SECOND=10, GATEWAY_MAX_ERROR_BURST=20)
    with Device(gateway) as device:
        device.login()
        try:
            for _ in range(5000):
                device.send_message("garbage")
        except ConnectionClosed:
            pass
        frames, _ = device.until_closed(10)
        assert all(f["code"] in ("bad_frame", "session_error") for f in frames)
        assert len(frames) <= 100, f"{len(frames)} errors were sent to one client"


def test_a_device_over_the_session_limit_is_not_let_in_and_those_inside_stay(start_shared):
    gateway = start_shared(GATEWAY_MAX_SESSIONS=2)
    with login(gateway) as one:
        with login(gateway) as two:
            with Device(gateway) as three:
                answer = three.ask()
                assert answer["type"] == "error" or answer["allowed"] is False, answer
                three.until_closed()
            one.lives()
            two.lives()
        eventually(lambda: gateway.metric("active_sessions") == 1, 3, "one session is left")
        with login(gateway) as four:
            four.lives()


def test_a_limit_of_one_session_per_device_leaves_exactly_one(start_shared):
    gateway = start_shared(GATEWAY_MAX_SESSIONS_PER_DEVICE=1)
    with login(gateway) as one, Device(gateway) as two:
        answer = two.ask(one.device_id)
        if answer.get("allowed"):
            one.until_closed()
            two.lives()
        else:
            two.until_closed()
            one.lives()
        with login(gateway) as other:
            other.lives()
