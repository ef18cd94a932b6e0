#!/usr/bin/env python3
"""Slow parties and small messages beside bulk, through one session of the binary format; figures, no verdict about time.

  HTTVPS_BIN=target/release/httvps python3 tests/traffic/slow.py
Needs iperf3. It prints
- the speed of four streams, alone and beside streams that are stuck: a target that reads nothing, a local program that
  reads nothing, and both; as a ratio to alone, the median of ROUNDS interleaved rounds;
- the round trip of 64 bytes on one stream, alone and while seven others run at full speed in both directions.
"""

import contextlib
import json
import pathlib
import socket
import statistics
import tempfile
import threading
import time

from programs import done, listens
from rig import Backend, Client, Gateway, Pki, Process, free_port

ROUNDS, PINGS = 5, 2000


def accept_all(listener, serve):
    """Runs `serve(connection)` in a thread for each connection; keeps them all."""
    kept = []

    def one(connection):
        with contextlib.suppress(OSError):
            serve(connection)

    def run():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                kept.append(connection)
                threading.Thread(target=one, args=(connection,), daemon=True).start()

    threading.Thread(target=run, daemon=True).start()
    return kept


def echo(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while data := connection.recv(65_536):
        connection.sendall(data)


def pour(connection):
    while True:
        connection.sendall(bytes(1 << 20))


class Rig:
    """A gateway, one client whose forwarded ports lead to iperf3, an echo, a sink that reads nothing, and a source."""

    def __init__(self, folder, stack):
        pki = Pki(folder, "slow")
        backend = stack.enter_context(Backend(folder))
        # One session must carry all of it.
        gateway = stack.enter_context(Gateway(folder, pki, backend, GATEWAY_MAX_STREAMS="64", GATEWAY_STREAM_STALL_TIMEOUT="10m"))
        self.gateway = gateway
        port = free_port()
        server = stack.enter_context(Process(folder, "iperf3", ["iperf3", "-s", "-B", "127.0.0.1", "-p", str(port)]))
        server.wait_until("iperf3 listens", lambda: listens(port))
        targets, self.ports = {"iperf3": port}, {}
        for name, serve in {"echo": echo, "sink": lambda _: time.sleep(3600), "source": pour}.items():
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            accept_all(listener, serve)
            targets[name] = listener.getsockname()[1]
        forwards = []
        for name, target in targets.items():
            self.ports[name] = free_port()
            forwards += ["--forward", f"127.0.0.1:{self.ports[name]}=127.0.0.1:{target}"]
        client = stack.enter_context(Client(folder, gateway, backend, pki.ca, *forwards))
        client.wait_until("all ports listen", lambda: all(map(listens, self.ports.values())))

    def connect(self, name):
        connection = socket.create_connection(("127.0.0.1", self.ports[name]), 10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def speed(self, *more):
        """Gbit/s of four streams."""
        # The server takes no new client before it has taken leave of the last one.
        for _ in range(50):
            told = json.loads(done("iperf3", "-c", "127.0.0.1", "-p", self.ports["iperf3"], "-P", 4, "-t", 2, "-J", *more))
            if "error" not in told:
                break
            time.sleep(0.1)
        assert "error" not in told, told["error"]
        return told["end"]["sum_received"]["bits_per_second"] / 1e9

    def stuck_target(self):
        """Two streams whose target reads nothing, filled until no byte more is accepted."""
        connections = [self.connect("sink") for _ in range(2)]
        for connection in connections:
            connection.settimeout(1)
            with contextlib.suppress(TimeoutError):
                while True:
                    connection.send(bytes(1 << 16))
        return connections

    def stuck_program(self):
        """Two streams whose source has all the time something to say to a program that reads nothing."""
        connections = [self.connect("source") for _ in range(2)]
        time.sleep(1)
        return connections


def speeds(rig):
    cases = {
        "alone": lambda: [],
        "beside a stuck target": rig.stuck_target,
        "beside a stuck program": rig.stuck_program,
        "beside both": lambda: rig.stuck_target() + rig.stuck_program(),
    }
    results = {(name, way): [] for name in cases for way in ("up", "down")}
    for _ in range(ROUNDS):
        for name, block in cases.items():
            connections = block()
            results[name, "up"].append(rig.speed())
            results[name, "down"].append(rig.speed("-R"))
            for connection in connections:
                connection.close()
    print("| four streams | up, Gbit/s | of alone | down, Gbit/s | of alone |\n|---|---:|---:|---:|---:|")
    for name in cases:
        cells = []
        for way in ("up", "down"):
            ratios = [mine / alone for mine, alone in zip(results[name, way], results["alone", way])]
            cells += [f"{statistics.median(results[name, way]):.1f}", f"{statistics.median(ratios):.0%}"]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    print(f"\nResident memory of the gateway: {memory(rig.gateway.pid)} MiB; sessions: {rig.gateway.metric('httvps_gateway_active_sessions'):.0f}\n")


def memory(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) // 1024
    return 0


def round_trips(rig, count):
    """Milliseconds of 64 bytes there and back, sorted."""
    times, message = [], bytes(64)
    with rig.connect("echo") as connection:
        for _ in range(count):
            begin = time.perf_counter()
            connection.sendall(message)
            left = len(message)
            while left:
                left -= len(connection.recv(left))
            times.append((time.perf_counter() - begin) * 1000)
            time.sleep(0.001)
    return sorted(times)


def pings(rig):
    print("| round trip of 64 bytes, ms | p50 | p99 | most |\n|---|---:|---:|---:|")

    def row(name, times):
        print(f"| {name} | {times[len(times) // 2]:.2f} | {times[len(times) * 99 // 100]:.2f} | {times[-1]:.2f} |", flush=True)

    row("alone", round_trips(rig, PINGS))
    command = ["iperf3", "-c", "127.0.0.1", "-p", rig.ports["iperf3"], "-P", 7, "--bidir", "-t", 8, "-J"]
    told = []
    bulk = threading.Thread(target=lambda: told.append(json.loads(done(*command))))
    bulk.start()
    time.sleep(1.5)
    row("beside seven streams in both directions", round_trips(rig, PINGS))
    bulk.join()
    end = told[0]["end"]
    up, down = (end[key]["bits_per_second"] / 1e9 for key in ("sum_received", "sum_received_bidir_reverse"))
    print(f"\nThe seven: {up:.1f} Gbit/s up and {down:.1f} down.")


def main():
    with tempfile.TemporaryDirectory(prefix="slow-") as folder, contextlib.ExitStack() as stack:
        rig = Rig(pathlib.Path(folder), stack)
        speeds(rig)
        pings(rig)


if __name__ == "__main__":
    main()
