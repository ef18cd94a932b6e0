"""Programs of every day through the binary format: iperf3, git, rsync, a half-closing client, DNS."""

import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import threading

from rig import FORMAT, Process, clean_env, free_port


def listens(port):
    """Whether a program waits on a TCP port; without a connection, which some servers take for their only client."""
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table.readlines()[1:]]
    return any(row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port for row in rows)


def done(*args, seconds=60, **more):
    """Runs a program to its end; its output, if it says that it went well."""
    ended = subprocess.run([str(arg) for arg in args], env=clean_env(GIT_CONFIG_GLOBAL="/dev/null", GIT_CONFIG_SYSTEM="/dev/null"),
                           stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, **more)
    assert ended.returncode == 0, f"{args[0]}: {(ended.stderr or ended.stdout)[-500:]!r}"
    return ended.stdout


@contextlib.contextmanager
def served(world, name, argv, port, *more, udp=False, gateway=None):
    """A server program on `port`, and a client with a port of its own that leads there, for datagrams too if asked to."""
    with Process(world.folder, name, [str(arg) for arg in argv]) as server:
        server.wait_until(f"{name} listens", lambda: listens(port))
        local = free_port()
        if udp:
            more += ("--forward", f"udp:127.0.0.1:{local}=127.0.0.1:{port}")
        with world.connect(gateway or world.gateway, "--forward", f"127.0.0.1:{local}=127.0.0.1:{port}", *more) as client:
            client.wait_until("the forwarded port listens", lambda: listens(local))
            yield local


def digests(folder):
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts}


def tree(folder):
    """Some files: many small ones, a large one, an empty one."""
    (folder / "deep" / "er").mkdir(parents=True)
    for number in range(200):
        (folder / "deep" / f"{number}.txt").write_bytes(os.urandom(50 * number))
    (folder / "deep" / "er" / "large").write_bytes(os.urandom(20_000_000))
    (folder / "empty").touch()
    return folder


def half_close(world, gateway):
    """A client that ends its half gets the answer to all that it said."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port, local = listener.getsockname()[1], free_port()

        def answer():
            connection, _ = listener.accept()
            with connection:
                digest = hashlib.sha256()
                while data := connection.recv(65_536):
                    digest.update(data)
                connection.sendall(digest.digest())

        threading.Thread(target=answer, daemon=True).start()
        with world.connect(gateway, "--forward", f"127.0.0.1:{local}=127.0.0.1:{port}"):
            with socket.create_connection(("127.0.0.1", local), 10) as connection:
                payload = os.urandom(3_000_000)
                connection.sendall(payload)
                connection.shutdown(socket.SHUT_WR)
                answered = b"".join(iter(lambda: connection.recv(100), b""))
                assert answered == hashlib.sha256(payload).digest()


def dnsmasq(port):
    return ["dnsmasq", "--no-daemon", "--no-resolv", "--no-hosts", "--bind-interfaces", "--listen-address=127.0.0.1",
            f"--port={port}", "--address=/a.test/192.0.2.7", "--address=/a.test/2001:db8::7", "--conf-file=/dev/null",
            "--user=", "--group="]


def dns_by_forward(world, gateway):
    """40 questions of dig, each answered right, through a forwarded port."""
    port = free_port()
    with served(world, "dnsmasq", dnsmasq(port), port, udp=True, gateway=gateway) as local:
        for kind, answer in (("A", b"192.0.2.7"), ("AAAA", b"2001:db8::7")) * 20:
            told = done("dig", "+short", "+tries=1", "+time=5", "@127.0.0.1", "-p", local, "www.a.test", kind)
            assert told.strip() == answer, told


def dns_by_socks5(world, client):
    """100 questions by one association with the client's proxy."""
    port = free_port()
    with Process(world.folder, "dnsmasq-socks", dnsmasq(port)) as server:
        server.wait_until("dnsmasq listens", lambda: listens(port))
        with socket.create_connection(("127.0.0.1", client.port), 10) as control, \
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as program:
            control.sendall(b"\5\1\0\5\3\0\1\0\0\0\0\0\0")
            reply = control.makefile("rb").read(12)
            assert reply[:10] == b"\5\0\5\0\0\1\x7f\0\0\1", reply
            program.settimeout(10)
            program.connect(("127.0.0.1", int.from_bytes(reply[10:])))
            header = b"\0\0\0\1\x7f\0\0\1" + port.to_bytes(2)
            for number in range(1, 101):
                query = number.to_bytes(2) + b"\1\0\0\1\0\0\0\0\0\0\3www\1a\4test\0\0\1\0\1"
                program.send(header + query)
                answer = program.recv(600)
                assert answer.startswith(header + number.to_bytes(2)) and answer.endswith(b"\xc0\0\2\7"), answer


def register(test, skipped):
    """Hands the tests to `test`, a decorator that takes a sentence."""

    def binary(sentence, *programs):
        def named(function):
            if FORMAT:
                # JSON has no half-close and no datagrams; the rest is curl's.
                return

            @test(sentence)
            def _(world):
                for program in programs:
                    if not shutil.which(program):
                        raise skipped(f"{program} is not installed")
                return function(world)
        return named

    @binary("iperf3 over TCP through a forwarded port, both directions", "iperf3")
    def _(world):
        rates = []
        for more in ([], ["-R"], ["-P", "4"]):
            # A server for each run. Between runs iperf3 closes its listener and opens it again, and it takes one run at a time: with
            # no relay at all, 151 of 2,400 runs in a row were refused, reset ("unable to receive control message") or told "busy".
            port = free_port()
            with served(world, "iperf3", ["iperf3", "-s", "-1", "-B", "127.0.0.1", "-p", port], port) as local:
                told = json.loads(done("iperf3", "-c", "127.0.0.1", "-p", local, "-n", "200M", "-J", *more))
            assert "error" not in told, told["error"]
            # The server counts up to the word on its control connection, which overtakes what is under way.
            assert told["end"]["sum_received"]["bytes"] > 100_000_000
            rates.append(f"{told['end']['sum_received']['bits_per_second'] / 1e9:.1f}")
        return "Gbit/s up, down, four up: " + ", ".join(rates)

    @binary("a client that half-closes gets its answer")
    def _(world):
        half_close(world, world.gateway)

    @binary("git clone from a local server, every file as it was", "git")
    def _(world):
        origin, port = tree(world.folder / "repository"), free_port()
        for args in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@a.test", "commit", "-qm", "all"]):
            done("git", "-C", origin, *args)
        daemon = ["git", "daemon", "--reuseaddr", "--export-all", "--listen=127.0.0.1", f"--port={port}",
                  f"--base-path={world.folder}", str(world.folder)]
        with served(world, "git-daemon", daemon, port) as local:
            done("git", "clone", "-q", f"git://127.0.0.1:{local}/repository", world.folder / "clone")
        assert digests(origin) == digests(world.folder / "clone")

    @binary("rsync from and to a local server, every file as it was", "rsync")
    def _(world):
        origin, back, port = tree(world.folder / "files"), world.folder / "returned", free_port()
        back.mkdir()
        settings = world.folder / "rsyncd.conf"
        # Started by root, the daemon would become nobody, who may not read here.
        owner = f"uid = {os.getuid()}\ngid = {os.getgid()}\n" if os.getuid() == 0 else ""
        settings.write_text(f"use chroot = no\n{owner}[all]\npath = {world.folder}\nread only = no\n")
        daemon = ["rsync", "--daemon", "--no-detach", f"--config={settings}", "--address=127.0.0.1", f"--port={port}"]
        with served(world, "rsync", daemon, port) as local:
            done("rsync", "-a", f"rsync://127.0.0.1:{local}/all/files/", world.folder / "copy")
            done("rsync", "-a", f"{world.folder}/copy/", f"rsync://127.0.0.1:{local}/all/returned/")
        assert digests(origin) == digests(world.folder / "copy") == digests(back)

    @binary("DNS queries through a forwarded UDP port to a real server", "dnsmasq", "dig")
    def _(world):
        dns_by_forward(world, world.gateway)

    @binary("DNS queries by SOCKS5 UDP ASSOCIATE", "dnsmasq")
    def _(world):
        dns_by_socks5(world, world.client)

    @binary("iperf3 over datagrams, its control connection through a forwarded port", "iperf3")
    def _(world):
        port = free_port()
        with served(world, "iperf3-u", ["iperf3", "-s", "-B", "127.0.0.1", "-p", port], port, udp=True) as local:
            told = json.loads(done("iperf3", "-c", "127.0.0.1", "-p", local, "-u", "-b", "20M", "-t", "3", "-l", "1200", "-J"))
        whole = told["end"]["sum"]
        assert whole["packets"] > 5000 and whole["lost_percent"] < 1, whole
        return f"{whole['packets']} datagrams, {whole['lost_percent']:.2f} % lost"
