"""A device: a session over the third-party WebSocket client."""

import asyncio
import base64
import itertools
import json
import os
import threading

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from .poll import Stopwatch

TOKEN = "token-of-a-device"
_numbers = itertools.count(1)


def fresh_device():
    """A device id that no other test uses."""
    return f"device-{os.getpid()}-{next(_numbers)}"


def hello(device_id=None, token=TOKEN, **more):
    return {"type": "hello", "device_id": device_id or fresh_device(), "token": token} | more


def stream_open(stream_id, target=None, **more):
    frame = {"type": "stream_open", "stream_id": stream_id} | more
    return frame | {"target": target} if target is not None else frame


def stream_data(stream_id, payload, **more):
    return {"type": "stream_data", "stream_id": stream_id, "data": base64.b64encode(payload).decode()} | more


def stream_close(stream_id, **more):
    return {"type": "stream_close", "stream_id": stream_id} | more


class Loop:
    """One event loop in a thread of its own for all devices.

    The client's threaded flavour reads and writes one TLS object from two threads, which Python 3.11 does not survive.
    """

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def run(self, coroutine, timeout):
        """The result of `coroutine`; it is cancelled after `timeout` seconds."""
        async def bounded():
            async with asyncio.timeout(timeout):
                return await coroutine
        return asyncio.run_coroutine_threadsafe(bounded(), self.loop).result()


LOOP = Loop()


class Device:
    """A WebSocket connection to the gateway; after `login`, a session."""

    def __init__(self, gateway, **options):
        self.device_id = fresh_device()
        self.auth = None

        async def open_connection():
            return await connect(f"wss://localhost:{gateway.port}/ws", host="127.0.0.1", port=gateway.port, **(
                {"ssl": gateway.authority.client_context(), "proxy": None, "ping_interval": None, "close_timeout": 2,
                 "max_size": None} | options))
        self.ws = LOOP.run(open_connection(), 15)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """The close handshake, at most 2 s of it."""
        LOOP.run(self.ws.close(), 15)

    def drop(self):
        """Ends the TCP connection without a word."""
        LOOP.loop.call_soon_threadsafe(self.ws.transport.abort)

    @property
    def response_headers(self):
        return self.ws.response.headers

    @property
    def tls_version(self):
        return self.ws.transport.get_extra_info("ssl_object").version()

    # --- messages ------------------------------------------------------------------------------

    def send_message(self, message, timeout=30):
        """One WebSocket message: text, bytes (binary), or an iterable of fragments."""
        LOOP.run(self.ws.send(message), timeout)

    def send(self, *frames):
        for frame in frames:
            self.send_message(json.dumps(frame))

    def ping(self, timeout=5):
        """An RFC 6455 ping; the seconds until its pong."""
        async def measured():
            return await (await self.ws.ping())
        return LOOP.run(measured(), timeout)

    def recv(self, timeout=5):
        """The next frame; every message must be text with one JSON object that has a type."""
        message = LOOP.run(self.ws.recv(), timeout)
        assert isinstance(message, str), "the gateway sent a binary message"
        frame = json.loads(message)
        assert isinstance(frame, dict) and isinstance(frame.get("type"), str), f"not a frame: {message!r}"
        return frame

    def until_closed(self, within=5):
        """Reads to the end: (frames, close code). The code is None when no close frame came."""
        frames, clock = [], Stopwatch()
        while True:
            try:
                frames.append(self.recv(max(0.01, within - clock.seconds)))
            except ConnectionClosed as end:
                return frames, end.rcvd.code if end.rcvd else None

    def assert_closes(self, within=5):
        """Nothing more comes but a close frame."""
        frames, code = self.until_closed(within)
        assert frames == [], f"frames before the close: {frames}"
        assert code is not None, "the connection ended without a WebSocket close frame"
        return code

    def until_pong(self, timeout=5):
        """Sends a JSON ping and returns what comes before its pong."""
        self.send({"type": "ping"})
        frames = []
        while (frame := self.recv(timeout))["type"] != "pong":
            frames.append(frame)
        return frames

    def assert_quiet(self):
        """The session answers a JSON ping, and nothing else was under way."""
        assert self.until_pong() == []

    # --- session -------------------------------------------------------------------------------

    def ask(self, device_id=None, timeout=15, **fields):
        """Sends `hello` and returns the answer."""
        self.device_id = device_id or self.device_id
        self.send(hello(self.device_id, **fields))
        return self.recv(timeout)

    def login(self, device_id=None, **fields):
        self.auth = self.ask(device_id, **fields)
        assert self.auth["type"] == "auth_result" and self.auth["allowed"] is True, self.auth
        return self

    def expect_error(self, code, stream_id=None, timeout=5):
        """The next frame is an `error` with this code (or one of these), about this stream."""
        frame = self.recv(timeout)
        codes = {code} if isinstance(code, str) else set(code)
        assert frame["type"] == "error" and frame["code"] in codes, f"expected {codes}: {frame}"
        assert isinstance(frame.get("message", ""), str)
        if stream_id is not None:
            assert frame.get("stream_id") == stream_id, f"the error does not name {stream_id!r}: {frame}"
        return frame

    def collect(self, stream_id, size, timeout=10):
        """Reads `size` bytes of a stream."""
        got = bytearray()
        while len(got) < size:
            got += self.recv_data(stream_id, timeout)
        assert len(got) == size, f"{len(got)} bytes instead of {size}"
        return bytes(got)

    def recv_data(self, stream_id, timeout=10):
        frame = self.recv(timeout)
        assert frame["type"] == "stream_data" and frame["stream_id"] == stream_id, short(frame)
        return base64.b64decode(frame["data"], validate=True)

    def echo(self, stream_id, payload, timeout=10):
        """Sends one message into an echo stream and checks that exactly it comes back, in one message."""
        self.send(stream_data(stream_id, payload))
        got = self.recv_data(stream_id, timeout)
        assert got == payload, f"{len(got)} bytes came back for {len(payload)}, or others"

    def lives(self):
        """The session still carries a stream."""
        self.assert_quiet()
        self.send(stream_open("probe-of-life"))
        self.echo("probe-of-life", b"still here")
        self.send(stream_close("probe-of-life"))


def short(frame):
    return {key: (value[:60] + "…" if isinstance(value, str) and len(value) > 60 else value)
            for key, value in frame.items()}


def login(gateway, device_id=None, options=None, **fields):
    """A device with a session."""
    device = Device(gateway, **(options or {}))
    try:
        return device.login(device_id, **fields)
    except BaseException:
        device.close()
        raise
