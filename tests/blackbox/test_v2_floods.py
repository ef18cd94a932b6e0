"""Floods of frames that carry nothing: they end their sender's session and do not affect others (docs/protocol-v2.md, 8)."""

import json
import threading
from contextlib import ExitStack

import pytest

from rig.client import LOOP, fresh_device, hello
from rig.poll import eventually
from rig.targets import Target, echo, silent
from rig.v2 import Data, Open, Ping, Reset, V2Device, enter, encode

DIRECT = {"GATEWAY_UPSTREAM_MODE": "direct", "GATEWAY_EGRESS_ALLOW": "127.0.0.0/8"}
SKIPPED = b"\x90\x00\x00\x00\x00\x00\x00\x07"

FLOODS = {
    "pings": encode(Ping(b"floodfld")) * 40_000,
    "empty data": encode(Data(1, b"")) * 80_000,
    "skipped frames": SKIPPED * 80_000,
    "frames of a stream that is over": encode(Reset(2, "cancelled")) * 70_000,
}


class Flood:
    """Sends the same message over and over from a thread until it is stopped; reads what comes back, or does not."""

    def __init__(self, device, message):
        self.device, self.message, self.sent, self.is_on = device, message, 0, True
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.is_on = False
        self.device.drop()
        self.thread.join(10)

    def _run(self):
        try:
            while self.is_on:
                self.device.send_message(self.message, 5)
                self.sent += 1
        except Exception:  # the connection is gone, or the gateway does not read any more
            pass


@pytest.mark.parametrize("what", FLOODS)
def test_a_flood_affects_no_other_session_and_costs_no_memory(start, what):
    gateway = start(**DIRECT, GATEWAY_WRITE_TIMEOUT="60s")
    with Target(echo) as target, ExitStack() as stack:
        other = stack.enter_context(enter(gateway))
        stream = other.open(target.address, b"before")
        other.pump(lambda: other.streams[stream].received == b"before")
        device = stack.enter_context(enter(gateway))
        device.open(target.address)
        device.say(Open(2, "bytes", "no target"))
        device.pump(lambda: device.streams[2].reset)
        before = gateway.rss_kib
        with Flood(device, FLOODS[what]) as flood:
            eventually(lambda: flood.sent >= 8, 20, "the flood runs")
            for _ in range(20):
                size = len(other.streams[stream].received)
                other.write(stream, b"x" * 1000)
                other.pump(lambda: len(other.streams[stream].received) == size + 1000)
            assert gateway.rss_kib - before < 24 * 1024
        other.round_trip()


@pytest.mark.parametrize("kind", ["bytes", "datagrams"])
def test_targets_that_are_refused_when_they_are_dialled_count_as_errors(start, kind):
    """Without a target `direct` fails at once, and only when it is asked: the OPEN itself is good."""
    gateway = start(**DIRECT, GATEWAY_MAX_ERRORS_PER_SECOND=1, GATEWAY_MAX_ERROR_BURST=20)
    with enter(gateway) as device:
        device.say(*(Open(stream, kind, "") for stream in range(1, 100)))
        assert device.until_gone()[0] == 1008
    assert 20 <= gateway.metric("client_errors_total", code="stream_error") <= 25
    assert gateway.metric("limits_hit_total", limit="max_errors_per_second") == 1
    eventually(lambda: gateway.metric("active_streams") == 0, what="no stream is left")


def test_opens_and_resets_in_turns_end_with_1008(start):
    gateway = start(**DIRECT, GATEWAY_MAX_STREAM_OPENS_PER_SECOND=1, GATEWAY_MAX_STREAM_OPEN_BURST=5,
                    GATEWAY_MAX_ERRORS_PER_SECOND=1, GATEWAY_MAX_ERROR_BURST=20)
    with Target(silent) as target, enter(gateway) as device:
        device.flood(encode(Open(stream, "bytes", target.address)) + encode(Reset(stream, "cancelled"))
                     for stream in range(1, 100))
        assert device.until_gone()[0] == 1008
        assert len(target.accepted) <= 6
    eventually(lambda: gateway.metric("active_streams") == 0, what="no stream is left")


def early(gateway, message):
    """A device that sends a message right behind its hello, before it has read the answer."""
    device = V2Device(gateway).begin()

    async def both():
        await device.ws.send(json.dumps(hello(fresh_device(), capabilities=["v2"])))
        await device.ws.send(message)
        return await device.ws.recv()

    LOOP.run(both(), 10)
    return device


def test_frames_that_come_before_the_verdict_are_taken_after_it(start):
    with early(start(), encode(Open(1, "bytes", "")) + encode(Data(1, b"early"))) as device:
        device.pump(lambda: device.streams[1].received == b"early")


def test_text_that_comes_before_the_verdict_is_a_breach_after_it(start):
    with early(start(), "{}") as device:
        assert device.until_gone() == (1002, "text message after v2 was accepted")


def test_windows_of_greedy_sessions_stay_within_the_budget_of_the_process(start):
    budget, sessions = 2 * 1024 * 1024, 8
    gateway = start(**DIRECT, GATEWAY_WINDOW_BUDGET_BYTES=budget)
    with Target(silent) as target, Target(echo) as alive, ExitStack() as stack:
        devices = [stack.enter_context(enter(gateway)) for _ in range(sessions)]
        before = gateway.rss_kib
        for device in devices:
            streams = [device.open(target.address) for _ in range(2)]
            device.pump(lambda: all(device.streams[stream].opened for stream in streams))
            for stream in streams * 2:
                while count := min(device.credit[stream], device.credit[0], 65_536):
                    device.say(device.spend(stream, bytes(count)))
                    device.round_trip()
        # A first window each, the budget, and as much again for what keeps it.
        assert gateway.rss_kib - before < 2 * (sessions * 256 + budget // 1024)
        for device in devices:
            stream = device.open(alive.address, b"still here")
            device.pump(lambda: device.streams[stream].received == b"still here")
