"""A device that speaks the binary format: the codec of `interop/` over the third-party WebSocket client.

It keeps to the credit that it has, counts what it granted, and fails when the gateway sends beyond that.
"""

import asyncio
import sys
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

from websockets.exceptions import ConnectionClosed

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "interop"))

from httvps_v2 import (Credit, Data, Datagram, Finish, GoAway, MAX_DATA, Open, Opened, Ping, Pong, Reset,  # noqa: E402
                       decode, encode)

from .client import LOOP, Device, fresh_device  # noqa: E402

STREAM_CREDIT, SESSION_CREDIT = 65_536, 262_144


class Stream:
    """What has come of one stream."""

    def __init__(self):
        self.received = bytearray()
        self.datagrams = []
        self.opened = self.finished = False
        self.reset = None


class V2Device(Device):
    """After `enter`: `open`, `write`, `finish`; `pump` reads until something is true."""

    def enter(self, device_id=None, **fields):
        self.login(device_id or fresh_device(), capabilities=["v2"], **fields)
        assert "v2" in self.auth["capabilities"], self.auth
        return self.begin()

    def begin(self):
        """The state of a session that has just begun."""
        self.streams = defaultdict(Stream)
        self.others = []
        self.largest = 0
        self.credit = defaultdict(lambda: STREAM_CREDIT, {0: SESSION_CREDIT})
        self.granted = defaultdict(lambda: STREAM_CREDIT, {0: SESSION_CREDIT})
        self.last, self.grants = 0, True
        return self

    def say(self, *frames, timeout=30):
        self.send_message(b"".join(encode(frame) for frame in frames), timeout)

    def open(self, target="", data=b""):
        self.last += 1
        frames = [Open(self.last, "bytes", target)]
        if data:
            frames.append(self.spend(self.last, data))
        self.say(*frames)
        return self.last

    def open_datagrams(self, target="", *datagrams):
        """Opens a stream of datagrams, the first ones in the same message."""
        self.last += 1
        self.say(Open(self.last, "datagrams", target), *(Datagram(self.last, one) for one in datagrams))
        return self.last

    def send_datagrams(self, stream, *datagrams):
        """Sends them in one message."""
        self.say(*(Datagram(stream, one) for one in datagrams))

    def spend(self, stream, data):
        for account in (stream, 0):
            self.credit[account] -= len(data)
            assert self.credit[account] >= 0, "the test sends beyond its credit"
        return Data(stream, data)

    def write(self, stream, payload, within=30):
        """Sends all of it, as the gateway grants credit."""
        payload = memoryview(payload)
        while payload:
            count = min(len(payload), MAX_DATA, self.credit[stream], self.credit[0])
            if count == 0:
                self.step(within)
                continue
            self.say(self.spend(stream, bytes(payload[:count])))
            payload = payload[count:]

    def finish(self, stream):
        self.say(Finish(stream))

    def take(self, frame):
        """Notes one frame of the gateway."""
        match frame:
            case Data(stream, data):
                known = self.streams[stream]
                assert not known.finished and known.reset is None
                known.received += data
                self.largest = max(self.largest, len(data))
                for account in (stream, 0):
                    self.granted[account] -= len(data)
                    assert self.granted[account] >= 0, "the gateway sends beyond its credit"
                if self.grants and data:
                    self.grant(stream, len(data))
                    self.grant(0, len(data))
            case Ping(data):
                self.say(Pong(data))
            case Datagram(stream, data):
                assert self.streams[stream].reset is None
                self.streams[stream].datagrams.append(data)
            case Credit(stream, increment):
                self.credit[stream] += increment
            case Opened(stream):
                self.streams[stream].opened = True
            case Finish(stream):
                self.streams[stream].finished = True
            case Reset(stream):
                self.streams[stream].reset = frame.code
            case _:
                self.others.append(frame)

    def grant(self, stream, increment):
        self.granted[stream] += increment
        self.say(Credit(stream, increment))

    def step(self, timeout=10):
        """Reads one message."""
        message = LOOP.run(self.ws.recv(), timeout)
        assert isinstance(message, bytes), f"a text message in the binary format: {message!r}"
        frames, error = decode(message, "gateway")
        assert error is None, f"{error}: {message[:80].hex()}"
        for frame in frames:
            self.take(frame)

    def pump(self, check, within=10):
        """Reads until `check()` is true."""
        while not check():
            self.step(within)

    def flood(self, messages):
        """Sends them one by one, until the gateway has closed."""
        with suppress(ConnectionClosed):
            for message in messages:
                self.send_message(message)

    def until_gone(self, within=5):
        """Reads to the end: the close code and its reason."""
        async def drain():
            while True:
                message = await self.ws.recv()
                for frame in decode(message, "gateway")[0]:
                    # Nothing is answered any more: this runs inside the loop that would send it.
                    if not isinstance(frame, Ping):
                        self.take(frame)
        try:
            LOOP.run(drain(), within)
        except ConnectionClosed as end:
            assert end.rcvd is not None, "the connection ended without a close frame"
            return end.rcvd.code, end.rcvd.reason
        except asyncio.TimeoutError as late:
            raise AssertionError("the connection did not end") from late

    def round_trip(self):
        """A PING and its PONG: everything before it has been handled."""
        self.say(Ping(b"12345678"))
        self.pump(lambda: any(type(frame).__name__ == "Pong" for frame in self.others))
        self.others = [frame for frame in self.others if type(frame).__name__ != "Pong"]


def enter(gateway, **fields):
    device = V2Device(gateway)
    try:
        return device.enter(**fields)
    except BaseException:
        device.close()
        raise


__all__ = ["Credit", "Data", "Datagram", "Finish", "GoAway", "Open", "Ping", "Reset", "V2Device", "encode", "enter"]
