"""The same traffic with a gateway whose streams leave through an Outline node: `ssserver` of shadowsocks-rust."""

import contextlib
import os
import shutil

from programs import dns_by_forward, dns_by_socks5, half_close
from rig import FORMAT, Gateway, Process, accepts, free_port

SSSERVER = os.environ.get("SSSERVER") or shutil.which("ssserver")
METHOD, PASSWORD = "chacha20-ietf-poly1305", "hunter2-of-the-node"


@contextlib.contextmanager
def by_node(world, **settings):
    """A node, a gateway that knows no other way out, and its client."""
    port, pool = free_port(), world.folder / "nodes.yaml"
    pool.write_text(f"nodes:\n  - id: node\n    key: ss://{METHOD}:{PASSWORD}@127.0.0.1:{port}\n")
    settings = {"GATEWAY_UPSTREAM_MODE": "outline", "GATEWAY_OUTLINE_ASSIGN": "pool", "GATEWAY_OUTLINE_NODES_PATH": str(pool),
                "GATEWAY_OUTLINE_PROBE_TARGET": f"127.0.0.1:{world.plain.port}"} | settings
    with Process(world.folder, "ssserver", [SSSERVER, "-s", f"127.0.0.1:{port}", "-m", METHOD, "-k", PASSWORD, "-U"]) as node:
        node.wait_until("the node listens", lambda: accepts(port))
        with Gateway(world.folder, world.pki, world.backend, **settings) as gateway, world.connect(gateway) as client:
            yield client
            carried = gateway.metric('httvps_gateway_outline_bytes_in_total{node="node"}')
            assert carried > 0, "nothing went through the node"
            assert PASSWORD not in gateway.log, "the gateway told the password"


def register(test, skipped, *, download, upload, parallel):
    """Hands the tests to `test`, a decorator that takes a sentence; the others are what they do with a client."""

    def outline(sentence, *programs, is_binary=False):
        def named(function):
            if FORMAT and is_binary:
                # JSON has no half-close and no datagrams.
                return

            @test(f"Outline: {sentence}")
            def _(world):
                for program in (SSSERVER, *programs):
                    if not program or not shutil.which(program):
                        raise skipped(f"{program or 'ssserver'} is not installed")
                return function(world)
        return named

    @outline("HTTP/1.1 download by SOCKS5")
    def _(world):
        with by_node(world) as client:
            return download(world, client, *client.socks5, world.plain.url("/big"))

    @outline("HTTP/1.1 upload by SOCKS5")
    def _(world):
        with by_node(world) as client:
            return upload(world, client, *client.socks5, world.plain.url("/up"))

    @outline("200 requests at once, 256 streams a session: none is answered before all are there")
    def _(world):
        with by_node(world, GATEWAY_MAX_STREAMS="256") as client:
            return parallel(world, client, "/together")

    @outline("a client that half-closes gets its answer", is_binary=True)
    def _(world):
        with by_node(world) as client:
            half_close(world, client.gateway)

    @outline("DNS queries through a forwarded UDP port to a real server", "dnsmasq", "dig", is_binary=True)
    def _(world):
        with by_node(world) as client:
            dns_by_forward(world, client.gateway)

    @outline("DNS queries by SOCKS5 UDP ASSOCIATE", "dnsmasq", is_binary=True)
    def _(world):
        with by_node(world) as client:
            dns_by_socks5(world, client)
