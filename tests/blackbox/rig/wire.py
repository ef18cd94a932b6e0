"""A connection on which the test writes every byte itself: HTTP/1.1 and WebSocket by hand over TLS."""

import base64
import hashlib
import json
import os
import socket
import ssl
import struct

from .client import hello
from .poll import Stopwatch

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = {"Host": "localhost", "Connection": "Upgrade", "Upgrade": "websocket",
           "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": KEY}


def mask(payload, key):
    size = len(payload)
    pad = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(size, "big")


def encode(opcode, payload=b"", *, fin=True, masked=True, rsv=0, claim=None):
    """One WebSocket frame; `claim` lies about the length."""
    size = len(payload) if claim is None else claim
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    bit = 0x80 if masked else 0
    if size < 126:
        head += bytes([bit | size])
    elif size < 1 << 16:
        head += bytes([bit | 126]) + struct.pack("!H", size)
    else:
        head += bytes([bit | 127]) + struct.pack("!Q", size)
    if not masked:
        return head + payload
    key = os.urandom(4)
    return head + key + mask(payload, key)


def request_bytes(path="/ws", headers=UPGRADE, method="GET", version="HTTP/1.1"):
    fields = headers.items() if isinstance(headers, dict) else headers
    return f"{method} {path} {version}\r\n".encode() + b"".join(
        f"{name}: {value}\r\n".encode() for name, value in fields) + b"\r\n"


class Ended(Exception):
    """The peer ended the connection."""


class Wire:
    """One TLS connection."""

    def __init__(self, gateway, context=None):
        self.socket = gateway.tls(context)
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        try:
            self.socket.sendall(data)
        except (OSError, ssl.SSLError) as why:
            raise Ended(str(why)) from why

    def _fill(self, deadline):
        left = deadline[1] - deadline[0].seconds
        if left <= 0:
            raise TimeoutError("nothing came")
        self.socket.settimeout(left)
        try:
            data = self.socket.recv(65536)
        except (TimeoutError, socket.timeout):
            raise TimeoutError("nothing came") from None
        except (OSError, ssl.SSLError) as why:
            raise Ended(str(why)) from why
        if not data:
            raise Ended("end of file")
        self.buffer += data

    def _take(self, size, deadline):
        while len(self.buffer) < size:
            self._fill(deadline)
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    # --- HTTP ----------------------------------------------------------------------------------

    def response(self, within=5):
        """Reads a response head: (status, headers with lower-case names)."""
        deadline = Stopwatch(), within
        while b"\r\n\r\n" not in self.buffer:
            self._fill(deadline)
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        first, *rest = head.decode("latin-1").split("\r\n")
        version, status, *_ = first.split(" ")
        assert version in ("HTTP/1.1", "HTTP/1.0"), first
        return int(status), {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in rest)}

    def body(self, headers, within=5):
        """The body behind a response head that announced its length."""
        return self._take(int(headers["content-length"]), (Stopwatch(), within))

    def upgrade(self, **more):
        """Makes the connection a WebSocket."""
        self.send(request_bytes(headers=UPGRADE | more))
        status, headers = self.response()
        assert status == 101, f"the upgrade was answered with {status}"
        return headers

    def rest(self, within=5):
        """Everything up to the end of the connection."""
        deadline = Stopwatch(), within
        try:
            while True:
                self._fill(deadline)
        except Ended:
            data, self.buffer = self.buffer, b""
            return data

    def ended_within(self, seconds):
        """True when the peer ends the connection in time, whatever it sends before."""
        try:
            self.rest(seconds)
            return True
        except TimeoutError:
            return False

    # --- WebSocket -----------------------------------------------------------------------------

    def frame(self, opcode, payload=b"", **how):
        self.send(encode(opcode, payload, **how))

    def text(self, value, **how):
        self.frame(TEXT, (value if isinstance(value, str) else json.dumps(value)).encode(), **how)

    def recv_frame(self, within=5):
        """The next WebSocket frame: (opcode, payload). The gateway must not mask or set reserved bits."""
        deadline = Stopwatch(), within
        first, second = self._take(2, deadline)
        assert first & 0x70 == 0, "reserved bits from the gateway"
        assert second & 0x80 == 0, "a masked frame from the gateway"
        size = second & 0x7F
        if size == 126:
            size = struct.unpack("!H", self._take(2, deadline))[0]
        elif size == 127:
            size = struct.unpack("!Q", self._take(8, deadline))[0]
        assert first & 0x0F < 8 or (size < 126 and first & 0x80), "a bad control frame from the gateway"
        return first & 0x0F, self._take(size, deadline)

    def recv_json(self, within=5):
        """The next JSON frame; RFC pings between are answered."""
        while True:
            opcode, payload = self.recv_frame(within)
            if opcode == TEXT:
                return json.loads(payload)
            if opcode == PING:
                self.frame(PONG, payload)
            else:
                assert opcode == PONG, f"opcode {opcode}: {payload[:80]!r}"

    def close_code(self, within=5):
        """Reads to the close frame and returns its code (None without one), then sees the connection end."""
        clock = Stopwatch()
        try:
            while True:
                opcode, payload = self.recv_frame(within - clock.seconds)
                if opcode == CLOSE:
                    break
        except Ended:
            return None
        code = struct.unpack("!H", payload[:2])[0] if payload else 1005
        payload[2:].decode()
        try:
            self.frame(CLOSE, payload[:2])
        except Ended:
            pass
        assert self.ended_within(max(1.0, within - clock.seconds)), "open after the close handshake"
        return code

    def login(self, device_id=None):
        """Upgrade, hello, and an accepted answer."""
        self.upgrade()
        self.text(hello(device_id))
        answer = self.recv_json()
        assert answer["type"] == "auth_result" and answer["allowed"] is True, answer
        return self

    def reset(self):
        """Ends the TCP connection with a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def wire_login(gateway, device_id=None, context=None):
    wire = Wire(gateway, context)
    try:
        return wire.login(device_id)
    except BaseException:
        wire.socket.close()
        raise


def websocket_accept_of(key):
    return base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
