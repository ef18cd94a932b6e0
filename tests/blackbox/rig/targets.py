"""TCP and UDP targets for the direct upstream, on loopback."""

import select
import socket
import struct
import threading
from contextlib import contextmanager

from .poll import eventually


class Target:
    """Accepts on a free port and runs `serve(connection)` for each; remembers every connection."""

    def __init__(self, serve):
        self.serve = serve
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        self.accepted = []
        threading.Thread(target=self._run, daemon=True).start()

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()
        for connection in self.accepted:
            connection.close()

    def _run(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.accepted.append(connection)
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection):
        try:
            self.serve(connection)
        except OSError:
            pass


class UdpTarget:
    """A UDP socket on a free port; with `serve(socket, datagram, source)` a thread reads it, else only the test does."""

    def __init__(self, serve=None, host="127.0.0.1"):
        self.host = host
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((host, 0))
        self.socket.settimeout(10)
        self.port = self.socket.getsockname()[1]
        self.serve, self.is_open = serve, True
        if serve:
            self.thread = threading.Thread(target=self._run, daemon=True)
            self.thread.start()

    @property
    def address(self):
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.is_open = False
        if self.serve:
            # A datagram to itself ends the wait of the thread; closing the socket under it would not.
            self.socket.sendto(b"", self.socket.getsockname())
            self.thread.join(10)
        self.socket.close()

    def _run(self):
        while True:
            try:
                datagram, source = self.socket.recvfrom(65_536)
            except TimeoutError:
                continue
            if not self.is_open:
                return
            self.serve(self.socket, datagram, source)


def udp_echo(target, datagram, source):
    target.sendto(datagram, source)


def echo(connection):
    """Sends everything back; a probe of a node, which wants an HTTP answer, gets one."""
    if (first := connection.recv(65536)).startswith(b"HEAD / HTTP/1.1\r\n"):
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
        connection.close()
        return
    connection.sendall(first)
    while data := connection.recv(65536):
        connection.sendall(data)
    connection.close()


def silent(connection):
    """Holds the connection and reads nothing."""


def source(payload):
    """Sends `payload`, then ends."""
    def serve(connection):
        connection.sendall(payload)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)
        connection.close()
    return serve


def resetting(connection):
    """Waits for a byte, then resets."""
    connection.recv(1)
    reset(connection)


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


class Sink:
    """Reads everything up to the end of file."""

    def __init__(self):
        self.received, self.ended, self.how = bytearray(), threading.Event(), None

    def __call__(self, connection):
        try:
            while data := connection.recv(65536):
                self.received += data
            self.how = "eof"
        except ConnectionResetError:
            self.how = "reset"
        self.ended.set()
        connection.close()


def refusing_port(kind=socket.SOCK_STREAM):
    """A loopback port without a listener."""
    with socket.socket(type=kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def full_backlog():
    """An address that neither accepts nor refuses: a listener whose queue is full."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    fillers = []

    def is_full():
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
        fillers.append(filler)
        return not select.select([], [filler], [], 0.2)[1]

    try:
        eventually(is_full, 10, "the backlog is full")
        yield "127.0.0.1:%d" % listener.getsockname()[1]
    finally:
        for one in [*fillers, listener]:
            one.close()
