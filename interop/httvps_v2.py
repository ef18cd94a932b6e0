"""The frames of the httvps v2 wire format, as docs/protocol-v2.md has them.

    message = b"".join(encode(frame) for frame in frames)
    frames, error = decode(message, "client")

`decode` takes one whole binary message and who sent it ("client" or "gateway"). It returns the good frames up to the
first bad one, and None or the kind of the error, one of ERRORS. Streams, credit and their rules are not looked at: this
is a codec, not a session.
"""
from dataclasses import dataclass

HEADER = 8
MAX_DATA = 65536
MAX_CREDIT = 2**31 - 1
ERRORS = ("truncated", "unknown_type", "bad_length", "bad_stream", "bad_value", "wrong_direction")
KINDS = {1: "bytes", 2: "datagrams"}
CODES = ("cancelled", "refused", "unreachable", "timeout", "denied", "limit", "reset", "protocol_error", "going_away",
         "resolve_failed", "bad_target", "stalled", "idle", "overload", "io", "unsupported",
         "node_unreachable")


@dataclass(frozen=True)
class Open:
    stream: int
    kind: str
    target: str


@dataclass(frozen=True)
class Opened:
    stream: int


@dataclass(frozen=True)
class Data:
    stream: int
    data: bytes


@dataclass(frozen=True)
class Finish:
    stream: int


@dataclass(frozen=True)
class Reset:
    stream: int
    code: str
    words: str = ""
    raw_code: int | None = None     # the number on the wire, when it is in no table; code is then "io"


@dataclass(frozen=True)
class Credit:
    stream: int                     # 0 = the session
    increment: int


@dataclass(frozen=True)
class Datagram:
    stream: int
    data: bytes


@dataclass(frozen=True)
class Ping:
    data: bytes


@dataclass(frozen=True)
class Pong:
    data: bytes


@dataclass(frozen=True)
class GoAway:
    code: str
    deadline_ms: int
    words: str = ""
    raw_code: int | None = None     # as in Reset


@dataclass(frozen=True)
class Skipped:
    """A frame of a later version. It cannot be encoded: its type and payload are not kept."""


Frame = Open | Opened | Data | Finish | Reset | Credit | Datagram | Ping | Pong | GoAway | Skipped

# type: (class, the only sender or None, shortest and longest payload, whether a stream is named or None = either)
TYPES = {
    0x01: (Open, "client", 1, 263, True),
    0x02: (Opened, "gateway", 0, 0, True),
    0x03: (Data, None, 0, MAX_DATA, True),
    0x04: (Finish, None, 0, 0, True),
    0x05: (Reset, None, 1, 256, True),
    0x06: (Credit, None, 4, 4, None),
    0x07: (Datagram, None, 0, 65507, True),
    0x08: (Ping, None, 8, 8, False),
    0x09: (Pong, None, 8, 8, False),
    0x0A: (GoAway, "gateway", 5, 260, False),
}
NUMBERS = {cls: number for number, (cls, *_) in TYPES.items()}


class BadFrame(Exception):
    """Its only argument is one of ERRORS."""


def decode(message: bytes, sender: str) -> tuple[list[Frame], str | None]:
    frames: list[Frame] = []
    at = 0
    try:
        while at < len(message):
            frame, at = _decode_one(message, at, sender)
            frames.append(frame)
    except BadFrame as error:
        return frames, error.args[0]
    return frames, None


def _decode_one(message: bytes, at: int, sender: str) -> tuple[Frame, int]:
    # The order of these checks is part of the format: see "One frame, in this order" in the document.
    start = at + HEADER
    if start > len(message):
        raise BadFrame("truncated")
    number = message[at]
    length = int.from_bytes(message[at + 1:at + 4], "big")
    stream = int.from_bytes(message[at + 4:start], "big")
    if number in TYPES:
        cls, only, shortest, longest, names_stream = TYPES[number]
    elif number >= 0x80:
        cls, only, shortest, longest, names_stream = Skipped, None, 0, MAX_DATA, None
    else:
        raise BadFrame("unknown_type")
    if only not in (None, sender):
        raise BadFrame("wrong_direction")
    if not shortest <= length <= longest:
        raise BadFrame("bad_length")
    if names_stream is not None and names_stream != (stream != 0):
        raise BadFrame("bad_stream")
    if start + length > len(message):
        raise BadFrame("truncated")
    return _body(cls, stream, bytes(message[start:start + length])), start + length


def _body(cls: type, stream: int, payload: bytes) -> Frame:
    if cls is Skipped:
        return Skipped()
    if cls is Open:
        if payload[0] not in KINDS:
            raise BadFrame("bad_value")
        return Open(stream, KINDS[payload[0]], _text(payload[1:]))
    if cls in (Opened, Finish):
        return cls(stream)
    if cls in (Data, Datagram):
        return cls(stream, payload)
    if cls is Reset:
        code, raw_code = _code(payload[0])
        return Reset(stream, code, _text(payload[1:]), raw_code)
    if cls is Credit:
        increment = int.from_bytes(payload, "big")
        if not 1 <= increment <= MAX_CREDIT:
            raise BadFrame("bad_value")
        return Credit(stream, increment)
    if cls in (Ping, Pong):
        return cls(payload)
    code, raw_code = _code(payload[0])
    return GoAway(code, int.from_bytes(payload[1:5], "big"), _text(payload[5:]), raw_code)


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise BadFrame("bad_value") from None


def _code(number: int) -> tuple[str, int | None]:
    return (CODES[number], None) if number < len(CODES) else ("io", number)


def encode(frame: Frame) -> bytes:
    """The bytes of a frame; ValueError if the format has no such frame."""
    match frame:
        case Open(kind=kind, target=target):
            payload = bytes([_number(KINDS, kind)]) + target.encode()
        case Opened() | Finish():
            payload = b""
        case Data(data=data) | Datagram(data=data) | Ping(data=data) | Pong(data=data):
            payload = data
        case Reset(code=code, words=words, raw_code=None):
            payload = bytes([CODES.index(code)]) + words.encode()
        case Credit(increment=increment):
            if not 1 <= increment <= MAX_CREDIT:
                raise ValueError("the increment is out of range")
            payload = increment.to_bytes(4, "big")
        case GoAway(code=code, deadline_ms=deadline_ms, words=words, raw_code=None):
            if not 0 <= deadline_ms < 2**32:
                raise ValueError("the deadline is out of range")
            payload = bytes([CODES.index(code)]) + deadline_ms.to_bytes(4, "big") + words.encode()
        case _:
            raise ValueError(f"{frame} cannot be sent")
    stream = getattr(frame, "stream", 0)
    number = NUMBERS[type(frame)]
    _, _, shortest, longest, names_stream = TYPES[number]
    if not shortest <= len(payload) <= longest:
        raise ValueError(f"a payload of {len(payload)} bytes")
    if not 0 <= stream < 2**32 or names_stream is not None and names_stream != (stream != 0):
        raise ValueError(f"stream {stream}")
    return bytes([number]) + len(payload).to_bytes(3, "big") + stream.to_bytes(4, "big") + payload


def _number(names: dict[int, str], wanted: str) -> int:
    for number, name in names.items():
        if name == wanted:
            return number
    raise ValueError(f"no number for {wanted}")
