"""The Outline upstream: assignment by the backend, the deployed clients' way, refusals and failures."""

import os
import subprocess

import pytest

from rig.backend import ASSIGN, NO_NODES, Answer, answer, assigned, refused
from rig.client import TOKEN, Device, login, stream_close, stream_data, stream_open
from rig.gateway import BINARY
from rig.nodes import Node, header
from rig.poll import eventually
from rig.targets import UdpTarget, udp_echo
from rig.v2 import enter


@pytest.fixture(scope="module")
def node():
    with Node(region="eu") as node:
        yield node


@pytest.fixture
def gateway(start):
    return start(GATEWAY_UPSTREAM_MODE="outline", GATEWAY_OUTLINE_PROBE_INTERVAL="0", BACKEND_TIMEOUT="2s",
                 BACKEND_GATEWAY_SECRET="s3cret")


def exchange(device, stream_id, target, size=100_000):
    """Opens a stream the deployed clients' way and echoes through it."""
    payload = os.urandom(size)
    device.send(stream_open(stream_id), stream_data(stream_id, header(target.address) + payload))
    assert device.collect(stream_id, size, 20) == payload


def test_the_address_header_comes_in_the_first_payload(gateway, backend, node, target):
    backend.assignment = assigned(**node.parts)
    with login(gateway, region="eu") as device:
        exchange(device, "a", target)
        device.send(stream_data("a", b"more"))
        assert device.collect("a", 4) == b"more"
        device.send(stream_close("a"))
    asked = [r for r in backend.requests_of(device.device_id) if r.path == ASSIGN]
    assert [r.json for r in asked] == [{"device_id": device.device_id, "region_code": "eu"}]
    assert asked[0].headers["x-internal-secret"] == "s3cret"
    eventually(gateway.is_idle, 5, "no session is left")
    metrics = gateway.metrics()
    assert metrics.sum("httvps_gateway_outline_assignments_total", result="backend") == 1
    assert metrics.sum("httvps_gateway_outline_dials_total", node="node-1", result="ok") == 1
    assert metrics.sum("httvps_gateway_outline_bytes_out_total", node="node-1") == 100_004
    gateway.never_says(node.password)


def test_the_target_may_stand_in_stream_open(gateway, backend, node, target):
    backend.assignment = assigned(**node.parts)
    with login(gateway) as device:
        device.send(stream_open("a", target.address), stream_data("a", b"hello"))
        assert device.collect("a", 5) == b"hello"
    assert backend.requests_of(device.device_id)[-1].json["region_code"] is None


def test_the_access_url_wins_over_the_other_fields(gateway, backend, node, target):
    wrong = {"host": "127.0.0.1", "port": 1, "method": "nonsense", "password": "wrong"}
    backend.assignment = assigned(node_id=7, access_url=node.key, **wrong)
    with login(gateway) as device:
        exchange(device, "a", target)
    assert gateway.metric("outline_dials_total", node="7", result="ok") == 1


def test_a_cipher_that_is_not_named_is_outlines_own(gateway, backend, node, target):
    backend.assignment = assigned(**node.parts | {"method": None})
    with login(gateway) as device:
        exchange(device, "a", target)


FAILURES = {
    "none": (NO_NODES, "no_outline_nodes_available", "none_available"),
    "503-other": (answer({"detail": "maintenance"}, 503), "backend_unavailable", "backend_error"),
    "500": (answer({}, 500), "backend_unavailable", "backend_error"),
    "404": (answer({"detail": "Not Found"}, 404), "backend_unavailable", "backend_error"),
    "403": (answer({"detail": "no"}, 403), "backend_unavailable", "backend_error"),
    "garbage": (Answer(body=b"<html>"), "backend_unavailable", "backend_error"),
    "huge": (Answer(body=b" " * 100_000), "backend_unavailable", "backend_error"),
    "slow": (Answer(delay=5), "backend_unavailable", "backend_error"),
    "reset": (Answer(manner="reset"), "backend_unavailable", "backend_error"),
    "close": (Answer(manner="close"), "backend_unavailable", "backend_error"),
    "truncated": (Answer(body=b'{"node_id":"n"}', manner="truncate"), "backend_unavailable", "backend_error"),
    "no-password": (assigned(method="aes-256-gcm"), "backend_unavailable", "backend_error"),
    "no-id": (assigned(node_id=None, password="x"), "backend_unavailable", "backend_error"),
    "port": (assigned(port=0, password="x"), "backend_unavailable", "backend_error"),
    "cipher": (assigned(method="rot13", password="hunter2"), "bad_access_key", "bad_key"),
    "key": (assigned(access_url="ss://hunter2"), "bad_access_key", "bad_key"),
    "plain-http": (assigned(access_url="http://127.0.0.1/hunter2"), "bad_access_key", "bad_key"),
    "unreachable-key": (assigned(access_url="ssconf://127.0.0.1:1/hunter2"), "bad_access_key", "bad_key"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_without_a_node_there_is_no_session(gateway, backend, name):
    reply, reason, label = FAILURES[name]
    backend.assignment = reply
    with Device(gateway) as device:
        frame = device.ask()
        assert (frame["type"], frame["code"]) == ("error", "outline_unavailable"), frame
        assert frame["reason"] == reason
        assert device.assert_closes() == 1013
    metrics = gateway.metrics()
    assert metrics.sum("httvps_gateway_handshakes_total", result="error") == 1
    assert metrics.sum("httvps_gateway_handshakes_total", result="accepted") == 0
    assert metrics.sum("httvps_gateway_outline_assignments_total", result=label) == 1
    assert metrics.sum("httvps_gateway_active_sessions") == 0
    gateway.says("outline_unavailable")
    if label == "backend_error":
        gateway.says("/api/v1/nodes/assign-outline")
    gateway.never_says("hunter2")


def test_the_second_format_has_streams_and_datagrams_through_the_node(gateway, backend, node, target):
    backend.assignment = assigned(**node.parts)
    with UdpTarget(udp_echo) as udp, enter(gateway) as device:
        # Without an empty one, which ssserver does not pass on.
        sizes = [1, 1_200, 60_000]
        stream = device.open_datagrams(udp.address)
        for count, size in enumerate(sizes, 1):
            device.send_datagrams(stream, os.urandom(size))
            device.pump(lambda: len(device.streams[stream].datagrams) == count)
        assert [len(one) for one in device.streams[stream].datagrams] == sizes
        assert gateway.metric("outline_bytes_out_total", node="node-1") == sum(sizes)
        assert gateway.metric("outline_active_streams", node="node-1") == 1
    eventually(lambda: gateway.metric("outline_active_streams", node="node-1") == 0, 5, "the stream is gone")


def test_a_refused_device_is_not_assigned_a_node(gateway, backend):
    with Device(gateway) as device:
        backend.set(device.device_id, refused("invalid_token"))
        assert device.ask()["type"] == "auth_result"
    assert all(r.path != ASSIGN for r in backend.requests_of(device.device_id))


def test_the_client_says_why_there_is_no_node_and_asks_again(gateway, backend, node, target, authority, tmp_path):
    backend.assignment = NO_NODES
    token = tmp_path / "token"
    token.write_text(TOKEN)
    said = tmp_path / "said"
    with open(said, "wb") as log:
        client = subprocess.Popen(
            [BINARY, "connect", "--gateway", f"wss://localhost:{gateway.port}", "--device-id", "d-1", "--token-file", token,
             "--ca", authority.root, "--listen", "127.0.0.1:0"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        words = "the gateway has no exit node for this device: there is none, or none that works"
        eventually(lambda: words in said.read_text() and "will keep trying" in said.read_text(), 20, "the client says so")
        backend.assignment = assigned(**node.parts)
        eventually(lambda: gateway.metric("active_sessions") == 1, 30, "it got in")
    finally:
        client.kill()
        client.wait(10)
