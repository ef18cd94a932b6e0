"""The client in `interop/`, written from the pages alone, against the gateway; and clients of both formats at once."""

import hashlib
import os
import threading

import pytest

import rig.v2  # noqa: F401  (puts interop/ on the path)
from rig.client import TOKEN, fresh_device, login, stream_open
from rig.targets import Target, UdpTarget, echo, refusing_port, source, udp_echo

from client import Closed, Session, StreamReset  # noqa: E402


@pytest.fixture(scope="module")
def gateway(start_shared):
    return start_shared(GATEWAY_UPSTREAM_MODE="direct", GATEWAY_EGRESS_ALLOW="127.0.0.0/8")


def connect(gateway):
    return Session("127.0.0.1", gateway.port, fresh_device(), TOKEN, ca=gateway.authority.root)


def digesting(connection):
    digest = hashlib.sha256()
    while data := connection.recv(65_536):
        digest.update(data)
    connection.sendall(digest.digest())
    connection.close()


def test_data_behind_open_comes_back(gateway):
    with Target(echo) as target, connect(gateway) as session:
        stream = session.open(target.address, b"knock knock")
        assert stream.read() == b"knock knock"
        stream.wait_opened()


def test_credit_carries_megabytes_both_ways_and_half_close_gets_its_answer(gateway):
    payload = os.urandom(3_000_000)
    with Target(digesting) as up, Target(source(payload)) as down, connect(gateway) as session:
        stream = session.open(up.address)
        stream.write(payload)
        stream.finish()
        assert stream.read_all() == hashlib.sha256(payload).digest()
        assert session.open(down.address).read_all() == payload


def test_resets_have_their_codes_and_cost_no_credit(gateway):
    with Target(source(b"x" * 60_000)) as target, connect(gateway) as session:
        for address, code in {f"127.0.0.1:{refusing_port()}": "refused", "192.168.0.1:80": "denied", "": "bad_target"}.items():
            with pytest.raises(StreamReset) as ended:
                session.open(address, b"x").read()
            assert ended.value.code == code
        for _ in range(20):
            # Many times what the session starts with, none of it read.
            stream = session.open(target.address)
            while len(stream.held) < 60_000:
                session.step()
            stream.reset()
        session.ping()


def test_datagrams_keep_their_boundaries(gateway):
    with UdpTarget(udp_echo) as target, connect(gateway) as session:
        stream = session.open(target.address, kind="datagrams")
        for datagram in (b"", b"one", b"x" * 1400):
            stream.send(datagram)
            assert stream.receive() == datagram


def test_go_away_comes_before_the_close(launch, backend):
    with launch(backend.url, may_exit=True, GATEWAY_DRAIN_SPREAD="100ms", GATEWAY_DRAIN_TIMEOUT="2s") as gateway:
        with connect(gateway) as session:
            session.ping()
            gateway.terminate()
            with pytest.raises(Closed) as ended:
                while True:
                    session.step()
            assert session.gone_away.code == "going_away" and ended.value.code == 1012


def test_clients_of_both_formats_share_a_gateway(gateway):
    payload, wrong = os.urandom(400_000), []

    def run(work):
        try:
            work()
        except BaseException as error:  # told to the test's own thread
            wrong.append(error)

    def binary():
        with connect(gateway) as session:
            for _ in range(5):
                stream = session.open(up.address)
                stream.write(payload)
                stream.finish()
                assert stream.read_all() == hashlib.sha256(payload).digest()

    def text():
        with login(gateway) as device:
            device.send(stream_open("a", back.address))
            for at in range(50):
                device.echo("a", payload[at:at + 8_000])

    with Target(digesting) as up, Target(echo) as back:
        threads = [threading.Thread(target=run, args=(work,)) for work in (binary, text) * 3]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not wrong and not any(thread.is_alive() for thread in threads), wrong
