"""What the hostile cases share: the figures of the gateway before and after, and things made in numbers."""

import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from websockets.exceptions import WebSocketException

from .client import login
from .poll import Stopwatch, eventually
from .wire import Wire

MIB = 1 << 20
FOREVER = 1 << 40
# Short deadlines, so that the cases which must run into them stay short.
QUICK = {"GATEWAY_HANDSHAKE_TIMEOUT": "2s", "GATEWAY_TLS_HANDSHAKE_TIMEOUT": "1s", "GATEWAY_HEADER_TIMEOUT": "1s",
         "GATEWAY_WRITE_TIMEOUT": "2s"}
# What may be kept above the figures of a gateway that has served a few sessions: memory, and the idle connections of
# the backend pool, one for each of up to 16 logins at once.
RSS_SLACK_KIB = 24 << 10
DESCRIPTOR_SLACK = 20
# How long a closed connection may wait for the peer to read the close frame.
LINGER = 3


class Case:
    """One hostile case: figures before, then `recovered` checks and notes them after."""

    def __init__(self, name, gateway, table):
        self.name, self.gateway, self.table, self.note = name, gateway, table, ""
        self.clock, self.is_recorded = Stopwatch(), False
        self.descriptors, self.rss, self.cpu = gateway.descriptors, gateway.rss_kib, gateway.cpu_seconds
        gateway.reset_peak()

    @property
    def peak_growth_kib(self):
        return self.gateway.peak_rss_kib - self.rss

    def recovered(self, rss_slack_kib=RSS_SLACK_KIB):
        gateway = self.gateway
        seconds, peak = self.clock.seconds, gateway.peak_rss_kib
        cpu = gateway.cpu_seconds - self.cpu
        assert gateway.alive
        eventually(lambda: try_session(gateway), 15, "a new session works", every=0.2)
        eventually(gateway.is_idle, 15, "gauges at 0", every=0.1)

        def back():
            return gateway.descriptors <= self.descriptors + DESCRIPTOR_SLACK and gateway.rss_kib <= self.rss + rss_slack_kib
        try:
            eventually(back, 15, "descriptors and memory are back", every=0.1)
        finally:
            self.record(seconds, peak, cpu)

    def record(self, seconds, peak, cpu):
        gateway, self.is_recorded = self.gateway, True
        self.table.append([self.name, f"{seconds:.1f}", self.descriptors, gateway.descriptors, mib(self.rss), mib(peak),
                           mib(gateway.rss_kib), f"{cpu:.2f}", self.note])

    def record_failure(self):
        """The figures of a case that failed before it was over."""
        if not self.is_recorded and self.gateway.alive:
            self.note = f"FAILED; {self.note}"
            self.record(self.clock.seconds, self.gateway.peak_rss_kib, self.gateway.cpu_seconds - self.cpu)


def mib(kib):
    return f"{kib / 1024:.1f}"


def try_session(gateway):
    """True when a newcomer gets a session that works."""
    try:
        with login(gateway, options={"open_timeout": 3}) as device:
            if gateway.settings.get("GATEWAY_UPSTREAM_MODE") == "direct":
                device.assert_quiet()
            else:
                device.lives()
        return True
    except (OSError, AssertionError, WebSocketException) as why:
        print("no session yet:", why)
        return False


@contextmanager
def many(make, count, workers=16):
    """`count` things made in parallel and closed in the end."""
    made = []
    try:
        with ThreadPoolExecutor(workers) as pool:
            made = list(pool.map(lambda _: make(), range(count)))
        yield made
    finally:
        for one in made:
            close(one)


def close(one):
    try:
        (one.socket if isinstance(one, Wire) else one).close()
    except OSError:
        pass


def client_hello(context):
    """The first flight of a TLS client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def upgraded(gateway):
    wire = Wire(gateway)
    wire.upgrade()
    return wire


def push(wire, data, times, stall, within=60):
    """Sends `data` again and again: how often it went out before the peer ended it or took nothing for `stall` seconds."""
    wire.socket.settimeout(stall)
    clock = Stopwatch()
    for done in range(times):
        assert clock.seconds < within, f"{done} x {len(data)} bytes went out, and the end never came"
        try:
            wire.socket.sendall(data)
        except (TimeoutError, socket.timeout):
            return done, "blocked"
        except (OSError, ssl.SSLError):
            return done, "ended"
    return times, "sent"
