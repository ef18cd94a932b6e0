"""Outline nodes: `ssserver` of shadowsocks-rust as processes, and nodes that misbehave."""

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


class Node(Process):
    """A Shadowsocks server."""

    def __init__(self, node_id="node-1", password="p4ss-w0rd", method=METHOD, region=None):
        self.node_id, self.password, self.method, self.region = node_id, password, method, region
        super().__init__()

    def command(self):
        return [SSSERVER, "-s", f"127.0.0.1:{self.port}", "-m", self.method, "-k", self.password, "-U"]

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
