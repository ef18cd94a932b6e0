"""Gateways over a pool of Outline nodes: what their tests ask and do, and a server of dynamic keys."""

import base64
import http.server
import json
import os
import ssl
import threading
from contextlib import contextmanager

from .client import stream_data, stream_open
from .nodes import header
from .poll import eventually

# Health within a second or two instead of a minute.
QUICK = {"GATEWAY_UPSTREAM_MODE": "outline", "GATEWAY_OUTLINE_ASSIGN": "pool",
         "GATEWAY_OUTLINE_NODES_RELOAD_INTERVAL": "100ms", "GATEWAY_OUTLINE_PROBE_INTERVAL": "500ms",
         "GATEWAY_OUTLINE_PROBE_TIMEOUT": "500ms", "GATEWAY_OUTLINE_COOLDOWN": "300ms",
         "GATEWAY_OUTLINE_DIAL_TIMEOUT": "500ms", "GATEWAY_OUTLINE_FIRST_BYTE_TIMEOUT": "500ms",
         "GATEWAY_OUTLINE_KEY_REFRESH": "1s", "GATEWAY_MAX_STREAMS": "64"}


def state(gateway, node):
    return gateway.metrics().sum("httvps_gateway_outline_node_state", node=node)


def dials(gateway, node, **labels):
    return gateway.metrics().sum("httvps_gateway_outline_dials_total", node=node, **labels)


def frame_of(device, stream_id, timeout=10):
    """The next frame of a stream; what comes of others, which may end meanwhile, is skipped."""
    while (frame := device.recv(timeout)).get("stream_id") != stream_id:
        pass
    return frame


def expect(device, stream_id, payload):
    got = bytearray()
    while len(got) < len(payload):
        frame = frame_of(device, stream_id, 20)
        assert frame["type"] == "stream_data", frame
        got += base64.b64decode(frame["data"])
    assert bytes(got) == payload


def exchange(device, stream_id, target, size=1000):
    payload = os.urandom(size)
    device.send(stream_open(stream_id), stream_data(stream_id, header(target.address) + payload))
    expect(device, stream_id, payload)


def again(device, stream_id, payload=b"still there"):
    device.send(stream_data(stream_id, payload))
    expect(device, stream_id, payload)


def session_node(gateway, device):
    """The node in the line session_started of a device. Lines are written behind what they tell of."""
    def started():
        entries = map(json.loads, gateway.lines())
        return [e for e in entries if e["msg"] == "session_started" and e["device_id"] == device.device_id]
    return eventually(started, 5, "the session is in the log")[0]["node"]


@contextmanager
def key_server(authority, document):
    """Serves `document()` over TLS; a document of None is a 500, and a function answers the request by itself."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = document()
            if callable(body):
                body(self)
                return
            self.send_response(200 if body is not None else 500)
            self.send_header("Content-Length", str(len(body or "")))
            self.end_headers()
            self.wfile.write((body or "").encode())

        def log_message(self, *_):
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request, client_address):
            """A gateway that gives up is no news."""

    pair = authority.issue("keys")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    server = Server(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"ssconf://localhost:{server.server_address[1]}/hunter2"
    finally:
        server.shutdown()
        server.server_close()
