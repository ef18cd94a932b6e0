"""The client of the release binary: its local proxy, and a path to the gateway that can die."""

import socket
import struct
import threading

from .client import TOKEN, fresh_device
from .gateway import BINARY
from .process import Process


class LocalProxy(Process):
    """`httvps connect` to the gateway at `port`; `text` is what it has said."""

    def __init__(self, folder, authority, port, *flags):
        token = folder / "token"
        token.write_text(TOKEN)
        token.chmod(0o600)
        self.flags = ["--gateway", f"wss://127.0.0.1:{port}/ws", "--device-id", fresh_device(), "--token-file", token,
                      "--ca", authority.root, "--log-level", "debug", *flags]
        super().__init__(folder / "connect.log")

    def command(self):
        return [BINARY, "connect", "--listen", f"127.0.0.1:{self.port}", *map(str, self.flags)]

    @property
    def text(self):
        with open(self.log, errors="replace") as log:
            return log.read()

    def _request(self, command, port, within):
        near = socket.create_connection(("127.0.0.1", self.port), within)
        near.sendall(b"\5\1\0" + b"\5" + command + b"\0\1\x7f\0\0\1" + struct.pack("!H", port))
        answer = b""
        while len(answer) < 12:
            part = near.recv(12 - len(answer))
            assert part, f"the proxy left after {answer!r}"
            answer += part
        return near, answer[3], struct.unpack("!H", answer[10:])[0]

    def connect(self, port, within=30):
        """A SOCKS5 connection to a port of this host: (socket, reply code)."""
        near, code, _ = self._request(b"\1", port, within)
        return near, code

    def associate(self, within=30):
        """A SOCKS5 association: (control connection, UDP socket that is connected to it)."""
        control, code, port = self._request(b"\3", 0, within)
        assert code == 0
        flow = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        flow.settimeout(within)
        flow.connect(("127.0.0.1", port))
        return control, flow


def socks_datagram(port, payload):
    """A datagram to a port of this host, as an association takes it."""
    return b"\0\0\0\1\x7f\0\0\1" + struct.pack("!H", port) + payload


class Path:
    """Forwards connections to `port`. After `die` those that it has stay open and carry nothing more; new ones work."""

    def __init__(self, port):
        self.target, self.generation, self.sockets = port, 0, []
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for one in [self.listener, *self.sockets]:
            one.close()

    def die(self):
        self.generation += 1

    def _run(self):
        while True:
            try:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target), 10)
            except OSError:
                return
            far.settimeout(None)
            self.sockets += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(source, sink, self.generation), daemon=True).start()

    def _carry(self, source, sink, generation):
        try:
            while data := source.recv(65_536):
                if generation != self.generation:
                    return
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass
