"""Certificates as people make them: self-signed, expired, in files that an editor has changed."""

import datetime
import os
import shutil
import signal
import subprocess
from contextlib import contextmanager

import pytest

from rig.backend import Answer, allowed
from rig.client import login
from rig.gateway import BINARY, environment, free_port, run_to_exit
from rig.pki import Pair, openssl
from rig.poll import eventually

MARK = b"\xef\xbb\xbf"


@pytest.fixture
def self_signed(tmp_path):
    """Makes certificates with the command that is on most pages about it; they are CA:TRUE."""
    def make(name, san="DNS:localhost,IP:127.0.0.1"):
        pair = Pair(tmp_path / f"{name}.pem", tmp_path / f"{name}.key")
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", 20, "-keyout", pair.key,
                "-out", pair.cert, "-subj", "/CN=localhost", *(["-addext", f"subjectAltName={san}"] if san else []))
        return pair
    return make


@pytest.fixture
def dated(tmp_path):
    """Makes certificates that are valid from so many days ago to so many days from now."""
    def make(name, begin, end):
        folder = tmp_path / name
        folder.mkdir()
        pair = Pair(folder / "cert.pem", folder / "key.pem")
        (folder / "index").touch()
        (folder / "serial").write_text("01\n")
        (folder / "cnf").write_text(
            f"[ca]\ndefault_ca=d\n[d]\ndatabase={folder}/index\nserial={folder}/serial\nnew_certs_dir={folder}\n"
            "default_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n[ext]\nsubjectAltName=DNS:localhost\n")
        openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=localhost",
                "-keyout", pair.key, "-out", folder / "csr")
        now = datetime.datetime.now(datetime.timezone.utc)
        date = lambda days: (now + datetime.timedelta(days=days)).strftime("%Y%m%d%H%M%SZ")
        openssl("ca", "-batch", "-selfsign", "-config", folder / "cnf", "-in", folder / "csr", "-keyfile", pair.key, "-notext",
                "-startdate", date(begin), "-enddate", date(end), "-extensions", "ext", "-out", pair.cert)
        return pair
    return make


@pytest.fixture
def token(tmp_path):
    """A token file."""
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text("token")
    return path


@contextmanager
def connect(gateway, ca, token, **settings):
    """Runs `httvps connect`; the value says whether it has written something."""
    log = gateway.folder / f"connect-{free_port()}"
    command = [BINARY, "connect", "--gateway", f"wss://localhost:{gateway.port}", "--device-id", "dev", "--token-file", token,
               "--ca", ca, "--listen", "127.0.0.1:0"]
    with log.open("wb") as out:
        client = subprocess.Popen([*map(str, command)], env=environment(settings), stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        def says(*words):
            eventually(lambda: any(word in log.read_text() for word in ("connected to", "will keep trying")), 10, "a first word")
            text = log.read_text()
            assert all(word in text for word in words), text
            return text
        yield says
    finally:
        client.kill()
        client.wait(10)


def serve(start, pair, **settings):
    return start(GATEWAY_TLS_CERT_PATH=pair.cert, GATEWAY_TLS_KEY_PATH=pair.key, **settings)


# --- trust -------------------------------------------------------------------------------------


def test_a_gateways_own_self_signed_certificate_may_be_named_as_trusted(start, self_signed, token):
    pair = self_signed("own")
    with connect(serve(start, pair), pair.cert, token) as says:
        says("connected to")


def test_a_self_signed_certificate_without_the_name_is_refused_with_its_own_advice(start, self_signed, token):
    for pair, words in ((self_signed("other", san="DNS:other.example"), ("another name", "other.example")),
                        (self_signed("nameless", san=None), ("subjectAltName",))):
        with connect(serve(start, pair), pair.cert, token) as says:
            text = says("will keep trying", *words)
            assert "--ca" not in text and "NotValid" not in text, text


def test_a_certificate_of_a_stranger_is_refused_and_the_advice_is_to_trust_its_authority(start, self_signed, token):
    with connect(serve(start, self_signed("own")), self_signed("stranger").cert, token) as says:
        says("will keep trying", "--ca")


def test_an_expired_certificate_is_named_with_its_date(start, dated, token):
    pair = dated("expired", -30, -1)
    with connect(serve(start, pair), pair.cert, token) as says:
        text = says("will keep trying", "has expired", " UTC")
        assert "--ca" not in text, text


# --- dates -------------------------------------------------------------------------------------


@pytest.mark.parametrize("begin, end, words", [(-30, -1, "has expired"), (-30, 0.5, "expires soon"), (1, 30, "not yet valid")])
def test_dates_that_are_wrong_are_warned_of(start, dated, begin, end, words):
    pair = dated("dated", begin, end)
    settings = {"GATEWAY_TLS_CERT_PATH": pair.cert, "GATEWAY_TLS_KEY_PATH": pair.key, "BACKEND_BASE_URL": "http://127.0.0.1:9"}
    code, out, err = run_to_exit(settings, "gateway", "--check")
    assert code == 0 and words in err and "certificate: localhost; valid until" in out, out + err
    gateway = serve(start, pair)
    gateway.says('"msg":"certificate_warning"')
    gateway.says(words)


def test_a_good_certificate_is_not_warned_of_and_its_end_is_a_metric(start, dated):
    gateway = serve(start, dated("good", -1, 60), admin=True)
    left = gateway.metric("certificate_expiry_timestamp_seconds") - datetime.datetime.now().timestamp()
    assert 59.9 * 86400 < left < 60.1 * 86400
    gateway.never_says("certificate_warning")


def test_a_reload_to_an_expired_certificate_keeps_the_good_one(start, dated, authority):
    live = dated("live", -1, 60)
    gateway = serve(start, live, GATEWAY_TLS_RELOAD_INTERVAL="1h")
    context = authority.client_context()
    context.check_hostname, context.verify_mode = False, 0

    def shown():
        with gateway.tls(context) as connection:
            return connection.getpeercert(binary_form=True)

    good = live.der
    expired = dated("expired", -30, -1)
    for new, old in ((expired.cert, live.cert), (expired.key, live.key)):
        shutil.copy(new, f"{old}.new")
        os.rename(f"{old}.new", old)
    gateway.signal(signal.SIGHUP)
    gateway.says('"msg":"certificate_reload_failed"')
    gateway.says("has expired")
    assert shown() == good


# --- files that editors have changed -----------------------------------------------------------


def test_a_byte_order_mark_before_certificate_key_and_token_does_not_matter(start, self_signed, token):
    pair = self_signed("marked")
    for file in (pair.cert, pair.key, token):
        file.write_bytes(MARK + file.read_bytes() + b"\r\n")
    gateway = serve(start, pair)
    with connect(gateway, pair.cert, token) as says:
        says("connected to")


def test_a_token_file_in_utf_16_is_named_as_such(tmp_path, token):
    token.write_bytes("token".encode("utf-16"))
    code, _, err = run_to_exit({}, "connect", "--gateway", "wss://localhost:9", "--device-id", "d", "--token-file", str(token))
    assert code == 1 and "UTF-16" in err, err


def test_a_byte_order_mark_before_a_backends_answer_does_not_matter(start, backend):
    backend.set("dev-bom", Answer(200, MARK + allowed().body))
    with login(start(), "dev-bom") as device:
        device.lives()
