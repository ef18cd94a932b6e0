"""Proxies as nodes: microsocks and Dante (SOCKS5), tinyproxy and squid (HTTP CONNECT), each a process; and both protocols by hand."""

import os
import shutil
import socket
import ssl
import threading

import pytest

from .process import Process

PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
PACKAGES = {"microsocks": "microsocks", "danted": "dante-server", "tinyproxy": "tinyproxy", "squid": "squid"}


def program(name):
    """Where a program is; a test that needs one that is missing is skipped, in CI it fails."""
    found = shutil.which(name, path=PATH)
    if found:
        return found
    words = f"{name} is missing; install it as root with: apt-get install {PACKAGES[name]}"
    pytest.fail(words) if os.environ.get("CI") else pytest.skip(words)


class Proxy(Process):
    """A proxy."""

    scheme, region = "socks5", None

    def __init__(self, node_id, folder, user=None, password=None):
        self.node_id, self.folder, self.user, self.password = node_id, folder, user, password
        super().__init__(folder / f"{node_id}.log")

    def key_of(self, user, password):
        return f"{self.scheme}://{user}:{password}@127.0.0.1:{self.port}"

    @property
    def key(self):
        if self.user is None:
            return f"{self.scheme}://127.0.0.1:{self.port}"
        return self.key_of(self.user, self.password)


class Microsocks(Proxy):
    """SOCKS5 with or without a password; streams alone."""

    def command(self):
        login = [] if self.user is None else ["-u", self.user, "-P", self.password]
        return [program("microsocks"), "-i", "127.0.0.1", "-p", str(self.port), *login]


class Dante(Proxy):
    """SOCKS5 with UDP ASSOCIATE and half-close."""

    def command(self):
        config = self.folder / f"{self.node_id}.conf"
        config.write_text(
            f"logoutput: stderr\ninternal: 127.0.0.1 port = {self.port}\nexternal: 127.0.0.1\nsocksmethod: none\n"
            "clientmethod: none\nuser.privileged: root\nuser.unprivileged: nobody\n"
            "client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 }\n")
        return [program("danted"), "-f", str(config), "-N", "1"]


class Tinyproxy(Proxy):
    """HTTP CONNECT with or without a password; `lines` go to its configuration."""

    scheme = "http"

    def __init__(self, *args, lines=""):
        self.lines = lines
        super().__init__(*args)

    def command(self):
        config = self.folder / f"{self.node_id}.conf"
        login = "" if self.user is None else f"BasicAuth {self.user} {self.password}\n"
        config.write_text(f"Port {self.port}\nListen 127.0.0.1\nTimeout 600\nMaxClients 100\nLogLevel Info\n{login}{self.lines}")
        return [program("tinyproxy"), "-d", "-c", str(config)]


class Squid(Proxy):
    """HTTP CONNECT with or without a password; no cache, one process. `lines` go in front of its rules."""

    scheme = "http"

    def __init__(self, *args, lines=""):
        self.lines = lines
        super().__init__(*args)

    def command(self):
        config, folder = self.folder / f"{self.node_id}.conf", self.folder
        lines, allowed = [self.lines], "all"
        if self.user is not None:
            # Squid's own programs look into files that the user whom it becomes may not read, and are elsewhere on each system.
            check = f"/bin/sed -u -e s/^{self.user}.{self.password}$/OK/ -e t -e s/.*/ERR/"
            lines += [f"auth_param basic program {check}", "auth_param basic children 1", "acl known proxy_auth REQUIRED"]
            allowed = "known"
        lines += [f"http_access allow {allowed}", "http_access deny all", f"http_port 127.0.0.1:{self.port}",
                  "cache deny all", "cache_mem 0", "workers 1", "pinger_enable off", "shutdown_lifetime 0",
                  "connect_timeout 5 seconds", "access_log none", "cache_log /dev/stderr", "cache_store_log none",
                  f"pid_filename {folder / self.node_id}.pid", f"coredump_dir {folder}", "netdb_filename none",
                  "max_filedescriptors 1024", "cache_effective_user proxy" if os.getuid() == 0 else ""]
        config.write_text("\n".join(lines) + "\n")
        return [program("squid"), "-N", "-f", str(config)]


class ByHand:
    """A proxy by hand; a subclass has `scheme` and `answer(connection)`, which gives a connection to the target."""

    region = None

    def __init__(self, node_id):
        self.node_id = node_id
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        self.key = f"{self.scheme}://127.0.0.1:{self.port}"
        threading.Thread(target=self._run, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()

    def _run(self):
        while True:
            try:
                connection = self.listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        try:
            connection, target = self.answer(connection)
            threading.Thread(target=self._pump, args=(target, connection), daemon=True).start()
            self._pump(connection, target)
        except (OSError, ValueError):
            connection.close()

    @staticmethod
    def _pump(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            if not isinstance(sink, ssl.SSLSocket):
                sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


class ConnectProxy(ByHand):
    """HTTP CONNECT: half-close both ways, the target's first bytes in one piece with the head, TLS if wanted."""

    def __init__(self, node_id, pair=None):
        self.context, self.scheme = None, "https" if pair else "http"
        if pair:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(pair.cert, pair.key)
        super().__init__(node_id)

    def answer(self, connection):
        if self.context:
            connection = self.context.wrap_socket(connection, server_side=True)
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(1)
        host, port = head.split()[1].decode().rsplit(":", 1)
        target = socket.create_connection((host, int(port)), 10)
        first = b""
        try:
            target.settimeout(0.2)
            first = target.recv(1000)
        except TimeoutError:
            pass
        target.settimeout(None)
        connection.sendall(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n" + first)
        return connection, target


class LyingSocks(ByHand):
    """SOCKS5 that connects to IPv4 targets, and names `relay`, an address header, as the place for datagrams."""

    scheme, relay, asked = "socks5", b"", 0

    def answer(self, connection):
        file = connection.makefile("rb", buffering=0)
        file.read(1 + 1 + 1)
        connection.sendall(b"\x05\x00")
        _, command, _, _, *host = file.read(4 + 4)
        port = int.from_bytes(file.read(2), "big")
        if command == 3:
            self.asked += 1
            connection.sendall(b"\x05\x00\x00" + self.relay)
            # The association lives until the gateway ends it.
            file.read(1)
            raise OSError
        target = socket.create_connection((".".join(map(str, host)), port), 10)
        connection.sendall(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
        return connection, target
