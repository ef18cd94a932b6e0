"""A scripted subscription backend: a real HTTP/1.1 server on loopback that answers device by device."""

import json
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VALIDATE = "/api/v1/auth/validate-device"
ASSIGN = "/api/v1/nodes/assign-outline"
REASONS = ["device_not_found", "no_active_subscription", "invalid_token", "device_mismatch"]


@dataclass
class Answer:
    """What the backend does with one device."""

    status: int = 200
    body: bytes = b""
    headers: dict = field(default_factory=lambda: {"Content-Type": "application/json"})
    delay: float = 0
    # "send" | "reset" | "close" (no answer) | "truncate" (half the body) | "drip" (never ends) | "chunked"
    manner: str = "send"


def answer(value, status=200, **more):
    """An answer with a JSON body."""
    return Answer(status, json.dumps(value).encode(), **more)


def allowed(subscription_status="active", **more):
    return answer({"allowed": True, "user_id": 7, "subscription_status": subscription_status}, **more)


def refused(reason, wrapped=False, status=403, **fields):
    value = {"allowed": False, "reason": reason} | fields
    return answer({"detail": value} if wrapped else value, status)


def assigned(**fields):
    """An answer of assign-outline; what is not given is null."""
    empty = dict.fromkeys(("method", "password", "region", "access_key_id", "access_url"))
    return answer({"node_id": "node-1", "host": "127.0.0.1", "port": 1} | empty | fields)


NO_NODES = answer({"detail": "no_outline_nodes_available"}, 503)


@dataclass
class Request:
    """What the gateway sent."""

    method: str
    path: str
    headers: dict  # names in lower case
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024
    block_on_close = False

    def handle_error(self, request, client_address):
        """A client that left is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def setup(self):
        super().setup()
        self.server.backend.track(self.connection)

    def log_message(self, *_):
        pass

    def serve(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body)
        reply = self.server.backend.decide(request)
        if reply.delay:
            self.server.backend.stopped.wait(reply.delay)
        getattr(self, "answer_" + reply.manner)(reply)

    do_POST = do_GET = do_PUT = serve

    def head(self, reply, **more):
        self.send_response(reply.status)
        for name, value in (reply.headers | more).items():
            self.send_header(name, str(value))
        self.end_headers()

    def answer_send(self, reply):
        self.head(reply, **{"Content-Length": len(reply.body)})
        self.wfile.write(reply.body)

    def answer_chunked(self, reply):
        self.head(reply, **{"Transfer-Encoding": "chunked"})
        for at in range(0, len(reply.body), 5):
            part = reply.body[at:at + 5]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")

    def answer_truncate(self, reply):
        self.head(reply, **{"Content-Length": len(reply.body)})
        self.wfile.write(reply.body[: len(reply.body) // 2])
        self.close_connection = True

    def answer_drip(self, reply):
        self.head(reply, **{"Content-Length": 100_000})
        while not self.server.backend.stopped.wait(0.05):
            self.wfile.write(b" ")
            self.wfile.flush()

    def answer_close(self, _):
        self.close_connection = True

    def answer_reset(self, _):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # The streams hold the descriptor too; the reset goes out only when the last of them is gone.
        self.rfile.close()
        self.wfile.close()
        self.connection.close()
        self.close_connection = True

    def finish(self):
        try:
            super().finish()
        except (OSError, ValueError):
            pass


class Backend:
    """Starts on a free loopback port; devices without a script are allowed."""

    def __init__(self, tls=None):
        self.port = None
        self.tls = tls
        self.lock = threading.Lock()
        self.script, self.requests, self.connections = {}, [], []
        self.assignment = NO_NODES
        self.start()

    @property
    def url(self):
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def start(self):
        self.stopped = threading.Event()
        self.server = Server(("127.0.0.1", self.port or 0), Handler)
        self.server.backend = self
        self.port = self.server.server_address[1]
        if self.tls:
            self.server.socket = self.tls.wrap_socket(self.server.socket, server_side=True,
                                                      do_handshake_on_connect=False)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self):
        """Stops listening and ends every connection; `start` brings it back on the same port."""
        self.stopped.set()
        self.server.shutdown()
        self.server.server_close()
        with self.lock:
            connections, self.connections = self.connections, []
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def track(self, connection):
        with self.lock:
            self.connections.append(connection)

    def set(self, device_id, reply):
        """From now on `device_id` gets `reply`."""
        with self.lock:
            self.script[device_id] = reply

    def decide(self, request):
        with self.lock:
            self.requests.append(request)
            if request.path.endswith(ASSIGN):
                return self.assignment(request.json) if callable(self.assignment) else self.assignment
            try:
                return self.script.get(request.json.get("device_id"), allowed())
            except (ValueError, AttributeError):
                return allowed()

    def requests_of(self, device_id):
        with self.lock:
            seen = list(self.requests)
        return [r for r in seen if b"device_id" in r.body and r.json.get("device_id") == device_id]
