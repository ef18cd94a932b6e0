"""Output that cannot be written: standard error and standard output without a reader, on a full disk, or never read."""

import os
import signal
import socket
import struct
import subprocess
from contextlib import contextmanager

import pytest

from rig.gateway import BINARY, environment, free_port
from rig.poll import eventually

FULL = "/dev/full"


@contextmanager
def child(arguments, folder, **streams):
    process = subprocess.Popen([BINARY, *map(str, arguments)], env=environment({}), cwd=folder, stdin=subprocess.DEVNULL, **streams)
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


def answers(proxy, target):
    """Whether an echo comes back through the SOCKS5 proxy."""
    try:
        with socket.create_connection(("127.0.0.1", proxy), 5) as program:
            program.settimeout(5)
            host, port = target.address.rsplit(":", 1)
            program.sendall(b"\x05\x01\x00\x05\x01\x00\x01" + socket.inet_aton(host) + struct.pack("!H", int(port)) + b"ping")
            answer = b""
            while len(answer) < 2 + 10 + 4:
                part = program.recv(100)
                if not part:
                    return False
                answer += part
            return answer.endswith(b"ping")
    except OSError:
        return False


def connect(gateway, folder, proxy, *more):
    token = folder / "token"
    token.write_text("t")
    token.chmod(0o600)
    return ["connect", "--gateway", f"wss://localhost:{gateway.port}", "--device-id", "d-1", "--token-file", token,
            "--ca", gateway.authority.root, "--listen", f"127.0.0.1:{proxy}", *more]


@pytest.mark.parametrize("where", ["gone", "full", "unread"])
def test_a_client_whose_words_are_not_taken_reconnects(launch, backend, target, tmp_path, where):
    settings = {"GATEWAY_UPSTREAM_MODE": "direct", "GATEWAY_EGRESS_ALLOW": "127.0.0.0/8", "GATEWAY_DRAIN_TIMEOUT": "1s"}
    proxy, reader = free_port(), None
    if where == "full":
        sink = os.open(FULL, os.O_WRONLY)
    else:
        reader, sink = os.pipe()
    if where == "unread":
        # Nothing more has room in the pipe.
        os.set_blocking(sink, False)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(sink, bytes(4096))
        os.set_blocking(sink, True)
    with launch(backend.url, may_exit=True, **settings) as gateway:
        port = gateway.port
        with child(connect(gateway, tmp_path, proxy, "--log-level", "debug"), tmp_path, stdout=sink, stderr=sink) as client:
            os.close(sink)
            eventually(lambda: answers(proxy, target), 20, "the tunnel carries")
            if where == "gone":
                os.close(reader)
            gateway.kill()
            with launch(backend.url, port=port, **settings):
                eventually(lambda: answers(proxy, target), 30, "the tunnel carries again")
                assert client.poll() is None
                client.send_signal(signal.SIGTERM)
                assert client.wait(20) == 0
    if where == "unread":
        os.close(reader)


@pytest.mark.parametrize("arguments", [["gateway", "--check"], ["upstream", "test", "socks5://127.0.0.1:1", "--timeout", "1"]])
def test_a_result_that_cannot_be_written_is_a_failure_and_no_panic(pair, tmp_path, arguments):
    settings = {"GATEWAY_TLS_CERT_PATH": pair.cert, "GATEWAY_TLS_KEY_PATH": pair.key, "BACKEND_BASE_URL": "http://127.0.0.1:1"}
    with open(FULL, "wb") as full:
        done = subprocess.run([BINARY, *arguments], env=environment(settings), cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=full,
                              stderr=subprocess.PIPE, timeout=30)
    assert done.returncode == 1
    assert b"cannot write the output" in done.stderr and b"panicked" not in done.stderr, done.stderr


def test_an_error_that_cannot_be_told_is_in_the_exit_code(tmp_path):
    with open(FULL, "wb") as full:
        done = subprocess.run([BINARY, "gateway", "--check"], env=environment({}), cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=full,
                              stderr=full, timeout=30)
    assert done.returncode == 1


def test_dev_goes_on_when_its_words_are_not_taken(tmp_path):
    proxy, said = free_port(), tmp_path / "said"
    with open(FULL, "wb") as full, open(said, "wb") as words, \
            child(["dev", "--listen", f"127.0.0.1:{proxy}"], tmp_path, stdout=full, stderr=words) as dev:
        eventually(lambda: "cannot write the output" in said.read_text(), 30, "it says so")
        socket.create_connection(("127.0.0.1", proxy), 5).close()
        dev.send_signal(signal.SIGINT)
        assert dev.wait(20) == 0


def test_dev_warns_of_a_proxy_that_others_reach_and_shows_its_address(tmp_path):
    proxy, said = free_port(), tmp_path / "said"
    with open(said, "wb") as words, child(["dev", "--listen", f":{proxy}"], tmp_path, stdout=words, stderr=words) as dev:
        eventually(lambda: "Ctrl-C ends it." in said.read_text(), 30, "it is up")
        text = said.read_text()
        assert "open to EVERYBODY" in text
        shown = next(line.split()[1] for line in text.splitlines() if line.split()[:1] == ["proxy"])
        assert shown in (f"[::]:{proxy}", f"0.0.0.0:{proxy}")
        assert f"--proxy socks5h://127.0.0.1:{proxy} " in text
        dev.send_signal(signal.SIGINT)
        assert dev.wait(20) == 0


@pytest.mark.parametrize("flag", ["--listen", "--gateway-listen"])
def test_dev_names_its_own_flag_when_a_port_is_taken(tmp_path, flag):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "127.0.0.1:%d" % taken.getsockname()[1]
        done = subprocess.run([BINARY, "dev", flag, address], env=environment({}), cwd=tmp_path, stdin=subprocess.DEVNULL,
                              capture_output=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.decode().startswith(f"httvps: {flag}: cannot listen on {address}"), done.stderr


def test_log_lines_that_are_not_taken_are_counted(authority, pair, backend, tmp_path):
    port, admin = free_port(), free_port()
    settings = {"GATEWAY_LISTEN_ADDR": f"127.0.0.1:{port}", "GATEWAY_ADMIN_ADDR": f"127.0.0.1:{admin}", "BACKEND_BASE_URL": backend.url,
                "GATEWAY_TLS_CERT_PATH": pair.cert, "GATEWAY_TLS_KEY_PATH": pair.key}

    def dropped():
        try:
            with socket.create_connection(("127.0.0.1", admin), 2) as link:
                link.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
                text = b"".join(iter(lambda: link.recv(65536), b"")).decode()
        except OSError:
            return 0
        values = [line.split()[1] for line in text.splitlines() if line.startswith("httvps_gateway_log_lines_dropped_total ")]
        return float(values[0]) if values else 0

    with open(FULL, "wb") as full:
        gateway = subprocess.Popen([BINARY, "gateway"], env=environment(settings), cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=full,
                                   stderr=full)
    try:
        # The line of its start at least.
        eventually(lambda: dropped() >= 1, 20, "the lost line is counted")
    finally:
        gateway.send_signal(signal.SIGTERM)
        assert gateway.wait(20) == 0
