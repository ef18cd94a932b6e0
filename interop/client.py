"""A small client of the httvps v2 wire format, written from docs/protocol-v2.md and docs/protocol.md; standard library only.

    with Session("127.0.0.1", 8443, "device", "token", ca="ca.pem") as session:
        stream = session.open("example.com:80", b"GET / HTTP/1.0\\r\\n\\r\\n")
        stream.finish()
        print(stream.read_all())

One thread uses a session. `read`, `write` and the like run the session until they have what they want; a reset stream or
a closed connection is an exception. Bytes are granted again when `read` has given them to its caller.
"""
import base64
import hashlib
import json
import os
import socket
import ssl
import struct
from collections import deque

import httvps_v2 as v2

STREAM_CREDIT, SESSION_CREDIT = 65_536, 262_144
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class Closed(Exception):
    """The connection is over: the close code (None without one) and its reason."""

    def __init__(self, code, reason):
        super().__init__(f"closed: {code} {reason}")
        self.code, self.reason = code, reason


class StreamReset(Exception):
    """The gateway ended a stream; `code` is a name of the table of codes."""

    def __init__(self, code, words):
        super().__init__(f"{code}: {words}")
        self.code = code


class WebSocket:
    """RFC 6455, a client's half: whole messages."""

    def __init__(self, host, port, context, name, timeout):
        plain = socket.create_connection((host, port), timeout)
        self.socket = context.wrap_socket(plain, server_hostname=name)
        key = base64.b64encode(os.urandom(16))
        self.socket.sendall(b"GET /ws HTTP/1.1\r\nHost: " + name.encode() + b"\r\nUpgrade: websocket\r\n"
                            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n")
        self.buffer = bytearray()
        status = self._line()
        fields = {}
        while line := self._line():
            field, _, value = line.partition(b":")
            fields[field.lower()] = value.strip()
        wanted = base64.b64encode(hashlib.sha1(key + GUID).digest())
        if b" 101 " not in status or fields.get(b"sec-websocket-accept") != wanted:
            raise ConnectionError(f"no upgrade: {status!r}")

    def send(self, opcode, payload):
        length = len(payload)
        size = bytes([0x80 | length]) if length < 126 else (
            struct.pack(">BH", 0xFE, length) if length < 65_536 else struct.pack(">BQ", 0xFF, length))
        mask = os.urandom(4)
        whole = int.from_bytes((mask * (length // 4 + 1))[:length], "big") ^ int.from_bytes(payload, "big")
        self.socket.sendall(bytes([0x80 | opcode]) + size + mask + whole.to_bytes(length, "big"))

    def receive(self):
        """The next message: (opcode, payload)."""
        kind, parts = None, []
        while True:
            head, length = self._exactly(2)
            if length >= 126:
                length = int.from_bytes(self._exactly(2 if length == 126 else 8), "big")
            payload = self._exactly(length)
            opcode = head & 15
            if opcode == PING:
                self.send(PONG, payload)
            elif opcode == CLOSE:
                code = int.from_bytes(payload[:2], "big") if payload else None
                self.send(CLOSE, payload[:2])
                raise Closed(code, payload[2:].decode())
            elif opcode != PONG:
                kind = kind or opcode
                parts.append(payload)
                if head & 0x80:
                    return kind, b"".join(parts)

    def has_input(self):
        """Whether something has arrived that waiting for the socket would not tell of."""
        return bool(self.buffer) or self.socket.pending() > 0

    def _fill(self):
        data = self.socket.recv(65_536)
        if not data:
            raise Closed(None, "the connection ended")
        self.buffer += data

    def _exactly(self, count):
        while len(self.buffer) < count:
            self._fill()
        data = bytes(self.buffer[:count])
        del self.buffer[:count]
        return data

    def _line(self):
        while b"\r\n" not in self.buffer:
            self._fill()
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return bytes(line)


class Stream:
    """A stream of bytes, or of datagrams."""

    def __init__(self, session, number):
        self.session, self.number = session, number
        self.credit = self.granted = STREAM_CREDIT
        self.held, self.datagrams = bytearray(), deque()
        self.is_opened = self.is_finished = False
        self.reset_by = None

    def write(self, data):
        """Sends all of it, as credit comes."""
        data = memoryview(data)
        while data:
            count = min(len(data), v2.MAX_DATA, self.credit, self.session.credit)
            if count == 0:
                self._wait()
                continue
            self.credit -= count
            self.session.credit -= count
            self.session.say(v2.Data(self.number, bytes(data[:count])))
            data = data[count:]

    def read(self):
        """Some bytes; none at the end."""
        while not self.held and not self.is_finished:
            self._wait()
        data, self.held = bytes(self.held), bytearray()
        if data:
            self.session.granted += len(data)
            grants = [v2.Credit(0, len(data))]
            if not self.is_finished:
                self.granted += len(data)
                grants.append(v2.Credit(self.number, len(data)))
            self.session.say(*grants)
        return data

    def read_all(self):
        return b"".join(iter(self.read, b""))

    def finish(self):
        self.session.say(v2.Finish(self.number))

    def reset(self, code="cancelled"):
        # What was held and is dropped here must not be missing to the session: section 10, 1.
        self.session.drop(self)
        self.session.say(v2.Reset(self.number, code))

    def send(self, datagram):
        self.session.say(v2.Datagram(self.number, datagram))

    def receive(self):
        """The next datagram."""
        while not self.datagrams:
            self._wait()
        return self.datagrams.popleft()

    def wait_opened(self):
        while not self.is_opened:
            self._wait()

    def _wait(self):
        if self.reset_by:
            raise self.reset_by
        self.session.step()


class Session:
    """A connection after its handshake."""

    def __init__(self, host, port, device_id, token, *, ca, name="localhost", timeout=30):
        self.ws = WebSocket(host, port, ssl.create_default_context(cafile=ca), name, timeout)
        greeting = {"type": "hello", "device_id": device_id, "token": token, "capabilities": ["v2"]}
        self.ws.send(TEXT, json.dumps(greeting).encode())
        self.auth = json.loads(self.ws.receive()[1])
        if not self.auth.get("allowed") or "v2" not in self.auth.get("capabilities", []):
            raise ConnectionError(f"not let in: {self.auth}")
        self.credit = self.granted = SESSION_CREDIT
        self.streams, self.last, self.pongs, self.gone_away = {}, 0, set(), None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ws.socket.close()

    def say(self, *frames):
        self.ws.send(BINARY, b"".join(v2.encode(frame) for frame in frames))

    def open(self, target="", data=b"", kind="bytes"):
        """Opens a stream; up to 64 KiB go in the same message."""
        self.last += 1
        stream = self.streams[self.last] = Stream(self, self.last)
        frames = [v2.Open(self.last, kind, target)]
        if data:
            stream.credit -= len(data)
            self.credit -= len(data)
            frames.append(v2.Data(self.last, data))
        self.say(*frames)
        return stream

    def ping(self):
        """A round trip: everything that was said before has been handled."""
        opaque = os.urandom(8)
        self.say(v2.Ping(opaque))
        while opaque not in self.pongs:
            self.step()
        self.pongs.discard(opaque)

    def drop(self, stream):
        """Forgets a stream, and returns for the session what it held."""
        self.streams.pop(stream.number, None)
        if stream.held:
            self.granted += len(stream.held)
            self.say(v2.Credit(0, len(stream.held)))
            stream.held = bytearray()

    def step(self):
        """Takes one message."""
        kind, message = self.ws.receive()
        if kind != BINARY:
            raise ValueError("a text message in the binary format")
        frames, error = v2.decode(message, "gateway")
        for frame in frames:
            self.take(frame)
        if error:
            raise ValueError(error)

    def take(self, frame):
        stream = self.streams.get(getattr(frame, "stream", 0))
        match frame:
            case v2.Data(_, data):
                self.granted -= len(data)
                if self.granted < 0:
                    raise ValueError("data beyond the credit of the session")
                if stream is None:
                    # It crossed with the end of its stream: taken at once.
                    self.granted += len(data)
                    if data:
                        self.say(v2.Credit(0, len(data)))
                    return
                stream.granted -= len(data)
                if stream.granted < 0 or stream.is_finished:
                    raise ValueError("data beyond the credit of the stream, or its end")
                stream.held += data
            case v2.Datagram(_, data) if stream:
                stream.datagrams.append(data)
            case v2.Opened() if stream:
                if stream.is_opened:
                    raise ValueError("opened twice")
                stream.is_opened = True
            case v2.Finish() if stream:
                stream.is_finished = True
            case v2.Reset(_, code, words) if stream:
                stream.reset_by = StreamReset(code, words)
                self.drop(stream)
            case v2.Credit(0, increment):
                self.credit += increment
            case v2.Credit(_, increment) if stream:
                stream.credit += increment
            case v2.Ping(data):
                self.say(v2.Pong(data))
            case v2.Pong(data):
                self.pongs.add(data)
            case v2.GoAway():
                self.gone_away = frame
