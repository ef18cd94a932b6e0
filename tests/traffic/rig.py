"""The processes under test, started as an operator and a user would start them."""

import contextlib
import json
import os
import random
import re
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request

BIN = os.environ["HTTVPS_BIN"]
DEVICE = "laptop-of-the-traffic-test"
TICKS = os.sysconf("SC_CLK_TCK")


def clean_env(**more):
    """The environment without what would change the meaning of a command line."""
    foreign = re.compile(r"(GATEWAY|BACKEND|HTTVPS)_|.*_proxy$|CURL_", re.IGNORECASE)
    return {k: v for k, v in os.environ.items() if not foreign.match(k)} | more


def wait_for(what, condition, seconds=10):
    """Polls until `condition` holds and gives its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.02)
    return value


def free_port():
    """A port below those the kernel gives to clients, so that none of them takes it meanwhile."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", random.randrange(20_000, 32_000)))
            return probe.getsockname()[1]


def accepts(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


class Pki:
    """An authority and a certificate of it for localhost, made with the openssl program."""

    def __init__(self, folder, name):
        self.ca, self.cert, self.key = (folder / f"{name}-{part}.pem" for part in ("ca", "cert", "key"))
        new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30"]
        ca_key, request, extensions = folder / "ca-key.pem", folder / "request.pem", folder / "extensions"
        self.openssl("req", "-x509", *new_key, "-keyout", ca_key, "-out", self.ca, "-subj", f"/CN=traffic test CA {name}")
        self.openssl("req", *new_key, "-keyout", self.key, "-out", request, "-subj", "/CN=localhost")
        extensions.write_text("basicConstraints=CA:FALSE\nsubjectAltName=DNS:localhost,IP:127.0.0.1\n")
        self.openssl("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "30",
                     "-extfile", extensions, "-out", self.cert)

    @staticmethod
    def openssl(*args):
        subprocess.run(["openssl", *args], check=True, capture_output=True)

    def server_context(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key)
        return context


class Process:
    """A program with its output in a file; `stop` ends it by its own id."""

    def __init__(self, folder, name, argv, env=None, cwd=None):
        self.log_path = folder / f"{name}-{time.monotonic_ns()}.log"
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(argv, env=clean_env(**(env or {})), cwd=cwd, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        self.pid = self.process.pid
        self.name = name

    @property
    def log(self):
        return self.log_path.read_text(errors="replace")

    def is_alive(self):
        return self.process.poll() is None

    def wait_until(self, what, condition, seconds=10):
        def holds():
            assert self.is_alive(), f"{self.name} ended with {self.process.returncode}:\n{self.log}"
            return condition()
        try:
            return wait_for(what, holds, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.name} says:\n{self.log[-2000:]}") from None

    def cpu(self):
        """CPU seconds used so far."""
        with open(f"/proc/{self.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def stop(self, number=signal.SIGTERM, seconds=5):
        if self.is_alive():
            self.process.send_signal(number)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Backend(Process):
    """`httvps backend` with one device, whose token is in `token_file`."""

    def __init__(self, folder):
        devices, self.port = folder / "devices.json", free_port()
        added = subprocess.run([BIN, "backend", "add-device", "--devices", devices, "--device-id", DEVICE, "--json"],
                               env=clean_env(), check=True, capture_output=True, text=True)
        self.token = json.loads(added.stdout)["token"]
        self.token_file = folder / "token"
        self.token_file.write_text(self.token)
        self.token_file.chmod(0o600)
        super().__init__(folder, "backend", [BIN, "backend", "serve", "--listen", f"127.0.0.1:{self.port}",
                                             "--devices", devices])
        self.wait_until("the backend listens", lambda: accepts(self.port))


class Gateway(Process):
    """`httvps gateway` with the direct upstream, allowed to reach loopback and nothing else that is private."""

    def __init__(self, folder, pki, backend, port=None, **settings):
        self.port = port or free_port()
        self.url = f"wss://127.0.0.1:{self.port}/ws"
        env = {
            "GATEWAY_LISTEN_ADDR": f"127.0.0.1:{self.port}",
            "GATEWAY_TLS_CERT_PATH": str(pki.cert),
            "GATEWAY_TLS_KEY_PATH": str(pki.key),
            "BACKEND_BASE_URL": f"http://127.0.0.1:{backend.port}",
            "GATEWAY_UPSTREAM_MODE": "direct",
            "GATEWAY_EGRESS_ALLOW": "127.0.0.0/8,::1/128",
        }
        self.tls = ssl.create_default_context(cafile=pki.ca)
        super().__init__(folder, "gateway", [BIN, "gateway"], env | settings)
        self.wait_until("the gateway is ready", self.is_ready)

    def get(self, path):
        return urllib.request.urlopen(f"https://127.0.0.1:{self.port}{path}", context=self.tls, timeout=5).read().decode()

    def is_ready(self):
        with contextlib.suppress(OSError):
            return self.get("/readyz") is not None
        return False

    def metric(self, name):
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.get("/metrics"), re.MULTILINE)
        return float(found[1]) if found else 0.0


# The wire format of every client: the binary one, or with TRAFFIC_JSON=1 the founding one.
FORMAT = ["--json"] if os.environ.get("TRAFFIC_JSON") else []


class Client(Process):
    """`httvps connect`: SOCKS5 and HTTP proxy on `port`."""

    def __init__(self, folder, gateway, backend, ca, *args, token_file=None):
        self.port = free_port()
        super().__init__(folder, "client", [
            BIN, "connect", "--gateway", gateway.url, "--device-id", DEVICE, "--token-file", token_file or backend.token_file,
            "--ca", ca, "--listen", f"127.0.0.1:{self.port}", "--log-level", "debug", *FORMAT, *args])
        self.gateway = gateway
        self.wait_until("the local proxy listens", lambda: accepts(self.port))

    @property
    def socks5(self):
        return ["--proxy", f"socks5h://127.0.0.1:{self.port}"]

    @property
    def http(self):
        return ["--proxy", f"http://127.0.0.1:{self.port}"]


def curl_line(*args, seconds=60):
    # -q: without the user's settings; --noproxy '': loopback targets go through the proxy too.
    return ["curl", "-q", "--silent", "--show-error", "--noproxy", "", "--max-time", str(seconds), *map(str, args)]


def curl(*args, seconds=60):
    return subprocess.run(curl_line(*args, seconds=seconds), env=clean_env(), capture_output=True, timeout=seconds + 10)
