"""Keys of Outline nodes that change under traffic, and dynamic keys whose server misbehaves."""

import os
import threading
import time
from contextlib import contextmanager

import pytest

from rig.client import login
from rig.nodes import Node, pool_file
from rig.outline import again, dials, exchange, key_server, state
from rig.poll import eventually
from rig.v2 import enter


@contextmanager
def two_keys():
    """The same node before and after its operator gave it another key and port; both are served meanwhile."""
    with Node("near", "before") as old, Node("near", "after") as new:
        yield old, new


@contextmanager
def traffic(gateway, target):
    """Streams one after another in a session of their own, none of which may fail."""
    failures, done, is_over = [], [], threading.Event()

    def work():
        try:
            with enter(gateway) as device:
                while not is_over.is_set():
                    payload = os.urandom(50_000)
                    stream = device.open(target.address, payload)
                    device.pump(lambda: len(device.streams[stream].received) == len(payload))
                    assert device.streams[stream].received == payload
                    device.finish(stream)
                    device.pump(lambda: device.streams[stream].finished)
                    done.append(stream)
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()

    def goes_on():
        count = len(done)
        eventually(lambda: failures or len(done) > count + 5, 20, "streams go on")
        assert not failures, failures
    try:
        yield goes_on
    finally:
        is_over.set()
        thread.join(20)
    assert not failures, failures


def rotated_under_traffic(gateway, target, old, new, rotate):
    """Running streams stay with the old key until they end, and new ones have the new key at once."""
    with login(gateway) as device, traffic(gateway, target) as goes_on:
        exchange(device, "old", target)
        goes_on()
        rotate()
        exchange(device, "new", target)
        again(device, "old")
        goes_on()
        assert state(gateway, "near") == 0
        # The old server goes, and with it the streams of the old key alone.
        old.stop()
        assert device.recv(10)["stream_id"] == "old"
        again(device, "new")
        exchange(device, "newer", target)
        goes_on()
    assert gateway.metric("outline_moves_total") == 0
    for one in (old, new):
        gateway.never_says(one.password)


def test_a_key_rotated_in_the_file(run, target, tmp_path):
    with two_keys() as (old, new):
        gateway = run(old)

        def rotate():
            pool_file(tmp_path / "nodes.yaml", new)
            gateway.says("outline_nodes_reloaded")
        rotated_under_traffic(gateway, target, old, new, rotate)


def test_a_dynamic_key_rotated_by_its_server(run, authority, target):
    with two_keys() as (old, new):
        current = [old.key]
        with key_server(authority, lambda: current[0]) as url:
            dynamic = type("Dynamic", (), {"node_id": "near", "region": None, "key": url})
            gateway = run(dynamic, GATEWAY_OUTLINE_CA_PATH=authority.root)
            eventually(lambda: gateway.metric("outline_probes_total", node="near", result="ok") > 0, 10, "the key is there")

            def rotate():
                current[0] = new.key
                gateway.says("outline_key_replaced", times=2, within=10)
            rotated_under_traffic(gateway, target, old, new, rotate)


def body(data, status=200, **headers):
    """Answers with these bytes."""
    def answer(request):
        request.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(data)
    return answer


def endless(request):
    """Never says how long the document is, and does not end it."""
    request.send_response(200)
    request.end_headers()
    try:
        while True:
            request.wfile.write(b"# nothing\n" * 1_000)
    except OSError:
        pass


def dripping(request):
    """A byte in a while: each is in time, and the document never is."""
    request.send_response(200)
    request.send_header("Content-Length", "60")
    request.end_headers()
    try:
        for _ in range(60):
            request.wfile.write(b"s")
            time.sleep(0.5)
    except OSError:
        pass


def broken(request):
    """Promises more than it says."""
    body(b"ss://", **{"Content-Length": "500"})(request)
    request.close_connection = True


ANSWERS = {
    "too-large": (body(b"#" * 70_000), "larger than 64 KiB"),
    "endless": (endless, "larger than 64 KiB"),
    "slow": (dripping, "did not answer in time"),
    "broken-off": (broken, "broke the answer off"),
    "another-kind-of-page": (body(b"<html>hunter2</html>"), "document"),
    "not-text": (body(b"\xff\xfe\x00"), "UTF-8"),
    "empty": (body(b""), "document"),
    "a-plugin": (body(b"ss://YWVzLTI1Ni1nY206aHVudGVyMg@127.0.0.1:1/?plugin=obfs"), "document"),
    "not-found": (body(b"", 404), "answered 404"),
}


def kept(run, authority, node, target, answer, words):
    """The last good copy of a dynamic key serves streams while its server answers so; the log says what is wrong with it."""
    current = [node.key]
    with key_server(authority, lambda: current[0]) as url:
        dynamic = type("Dynamic", (), {"node_id": "dyn", "region": None, "key": url})
        gateway = run(dynamic, GATEWAY_OUTLINE_CA_PATH=authority.root)
        eventually(lambda: gateway.metric("outline_probes_total", node="dyn", result="ok") > 0, 10, "the key is there")
        with login(gateway) as device:
            exchange(device, "before", target)
            current[0] = answer
            eventually(lambda: gateway.metric("outline_key_failures_total") > 0, 15, "a refresh fails")
            gateway.says(words)
            again(device, "before")
            exchange(device, "after", target)
            assert gateway.metric("outline_node_state", node="dyn") == 0
            # A good answer ends the trouble.
            failed = gateway.metric("outline_key_failures_total")
            current[0] = node.key
            gateway.says('"outline_key_refresh_failed"')
            exchange(device, "again", target)
            assert failed <= 3
        gateway.never_says("hunter2", node.password)
        return gateway


@pytest.mark.parametrize("name", ANSWERS)
def test_a_bad_document_leaves_the_last_good_key(run, authority, target, name):
    answer, words = ANSWERS[name]
    with Node("dyn") as node:
        kept(run, authority, node, target, answer, words)


def test_a_key_is_not_fetched_from_where_a_redirect_leads(run, authority, target):
    asked = []

    def other_document():
        asked.append(True)
        return other.key
    with Node("dyn") as node, Node("other", "another") as other, \
            key_server(authority, other_document) as elsewhere:
        for status in (301, 302, 307):
            place = elsewhere.replace("ssconf", "https")
            answer = body(b"", status, Location=place)
            kept(run, authority, node, target, answer, f"answered {status}; redirects are not followed")
    assert not asked, "the other place was asked"


def test_without_a_first_copy_there_is_no_session_and_then_there_is(run, authority, target):
    current = [body(b"<html>")]
    with Node("dyn") as node, key_server(authority, lambda: current[0]) as url:
        dynamic = type("Dynamic", (), {"node_id": "dyn", "region": None, "key": url})
        gateway = run(dynamic, GATEWAY_OUTLINE_CA_PATH=authority.root)
        eventually(lambda: gateway.metric("outline_key_failures_total") > 0, 10, "a fetch fails")
        current[0] = node.key
        eventually(lambda: dials(gateway, "dyn", result="ok") > 0, 10, "the node is probed")
        with login(gateway) as device:
            exchange(device, "a", target)
