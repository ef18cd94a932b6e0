"""Fixtures: the certificate authority, the scripted backend, and gateways of the release binary."""

import os
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from rig.backend import Backend
from rig.gateway import BINARY, Gateway, free_port
from rig.nodes import Node, pool_file
from rig.outline import QUICK
from rig.pki import Authority
from rig.targets import Target, echo

sys.dont_write_bytecode = True


def pytest_sessionstart(session):
    if not os.access(BINARY, os.X_OK):
        pytest.exit(f"no binary at {BINARY}: build it, or set HTTVPS_BIN", returncode=2)


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="session")
def pair(authority):
    """The certificate that gateways use unless a test brings its own."""
    return authority.issue("gateway")


@pytest.fixture(scope="module")
def shared_backend():
    backend = Backend()
    yield backend
    backend.stop()


@pytest.fixture
def backend():
    """A backend of the test's own, which it may stop."""
    backend = Backend()
    yield backend
    backend.stop()


@pytest.fixture(scope="session")
def launch(authority, pair, tmp_path_factory):
    """A context manager that runs a gateway and insists that it survived in the end."""

    @contextmanager
    def run(backend_url, *, admin=False, may_exit=False, preexec=None, port=None, **settings):
        folder = Path(tmp_path_factory.mktemp("gateway"))
        port = port or free_port()
        admin_port = free_port() if admin else None
        defaults = {
            "GATEWAY_LISTEN_ADDR": f"127.0.0.1:{port}",
            "GATEWAY_TLS_CERT_PATH": pair.cert,
            "GATEWAY_TLS_KEY_PATH": pair.key,
            "BACKEND_BASE_URL": backend_url,
            "GATEWAY_ADMIN_ADDR": f"127.0.0.1:{admin_port}" if admin else None,
        }
        gateway = Gateway(defaults | settings, folder, authority, port=port, admin_port=admin_port, preexec=preexec)
        try:
            yield gateway
            assert may_exit or gateway.alive, f"the gateway ended:\n{gateway.output()[-4000:]}"
            gateway.end()
        finally:
            gateway.kill()
        gateway.assert_kept()

    return run


@pytest.fixture(scope="module")
def start_shared(launch, shared_backend):
    """Starts a gateway for the whole module: start_shared(GATEWAY_X=…)."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(launch(shared_backend.url, **settings))


@pytest.fixture
def start(launch, backend):
    """Starts a gateway for one test, at the test's own backend."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(
            launch(settings.pop("backend_url", backend.url), **settings))


@pytest.fixture(scope="module")
def target():
    with Target(echo) as target:
        yield target


@pytest.fixture
def pair_of_nodes():
    with Node("near", region="eu") as near, Node("far", "another", region="us") as far:
        yield near, far


@pytest.fixture
def run(start, target, tmp_path):
    """Starts a gateway over a pool of these Outline nodes, which probes the target."""
    def run(*nodes, **settings):
        path = pool_file(tmp_path / "nodes.yaml", *nodes)
        return start(**QUICK | {"GATEWAY_OUTLINE_NODES_PATH": path,
                                "GATEWAY_OUTLINE_PROBE_TARGET": target.address} | settings)
    return run
