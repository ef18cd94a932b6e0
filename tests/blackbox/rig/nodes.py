"""Outline nodes: `ssserver` of shadowsocks-rust and `ss-server` of shadowsocks-libev as processes, and a silent one."""

import base64
import ipaddress
import os
import shutil
import socket
import struct
import threading

from .gateway import ROOT
from .process import Process

METHOD = "chacha20-ietf-poly1305"
_built = ROOT / "target" / "tools" / "bin" / "ssserver"
SSSERVER = os.environ.get("SSSERVER") or (str(_built) if _built.exists() else shutil.which("ssserver") or "ssserver")


def password_for(method):
    """One that the method takes: those of 2022 want a key of their own length."""
    if not method.startswith("2022-"):
        return "p4ss-w0rd"
    return base64.b64encode(bytes(range(16 if "aes-128" in method else 32))).decode()


class Node(Process):
    """A Shadowsocks server."""

    def __init__(self, node_id="node-1", password=None, method=METHOD, region=None, program=SSSERVER):
        self.node_id, self.method, self.region, self.program = node_id, method, region, program
        self.password = password or password_for(method)
        super().__init__()

    def command(self):
        place = (["-s", f"127.0.0.1:{self.port}", "-U"] if self.program == SSSERVER
                 else ["-s", "127.0.0.1", "-p", str(self.port), "-u"])
        return [self.program, *place, "-m", self.method, "-k", self.password]

    @property
    def key(self):
        user = base64.urlsafe_b64encode(f"{self.method}:{self.password}".encode()).decode().rstrip("=")
        return f"ss://{user}@127.0.0.1:{self.port}/?outline=1"

    @property
    def parts(self):
        """The fields of assign-outline."""
        return {"node_id": self.node_id, "host": "127.0.0.1", "port": self.port, "method": self.method,
                "password": self.password, "region": self.region}


class SilentNode:
    """Takes every connection and says nothing."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        self.held = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            try:
                self.held.append(self.listener.accept()[0])
            except OSError:
                return

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()
        for connection in self.held:
            connection.close()


def header(address):
    """The Shadowsocks address header of "host:port"."""
    host, port = address.rsplit(":", 1)
    try:
        packed = ipaddress.ip_address(host).packed
        head = (b"\x01" if len(packed) == 4 else b"\x04") + packed
    except ValueError:
        head = b"\x03" + bytes([len(host)]) + host.encode()
    return head + struct.pack(">H", int(port))


def pool_file(path, *nodes, **more):
    """Writes a pool of nodes, in one step as an editor should; `more` goes to each of them."""
    rows = ["nodes:"]
    for node in nodes:
        fields = {"id": node.node_id, "key": node.key, "region": node.region} | getattr(node, "more", {}) | more
        rows.append("  - " + "\n    ".join(f"{k}: '{v}'" if k == "key" else f"{k}: {v}"
                                           for k, v in fields.items() if v is not None))
    fresh = path.with_suffix(".new")
    fresh.write_text("\n".join(rows) + "\n")
    fresh.rename(path)
    return path
