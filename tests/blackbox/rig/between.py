"""A forwarder in front of an Outline node: it is slow, or it does to the node's answers what a hostile node would do."""

import socket
import threading
import time
from queue import Queue

from .targets import reset

PIECE = 65_536


class Between:
    """Stands for `node` in a pool, on a port of its own.

    Each piece waits `delay` seconds in either direction. A connection that is accepted while `manner` is set is treated so:
    `manner(offset, data)` gives what the gateway gets instead of these bytes of the node, and may raise `Cut` or `End`.
    """

    def __init__(self, node, *, node_id=None, region=None, delay=0):
        self.node, self.delay, self.manner = node, delay, None
        self.node_id, self.region = node_id or node.node_id, region or node.region
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        self.key = node.key.replace(f":{node.port}/", f":{self.port}/")
        # What the node said on each connection, in the order in which they were accepted.
        self.heard, self.sockets = [], []
        threading.Thread(target=self._run, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for one in [self.listener, *self.sockets]:
            one.close()

    def _run(self):
        while True:
            try:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.node.port), 10)
                far.settimeout(None)
            except OSError:
                return
            for one in (near, far):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sockets += [near, far]
            heard = bytearray()
            self.heard.append(heard)
            self._start(near, far, lambda _, data: data)
            self._start(far, near, self._noting(heard, self.manner))

    @staticmethod
    def _noting(heard, manner):
        def meddle(offset, data):
            heard.extend(data)
            return manner(offset, data) if manner else data
        return meddle

    def _start(self, source, sink, meddle):
        """Two threads for a direction, so that a delay holds nothing up that comes later."""
        queue = Queue()
        threading.Thread(target=self._read, args=(source, queue), daemon=True).start()
        threading.Thread(target=self._write, args=(queue, source, sink, meddle), daemon=True).start()

    def _read(self, source, queue):
        data = b"more"
        while data:
            try:
                data = source.recv(PIECE)
            except OSError:
                data = None
            queue.put((time.monotonic() + self.delay, data))

    @staticmethod
    def _write(queue, source, sink, meddle):
        offset = 0
        try:
            while True:
                due, data = queue.get()
                time.sleep(max(0.0, due - time.monotonic()))
                if not data:
                    raise Cut if data is None else End
                sink.sendall(meddle(offset, data))
                offset += len(data)
        except Last as last:
            if last.args:
                sink.sendall(*last.args)
            end(sink) if isinstance(last, End) else abort(sink, source)
        except OSError:
            abort(sink, source)


def end(one):
    try:
        one.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def abort(*both):
    """A reset, although another thread still reads."""
    for one in both:
        try:
            one.shutdown(socket.SHUT_RD)
            reset(one)
        except OSError:
            pass


class Last(Exception):
    """Says what may be its argument and ends it."""


class Cut(Last):
    """Ends the connection by a reset."""


class End(Last):
    """Ends this direction in order."""


def cut_after(count):
    """Passes `count` bytes on, then resets."""
    return _after(count, Cut)


def end_after(count):
    """Passes `count` bytes on, then finishes."""
    return _after(count, End)


def _after(count, how):
    def manner(offset, data):
        if offset + len(data) >= count:
            raise how(data[:count - offset])
        return data
    return manner


def flip(at):
    """Changes one bit."""
    def manner(offset, data):
        data = bytearray(data)
        if 0 <= at - offset < len(data):
            data[at - offset] ^= 4
        return data
    return manner


def instead(payload):
    """Says something else at the first byte of the answer, and no more."""
    return lambda offset, _: payload if offset == 0 else b""
