"""Logs: the shapes of Go's log/slog, the events the page names, and what never appears."""

import ast
import base64
import json
import re
from contextlib import ExitStack

import pytest
from websockets.exceptions import ConnectionClosed

from rig.backend import Answer, refused
from rig.client import Device, fresh_device, login, stream_close, stream_data, stream_open
from rig.poll import eventually
from rig.targets import refusing_port

RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")
LEVEL = {"DEBUG", "INFO", "WARN", "ERROR"}
PAIR = re.compile(r'([^\s="]+)=(?:"((?:[^"\\\x00-\x1f\x7f]|\\(?:[abfnrtv\\"]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}))*)"|([^\s"=\x00-\x1f\x7f]+))( |$)')


def parse_json(line):
    """One line of slog's JSON handler as {key: value}; strict about order and duplicates."""
    pairs = json.loads(line, object_pairs_hook=list)
    keys = [key for key, _ in pairs]
    assert keys[:3] == ["time", "level", "msg"], f"the keys begin {keys[:3]}: {line}"
    assert len(set(keys)) == len(keys), f"a key twice: {line}"
    assert line.startswith('{"time":"') and " " not in line[:40], f"not slog's spacing: {line}"
    return check(dict(pairs), line)


def parse_text(line):
    """One line of slog's text handler as {key: value}."""
    record, at = {}, 0
    while at < len(line):
        match = PAIR.match(line, at)
        assert match, f"not logfmt at {at}: {line!r}"
        key, quoted, plain, _ = match.groups()
        assert key not in record, f"a key twice: {line}"
        record[key] = plain if plain is not None else unquote(line[match.start():match.end()])
        at = match.end()
    assert list(record)[:3] == ["time", "level", "msg"], f"the keys begin {list(record)[:3]}: {line}"
    return check(record, line)


def unquote(pair):
    """Go's strconv.Quote uses escapes that Python knows too."""
    return ast.literal_eval(pair[pair.index("=") + 1:].strip(" "))


def check(record, line):
    assert RFC3339.fullmatch(record["time"]), f"the time is not RFC 3339: {line}"
    assert record["level"] in LEVEL, f"the level is none of slog's: {line}"
    assert record["msg"], f"no msg: {line}"
    return record


PARSERS = {"json": parse_json, "text": parse_text}


def records(gateway, form):
    """Every line written so far, parsed; a line in the making is not counted."""
    return [PARSERS[form](line) for line in gateway.lines()]


def find(gateway, form, within=3, **fields):
    """The first record with these fields."""
    def look():
        for line in gateway.lines():
            try:
                record = PARSERS[form](line)
            except (AssertionError, ValueError):
                continue
            if all(record.get(key) == value for key, value in fields.items()):
                return record
    return eventually(look, within, f"a record with {fields}")


@pytest.fixture(scope="module", params=["json", "text"])
def logged(request, start_shared):
    """A gateway at level debug in each format."""
    return start_shared(GATEWAY_LOG_FORMAT=request.param, GATEWAY_LOG_LEVEL="debug"), request.param


def test_session_started_names_device_and_session(logged):
    gateway, form = logged
    with login(gateway) as device:
        record = find(gateway, form, msg="session_started", session_id=device.auth["session_id"])
        assert record["device_id"] == device.device_id and record["level"] == "INFO"


def test_the_fields_of_session_started_follow_the_message_in_the_pages_order(logged):
    gateway, form = logged
    with login(gateway) as device:
        record = find(gateway, form, msg="session_started", session_id=device.auth["session_id"])
        assert [key for key in record if key in ("device_id", "session_id")] == ["device_id", "session_id"]
        assert list(record)[3] == "device_id"


def test_a_stream_error_is_logged_with_device_and_session(logged):
    gateway, form = logged
    with login(gateway) as device:
        device.send(stream_data("unknown", b"x"))
        device.expect_error("stream_error")

        def look():
            return [r for r in records(gateway, form)
                    if r.get("session_id") == device.auth["session_id"] and "stream" in r["msg"] and r.get("device_id") == device.device_id]
        eventually(look, 3, "a record about the stream")


def test_an_upstream_failure_is_logged_at_the_default_level(start):
    gateway = start(GATEWAY_UPSTREAM_MODE="direct", GATEWAY_EGRESS_ALLOW="127.0.0.0/8")
    with login(gateway) as device:
        device.send(stream_open("a", f"127.0.0.1:{refusing_port()}"))
        device.expect_error("stream_error", "a")

        def look():
            return [r for r in records(gateway, "json") if r.get("session_id") == device.auth["session_id"]
                    and r.get("device_id") == device.device_id and "stream" in r["msg"]]
        eventually(look, 3, "a record about the stream")


def test_a_refusal_and_a_backend_failure_are_logged_with_the_device(logged, shared_backend):
    gateway, form = logged
    for reply in (refused("invalid_token"), Answer(500, b"")):
        device_id = fresh_device()
        shared_backend.set(device_id, reply)
        with Device(gateway) as device:
            assert device.ask(device_id)["allowed"] is False
        find(gateway, form, device_id=device_id)


def test_every_line_of_a_busy_life_has_the_shape(logged, shared_backend):
    gateway, form = logged
    last = exercise(gateway, shared_backend, "t", b"p")
    eventually(gateway.is_idle, 5, "the sessions are over")
    find(gateway, form, device_id=last)
    assert len(records(gateway, form)) > 3


def test_json_times_have_nanoseconds_as_go_has(start):
    gateway = start()
    with login(gateway) as device:
        record = find(gateway, "json", msg="session_started", session_id=device.auth["session_id"])
        assert re.search(r"\.\d+", record["time"]), record


def exercise(gateway, backend, token, payload):
    """Everything that could tempt a logger: logins, refusals, failures, bad frames, data, garbage with secrets inside.
    Gives the device that came last."""
    encoded = base64.b64encode(payload).decode()
    with login(gateway, token=token) as device:
        device.send(stream_open("a"))
        device.echo("a", payload)
        device.send({"type": "stream_data", "stream_id": "a", "data": encoded + "*"})
        device.expect_error("bad_stream")
        device.send({"type": "stream_data", "stream_id": "unknown", "data": encoded})
        device.expect_error("stream_error")
        device.send_message('{"type":"hello","token":"%s"' % token)
        device.expect_error("bad_frame")
        device.send({"type": "hello", "device_id": "d", "token": token})
        device.recv()
        device.send({"type": token, "data": encoded})
        device.recv()
        device.send(stream_close("a"))
        device.assert_quiet()
    for first in ({"type": "hello", "token": token}, {"type": "hello", "device_id": 1, "token": token},
                  {"type": token}, {"type": "hello", "device_id": "", "token": token, "data": encoded}):
        with Device(gateway) as device:
            device.send(first)
            device.expect_error("bad_hello")
    with Device(gateway) as device:
        device.send_message('{"type":"hello","device_id":"d","token":"%s"' % token)
        device.expect_error("bad_hello")
    for reply in (refused("invalid_token"), Answer(500, token.encode()), Answer(200, ('{"allowed":"%s"}' % token).encode()),
                  Answer(302, b"", {"Location": f"/{token}"}), Answer(manner="close")):
        device_id = fresh_device()
        backend.set(device_id, reply)
        with Device(gateway) as device:
            device.ask(device_id, token=token)
    return device_id


@pytest.mark.parametrize("form", ["json", "text"])
def test_token_secret_and_payload_appear_nowhere_at_level_debug(start, backend, form):
    token, secret, payload = "ToKeN-4711-never-shown", "SeCrEt-0815-never-shown", b"PaYlOaD-never-shown-at-all-4242"
    gateway = start(GATEWAY_LOG_FORMAT=form, GATEWAY_LOG_LEVEL="debug", BACKEND_GATEWAY_SECRET=secret)
    exercise(gateway, backend, token, payload)
    eventually(gateway.is_idle, 5, "the sessions are over")
    scrape = gateway.metrics().text
    gateway.terminate()
    gateway.exit_code(35)
    told = gateway.output() + scrape
    assert "session_started" in told
    for name, value in {"token": token, "secret": secret, "payload": payload.decode(),
                        "payload in base64": base64.b64encode(payload).decode()[:24], "Rust's bytes": "[84, 111, 75"}.items():
        assert value not in told, f"the {name} is in the logs"


@pytest.fixture
def start(launch, backend):
    """As everywhere, but these gateways may be ended by the test."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(launch(backend.url, may_exit=True, **settings))


EVIL = {
    "new line": 'x\n{"time":"2026-01-01T00:00:00Z","level":"ERROR","msg":"forged"}',
    "carriage return": "x\r\ntime=2026-01-01T00:00:00Z level=ERROR msg=forged",
    "space and equals": "x msg=forged level=ERROR",
    "quote": 'x" msg="forged',
    "json ends": '","msg":"forged","x":"',
    "terminal": "x\x1b[2J\x1b]0;forged\x07",
    "NUL and DEL": "x\x00\x7f",
    "C1 and separators": "x\u0085\u2028\u2029\u009b31m",
    "right to left": "x\u202eforged",
    "backslash": "x\\n\\",
}


@pytest.mark.parametrize("evil", EVIL.values(), ids=EVIL.keys())
def test_a_device_id_cannot_forge_a_line(logged, evil):
    gateway, form = logged
    before = len(gateway.lines())
    with Device(gateway) as device:
        answer = device.ask(evil)
        if answer["type"] == "auth_result":
            record = find(gateway, form, msg="session_started", session_id=answer["session_id"])
            assert record["device_id"] == evil
        else:
            assert answer["code"] == "bad_hello"
    eventually(gateway.is_idle, 3, "the session is over")
    for line in gateway.output().split("\n")[before:]:
        if line:
            assert PARSERS[form](line)["msg"] != "forged"
            # slog's JSON escapes C0 and the line separators; its text quotes whatever does not print.
            raw = r"[\x00-\x1f\u2028\u2029]" if form == "json" else r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202e]"
            assert not re.search(raw, line), ascii(line)


def test_a_stream_id_and_a_target_cannot_forge_a_line(start):
    for form in ("json", "text"):
        gateway = start(GATEWAY_LOG_FORMAT=form, GATEWAY_LOG_LEVEL="debug", GATEWAY_UPSTREAM_MODE="direct")
        with login(gateway) as device:
            for evil in EVIL.values():
                device.send(stream_open(evil[:60], evil + ":80"))
                device.expect_error({"stream_error", "bad_stream"}, timeout=12)
        eventually(gateway.is_idle, 3, "the session is over")
        for record in records(gateway, form):
            assert record["msg"] != "forged"


def test_text_values_are_quoted_where_slog_quotes_and_nowhere_else(start):
    gateway = start(GATEWAY_LOG_FORMAT="text")
    plain = fresh_device()
    for device_id, written in ((plain, plain), ("a b", '"a b"'), ("a=b", '"a=b"'), ('a"b', '"a\\"b"'), ("a\\b", "a\\b"), ("ü-1", "ü-1")):
        with login(gateway, device_id) as device:
            needle = f"msg=session_started device_id={written} session_id={device.auth['session_id']}"
            gateway.says(needle, within=3)


def test_a_flood_of_bad_frames_does_not_flood_the_log(start):
    gateway = start()
    with login(gateway) as device:
        try:
            for _ in range(3000):
                device.send_message("garbage")
            device.until_closed(1)
        except (ConnectionClosed, TimeoutError):
            pass
    assert len(gateway.lines()) < 1000
