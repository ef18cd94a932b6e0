"""Outline nodes that fail: the pool, fail-over, recovery, keys that change."""

import base64
import os
import subprocess
import threading

from rig.backend import ASSIGN, NO_NODES, assigned
from rig.client import Device, login, stream_close, stream_data, stream_open
from rig.gateway import BINARY, environment, run_to_exit
from rig.nodes import SilentNode, header, pool_file
from rig.outline import again, dials, exchange, frame_of, key_server, session_node, state
from rig.poll import Stopwatch, eventually
from rig.targets import UdpTarget, udp_echo


def test_a_session_gets_a_node_of_its_region(run, pair_of_nodes, target):
    gateway = run(*pair_of_nodes)
    for region, node in (("eu", "near"), ("us", "far"), ("EU", "near")):
        with login(gateway, region=region) as device:
            exchange(device, "a", target)
            assert session_node(gateway, device) == node, f"{region} leads to {node}"
    with login(gateway, region="mars") as device:
        exchange(device, "a", target)


def test_streams_of_a_killed_node_end_and_new_ones_move(run, pair_of_nodes, target):
    near, far = pair_of_nodes
    gateway = run(near, far)
    with login(gateway, region="eu") as device, login(gateway, region="us") as other:
        exchange(other, "o", target)
        for number in range(10):
            exchange(device, f"s{number}", target)
        near.stop()
        ended = {device.recv(10)["stream_id"] for _ in range(10)}
        assert ended == {f"s{number}" for number in range(10)}
        clock = Stopwatch()
        exchange(device, "next", target)
        assert clock.seconds < 3
        again(other, "o")
        assert dials(gateway, "far", result="ok") >= 2
        # The session stays where it moved, and the node comes back without a restart.
        near.start()
        eventually(lambda: state(gateway, "near") == 0, 15, "the node is healthy again")
        again(device, "next")
        again(other, "o")
        before = dials(gateway, "far", result="ok")
        exchange(device, "later", target)
        assert dials(gateway, "far", result="ok") > before
        with login(gateway, region="eu") as newcomer:
            exchange(newcomer, "a", target)
            assert session_node(gateway, newcomer) == "near", "newcomers go there again"
        assert gateway.metric("outline_moves_total") == 1
    changes = [line for line in gateway.lines() if '"outline_node_state"' in line and '"node":"near"' in line]
    assert len(changes) <= 6, "it flaps:\n" + "\n".join(changes)


def test_a_node_under_load_is_killed_and_started_again_and_again(run, pair_of_nodes, target):
    near, far = pair_of_nodes
    gateway = run(near, far)
    stop, failures, done, broken = threading.Event(), [], [], []

    def load(region):
        with login(gateway, region=region) as device:
            number = 0
            while not stop.is_set():
                number += 1
                name = f"s{number}"
                payload = os.urandom(20_000)
                device.send(stream_open(name), stream_data(name, header(target.address) + payload))
                got, lost = bytearray(), False
                while len(got) < len(payload) and not lost:
                    frame = frame_of(device, name)
                    lost = frame["type"] in ("error", "stream_close")
                    if not lost:
                        got += base64.b64decode(frame["data"])
                (failures if lost else done).append(region)
                if not lost:
                    broken.extend([name] * (bytes(got) != payload))
                    device.send(stream_close(name))

    threads = [threading.Thread(target=load, args=(region,)) for region in ("eu", "eu", "us", "us")]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            count = len(done)
            eventually(lambda: len(done) > count + 20, 20, "work goes on")
            near.stop()
            eventually(lambda: state(gateway, "near") == 2, 10, "the node is down")
            count = len(done)
            eventually(lambda: len(done) > count + 20, 20, "work goes on without it")
            near.start()
            eventually(lambda: state(gateway, "near") == 0, 15, "the node is back")
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert not broken, "bytes were lost or mixed up"
    assert "us" not in failures, "streams of the healthy node were lost"
    assert failures.count("eu") <= 4, "more was lost than what the dead node carried"


def test_with_all_nodes_down_there_is_no_session_and_then_there_is(run, pair_of_nodes, target):
    near, far = pair_of_nodes
    gateway = run(near, far)
    with login(gateway, region="eu") as device:
        near.stop(), far.stop()
        eventually(lambda: state(gateway, "near") == state(gateway, "far") == 2, 10, "both are down")
        device.send(stream_open("a"), stream_data("a", header(target.address)))
        device.expect_error("stream_error", "a", timeout=10)
        with Device(gateway) as newcomer:
            frame = newcomer.ask()
            assert (frame["code"], frame["reason"]) == ("outline_unavailable", "no_outline_nodes_available")
        far.start()
        eventually(lambda: state(gateway, "far") < 2, 15, "one is back")
        exchange(device, "b", target)
        assert session_node(gateway, device) == "near"


def test_a_wrong_password_is_noticed_by_the_probe(run, pair_of_nodes, target):
    near, far = pair_of_nodes
    wrong = type("Wrong", (), {"node_id": "near", "region": "eu", "key": near.key.replace(
        near.key.split("//")[1].split("@")[0], far.key.split("//")[1].split("@")[0])})
    gateway = run(wrong, far)
    eventually(lambda: state(gateway, "near") == 2, 10, "the node is down")
    with login(gateway, region="eu") as device:
        exchange(device, "a", target)
    assert dials(gateway, "far", result="ok") > 0
    gateway.never_says(far.password, near.password)


def test_a_silent_node_is_noticed_by_the_probe(run, pair_of_nodes, target):
    _, far = pair_of_nodes
    with SilentNode() as silent:
        fake = type("Fake", (), {"node_id": "near", "region": "eu",
                                 "key": f"ss://{far.key.split('//')[1].split('@')[0]}@127.0.0.1:{silent.port}"})
        gateway = run(fake, far)
        eventually(lambda: state(gateway, "near") == 2, 15, "the node is down")
        assert gateway.metric("outline_probes_total", node="near", result="silent") >= 3
        with login(gateway, region="eu") as device:
            exchange(device, "a", target)


def test_a_pool_follows_its_file_and_a_removed_node_drains(run, pair_of_nodes, target, tmp_path):
    near, far = pair_of_nodes
    gateway = run(near)
    with login(gateway) as device:
        exchange(device, "a", target)
        pool_file(tmp_path / "nodes.yaml", far)
        gateway.says("outline_nodes_reloaded")
        again(device, "a")
        exchange(device, "b", target)
        assert dials(gateway, "far", result="ok") > 0
        again(device, "a")
        # A broken file changes nothing.
        (tmp_path / "nodes.yaml").write_text("nodes: [hunter2")
        gateway.says("outline_nodes_reload_failed")
        gateway.never_says("hunter2")
        exchange(device, "c", target)
        device.send(stream_close("a"))
        eventually(lambda: not gateway.metrics().has("httvps_gateway_outline_node_state", node="near"), 5,
                   "the drained node is forgotten")


def test_a_key_that_changes_in_the_file_is_used_by_new_streams(run, pair_of_nodes, target, tmp_path):
    near, _ = pair_of_nodes
    gateway = run(near)
    with login(gateway) as device:
        exchange(device, "a", target)
        near.stop()
        near.password = "rotated"
        near.start()
        pool_file(tmp_path / "nodes.yaml", near)
        gateway.says("outline_nodes_reloaded")
        eventually(lambda: state(gateway, "near") == 0, 10, "the node is healthy")
        exchange(device, "b", target)


def test_a_key_that_changes_at_the_backend_is_asked_for_again(run, backend, pair_of_nodes, target):
    near, _ = pair_of_nodes
    gateway = run(near, GATEWAY_OUTLINE_ASSIGN="backend")
    backend.assignment = lambda _: assigned(**near.parts)
    with login(gateway) as device:
        exchange(device, "a", target)
        near.stop()
        near.password = "rotated"
        near.start()

        def works():
            name = f"s{Stopwatch().start}"
            device.send(stream_open(name), stream_data(name, header(target.address) + b"x"))
            try:
                return frame_of(device, name, 1)["type"] == "stream_data"
            except TimeoutError:
                return False
        eventually(works, 20, "the session has the new key")
    assert len([r for r in backend.requests_of(device.device_id) if r.path == ASSIGN]) >= 2


def test_the_backend_is_asked_again_when_its_node_is_down(run, backend, pair_of_nodes, target):
    near, far = pair_of_nodes
    gateway = run(near, GATEWAY_OUTLINE_ASSIGN="backend")
    backend.assignment = assigned(**near.parts)
    with login(gateway, region="eu") as device:
        exchange(device, "a", target)
        near.stop()
        backend.assignment = assigned(**far.parts)
        exchange(device, "b", target)
        asked = [r.json["region_code"] for r in backend.requests_of(device.device_id) if r.path == ASSIGN]
        assert asked == ["eu", "eu"]


def test_the_pool_stands_in_for_a_backend_without_an_answer(run, backend, pair_of_nodes, target):
    gateway = run(*pair_of_nodes, GATEWAY_OUTLINE_ASSIGN="backend_then_pool")
    for reply in (NO_NODES, assigned(access_url="ss://nonsense")):
        backend.assignment = reply
        with login(gateway, region="us") as device:
            exchange(device, "a", target)
    assert gateway.metric("outline_assignments_total", result="pool") == 2


def test_a_dynamic_key_is_fetched_refreshed_and_kept(run, authority, pair_of_nodes, target):
    near, far = pair_of_nodes
    current = [near.key]
    with key_server(authority, lambda: current[0]) as url:
        dynamic = type("Dynamic", (), {"node_id": "dyn", "region": None, "key": url})
        gateway = run(dynamic, GATEWAY_OUTLINE_CA_PATH=authority.root)
        eventually(lambda: gateway.metric("outline_probes_total", node="dyn", result="ok") > 0, 10, "the key is there")
        with login(gateway) as device:
            exchange(device, "a", target)
            current[0] = None
            eventually(lambda: gateway.metric("outline_key_failures_total") > 0, 10, "a refresh fails")
            exchange(device, "b", target)
            # The newer form, for another node.
            current[0] = ("transport:\n  $type: tcpudp\n  tcp: &shared\n    $type: shadowsocks\n"
                          f"    endpoint: 127.0.0.1:{far.port}\n    cipher: {far.method}\n    secret: {far.password}\n"
                          "  udp: *shared\n")
            gateway.says("outline_key_replaced", times=2, within=10)
            near.stop()
            exchange(device, "c", target)
        gateway.never_says("hunter2")


def check(path, **settings):
    return run_to_exit(settings | {"GATEWAY_OUTLINE_NODES_PATH": path}, "gateway", "--check")


def test_check_reads_the_keys_and_shows_none(pair, tmp_path, pair_of_nodes):
    near, _ = pair_of_nodes
    settings = {"GATEWAY_TLS_CERT_PATH": pair.cert, "GATEWAY_TLS_KEY_PATH": pair.key,
                "BACKEND_BASE_URL": "http://127.0.0.1:1", "GATEWAY_UPSTREAM_MODE": "outline",
                "GATEWAY_OUTLINE_ASSIGN": "pool"}
    path = pool_file(tmp_path / "nodes.yaml", near)
    code, out, err = check(path, **settings)
    assert code == 0 and near.key not in out + err and near.password not in out + err
    path.write_text("nodes:\n  - id: a\n    key: ss://hunter2\n")
    code, out, err = check(path, **settings)
    assert code == 1 and "outline_nodes_path" in err and "line 2" in err and "node a" in err
    assert "hunter2" not in out + err
    code, _, err = check(None, **settings)
    assert code == 1 and "outline_nodes_path" in err


def upstream_test(key, *arguments):
    done = subprocess.run([BINARY, "upstream", "test", "-", *arguments], input=key.encode(), env=environment({}),
                          capture_output=True, timeout=60)
    return done.returncode, (done.stdout + done.stderr).decode()


def test_the_test_of_a_key_says_what_works_and_what_is_wrong(authority, pair_of_nodes, target):
    near, far = pair_of_nodes
    with UdpTarget(udp_echo) as dns:
        places = ["--target", target.address, "--dns", dns.address, "--timeout", "2"]
        code, words = upstream_test(near.key, *places)
        assert code == 0 and "streams    work" in words and "datagrams  work" in words, words
        with key_server(authority, lambda: near.key) as url:
            code, words = upstream_test(url, *places, "--ca-file", str(authority.root))
            assert code == 0 and "hunter2" not in words, words
        wrong = near.key.replace(near.key.split("//")[1].split("@")[0], far.key.split("//")[1].split("@")[0])
        code, words = upstream_test(wrong, *places)
        assert code == 1 and "wrong password" in words and far.password not in words, words
        near.stop()
        code, words = upstream_test(near.key, *places)
        assert code == 1 and "refused the connection" in words and near.password not in words, words
        code, words = upstream_test("ss://hunter2", *places)
        assert code == 1 and "the key: " in words and "hunter2" not in words, words
