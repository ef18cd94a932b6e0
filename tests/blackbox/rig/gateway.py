"""The gateway under test: the release binary as a child process."""

import http.client
import os
import signal
import socket
import ssl
import subprocess
from pathlib import Path

from .poll import eventually
from .prometheus import Exposition

ROOT = Path(__file__).resolve().parents[3]
BINARY = os.environ.get("HTTVPS_BIN") or str(ROOT / "target" / "release" / "httvps")


def free_port(host="127.0.0.1"):
    """A TCP port that was free a moment ago."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def environment(settings):
    """A clean environment with `settings`; a value of None leaves the variable out."""
    base = {"PATH": os.environ.get("PATH", "/usr/bin:/bin")}
    return base | {key: str(value) for key, value in settings.items() if value is not None}


def run_to_exit(settings, *arguments, within=10, cwd=None):
    """Runs the binary to its end: (exit code, stdout, stderr)."""
    done = subprocess.run([BINARY, *arguments], env=environment(settings), cwd=cwd, timeout=within,
                          stdin=subprocess.DEVNULL, capture_output=True)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


class Response:
    """An HTTP response, read to its end."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body


class Gateway:
    """A running `httvps gateway`; its output goes to files."""

    def __init__(self, settings, folder, authority, *, port, admin_port=None, preexec=None):
        self.settings, self.authority = settings, authority
        self.port, self.admin_port = port, admin_port
        self.folder = Path(folder)
        # What a panic is in the log, and before the log is there.
        self._never = {'"msg":"panic"', "msg=panic ", "panicked at"}
        self.out, self.err = self.folder / "stdout", self.folder / "stderr"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen([BINARY, "gateway"], env=environment(settings), cwd=self.folder,
                                            stdin=subprocess.DEVNULL, stdout=out, stderr=err, preexec_fn=preexec)
        try:
            eventually(self._accepts, 10, "the gateway listens", every=0.01)
        except AssertionError:
            self.kill()
            raise

    def _accepts(self):
        assert self.process.poll() is None, f"the gateway ended at start:\n{self.output()}"
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        except OSError:
            return False

    # --- process -------------------------------------------------------------------------------

    @property
    def pid(self):
        return self.process.pid

    @property
    def alive(self):
        return self.process.poll() is None

    def signal(self, number):
        self.process.send_signal(number)

    def terminate(self):
        self.signal(signal.SIGTERM)

    def exit_code(self, within):
        return self.process.wait(within)

    def end(self):
        """Ends it with its last lines written: a first signal drains, a further one ends at once."""
        def has_ended():
            self.terminate()
            return not self.alive
        if self.alive:
            eventually(has_ended, 5, "it ends")

    def kill(self):
        if self.alive:
            self.process.kill()
        self.process.wait(10)

    def _status_kib(self, field):
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1])
        raise AssertionError(f"no {field} in /proc")

    @property
    def rss_kib(self):
        return self._status_kib("VmRSS")

    @property
    def peak_rss_kib(self):
        return self._status_kib("VmHWM")

    def reset_peak(self):
        """Starts a new high-water mark of the resident memory."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    @property
    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    @property
    def cpu_seconds(self):
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    # --- output --------------------------------------------------------------------------------

    # Lines are written behind what they tell of: a test waits for a line (`says`), and what must never be written is
    # looked for once more when the gateway has ended (`never_says`).

    def output(self):
        """Everything it wrote so far, stdout before stderr."""
        return self.out.read_text(errors="surrogateescape") + self.err.read_text(errors="surrogateescape")

    def lines(self):
        """The lines that are written whole."""
        return [line for line in self.output().split("\n")[:-1] if line]

    def says(self, text, times=None, within=5):
        """Waits until it has written `text`, exactly `times` times if that is given."""
        def is_there():
            count = self.output().count(text)
            return count > 0 if times is None else count == times
        eventually(is_there, within, f"{text} is written")

    def never_says(self, *secrets):
        """None of `secrets` is written, now or up to its end."""
        self._never.update(secrets)
        self.assert_kept()

    def assert_kept(self):
        """None of what it must never write is there."""
        output = self.output()
        for secret in self._never:
            assert secret not in output, f"{secret!r} is written:\n{output[-4000:]}"

    # --- network -------------------------------------------------------------------------------

    def tcp(self, timeout=10):
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def tls(self, context=None, timeout=10, **more):
        """A TLS connection; verified unless `context` says otherwise."""
        raw = self.tcp(timeout)
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            context = context or self.authority.client_context()
            return context.wrap_socket(raw, server_hostname="localhost", **more)
        except BaseException:
            raw.close()
            raise

    def certificate(self):
        """The leaf that a new connection is shown, as DER."""
        with self.tls() as connection:
            return connection.getpeercert(binary_form=True)

    def get(self, path, *, admin=False, method="GET", headers=None, timeout=10):
        """One HTTP request on a connection of its own."""
        if admin:
            link = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=timeout)
        else:
            link = http.client.HTTPSConnection("localhost", self.port, timeout=timeout,
                                               context=self.authority.client_context())
            link._create_connection = lambda _address, *rest: self.tcp(timeout)
        try:
            link.request(method, path, headers=headers or {})
            answer = link.getresponse()
            return Response(answer.status, answer.headers, answer.read())
        finally:
            link.close()

    def metrics(self, path="/metrics"):
        answer = self.get(path, admin=self.admin_port is not None)
        assert answer.status == 200, f"{path} answered {answer.status}"
        return Exposition(answer.body.decode())

    def metric(self, name, **labels):
        return self.metrics().sum("httvps_gateway_" + name, **labels)

    def is_idle(self):
        """No session and no stream is counted."""
        now = self.metrics()
        return now.sum("httvps_gateway_active_sessions") == 0 and now.sum("httvps_gateway_active_streams") == 0


def insecure_context(minimum=None, maximum=None, ciphers=None):
    """A client that verifies nothing and may speak old TLS; for what the gateway must refuse or allow."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if ciphers:
        context.set_ciphers(ciphers)
    if minimum:
        context.minimum_version = minimum
    if maximum:
        context.maximum_version = maximum
    return context
