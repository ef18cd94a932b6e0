"""What a client sent before it closed a stream still reaches the target, and costs the gateway no more than it may."""

import os
import time

import pytest

from rig.client import login, stream_close, stream_data, stream_open
from rig.poll import eventually
from rig.targets import Sink, Target, full_backlog


@pytest.fixture(scope="module")
def gateway(start_shared):
    return start_shared(GATEWAY_UPSTREAM_MODE="direct", GATEWAY_EGRESS_ALLOW="127.0.0.0/8", GATEWAY_DIAL_TIMEOUT="2s")


class TalkingSink(Sink):
    """Reads slowly, and says a byte for each read, which the other side does not read after a close."""

    def __call__(self, connection):
        try:
            while data := connection.recv(4096):
                self.received += data
                connection.send(b"x")
                time.sleep(0.0005)
            self.how = "eof"
        except (ConnectionResetError, BrokenPipeError):
            self.how = "reset"
        self.ended.set()


def test_a_target_that_talks_while_it_is_sent_to_gets_every_byte(gateway):
    payload, sink = os.urandom(600_000), TalkingSink()
    with Target(sink) as target, login(gateway) as device:
        device.send(stream_open("a", target.address))
        for at in range(0, len(payload), 60_000):
            device.send(stream_data("a", payload[at:at + 60_000]))
        device.send(stream_close("a"))
        assert sink.ended.wait(20), "the target saw no end"
        assert bytes(sink.received) == payload
        assert sink.how == "eof"


def test_closing_streams_does_not_get_around_the_limit_of_streams(gateway):
    """Eight streams are allowed; closed ones that still dial count for no more than as many again."""
    before = gateway.descriptors
    with full_backlog() as address, login(gateway) as device:
        for turn in range(100):
            device.send(stream_open(f"s{turn}", address), stream_data(f"s{turn}", b"x"), stream_close(f"s{turn}"))
        peak = 0
        def settled():
            nonlocal peak
            peak = max(peak, gateway.descriptors - before)
            return peak >= 8
        eventually(settled, 5, "the dials are under way")
        for _ in range(50):
            settled()
        assert peak <= 8 * 2 + 4, f"{peak} descriptors for one session of eight streams"
    eventually(lambda: gateway.descriptors <= before + 2, 20, "the descriptors are back")
