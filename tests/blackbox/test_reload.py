"""The certificate is replaced under a running gateway."""

import os
import shutil
import signal

import pytest

from rig.client import Device, login, stream_open
from rig.pki import Pair
from rig.poll import eventually


@pytest.fixture
def installed(tmp_path, authority):
    """The files a gateway serves, and a function that installs another pair in their place."""
    here = Pair(tmp_path / "live.pem", tmp_path / "live.key")

    def install(pair, key=None):
        for new, old in ((pair.cert, here.cert), (key or pair.key, here.key)):
            shutil.copy(new, f"{old}.new")
            os.rename(f"{old}.new", old)
    install(authority.issue("first"))
    return here, install


@pytest.fixture
def gateway(start, installed):
    """It looks at its files so seldom that only a signal makes it look."""
    pair, _ = installed
    return start(GATEWAY_TLS_CERT_PATH=pair.cert, GATEWAY_TLS_KEY_PATH=pair.key, GATEWAY_TLS_RELOAD_INTERVAL="1h")


def serves(gateway, pair):
    return lambda: gateway.certificate() == pair.der


def test_a_hangup_brings_the_new_certificate_and_keeps_the_sessions(gateway, installed, authority):
    pair, install = installed
    assert gateway.certificate() == pair.der
    with login(gateway) as early:
        early.send(stream_open("a"))
        early.echo("a", b"before")
        second = authority.issue("second")
        install(second)
        gateway.signal(signal.SIGHUP)
        eventually(serves(gateway, second), 5, "the new certificate")
        early.echo("a", b"after")
        with login(gateway) as late:
            late.lives()
        assert gateway.metric("active_sessions") in (1, 2)
        early.lives()


def test_a_changed_file_is_noticed_without_a_signal(start, installed, authority):
    pair, install = installed
    gateway = start(GATEWAY_TLS_CERT_PATH=pair.cert, GATEWAY_TLS_KEY_PATH=pair.key, GATEWAY_TLS_RELOAD_INTERVAL="200ms")
    with login(gateway) as early:
        for name in ("noticed-1", "noticed-2"):
            new = authority.issue(name)
            install(new)
            eventually(serves(gateway, new), 5, "the new certificate")
        early.lives()


def test_files_behind_a_symbolic_link_are_noticed_too(start, tmp_path, authority):
    for number in (1, 2):
        new = authority.issue(f"linked-{number}")
        folder = tmp_path / f"v{number}"
        folder.mkdir()
        shutil.copy(new.cert, folder / "tls.pem")
        shutil.copy(new.key, folder / "tls.key")
    (tmp_path / "live").symlink_to("v1")
    gateway = start(GATEWAY_TLS_CERT_PATH=tmp_path / "live/tls.pem", GATEWAY_TLS_KEY_PATH=tmp_path / "live/tls.key",
                    GATEWAY_TLS_RELOAD_INTERVAL="200ms")
    (tmp_path / "next").symlink_to("v2")
    os.rename(tmp_path / "next", tmp_path / "live")
    eventually(serves(gateway, Pair(tmp_path / "v2/tls.pem", tmp_path / "v2/tls.key")), 5, "the new certificate")


@pytest.mark.parametrize("broken", ["garbage", "empty", "missing", "other key"])
def test_a_broken_new_file_keeps_the_old_certificate_and_says_so(gateway, installed, authority, broken):
    pair, install = installed
    old = pair.der
    before = len(gateway.lines())
    if broken == "other key":
        install(authority.issue("half-1"), key=authority.issue("half-2").key)
    elif broken == "missing":
        pair.cert.unlink()
    else:
        pair.cert.write_text("" if broken == "empty" else "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    gateway.signal(signal.SIGHUP)
    eventually(lambda: any('"level":"ERROR"' in line or '"level":"WARN"' in line for line in gateway.lines()[before:]), 5,
               "a warning or an error in the log")
    assert gateway.alive and gateway.certificate() == old
    with login(gateway) as device:
        device.lives()
    good = authority.issue(f"repaired-{broken.replace(' ', '-')}")
    install(good)
    gateway.signal(signal.SIGHUP)
    eventually(serves(gateway, good), 5, "the repaired certificate")


def test_many_hangups_do_no_harm(gateway, installed):
    with login(gateway) as device:
        for _ in range(50):
            gateway.signal(signal.SIGHUP)
        device.lives()
        with Device(gateway) as other:
            assert other.ask()["allowed"] is True
