"""Plain HTTP requests through the local proxy: curl and Python's http.client to nginx, and to servers that are hard to please."""

import base64
import contextlib
import http.client
import shutil
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from rig import Process, accepts, curl, free_port

BODY = b"x" * 5_000_000


class Nginx(Process):
    """An nginx that says which of its connections a request came by, and takes no body above 1 MB."""

    def __init__(self, world, skipped):
        program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/sbin:/bin")
        if not program:
            raise skipped("nginx is not installed")
        self.port = free_port()
        folder = world.folder / f"nginx-{self.port}"
        folder.mkdir()
        (folder / "nginx.conf").write_text(f"""
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off; client_max_body_size 1m; large_client_header_buffers 4 256k;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u;
  scgi_temp_path {folder}/s;
  server {{
    listen 127.0.0.1:{self.port};
    location / {{ return 200 "$connection $http_x_case\\n"; }}
    location /up {{ proxy_pass http://127.0.0.1:{self.port}/; }}
  }}
}}
""")
        super().__init__(world.folder, "nginx", [program, "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log"])
        self.wait_until("nginx listens", lambda: accepts(self.port))

    def url(self, path):
        return f"http://127.0.0.1:{self.port}{path}"


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.1 with logins that hold for a connection, as NTLM has them."""

    protocol_version = "HTTP/1.1"
    step = 0

    def log_message(self, *_):
        pass

    def do_GET(self):
        kind, _, message = self.headers.get("Authorization", "").partition(" ")
        sort = struct.unpack_from("<I", base64.b64decode(message), 8)[0] if kind == "NTLM" else 0
        if sort == 1:
            self.step = 1
            return self.answer(401, "NTLM " + base64.b64encode(challenge()).decode())
        if sort == 3 and self.step == 1:
            self.step = 2
        if self.step == 2:
            return self.answer(200)
        return self.answer(401, "NTLM")

    def do_POST(self):
        """The name of a field as it was written, and the trailers of the body."""
        names = [name for name in self.headers if name.lower() == "x-case"]
        sizes = []
        while size := int(self.rfile.readline(), 16):
            sizes.append(self.rfile.read(size + 2))
        trailers = [line.decode().strip() for line in iter(self.rfile.readline, b"\r\n")]
        self.answer(200, body=" ".join(names + trailers).encode())

    def answer(self, status, login=None, body=b"in\n"):
        self.send_response(status)
        if login:
            self.send_header("WWW-Authenticate", login)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def challenge():
    """The smallest second message of NTLM."""
    flags = 0x0000_8201
    return b"NTLMSSP\0" + struct.pack("<IHHII8s8sHHI", 2, 0, 0, 48, flags, b"8 bytes!", b"", 0, 0, 48)


@contextlib.contextmanager
def server(handler):
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        httpd.daemon_threads = True
        httpd.block_on_close = False
        threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield httpd.server_address[1]
        httpd.shutdown()


def register(test, skipped):
    """Hands the tests to `test`, a decorator that takes a sentence."""

    @test("plain HTTP: 20 requests of curl for nginx take one connection to it, names keep their case")
    def _(world):
        with Nginx(world, skipped) as nginx:
            done = curl("--fail", "-H", "X-CaSe: 1", *world.client.http, *[nginx.url(f"/{number}") for number in range(20)])
            assert done.returncode == 0, done.stderr
            connections = done.stdout.split(b"\n")[:-1]
            assert len(connections) == 20 and len(set(connections)) == 1, connections

    @test("plain HTTP: the 413 of nginx for a body of 5 MB is not lost, by curl and by http.client")
    def _(world):
        big = world.folder / "five-megabytes"
        big.write_bytes(BODY)
        with Nginx(world, skipped) as nginx:
            for expect in ("Expect:", "Expect: 100-continue"):
                for _ in range(5):
                    done = curl("-H", expect, "-T", big, "-w", "%{http_code}", *world.client.http, nginx.url("/up"))
                    assert done.returncode == 0 and done.stdout.endswith(b"413"), (expect, done)
            for _ in range(5):
                connection = http.client.HTTPConnection("127.0.0.1", world.client.port, timeout=20)
                # Sends all of the body before it reads.
                connection.request("PUT", nginx.url("/up"), body=BODY)
                assert connection.getresponse().status == 413
                connection.close()

    @test("plain HTTP: the proxy's own 502 and 403 for a body of 5 MB are not lost")
    def _(world):
        for url, status in ((f"http://127.0.0.1:{free_port()}/", 502), ("http://169.254.169.254/", 403)):
            for _ in range(5):
                connection = http.client.HTTPConnection("127.0.0.1", world.client.port, timeout=20)
                connection.request("PUT", url, body=BODY)
                assert connection.getresponse().status == status
                connection.close()

    @test("plain HTTP: curl logs in by NTLM")
    def _(world):
        with server(Handler) as port:
            done = curl("--fail", "--ntlm", "--user", "ann:s3cret", *world.client.http, f"http://127.0.0.1:{port}/")
            assert done.returncode == 0 and done.stdout == b"in\n", done

    @test("plain HTTP: chunks with trailers, and a name as it was written")
    def _(world):
        with server(Handler) as port, socket.create_connection(("127.0.0.1", world.client.port), 10) as program:
            program.sendall(f"POST http://127.0.0.1:{port}/ HTTP/1.1\r\nHost: x\r\nX-CaSe: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
                            "5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n".encode())
            answer = http.client.HTTPResponse(program)
            answer.begin()
            assert (answer.status, answer.read()) == (200, b"X-CaSe X-Sum: 7")

    @test("plain HTTP: a program that ends its half after the request gets its answer")
    def _(world):
        with Nginx(world, skipped) as nginx, socket.create_connection(("127.0.0.1", world.client.port), 10) as program:
            program.sendall(f"GET {nginx.url('/')} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            program.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: program.recv(65_536), b""))
            assert answer.startswith(b"HTTP/1.1 200 "), answer

    @test("plain HTTP: a server of HTTP/1.0 whose body ends with its connection")
    def _(world):
        class Old(Handler):
            protocol_version = "HTTP/1.0"

            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(BODY)

        with server(Old) as port:
            done = curl("--fail", "-w", "%{num_connects}", *world.client.http, *[f"http://127.0.0.1:{port}/"] * 2)
            assert done.returncode == 0 and done.stdout == BODY + b"1" + BODY + b"0", (done.stderr, len(done.stdout))
