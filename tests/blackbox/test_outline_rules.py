"""Rules about Outline nodes and keys that show when something is wrong: who stands in, what is asked again and when."""

import base64
import subprocess
from types import SimpleNamespace

from rig.backend import ASSIGN, answer, assigned
from rig.between import Between, end_after
from rig.client import login, stream_data, stream_open
from rig.gateway import BINARY, environment
from rig.nodes import Node, header, pool_file
from rig.outline import dials, exchange, frame_of, key_server, session_node, state
from rig.poll import Stopwatch, eventually
from rig.targets import Target, UdpTarget, echo, full_backlog, refusing_port, silent


def probes(gateway, node, result="ok"):
    return gateway.metric("outline_probes_total", node=node, result=result)


def answers(device, target, name):
    """Whether a new stream is served."""
    device.send(stream_open(name), stream_data(name, header(target.address) + b"x"))
    try:
        return frame_of(device, name, 1)["type"] == "stream_data"
    except TimeoutError:
        return False


def test_the_pool_stands_in_for_a_backend_that_insists_on_a_dead_node(run, backend, pair_of_nodes, target):
    near, far = pair_of_nodes
    gateway = run(far, GATEWAY_OUTLINE_ASSIGN="backend_then_pool", GATEWAY_OUTLINE_PROBE_INTERVAL="0",
                  GATEWAY_OUTLINE_COOLDOWN="1h")
    backend.assignment = assigned(**near.parts)
    with login(gateway) as device:
        exchange(device, "a", target)
        near.stop()
        # The stream that finds it dead already has another node.
        exchange(device, "b", target)
        assert gateway.metric("outline_moves_total") == 1
        eventually(lambda: state(gateway, "near") > 0, 5, "a failed dial is noted")
        down = [login(gateway) for _ in range(3)]
        for number, other in enumerate(down):
            exchange(other, f"c{number}", target)
            other.close()
    assert state(gateway, "near") == 2
    with login(gateway) as newcomer:
        exchange(newcomer, "d", target)
        assert session_node(gateway, newcomer) == "far", "newcomers are not given a node that is down"
    assert dials(gateway, "near", result="failed") == 3


def test_without_a_pool_a_dead_node_of_the_backend_is_told_as_such(run, backend, pair_of_nodes, target):
    near, _ = pair_of_nodes
    gateway = run(near, GATEWAY_OUTLINE_ASSIGN="backend", GATEWAY_OUTLINE_PROBE_INTERVAL="0", GATEWAY_OUTLINE_COOLDOWN="1h")
    backend.assignment = assigned(**near.parts)
    with login(gateway) as device:
        exchange(device, "a", target)
        near.stop()
        for number in range(20):
            device.send(stream_open(f"s{number}"), stream_data(f"s{number}", header(target.address)))
            frame = frame_of(device, f"s{number}")
            assert (frame["code"], frame["reason"]) == ("stream_error", "node_unreachable"), frame
            assert frame["message"] == "the exit node does not answer"
        asked = [r for r in backend.requests_of(device.device_id) if r.path == ASSIGN]
        assert len(asked) <= 4, "the backend is asked at most once a second"
    assert gateway.metric("outline_moves_total") == 0
    assert dials(gateway, "near", result="failed") == 3, "a node that is down is left alone"


def test_a_backend_that_assigns_a_dead_node_is_asked_once_more(run, backend, pair_of_nodes, target):
    near, far = pair_of_nodes
    near.stop()
    gateway = run(near, GATEWAY_OUTLINE_ASSIGN="backend", GATEWAY_OUTLINE_COOLDOWN="1h", GATEWAY_OUTLINE_DOWN_FAILURES="1")
    backend.assignment = assigned(**near.parts)
    with login(gateway):
        eventually(lambda: state(gateway, "near") == 2, 10, "the node is known to be down")

    def in_turn(_, turns=iter([near, far, near, near])):
        return assigned(**next(turns).parts)

    def asked(device):
        return len([r for r in backend.requests_of(device.device_id) if r.path == ASSIGN])

    backend.assignment = in_turn
    with login(gateway) as device:
        assert session_node(gateway, device) == "far" and asked(device) == 2
        exchange(device, "a", target)
    with login(gateway) as device:
        assert session_node(gateway, device) == "near" and asked(device) == 2, "what it says twice holds"


def test_an_echo_is_no_node(run, target, tmp_path):
    """A middle box without the key that sends everything back: no probe and no device takes it for an answer."""
    with Target(echo) as mirror:
        key = base64.urlsafe_b64encode(b"aes-256-gcm:hunter2").decode().rstrip("=")
        node = SimpleNamespace(node_id="mirror", region="eu", key=f"ss://{key}@{mirror.address}")
        gateway = run(node)
        with login(gateway) as device:
            eventually(lambda: probes(gateway, "mirror", "wrong_key") >= 1, 10, "the probe tells")
            device.send(stream_open("a"), stream_data("a", header(target.address) + b"GET /secret"))
            assert frame_of(device, "a")["type"] == "error"
        assert probes(gateway, "mirror", "ok") == 0 and gateway.metric("bytes_out_total") == 0


def test_when_all_probes_fail_nodes_that_can_be_reached_are_the_last_resort(run, pair_of_nodes, target):
    near, far = pair_of_nodes
    gateway = run(near, far, GATEWAY_OUTLINE_PROBE_TARGET=f"127.0.0.1:{refusing_port()}")
    with login(gateway, region="eu") as device:
        eventually(lambda: state(gateway, "near") == state(gateway, "far") == 2, 10, "both are down")
        with login(gateway, region="us") as newcomer:
            exchange(newcomer, "a", target)
        exchange(device, "b", target)
        # What a stream shows outweighs the probes, until they have failed three times again.
        gateway.says('"cause":"answered"')


def test_a_dynamic_key_of_the_backend_is_fetched_once_in_a_while_and_the_last_copy_kept(
        run, authority, backend, pair_of_nodes, target):
    near, _ = pair_of_nodes
    fetches, current = [], [near.key]

    def document():
        fetches.append(True)
        return current[0]

    with key_server(authority, document) as url:
        backend.assignment = assigned(access_url=url)
        for refresh in ("10m", "1s"):
            gateway = run(near, GATEWAY_OUTLINE_ASSIGN="backend", GATEWAY_OUTLINE_CA_PATH=authority.root,
                          GATEWAY_OUTLINE_KEY_REFRESH=refresh)
            before = len(fetches)
            for _ in range(3):
                with login(gateway) as device:
                    exchange(device, "a", target)
            assert len(fetches) == before + 1, "sessions one after the other share a copy"
        current[0] = None

        def falls_back():
            with login(gateway) as device:
                exchange(device, "a", target)
            return gateway.metric("outline_key_failures_total")
        eventually(falls_back, 10, "a fetch fails", every=0.2)
        assert gateway.metric("outline_assignments_total", result="bad_key") == 0


def test_probes_take_over_the_key_that_the_backend_gave_last(run, backend, pair_of_nodes, target):
    near, _ = pair_of_nodes
    gateway = run(near, GATEWAY_OUTLINE_ASSIGN="backend")
    backend.assignment = lambda _: assigned(**near.parts)
    with login(gateway) as device:
        exchange(device, "a", target)
        eventually(lambda: probes(gateway, "near") > 0, 10, "the node is probed")
        near.stop()
        near.password = "rotated"
        near.start()
        names = iter(range(1000))
        eventually(lambda: answers(device, target, f"s{next(names)}"), 20, "the session has the new key")
        good = probes(gateway, "near")
        eventually(lambda: probes(gateway, "near") > good, 10, "probes have it too")
        eventually(lambda: state(gateway, "near") == 0, 10, "the node is healthy")
    assert gateway.metric("outline_moves_total") == 0, "another key is no other node"


def after_the_first_probes(gateway, node):
    """The file asks for one besides the one at the start; from now on they come at their interval."""
    eventually(lambda: probes(gateway, node) == 2, 15, "the first probes")


def test_a_key_that_changes_in_the_file_is_probed_before_its_time(run, target, tmp_path):
    with Node("near", "before") as old, Node("near", "after") as new:
        gateway = run(old, GATEWAY_OUTLINE_PROBE_INTERVAL="10s")
        after_the_first_probes(gateway, "near")
        pool_file(tmp_path / "nodes.yaml", new)
        eventually(lambda: probes(gateway, "near") == 3, 6, "the new key is probed")


def test_a_dynamic_key_that_stops_working_is_fetched_before_its_time(run, authority, target):
    fetches = []

    def document():
        fetches.append(True)
        return node.key

    with Node("dyn") as node, key_server(authority, document) as url:
        dynamic = type("Dynamic", (), {"node_id": "dyn", "region": None, "key": url})
        gateway = run(dynamic, GATEWAY_OUTLINE_CA_PATH=authority.root, GATEWAY_OUTLINE_KEY_REFRESH="1h")
        # The file that was read at the start asks for it too.
        eventually(lambda: len(fetches) == 2 and probes(gateway, "dyn") > 0, 15, "the key is there")
        node.stop()
        node.password = "rotated"
        node.start()
        with login(gateway) as device:
            names = iter(range(1000))
            eventually(lambda: answers(device, target, f"s{next(names)}"), 20, "the new key is there")
    gateway.says("outline_key_replaced", times=2)


def test_a_file_that_stays_broken_is_told_once(run, pair_of_nodes, tmp_path):
    near, _ = pair_of_nodes
    gateway = run(near)
    (tmp_path / "nodes.yaml").write_text("nodes: [")
    gateway.says("outline_nodes_reload_failed")
    # Two probes are a second, in which the file is read ten times.
    good = probes(gateway, "near")
    eventually(lambda: probes(gateway, "near") >= good + 2, 10, "time goes by")
    assert gateway.output().count("outline_nodes_reload_failed") == 1


def test_streams_without_an_answer_ask_for_a_probe(run, pair_of_nodes, target):
    """Their targets may be silent by themselves: the node is degraded, and healthy when its probe is good."""
    near, _ = pair_of_nodes
    gateway = run(near, GATEWAY_OUTLINE_PROBE_INTERVAL="10s", GATEWAY_OUTLINE_FIRST_BYTE_TIMEOUT="300ms")
    after_the_first_probes(gateway, "near")
    with Target(silent) as mute, login(gateway) as device:
        for number in range(3):
            device.send(stream_open(f"s{number}"), stream_data(f"s{number}", header(mute.address) + b"hello?"))
        eventually(lambda: state(gateway, "near") == 1, 3, "the node is degraded")
        eventually(lambda: probes(gateway, "near") == 3, 6, "it is probed before its time")
        assert gateway.metric("outline_active_streams", node="near") == 3, "the streams stay"
        # A stream that is answered ends the doubt.
        exchange(device, "a", target)
        exchange(device, "b", target)
        eventually(lambda: state(gateway, "near") == 0, 3, "the node is healthy")
    assert gateway.metric("outline_moves_total") == 0


def unanswered(device, address, count, prefix):
    """Streams to a target that takes something and says nothing; their end tells that they are counted."""
    for number in range(count):
        name = f"{prefix}{number}"
        device.send(stream_open(name), stream_data(name, header(address) + b"hello?"))
        assert frame_of(device, name)["type"] == "stream_close"


def mute(connection):
    connection.recv(100)
    connection.close()


def test_doubts_of_a_session_are_those_in_a_row_and_end_when_there_is_nothing_better(run, backend, pair_of_nodes, target):
    near, _ = pair_of_nodes
    gateway = run(near, GATEWAY_OUTLINE_ASSIGN="backend", GATEWAY_OUTLINE_PROBE_INTERVAL="0")
    backend.assignment = assigned(**near.parts)

    def asked():
        return len([r for r in backend.requests_of(device.device_id) if r.path == ASSIGN])

    with Target(mute) as other, login(gateway) as device:
        for round in range(3):
            unanswered(device, other.address, 2, f"two{round}-")
            exchange(device, f"a{round}", target)
        assert asked() == 1, "an answer ends the doubts before it"
        unanswered(device, other.address, 3, "three-")
        exchange(device, "b", target)
        assert asked() == 2
        backend.assignment = answer({}, 500)
        unanswered(device, other.address, 3, "more-")
        exchange(device, "c", target)
        exchange(device, "d", target)
    assert gateway.metric("outline_moves_total") == 0


def test_an_end_before_any_byte_is_no_answer(run, target):
    with Node("near") as node, Between(node) as between:
        gateway = run(between, GATEWAY_OUTLINE_PROBE_INTERVAL="0")
        between.manner = end_after(0)
        with login(gateway) as device:
            for number in range(3):
                device.send(stream_open(f"s{number}"), stream_data(f"s{number}", header(target.address) + b"hello"))
                assert frame_of(device, f"s{number}")["type"] == "stream_close"
            eventually(lambda: state(gateway, "near") == 1, 5, "the node is degraded")


def test_a_node_that_takes_no_connection_costs_the_dial_timeout_and_no_more(run, pair_of_nodes, target):
    _, far = pair_of_nodes
    with full_backlog() as address:
        deaf = type("Deaf", (), {"node_id": "near", "region": "eu", "key": f"ss://aes-256-gcm:pw@{address}"})
        gateway = run(deaf, far, GATEWAY_OUTLINE_PROBE_INTERVAL="0")
        with login(gateway, region="eu") as device:
            clock = Stopwatch()
            exchange(device, "a", target)
            assert 0.4 < clock.seconds < 3
            assert dials(gateway, "near", result="timeout") == 1 == gateway.metric("outline_moves_total")
            exchange(device, "b", target)
            assert dials(gateway, "near") == 1, "the session has moved"


def test_probes_hurry_while_they_fail_and_trials_follow_the_cooldown(run, pair_of_nodes):
    near, _ = pair_of_nodes
    near.stop()
    gateway = run(near, GATEWAY_OUTLINE_PROBE_INTERVAL="10s", GATEWAY_OUTLINE_COOLDOWN="50ms")
    # The next ones come after a fifth of the interval.
    eventually(lambda: state(gateway, "near") == 2, 9, "it is down after three")
    tried = probes(gateway, "near", "unreachable")
    # At most eight times 50 ms apart.
    eventually(lambda: probes(gateway, "near", "unreachable") >= tried + 8, 8, "trials go on")
    near.start()
    eventually(lambda: state(gateway, "near") < 2, 5, "it is back")


def test_a_datagram_of_another_question_is_no_answer(pair_of_nodes, target):
    near, _ = pair_of_nodes

    def confused(server, datagram, source):
        server.sendto(bytes([datagram[0] ^ 1]) + datagram[1:], source)

    with UdpTarget(confused) as dns:
        done = subprocess.run([BINARY, "upstream", "test", "-", "--target", target.address, "--dns", dns.address,
                               "--timeout", "1"], input=near.key.encode(), env=environment({}), capture_output=True, timeout=60)
    words = (done.stdout + done.stderr).decode()
    assert "streams    work" in words and "datagrams  work" not in words, words
