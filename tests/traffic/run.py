#!/usr/bin/env python3
"""curl and other programs through `httvps connect`: transfers with checksums, many requests at once, failures in words,
reconnection, `httvps dev`.

  run.py [WORD...]    only the tests whose name contains one of the words
Writes the table to target/traffic.md.
"""

import argparse
import hashlib
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import outline
import plain
import programs
from origin import BLOCK, Origin, item
from rig import (BIN, Backend, Client, Gateway, Pki, Process, accepts, clean_env, curl, curl_line, free_port, wait_for)

MIB = int(os.environ.get("TRAFFIC_MIB", "1024"))
# A transfer slower than this many MiB a second, or a run longer than this many seconds, has failed.
SLOWEST, LONGEST = 10, 300
PARALLEL = 200
TESTS = []


def test(sentence):
    def register(function):
        TESTS.append((sentence, function))
        return function
    return register


class Skipped(Exception):
    """Says what is missing."""


class World:
    """What all tests share: the file, the servers, one backend, one gateway with default limits and its client."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "htdocs").mkdir()
        self.big = folder / "htdocs" / "big"
        digest = hashlib.sha256()
        with self.big.open("wb") as file:
            for number in range(MIB):
                block = number.to_bytes(8, "big") + os.urandom(4096) * (BLOCK // 4096)
                digest.update(block[:BLOCK])
                file.write(block[:BLOCK])
        self.sha256 = digest.hexdigest()
        self.pki, self.other_pki = Pki(folder, "good"), Pki(folder, "other")
        self.plain = Origin(self.big, together=PARALLEL)
        self.tls = Origin(self.big, tls=self.pki.server_context())
        self.backend = Backend(folder)
        self.gateway = Gateway(folder, self.pki, self.backend)
        self.client = self.connect(self.gateway)

    def connect(self, gateway, *args, ca=None, **more):
        return Client(self.folder, gateway, self.backend, ca or self.pki.ca, *args, **more)

    def stop(self):
        for process in (self.client, self.gateway, self.backend):
            process.stop()


# --- large transfers

def measured(world, client, transfer):
    """Runs `transfer`, which gives the checksum of what arrived, and says how fast and how dear it was."""
    gateway = client.gateway
    before, begin = (gateway.cpu(), client.cpu()), time.monotonic()
    arrived = transfer()
    seconds, gib = time.monotonic() - begin, MIB / 1024
    assert arrived == world.sha256, f"the checksum differs: {arrived}"
    cpu = [(process.cpu() - was) / gib for process, was in zip((gateway, client), before)]
    return f"{MIB} MiB, {MIB / seconds:.0f} MiB/s, CPU s/GiB: gateway {cpu[0]:.1f}, client {cpu[1]:.1f}"


def transfer_limit():
    return 10 + MIB // SLOWEST


def hash_of_output(args):
    """The SHA-256 of what curl prints."""
    digest = hashlib.sha256()
    with subprocess.Popen(curl_line("--fail", *args, seconds=transfer_limit()), env=clean_env(), stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as process:
        while part := process.stdout.read1(BLOCK):
            digest.update(part)
        words = process.stderr.read().decode()
    assert process.returncode == 0, f"curl exit {process.returncode}: {words}"
    return digest.hexdigest()


def download(world, client, *args):
    return measured(world, client, lambda: hash_of_output(args))


def upload(world, client, *args):
    def transfer():
        done = curl("--fail", "--upload-file", world.big, *args, seconds=transfer_limit())
        assert done.returncode == 0, f"curl exit {done.returncode}: {done.stderr.decode()}"
        return done.stdout.decode()
    return measured(world, client, transfer)


@test("HTTP/1.1 download by SOCKS5")
def _(world):
    return download(world, world.client, *world.client.socks5, world.plain.url("/big"))


@test("HTTP/1.1 upload by SOCKS5")
def _(world):
    return upload(world, world.client, *world.client.socks5, world.plain.url("/up"))


@test("HTTP/1.1 download by HTTP proxy, plain request")
def _(world):
    return download(world, world.client, *world.client.http, world.plain.url("/big"))


@test("HTTP/1.1 upload by HTTP proxy, plain request")
def _(world):
    return upload(world, world.client, *world.client.http, world.plain.url("/up"))


@test("HTTPS over HTTP/1.1 by HTTP proxy, CONNECT: items one after another on one connection")
def _(world):
    urls = [world.tls.url(f"/item/{number}") for number in range(10)]
    done = curl("--fail", "--http1.1", "--cacert", world.pki.ca, *world.client.http, "--write-out", "%{stderr}%{num_connects} ", *urls)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == b"".join(map(item, range(10)))
    assert done.stderr.split().count(b"1") == 1, f"new connections for each item: {done.stderr.decode()}"


class Nghttpd(Process):
    """A third-party HTTP/2 server over TLS; it sends uploads back."""

    def __init__(self, world):
        if not shutil.which("nghttpd"):
            raise Skipped("nghttpd is missing; install it with: apt-get install nghttp2-server")
        port = free_port()
        self.url = f"https://localhost:{port}/big"
        # Windows of 16 MiB, or HTTP/2's own limits of 64 KiB would be what is measured.
        super().__init__(world.folder, "nghttpd", [
            "nghttpd", "--address", "127.0.0.1", "--htdocs", world.big.parent, "--echo-upload", "--window-bits", "24",
            "--connection-window-bits", "24", str(port), world.pki.key, world.pki.cert])
        self.wait_until("nghttpd listens", lambda: accepts(port))


@test("HTTP/2 download by SOCKS5, the name resolved by the gateway")
def _(world):
    with Nghttpd(world) as server:
        return download(world, world.client, *http2(world), *world.client.socks5, server.url)


@test("HTTP/2 upload by HTTP proxy, CONNECT: sent back and compared")
def _(world):
    with Nghttpd(world) as server:
        return download(world, world.client, *http2(world), *world.client.http, "--upload-file", world.big, server.url) + " each way"


@test("HTTP/2 is what curl and nghttpd speak through the tunnel")
def _(world):
    with Nghttpd(world) as server:
        for proxy in (world.client.socks5, world.client.http):
            done = curl("--head", *http2(world), *proxy, "--write-out", "%{http_version}", server.url)
            assert done.returncode == 0 and done.stdout.endswith(b"2"), done


def http2(world):
    return ["--http2", "--cacert", world.pki.ca]


@test("download through --forward")
def _(world):
    port = free_port()
    with world.connect(world.gateway, "--forward", f"127.0.0.1:{port}=127.0.0.1:{world.plain.port}") as client:
        client.wait_until("the forward listens", lambda: accepts(port))
        return download(world, client, "--noproxy", "*", f"http://127.0.0.1:{port}/big")


# --- many at once

def parallel(world, client, path):
    """200 requests at once by one curl, half by each proxy; the sessions that were up at the same time."""
    folder = pathlib.Path(tempfile.mkdtemp(dir=world.folder))
    curls = []
    for half, proxy in enumerate((client.socks5, client.http)):
        numbers = range(half * PARALLEL // 2, (half + 1) * PARALLEL // 2)
        config = folder / f"config-{half}"
        config.write_text("".join(f'url = "{world.plain.url(path)}/{n}"\noutput = "{folder}/{n}"\n' for n in numbers))
        # Without the header curl would keep every connection, and with it a stream, until its last request is done.
        line = curl_line("--fail", "--parallel", "--parallel-immediate", "--parallel-max", PARALLEL, "--header", "Connection: close",
                         *proxy, "--config", config)
        curls.append(subprocess.Popen(line, env=clean_env(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    begin, sessions, streams = time.monotonic(), 0, 0
    while any(process.poll() is None for process in curls):
        sessions = max(sessions, client.gateway.metric("httvps_gateway_active_sessions"))
        streams = max(streams, client.gateway.metric("httvps_gateway_active_streams"))
        time.sleep(0.02)
    seconds = time.monotonic() - begin
    for process in curls:
        assert process.returncode == 0, f"curl exit {process.returncode}: {process.communicate()[0].decode()[-1000:]}"
    for number in range(PARALLEL):
        assert (folder / str(number)).read_bytes() == item(number), f"the body of item {number} differs"
    return f"{seconds:.1f} s, at most {sessions:.0f} sessions and {streams:.0f} streams at once"


@test("200 requests at once, 8 streams a session: more sessions, the rest waits")
def _(world):
    return parallel(world, world.client, "/item")


@test("200 requests at once, 256 streams a session: none is answered before all are there")
def _(world):
    with Gateway(world.folder, world.pki, world.backend, GATEWAY_MAX_STREAMS="256") as gateway, world.connect(gateway) as client:
        return parallel(world, client, "/together")


# --- failures

def fails(client_args, url, code, words):
    """curl must end with `code` and say (or print) something that matches `words`."""
    begin = time.monotonic()
    done = curl(*client_args, "--write-out", " HTTP %{http_code}", url, seconds=25)
    said = " ".join((done.stdout + done.stderr).decode(errors="replace").split())
    assert done.returncode == code, f"curl exit {done.returncode} instead of {code}: {said}"
    assert re.search(words, said, re.IGNORECASE), f"no {words!r} in: {said}"
    assert time.monotonic() - begin < 20, "it took too long"
    return said


@test("a refused port, by SOCKS5: reply 5")
def _(world):
    return fails(world.client.socks5, f"http://127.0.0.1:{free_port()}/", 97, r"\(5\)")


@test("a refused port, by HTTP proxy: 502 in words")
def _(world):
    return fails(world.client.http, f"http://127.0.0.1:{free_port()}/", 0, "refused.* HTTP 502")


@test("a refused port, by CONNECT: 502")
def _(world):
    return fails(world.client.http, f"https://127.0.0.1:{free_port()}/", 56, "502")


@test("a target that the gateway denies, by SOCKS5: reply 2")
def _(world):
    return fails(world.client.socks5, "http://169.254.169.254/", 97, r"\(2\)")


@test("a target that the gateway denies, by HTTP proxy: 403 in words")
def _(world):
    return fails(world.client.http, "http://10.0.0.1/", 0, "(denied|not allow|does not allow|policy|forbidden).* HTTP 403")


@test("a target that the gateway denies, by CONNECT: 403")
def _(world):
    return fails(world.client.http, "https://[::ffff:10.0.0.1]/", 56, "403")


@test("a name that does not resolve, by SOCKS5: reply 4")
def _(world):
    return fails(world.client.socks5, "http://no-such-name.invalid/", 97, r"\(4\)")


@test("a name that does not resolve, by HTTP proxy: 5xx in words")
def _(world):
    return fails(world.client.http, "http://no-such-name.invalid/", 0, "resol.* HTTP 50[234]")


@test("after all those failures the session carries on")
def _(world):
    return fetch_item(world.client, world)


def fetch_item(client, world, number=7, seconds=20):
    done = curl("--fail", *client.socks5, world.plain.url(f"/item/{number}"), seconds=seconds)
    assert done.returncode == 0, f"curl exit {done.returncode}: {done.stderr.decode()}"
    assert done.stdout == item(number)


def accepted_handshakes(gateway):
    return gateway.metric('httvps_gateway_handshakes_total{result="accepted"}')


# --- the client and its gateway

@test("a gateway killed in mid-transfer: curl says so; restarted: the same client works again")
def _(world):
    with Gateway(world.folder, world.pki, world.backend) as gateway, world.connect(gateway) as client:
        fetch_item(client, world)
        line = curl_line("--limit-rate", "1M", "--output", "/dev/null", *client.http, world.plain.url("/big"), seconds=25)
        with subprocess.Popen(line, env=clean_env(), stderr=subprocess.PIPE) as transfer:
            wait_for("the transfer runs", lambda: gateway.metric("httvps_gateway_bytes_out_total") > 1 << 20)
            gateway.stop(signal.SIGKILL)
            assert transfer.wait(20) in (18, 52, 56), f"curl exit {transfer.returncode}: {transfer.stderr.read().decode()}"
        with Gateway(world.folder, world.pki, world.backend, port=gateway.port) as again:
            begin = time.monotonic()
            client.wait_until("curl works again", lambda: works(client, world), 30)
            seconds = time.monotonic() - begin
            assert accepted_handshakes(again) >= 1
        assert client.is_alive()
    return f"{seconds:.1f} s after the gateway was back"


def works(client, world):
    try:
        fetch_item(client, world)
    except AssertionError:
        return False
    return True


@test("a gateway that drains and is replaced: the same client works again")
def _(world):
    with Gateway(world.folder, world.pki, world.backend) as gateway, world.connect(gateway) as client:
        fetch_item(client, world)
        begin = time.monotonic()
        assert gateway.stop(signal.SIGTERM, seconds=35) == 0, f"exit {gateway.process.returncode}:\n{gateway.log}"
        drained = time.monotonic() - begin
        with Gateway(world.folder, world.pki, world.backend, port=gateway.port):
            client.wait_until("curl works again", lambda: works(client, world), 30)
    return f"drained in {drained:.1f} s"


@test("a certificate that is not trusted: the client says so and never connects")
def _(world):
    with Gateway(world.folder, world.pki, world.backend) as gateway, world.connect(gateway, ca=world.other_pki.ca) as client:
        client.wait_until("words about the certificate", lambda: re.search("certificate|issuer", client.log, re.IGNORECASE))
        said = fails(client.http, world.plain.url("/item/1"), 0, "HTTP 50[234]")
        assert "certificate" in said.lower(), f"the proxy does not say why: {said}"
        assert accepted_handshakes(gateway) == 0, "the gateway let it in"
        return words_of(client, "certificate|issuer")


@test("a wrong token: the client says so and never connects")
def _(world):
    wrong = world.folder / "wrong-token"
    wrong.write_text("not-the-token-of-this-device")
    with Gateway(world.folder, world.pki, world.backend) as gateway, world.connect(gateway, token_file=wrong) as client:
        client.wait_until("words about the token", lambda: re.search("token is wrong", client.log))
        fails(client.http, world.plain.url("/item/1"), 0, "token is wrong.* HTTP 50[234]")
        assert accepted_handshakes(gateway) == 0, "the gateway let it in"
        return words_of(client, "token is wrong")


def words_of(process, pattern):
    return next(line for line in process.log.splitlines() if re.search(pattern, line, re.IGNORECASE)).strip()


# --- httvps dev

@test("httvps dev: its curl and connect lines work as printed; Ctrl-C ends it cleanly")
def _(world):
    scratch = world.folder / "dev"
    temporary, working = scratch / "tmp", scratch / "cwd"
    for folder in (temporary, working):
        folder.mkdir(parents=True)
    begin = time.monotonic()
    with Process(world.folder, "dev", [BIN, "dev"], {"TMPDIR": str(temporary)}, cwd=working) as dev:
        line = dev.wait_until("a curl line", lambda: re.search(r"^[\s$]*(curl .*)$", dev.log, re.MULTILINE))[1]
        ready = time.monotonic() - begin
        done = subprocess.run(line, shell=True, cwd=working, env=clean_env(TMPDIR=str(temporary)), capture_output=True, timeout=30)
        assert done.returncode == 0, f"{line}\nexit {done.returncode}: {done.stderr.decode()}"
        assert done.stdout.strip(), f"no output of: {line}"
        connect_as_printed(world, dev, done.stdout)
        assert dev.stop(signal.SIGINT, seconds=10) == 0, f"exit {dev.process.returncode}:\n{dev.log}"
        assert not re.search(r"panicked|\bWARN\b|stack backtrace", dev.log), dev.log
        assert not is_group_alive(dev.pid), "a process is left"
    left = [str(path) for path in (*temporary.iterdir(), *working.iterdir())]
    assert not left, f"left behind: {left}"
    return f"ready in {ready:.1f} s; {shlex.split(line)[-1]}"


def connect_as_printed(world, dev, expected):
    """A second client, started by the line that `dev` shows, reaches the demo page too."""
    line = re.search(r"^\s*(\S+ connect (?:.*\\\n)*.*)$", dev.log, re.MULTILINE)
    assert line, f"no line to connect with:\n{dev.log}"
    demo = re.search(r"curl .*?(http://127\S+)", dev.log)[1]
    port = free_port()
    with Process(world.folder, "connect", ["sh", "-c", f"exec {line[1]} --listen 127.0.0.1:{port}"]) as client:
        client.wait_until("the local proxy listens", lambda: accepts(port))
        done = curl("--fail", "--proxy", f"socks5h://127.0.0.1:{port}", demo, seconds=20)
        assert done.stdout == expected, f"curl exit {done.returncode}: {done.stderr.decode()}\n{client.log}"


def is_group_alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


plain.register(test, Skipped)
programs.register(test, Skipped)
outline.register(test, Skipped, download=download, upload=upload, parallel=parallel)


@test("the token is in no output of any process")
def _(world):
    for log in world.folder.glob("*.log"):
        assert world.backend.token not in log.read_text(errors="replace"), f"in {log.name}"


# --- the run

def run(world, words):
    rows, failed = [], 0
    for sentence, function in TESTS:
        if words and not any(word in sentence for word in words):
            continue
        begin = time.monotonic()
        try:
            result, remark = "passed", function(world) or ""
        except Skipped as missing:
            result, remark = "skipped", str(missing)
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            result, remark = "FAILED", f"{type(error).__name__}: {error}"
            failed += 1
        seconds = time.monotonic() - begin
        print(f"{result:8}{seconds:6.1f} s  {sentence}" + (f": {remark}" if remark else ""), flush=True)
        rows.append((sentence, result, f"{seconds:.1f}", " ".join(remark.replace("|", "\\|").split())[:300]))
    return rows, failed


def write_table(rows):
    page = pathlib.Path("target/traffic.md")
    page.parent.mkdir(exist_ok=True)
    lines = ["| test | result | s | remark |", "| --- | --- | ---: | --- |"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    page.write_text("\n".join(lines) + "\n")


def give_up():
    print(f"run.py: not done within {LONGEST} s", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGINT)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*")
    words = parser.parse_args().words
    watchdog = threading.Timer(LONGEST, give_up)
    watchdog.daemon = True
    watchdog.start()
    pathlib.Path("target").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="traffic-", dir="target") as folder:
        world = World(pathlib.Path(folder).resolve())
        try:
            rows, failed = run(world, words)
        finally:
            world.stop()
    write_table(rows)
    print(f"{sum(row[1] == 'passed' for row in rows)} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
