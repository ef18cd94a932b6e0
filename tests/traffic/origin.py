"""The server at the far end of the tunnel: HTTP/1.1, plain or over TLS, on a loopback port of its own."""

import hashlib
import random
import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BLOCK = 1 << 20


def item(number):
    """The body of `/item/<number>`: 1 byte to 64 KiB, different for every number."""
    return random.Random(number).randbytes(1 + number * 7919 % 65536)


class Origin(ThreadingHTTPServer):
    """Serves `/big` (a file), `/item/N` (after a tenth of a second), `/together/N` (only when `together` requests are there
    at once) and takes uploads, answering with their SHA-256."""

    daemon_threads = True
    request_queue_size = 1024
    block_on_close = False

    def __init__(self, big, tls=None, together=200):
        super().__init__(("127.0.0.1", 0), Handler)
        self.big = big
        self.together = threading.Barrier(together, timeout=30)
        self.scheme = "https" if tls else "http"
        self.port = self.server_address[1]
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def url(self, path, host="127.0.0.1"):
        return f"{self.scheme}://{host}:{self.port}{path}"

    def handle_error(self, request, client_address):
        """A client that left is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def do_GET(self):
        kind, _, number = self.path.strip("/").partition("/")
        if kind == "big":
            self.head(self.server.big.stat().st_size)
            with self.server.big.open("rb") as file:
                shutil.copyfileobj(file, self.wfile, BLOCK)
        elif kind == "item":
            time.sleep(0.1)
            self.answer(item(int(number)))
        elif kind == "together":
            try:
                self.server.together.wait()
            except threading.BrokenBarrierError:
                return self.send_error(503, "the others did not come")
            self.answer(item(int(number)))
        else:
            self.send_error(404)

    def do_PUT(self):
        left, digest = int(self.headers["Content-Length"]), hashlib.sha256()
        if self.headers.get("Expect") == "100-continue":
            pass  # http.server has answered it already.
        while left and (part := self.rfile.read1(min(left, BLOCK))):
            digest.update(part)
            left -= len(part)
        self.answer(digest.hexdigest().encode())

    def head(self, length):
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def answer(self, body):
        self.head(len(body))
        self.wfile.write(body)
