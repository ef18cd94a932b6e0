"""Dynamic keys that the backend names: copies of them, and what becomes of a copy that may be of no use."""

import subprocess
import threading
from contextlib import contextmanager

from rig.backend import ASSIGN, assigned
from rig.client import Device, login, stream_data, stream_open
from rig.gateway import BINARY
from rig.nodes import Node, SilentNode, header
from rig.outline import exchange, key_server, state
from rig.poll import eventually
from rig.targets import refusing_port


@contextmanager
def key_of_backend(run, authority, backend, node, document, **settings):
    """A gateway whose backend names a URL, behind which is `document`."""
    with key_server(authority, document) as url:
        backend.assignment = assigned(access_url=url)
        yield run(node, GATEWAY_OUTLINE_ASSIGN="backend", GATEWAY_OUTLINE_CA_PATH=authority.root, **settings)


def serves(gateway, target):
    """Whether a newcomer's stream is served."""
    with login(gateway) as device:
        try:
            exchange(device, "a", target)
        except (AssertionError, TimeoutError):
            return False
        return True


def test_a_key_server_that_hangs_holds_up_no_device_once_there_is_a_copy(run, authority, backend, pair_of_nodes, target):
    near, far = pair_of_nodes
    asked, release = [], threading.Event()

    def document():
        asked.append(True)
        if len(asked) == 1:
            return near.key
        release.wait(60)
        return far.key

    with key_of_backend(run, authority, backend, near, document, GATEWAY_OUTLINE_KEY_REFRESH="10m",
                        GATEWAY_HANDSHAKE_TIMEOUT="5s") as gateway:
        try:
            # A copy is young for 5 s.
            eventually(lambda: serves(gateway, target) and len(asked) == 2, 20, "the copy is renewed", every=0.2)
            assert serves(gateway, target)
            assert len(asked) == 2 and gateway.metric("outline_key_failures_total") == 0, "the server has answered"
        finally:
            release.set()
        near.stop()
        eventually(lambda: serves(gateway, target), 20, "the new key is there", every=0.2)
        gateway.never_says("hunter2")


def test_devices_that_wait_for_the_first_copy_share_it(run, authority, backend, pair_of_nodes, target):
    near, _ = pair_of_nodes
    asked, release, served = [], threading.Event(), []

    def document():
        asked.append(True)
        release.wait(60)
        return near.key

    with key_of_backend(run, authority, backend, near, document) as gateway:
        devices = [threading.Thread(target=lambda: served.append(serves(gateway, target))) for _ in range(5)]
        for device in devices:
            device.start()
        try:
            eventually(lambda: [r.path for r in backend.requests].count(ASSIGN) == 5, 5, "all of them have a node")
        finally:
            release.set()
        for device in devices:
            device.join(20)
        assert served == [True] * 5 and len(asked) == 1


def test_a_key_of_the_backend_that_a_probe_doubts_is_fetched_before_its_time(run, authority, backend, target):
    asked = []

    def document():
        asked.append(True)
        return node.key

    with Node("near") as node, key_of_backend(run, authority, backend, node, document,
                                              GATEWAY_OUTLINE_KEY_REFRESH="1h") as gateway:
        def probed():
            return gateway.metrics().sum("httvps_gateway_outline_probes_total", node="node-1", result="ok")
        with login(gateway):
            eventually(lambda: probed() > 0, 10, "the node is probed")
            node.stop()
            node.password = "rotated"
            node.start()
            eventually(lambda: len(asked) == 2, 20, "the key is fetched again")
            # No stream and no newcomer asks for it.
            good = probed()
            eventually(lambda: probed() > good and state(gateway, "node-1") == 0, 20, "probes have the new key")
            assert serves(gateway, target)


def silent_at_first(node, silent):
    """A key document that names the silent node until it is asked again, and how often it was asked."""
    asked = []
    old = node.key.replace(f":{node.port}/", f":{silent.port}/")

    def document():
        asked.append(True)
        return old if len(asked) == 1 else node.key
    return asked, document


def test_a_session_follows_the_key_that_a_newcomer_has_renewed(run, authority, backend, pair_of_nodes, target):
    near, _ = pair_of_nodes
    with SilentNode() as silent:
        asked, document = silent_at_first(near, silent)

        def newcomer():
            with login(gateway):
                return len(asked) == 2

        with key_of_backend(run, authority, backend, near, document, GATEWAY_OUTLINE_KEY_REFRESH="1h",
                            GATEWAY_OUTLINE_PROBE_INTERVAL="0") as gateway:
            with login(gateway) as device:
                eventually(newcomer, 15, "the copy is renewed", every=0.2)
                eventually(lambda: serves(gateway, target), 5, "the new key is there")
                # None of its streams was without an answer.
                exchange(device, "a", target)
    assert len(asked) == 2


def test_a_session_that_doubts_its_key_waits_for_the_newer_one(run, authority, backend, pair_of_nodes, target):
    near, _ = pair_of_nodes
    with SilentNode() as silent:
        asked, document = silent_at_first(near, silent)

        # Three streams without an answer are a doubt, and by then the copy is no longer young.
        with key_of_backend(run, authority, backend, near, document, GATEWAY_OUTLINE_KEY_REFRESH="1h",
                            GATEWAY_OUTLINE_PROBE_INTERVAL="0", GATEWAY_OUTLINE_FIRST_BYTE_TIMEOUT="6s") as gateway:
            with login(gateway) as device:
                for name in "abc":
                    device.send(stream_open(name), stream_data(name, header(target.address) + b"x"))
                eventually(lambda: state(gateway, "node-1") == 1, 15, "they have no answer")
                exchange(device, "d", target)
    assert len(asked) == 2


def test_a_key_server_that_is_not_trusted_is_told_from_one_that_is_not_there(run, authority, backend, pair_of_nodes, target):
    near, _ = pair_of_nodes
    gateway = run(near, GATEWAY_OUTLINE_ASSIGN="backend")

    def told(url):
        """What the log and `upstream test` say of a key."""
        backend.assignment = assigned(access_url=url)
        before = len(gateway.output())
        with Device(gateway) as device:
            assert device.ask()["reason"] == "bad_access_key"
        eventually(lambda: "outline_key_unusable" in gateway.output()[before:], 5, "the log says why")
        command = [BINARY, "upstream", "test", url, "--target", target.address]
        tested = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert tested.returncode != 0 and "hunter2" not in tested.stdout + tested.stderr
        gateway.never_says("hunter2")
        return gateway.output()[before:], tested.stdout + tested.stderr

    with key_server(authority, lambda: near.key) as url:
        for words in told(url):
            assert "certificate is not trusted" in words and "cannot be reached" not in words, words
    for words in told(f"ssconf://127.0.0.1:{refusing_port()}/hunter2"):
        assert "cannot be reached" in words and "certificate" not in words, words
