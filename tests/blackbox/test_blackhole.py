"""The blackhole upstream: everything goes in, nothing comes out."""

import os

import pytest

from rig.client import login, stream_close, stream_data, stream_open
from rig.poll import eventually


@pytest.fixture(scope="module")
def gateway(start_shared):
    return start_shared(GATEWAY_UPSTREAM_MODE="blackhole")


def test_data_into_the_blackhole_has_no_answer_and_counts(gateway):
    before = gateway.metrics()
    with login(gateway) as device:
        device.send(stream_open("a"))
        for _ in range(20):
            device.send(stream_data("a", os.urandom(10_000)))
        device.assert_quiet()
        eventually(lambda: gateway.metric("bytes_in_total") - before.sum("httvps_gateway_bytes_in_total") == 200_000,
                   3, "200,000 bytes in")
        assert gateway.metric("bytes_out_total") == before.sum("httvps_gateway_bytes_out_total")


def test_errors_limits_and_closes_are_those_of_every_upstream(gateway):
    with login(gateway) as device:
        for number in range(8):
            device.send(stream_open(f"s{number}"))
        device.send(stream_open("s8"))
        device.expect_error("stream_error", "s8")
        device.send(stream_close("s0"), stream_open("s8"))
        device.send(stream_open("s8"))
        device.expect_error("stream_error", "s8")
        device.send({"type": "stream_data", "stream_id": "s8", "data": "*"})
        device.expect_error("bad_stream", "s8")
        device.send(stream_data("unknown", b"x"))
        device.expect_error("stream_error", "unknown")
        device.assert_quiet()


def test_a_lot_of_data_leaves_the_session_responsive(gateway):
    with login(gateway) as device:
        device.send(stream_open("a"))
        for _ in range(40):
            device.send(stream_data("a", bytes(700 << 10)))
        device.assert_quiet()
