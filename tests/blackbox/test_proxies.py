"""Proxies as nodes (SOCKS5, HTTP CONNECT) in the pool, and what `direct` leaves from."""

import hashlib
import os
import subprocess

import pytest

from rig.backend import ASSIGN, assigned
from rig.client import Device, login, stream_data, stream_open
from rig.gateway import BINARY, run_to_exit
from rig.nodes import Node, SilentNode, header, pool_file
from rig.poll import eventually
from rig.proxies import ConnectProxy, Dante, Microsocks, Squid, Tinyproxy
from rig.targets import Target, UdpTarget, echo, refusing_port, source, udp_echo
from rig.v2 import enter

QUICK = {"GATEWAY_UPSTREAM_MODE": "proxy", "GATEWAY_OUTLINE_NODES_RELOAD_INTERVAL": "100ms",
         "GATEWAY_OUTLINE_PROBE_INTERVAL": "500ms", "GATEWAY_OUTLINE_PROBE_TIMEOUT": "500ms",
         "GATEWAY_OUTLINE_COOLDOWN": "300ms", "GATEWAY_OUTLINE_DIAL_TIMEOUT": "500ms", "GATEWAY_MAX_STREAMS": "64"}
USER, PASSWORD = "ann", "hunter2-s3cret"


@pytest.fixture(scope="module")
def target():
    with Target(echo) as target:
        yield target


@pytest.fixture
def run(start, target, tmp_path):
    """Starts a gateway over a pool of these nodes; without probes unless a test sets their interval."""
    def run(*nodes, **settings):
        path = pool_file(tmp_path / "nodes.yaml", *nodes)
        return start(**QUICK | {"GATEWAY_OUTLINE_NODES_PATH": path, "GATEWAY_OUTLINE_PROBE_TARGET": target.address,
                                "GATEWAY_OUTLINE_PROBE_INTERVAL": "0"} | settings)
    return run


PROBES = {"GATEWAY_OUTLINE_PROBE_INTERVAL": "500ms"}
KINDS = {
    "microsocks": lambda folder: Microsocks("node", folder),
    "microsocks-password": lambda folder: Microsocks("node", folder, USER, PASSWORD),
    "dante": lambda folder: Dante("node", folder),
    "tinyproxy": lambda folder: Tinyproxy("node", folder),
    "tinyproxy-password": lambda folder: Tinyproxy("node", folder, USER, PASSWORD),
    "squid": lambda folder: Squid("node", folder),
    "squid-password": lambda folder: Squid("node", folder, USER, PASSWORD),
}


@pytest.fixture(params=KINDS)
def proxy(request, tmp_path):
    with KINDS[request.param](tmp_path) as proxy:
        yield proxy


def state(gateway, node="node"):
    return gateway.metrics().sum("httvps_gateway_outline_node_state", node=node)


def exchange(device, stream_id, target, size=1000, way=None):
    """A stream with its target, or the deployed clients' way: the address header in the first payload."""
    payload = os.urandom(size)
    if way == "header":
        device.send(stream_open(stream_id), stream_data(stream_id, header(target.address) + payload))
    else:
        device.send(stream_open(stream_id, target.address), stream_data(stream_id, payload))
    got = device.collect(stream_id, size, 20)
    assert hashlib.sha256(got).digest() == hashlib.sha256(payload).digest()


def test_bytes_pass_unchanged_and_the_node_is_probed(run, backend, proxy, target):
    gateway = run(proxy, **PROBES)
    eventually(lambda: gateway.metric("outline_probes_total", node="node", result="ok") >= 1, 10, "a good probe")
    with login(gateway) as device:
        exchange(device, "a", target, 300_000)
        exchange(device, "b", target, 100_000, "header")
        # A name goes to the proxy as a name.
        device.send(stream_open("c", f"localhost:{target.port}"), stream_data("c", b"by name"))
        assert device.collect("c", 7) == b"by name"
    assert all(r.path != ASSIGN for r in backend.requests_of(device.device_id)), "the pool alone gives nodes"
    eventually(gateway.is_idle, 5, "no session is left")
    metrics = gateway.metrics()
    assert metrics.sum("httvps_gateway_outline_bytes_out_total", node="node") == 400_007
    assert metrics.sum("httvps_gateway_outline_assignments_total", result="pool") == 1
    assert state(gateway) == 0
    gateway.never_says(PASSWORD)
    gateway.says('"upstream":"proxy"')


def test_the_second_format_has_streams(run, proxy, target):
    gateway = run(proxy)
    payload = os.urandom(500_000)
    with enter(gateway) as device:
        stream = device.open(target.address)
        device.write(stream, payload)
        device.pump(lambda: len(device.streams[stream].received) == len(payload), 20)
        assert bytes(device.streams[stream].received) == payload


@pytest.mark.parametrize("kind", ["microsocks-password", "tinyproxy-password", "squid-password"])
@pytest.mark.parametrize("login_as", ["wrong", "none"])
def test_a_wrong_password_takes_the_node_down(run, tmp_path, kind, login_as):
    with KINDS[kind](tmp_path) as proxy:
        key = proxy.key_of(USER, "wr0ng-s3cret") if login_as == "wrong" else proxy.key.replace(f"{USER}:{PASSWORD}@", "")
        gateway = run(type("Wrong", (), {"node_id": "node", "region": None, "key": key}), **PROBES)
        eventually(lambda: state(gateway) == 2, 15, "the node is down")
        assert gateway.metric("outline_probes_total", node="node", result="wrong_key") >= 1
        with Device(gateway) as device:
            frame = device.ask()
            assert (frame["code"], frame["reason"]) == ("outline_unavailable", "no_outline_nodes_available")
        gateway.never_says("s3cret")
        tested = subprocess.run([BINARY, "upstream", "test", key], capture_output=True, text=True, timeout=30)
        words = "refused user and password" if login_as == "wrong" else "wants a user and a password"
        assert tested.returncode == 1 and words in tested.stdout and "s3cret" not in tested.stdout + tested.stderr


def test_a_target_that_refuses_is_no_fault_of_the_node(run, proxy, target):
    gateway = run(proxy)
    with enter(gateway) as device:
        for _ in range(5):
            stream = device.open(f"127.0.0.1:{refusing_port()}")
            device.pump(lambda: device.streams[stream].reset is not None)
            # tinyproxy says 500 whatever happened, squid 503.
            assert device.streams[stream].reset in ({"unreachable"} if proxy.scheme == "http" else {"refused"})
        stream = device.open(target.address, b"fine")
        device.pump(lambda: bytes(device.streams[stream].received) == b"fine")
    assert state(gateway) == 0
    assert gateway.metric("outline_dials_total", node="node", result="failed") == 0


def test_what_squid_refuses_is_no_fault_of_the_node(run, tmp_path, target):
    """403 by its rules, 503 where nothing listens."""
    rules = "acl secret dstdomain .secret.example\nhttp_access deny secret\n"
    with Squid("node", tmp_path, USER, PASSWORD, lines=rules) as node:
        gateway = run(node, GATEWAY_OUTLINE_DOWN_FAILURES="1")
        with enter(gateway) as device:
            for _ in range(4):
                for name, why in [("a.secret.example:443", "denied"), (f"127.0.0.1:{refusing_port()}", "unreachable")]:
                    stream = device.open(name)
                    device.pump(lambda: device.streams[stream].reset is not None)
                    assert device.streams[stream].reset == why, name
            stream = device.open(target.address, b"fine")
            device.pump(lambda: bytes(device.streams[stream].received) == b"fine")
        assert state(gateway) == 0
        assert gateway.metric("outline_dials_total", node="node", result="failed") == 0


@pytest.mark.parametrize("probes", [{}, PROBES], ids=["without-probes", "with-probes"])
def test_a_target_for_which_a_password_is_wanted_takes_no_node_down(run, tmp_path, target, probes):
    """The proxy passes on what the proxy behind it says of one target: 407."""
    with Tinyproxy("guard", tmp_path, USER, PASSWORD) as guard:
        with Tinyproxy("node", tmp_path, lines=f'Upstream http 127.0.0.1:{guard.port} "guarded.example"\n') as node:
            gateway = run(node, **probes)
            with enter(gateway) as device:
                for _ in range(6):
                    stream = device.open("guarded.example:443")
                    device.pump(lambda: device.streams[stream].reset is not None)
                    assert device.streams[stream].reset == "unreachable"
                assert gateway.metric("outline_dials_total", node="node", result="failed") == 0
                if probes:
                    eventually(lambda: state(gateway) == 0, 10, "the probe clears it")
                else:
                    assert state(gateway) == 1, "degraded, and no more"
                stream = device.open(target.address, b"fine")
                device.pump(lambda: bytes(device.streams[stream].received) == b"fine")
            gateway.never_says(PASSWORD)


@pytest.mark.parametrize("kind", ["dante", "connect"])
def test_each_half_closes_by_itself(run, tmp_path, kind):
    def digest(connection):
        received = hashlib.sha256()
        while data := connection.recv(65536):
            received.update(data)
        connection.sendall(received.digest())
        connection.close()

    with (Dante("node", tmp_path) if kind == "dante" else ConnectProxy("node")) as proxy, Target(digest) as target:
        gateway = run(proxy)
        payload = os.urandom(200_000)
        with enter(gateway) as device:
            stream = device.open(target.address)
            device.write(stream, payload)
            device.finish(stream)
            device.pump(lambda: device.streams[stream].finished)
            assert bytes(device.streams[stream].received) == hashlib.sha256(payload).digest()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_what_the_target_says_first_is_not_lost(run, authority, pair, tmp_path, scheme):
    with ConnectProxy("node", pair if scheme == "https" else None) as proxy, Target(source(b"220 hello\r\n")) as target:
        gateway = run(proxy, GATEWAY_OUTLINE_CA_PATH=authority.root)
        with login(gateway) as device:
            device.send(stream_open("a", target.address))
            assert device.collect("a", 11) == b"220 hello\r\n"


def test_a_proxys_certificate_is_verified(run, pair, target, authority):
    with ConnectProxy("node", pair) as proxy:
        gateway = run(proxy, **PROBES)
        eventually(lambda: state(gateway) == 2, 15, "the node is down")
        command = [BINARY, "upstream", "test", proxy.key, "--target", target.address, "--timeout", "2"]
        tested = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert tested.returncode == 1 and "certificate is not trusted" in tested.stdout
        tested = subprocess.run([*command, "--ca-file", authority.root], capture_output=True, text=True, timeout=30)
        assert tested.returncode == 0 and "streams    work" in tested.stdout, tested.stdout


def test_datagrams_go_through_a_socks5_proxy(run, tmp_path):
    with Dante("node", tmp_path) as proxy, UdpTarget(udp_echo) as udp:
        gateway = run(proxy)
        with enter(gateway) as device:
            sizes = [1, 1_200, 30_000]
            stream = device.open_datagrams(udp.address)
            for count, size in enumerate(sizes, 1):
                device.send_datagrams(stream, os.urandom(size))
                device.pump(lambda: len(device.streams[stream].datagrams) == count)
            assert [len(one) for one in device.streams[stream].datagrams] == sizes
            assert gateway.metric("outline_active_streams", node="node") == 1
            # Without a target each datagram has its own in front, and the answer its source.
            free = device.open_datagrams()
            device.send_datagrams(free, b"GET / is no header", header(udp.address) + b"hello")
            device.pump(lambda: device.streams[free].datagrams)
            assert device.streams[free].datagrams == [header(udp.address) + b"hello"]
            # The association ends with its proxy.
            proxy.stop()
            device.pump(lambda: device.streams[stream].reset is not None)
            assert device.streams[stream].reset == "reset"
        eventually(lambda: gateway.metric("outline_active_streams", node="node") == 0, 5, "the streams are gone")


@pytest.mark.parametrize("kind", ["microsocks", "tinyproxy"])
def test_a_proxy_without_datagrams_says_so(run, tmp_path, target, kind):
    with KINDS[kind](tmp_path) as proxy, enter(run(proxy)) as device:
        stream = device.open_datagrams(target.address)
        device.pump(lambda: device.streams[stream].reset is not None)
        assert device.streams[stream].reset == "unsupported"
        bytes_too = device.open(target.address, b"fine")
        device.pump(lambda: bytes(device.streams[bytes_too].received) == b"fine")


def test_datagrams_without_a_target_pass_a_shadowsocks_node(start, backend):
    with Node() as node, UdpTarget(udp_echo) as udp:
        backend.assignment = assigned(**node.parts)
        gateway = start(GATEWAY_UPSTREAM_MODE="outline", GATEWAY_OUTLINE_PROBE_INTERVAL="0")
        with enter(gateway) as device:
            stream = device.open_datagrams()
            device.send_datagrams(stream, header(udp.address) + b"hello")
            device.pump(lambda: device.streams[stream].datagrams)
            assert device.streams[stream].datagrams == [header(udp.address) + b"hello"]


def test_a_killed_proxy_is_left_and_comes_back(run, tmp_path, target):
    with Microsocks("near", tmp_path, USER, PASSWORD) as near, Tinyproxy("far", tmp_path) as far, Node("last") as last:
        near.more, far.more, last.more = {"priority": 0}, {"priority": 1}, {"priority": 2}
        gateway = run(near, far, last, **PROBES)
        with login(gateway) as device:
            exchange(device, "a", target)
            assert gateway.metric("outline_dials_total", node="near", result="ok") >= 1
            near.stop()
            frame = device.recv(10)
            assert (frame["type"], frame["stream_id"]) == ("error", "a") or frame["type"] == "stream_close", frame
            exchange(device, "b", target)
            far.stop()
            frame = device.recv(10)
            assert frame["stream_id"] == "b"
            exchange(device, "c", target, way="header")
            near.start()
            eventually(lambda: state(gateway, "near") == 0, 15, "the node is healthy again")
        with login(gateway) as newcomer:
            before = gateway.metric("outline_dials_total", node="near", result="ok")
            exchange(newcomer, "a", target)
            assert gateway.metric("outline_dials_total", node="near", result="ok") > before


def test_a_silent_proxy_is_noticed_by_the_probe(run, target):
    with SilentNode() as silent:
        for scheme in ("socks5", "http"):
            fake = type("Fake", (), {"node_id": scheme, "region": None, "key": f"{scheme}://127.0.0.1:{silent.port}"})
            gateway = run(fake, **PROBES)
            eventually(lambda: state(gateway, scheme) == 2, 15, f"{scheme} is down")


def test_what_is_no_address_header_ends_the_stream(run, proxy):
    with login(run(proxy)) as device:
        device.send(stream_open("a"), stream_data("a", b"GET / HTTP/1.1\r\n\r\n"))
        frame = device.recv()
        assert (frame["code"], frame["stream_id"], frame["reason"]) == ("stream_error", "a", "no_target"), frame


def test_a_backend_assigns_no_proxies(start, backend, tmp_path):
    with Microsocks("node", tmp_path) as proxy:
        backend.assignment = assigned(access_url=proxy.key)
        gateway = start(GATEWAY_UPSTREAM_MODE="outline")
        with Device(gateway) as device:
            assert device.ask()["reason"] == "bad_access_key"


def test_check_reads_the_keys_and_shows_none(tmp_path, pair):
    path = tmp_path / "nodes.yaml"
    settings = {"GATEWAY_TLS_CERT_PATH": pair.cert, "GATEWAY_TLS_KEY_PATH": pair.key,
                "BACKEND_BASE_URL": "http://127.0.0.1:1", "GATEWAY_UPSTREAM_MODE": "proxy"}
    status, _, words = checked(settings)
    assert status == 1 and "outline_nodes_path" in words
    settings["GATEWAY_OUTLINE_NODES_PATH"] = path
    for key, problem in [("socks5://ann:hunter2@h:1080", None), ("https://ann:hunter2@h:443", None),
                         ("socks5://ann:hunter2@h", "no port"), ("socks5://hunter2@h:1", "needs a password"),
                         ("http://ann:hunter2@h:1/x", "use https://")]:
        path.write_text(f"nodes:\n  - id: a\n    key: '{key}'\n")
        status, shown, words = checked(settings)
        assert (status, problem is None or problem in words) == (0 if problem is None else 1, True), words
        assert "hunter2" not in shown + words


def checked(settings):
    return run_to_exit(settings, "gateway", "--check")


# --- direct ------------------------------------------------------------------------------------

DIRECT = {"GATEWAY_UPSTREAM_MODE": "direct", "GATEWAY_EGRESS_ALLOW": "127.0.0.0/8,::1"}


def peer_name(connection):
    connection.sendall(connection.getpeername()[0].encode())
    connection.close()


def test_direct_leaves_from_the_chosen_address(start):
    gateway = start(**DIRECT, GATEWAY_DIRECT_SOURCE_ADDRESS="127.0.0.9", GATEWAY_DIRECT_INTERFACE="lo")
    with Target(peer_name) as target, UdpTarget() as udp, enter(gateway) as device:
        stream = device.open(target.address)
        device.pump(lambda: device.streams[stream].finished)
        assert bytes(device.streams[stream].received) == b"127.0.0.9"
        datagrams = device.open_datagrams(udp.address, b"hello")
        datagram, peer = udp.socket.recvfrom(100)
        assert (datagram, peer[0]) == (b"hello", "127.0.0.9")
        udp.socket.sendto(b"answer", peer)
        device.pump(lambda: device.streams[datagrams].datagrams == [b"answer"])
        # No address of that family was chosen.
        other = device.open("[::1]:9")
        device.pump(lambda: device.streams[other].reset is not None)
        assert device.streams[other].reset == "unreachable"


@pytest.mark.parametrize("setting, words", [
    ({"GATEWAY_DIRECT_SOURCE_ADDRESS": "192.0.2.1"}, "direct_source_address: 192.0.2.1 is no address of this host"),
    ({"GATEWAY_DIRECT_INTERFACE": "nosuch0"}, "direct_interface: this host has no interface nosuch0"),
    ({"GATEWAY_DIRECT_SOURCE_ADDRESS": "127.0.0.1,127.0.0.2"}, "two addresses of one family"),
    ({"GATEWAY_DIRECT_INTERFACE": "a/b"}, "GATEWAY_DIRECT_INTERFACE"),
])
def test_a_source_that_this_host_has_not_is_named_at_the_start(pair, setting, words):
    settings = DIRECT | setting | {"GATEWAY_TLS_CERT_PATH": pair.cert, "GATEWAY_TLS_KEY_PATH": pair.key,
                                   "BACKEND_BASE_URL": "http://127.0.0.1:1"}
    status, _, problem = checked(settings)
    assert status == 1 and words in problem, problem


@pytest.mark.parametrize("way", ["target", "header"])
def test_a_stream_that_waits_for_its_proxy_holds_up_no_other(run, target, way):
    """The proxy that stands still keeps one stream of a JSON session waiting with more than a stream may have queued."""
    with SilentNode() as silent:
        fake = type("Fake", (), {"node_id": "node", "region": None, "key": f"socks5://127.0.0.1:{silent.port}"})
        gateway = run(fake, GATEWAY_MAX_STREAM_QUEUE_BYTES="65536", GATEWAY_OUTLINE_DIAL_TIMEOUT="30s",
                      GATEWAY_DIAL_TIMEOUT="30s")
        with login(gateway) as device:
            first = header(target.address) if way == "header" else b""
            device.send(stream_open("a") if way == "header" else stream_open("a", target.address))
            device.send(stream_data("a", first + b"x"))
            eventually(lambda: silent.held, 10, "the proxy is dialled")
            for _ in range(12):
                device.send(stream_data("a", bytes(16_384)))
            # An unknown stream is answered at once, if the session is read.
            device.send(stream_data("never-opened", b"x"))
            device.expect_error("stream_error", "never-opened")
