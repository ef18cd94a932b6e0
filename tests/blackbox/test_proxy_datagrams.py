"""Datagrams through proxies: relays that a proxy lies about, and pools of several kinds."""

import socket

import pytest

from rig.nodes import header, pool_file
from rig.proxies import Dante, LyingSocks, Microsocks, Tinyproxy
from rig.targets import UdpTarget, udp_echo
from rig.v2 import enter


@pytest.fixture
def run(start, target, tmp_path):
    """Starts a gateway over a pool of these nodes, which are not probed."""
    def run(*nodes, **settings):
        return start(**{"GATEWAY_UPSTREAM_MODE": "proxy", "GATEWAY_OUTLINE_PROBE_INTERVAL": "0",
                        "GATEWAY_OUTLINE_COOLDOWN": "300ms", "GATEWAY_OUTLINE_DIAL_TIMEOUT": "500ms",
                        "GATEWAY_OUTLINE_NODES_PATH": pool_file(tmp_path / "nodes.yaml", *nodes)} | settings)
    return run


def state(gateway, node="node"):
    return gateway.metrics().sum("httvps_gateway_outline_node_state", node=node)


def dials(gateway, node, result="ok"):
    return gateway.metric("outline_dials_total", node=node, result=result)


def passes(device, target):
    """Bytes to a target and back."""
    stream = device.open(target.address, b"fine")
    device.pump(lambda: bytes(device.streams[stream].received) == b"fine")


def refused(device, target, *datagrams):
    """Why a stream of datagrams ends."""
    stream = device.open_datagrams(target, *datagrams)
    device.pump(lambda: device.streams[stream].reset is not None)
    return device.streams[stream].reset


def answered(device, address, payload=b"hello"):
    stream = device.open_datagrams(address, payload)
    device.pump(lambda: device.streams[stream].datagrams == [payload])
    return stream


def name(host, port):
    return bytes([3, len(host)]) + host + port.to_bytes(2, "big")


def of(host, port):
    """The address header of an IP address in the spelling that it has."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return (b"\x04" if ":" in host else b"\x01") + socket.inet_pton(family, host) + port.to_bytes(2, "big")


FORBIDDEN = ["127.0.0.2", "::ffff:127.0.0.2", "64:ff9b::127.0.0.2", "::1", "10.0.0.1", "169.254.169.254", "255.255.255.255",
             "224.0.0.1", "::ffff:10.0.0.1", "fe80::1", "fd00::1"]


def test_nothing_is_sent_to_a_relay_that_only_the_gateway_may_reach(run, target):
    """Nor does it count against the proxy, whose streams of bytes go on."""
    with UdpTarget(host="127.0.0.2") as secret, LyingSocks("node") as proxy:
        gateway = run(proxy, GATEWAY_OUTLINE_DOWN_FAILURES="1")
        with enter(gateway) as device:
            for _ in range(2):
                for host in FORBIDDEN:
                    proxy.relay = of(host, secret.port)
                    assert refused(device, "192.0.2.1:53", b"unsent") == "unsupported", host
            # No port can be sent to; the proxy's own address does not help.
            proxy.relay = of("127.0.0.1", 0)
            assert refused(device, "192.0.2.1:53", b"unsent") == "unsupported"
            assert proxy.asked == 2 * len(FORBIDDEN) + 1
            passes(device, target)
            secret.socket.setblocking(False)
            with pytest.raises(BlockingIOError):
                secret.socket.recvfrom(100)
        assert (state(gateway), dials(gateway, "node", "failed")) == (0, 0)
        assert dials(gateway, "node") == proxy.asked + 1


def test_a_relay_at_the_proxys_own_address_is_used_however_it_is_named(run):
    with UdpTarget(udp_echo) as relay, LyingSocks("node") as proxy, enter(run(proxy)) as device:
        for named in [of("0.0.0.0", relay.port), of("::", relay.port), of("::ffff:0.0.0.0", relay.port),
                      of("127.0.0.1", relay.port), of("::ffff:127.0.0.1", relay.port),
                      name(b"localhost", relay.port), name(b"169.254.169.254", relay.port), name(b"no such", relay.port)]:
            proxy.relay = named
            # An echo of the packet is an answer of the target that stands in it.
            answered(device, "192.0.2.1:53")


def test_a_relay_that_the_operator_allows_is_used(run):
    with UdpTarget(udp_echo, host="127.0.0.2") as relay, LyingSocks("node") as proxy:
        gateway = run(proxy, GATEWAY_EGRESS_ALLOW="127.0.0.2")
        with enter(gateway) as device:
            proxy.relay = of("127.0.0.2", relay.port)
            answered(device, "192.0.2.1:53")
            proxy.relay = of("127.0.0.3", relay.port)
            assert refused(device, "192.0.2.1:53", b"unsent") == "unsupported"


def test_a_session_of_an_http_proxy_has_its_datagrams_by_another_node(run, tmp_path, target):
    """Its streams stay where they are, and so do its datagrams until their node fails."""
    with (Tinyproxy("http", tmp_path) as http, Dante("one", tmp_path) as one, Dante("two", tmp_path) as two,
          UdpTarget(udp_echo) as udp):
        one.more = two.more = {"priority": 1}
        gateway = run(http, one, two, GATEWAY_OUTLINE_DOWN_FAILURES="1", GATEWAY_OUTLINE_COOLDOWN="60s")
        with enter(gateway) as device:
            for _ in range(6):
                first = answered(device, udp.address)
            free = device.open_datagrams("", header(udp.address) + b"hello")
            device.pump(lambda: device.streams[free].datagrams == [header(udp.address) + b"hello"])
            passes(device, target)
            kept, other = (one, two) if dials(gateway, "one") else (two, one)
            assert [dials(gateway, node.node_id) for node in (http, kept, other)] == [1, 7, 0]
            assert gateway.metric("outline_active_streams", node=kept.node_id) == 7
            kept.stop()
            device.pump(lambda: device.streams[first].reset is not None)
            assert refused(device, udp.address) == "node_unreachable", "that stream shows that the node is down"
            answered(device, udp.address)
            passes(device, target)
            assert [dials(gateway, node.node_id) for node in (http, kept, other)] == [2, 7, 1]
            assert gateway.metric("outline_moves_total") == 0
            other.stop()
            assert refused(device, udp.address) == "node_unreachable"


def test_datagrams_stay_at_a_node_that_may_carry_them(run, tmp_path, target):
    """Whether a SOCKS5 proxy does shows only when it is asked, and then the stream is not moved."""
    with Microsocks("node", tmp_path) as proxy, Dante("other", tmp_path) as other, UdpTarget(udp_echo) as udp:
        other.more = {"priority": 1}
        gateway = run(proxy, other)
        with enter(gateway) as device:
            assert refused(device, udp.address) == "unsupported"
            passes(device, target)
        assert (state(gateway), dials(gateway, "other")) == (0, 0)
