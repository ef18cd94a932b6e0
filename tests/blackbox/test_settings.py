"""Settings: environment, YAML, both; Go durations and addresses; what a bad configuration says."""

import re
import socket

import pytest

from rig.backend import allowed
from rig.client import Device, fresh_device, login, stream_data, stream_open
from rig.gateway import free_port, run_to_exit
from rig.poll import Stopwatch, eventually
from rig.targets import Target, echo
from rig.wire import Wire

FOUNDING = ["listen_addr", "tls_cert_path", "tls_key_path", "backend_base_url", "backend_timeout", "backend_secret", "upstream_mode",
            "log_level", "log_format", "metrics_enabled", "metrics_path", "max_streams_per_session"]


@pytest.fixture
def required(pair):
    """The smallest good configuration."""
    return {"GATEWAY_TLS_CERT_PATH": pair.cert, "GATEWAY_TLS_KEY_PATH": pair.key, "BACKEND_BASE_URL": "http://127.0.0.1:9",
            "GATEWAY_LISTEN_ADDR": f"127.0.0.1:{free_port()}"}


@pytest.fixture
def yaml(tmp_path):
    """Writes a YAML file and returns its path."""
    def write(text):
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return path
    return write


def stream_limit(gateway):
    """How many streams a session may open, as it shows."""
    with login(gateway) as device:
        for number in range(12):
            device.send(stream_open(f"s{number}"))
        return 12 - len(device.until_pong())


# --- sources -----------------------------------------------------------------------------------


def test_everything_may_come_from_yaml(start, backend, pair, yaml):
    # The rig knows the port from the variable; the file says the rest.
    secret = "yaml-secret-1"
    path = yaml(f"""
tls_cert_path: {pair.cert}
tls_key_path: "{pair.key}"
backend_base_url: {backend.url}/from-yaml   # a comment
backend_timeout: 700ms
backend_secret: {secret}
upstream_mode: blackhole
log_level: debug
log_format: text
metrics_enabled: true
metrics_path: /yaml-metrics
max_streams_per_session: 3
""")
    gateway = start(GATEWAY_CONFIG_PATH=path, GATEWAY_TLS_CERT_PATH=None, GATEWAY_TLS_KEY_PATH=None, BACKEND_BASE_URL=None)
    assert stream_limit(gateway) == 3
    assert backend.requests[0].path.startswith("/from-yaml/api/")
    assert backend.requests[0].headers["x-internal-secret"] == secret
    assert gateway.metrics("/yaml-metrics").has("httvps_gateway_active_sessions")
    assert gateway.get("/metrics").status == 404
    gateway.says("level=INFO msg=session_started")


def test_the_listen_address_may_come_from_yaml(launch, backend, yaml):
    port = free_port()
    path = yaml(f"listen_addr: 127.0.0.1:{port}\n")
    with launch(backend.url, GATEWAY_LISTEN_ADDR=None, GATEWAY_CONFIG_PATH=path, port=port) as gateway:
        with login(gateway) as device:
            device.lives()


def test_the_environment_wins_over_yaml_key_by_key(start, yaml):
    path = yaml("max_streams_per_session: 2\nmetrics_path: /m\nupstream_mode: blackhole\n")
    gateway = start(GATEWAY_CONFIG_PATH=path, GATEWAY_MAX_STREAMS=5, GATEWAY_UPSTREAM_MODE="echo")
    assert stream_limit(gateway) == 5
    assert gateway.get("/m").status == 200
    with login(gateway) as device:
        device.lives()


@pytest.mark.parametrize("mode", ["fake", "echo", None])
def test_the_upstream_is_the_echo_by_default_and_by_both_names(start, mode):
    with login(start(GATEWAY_UPSTREAM_MODE=mode)) as device:
        device.lives()


def test_a_full_stop_in_durations_and_several_units_are_go_durations(required):
    for duration in ("300ms", "1m30s", "1.5s", "90s", "0.5m", "1s500ms", "2000000us", "5s"):
        code, out, err = run_to_exit(required | {"BACKEND_TIMEOUT": duration}, "gateway", "--check")
        assert code == 0, f"{duration}: {out}{err}"


@pytest.mark.parametrize("source", ["environment", "yaml"])
def test_a_backend_timeout_of_300ms_is_300_milliseconds(start, backend, yaml, source):
    settings = {"BACKEND_TIMEOUT": "300ms"} if source == "environment" else {"GATEWAY_CONFIG_PATH": yaml("backend_timeout: 300ms\n")}
    gateway = start(**settings)
    device_id = fresh_device()
    backend.set(device_id, allowed(delay=20))
    clock = Stopwatch()
    with Device(gateway) as device:
        assert device.ask(device_id)["allowed"] is False
    assert 0.25 < clock.seconds < 1.5, f"took {clock.seconds:.2f} s"


@pytest.mark.parametrize("form", ["block", "flow"])
def test_the_egress_list_may_be_a_yaml_list(start, yaml, form):
    listed = "\n  - 10.0.0.0/8\n  - 127.0.0.0/8\n" if form == "block" else ' ["10.0.0.0/8", "127.0.0.0/8"]\n'
    gateway = start(GATEWAY_CONFIG_PATH=yaml(f"upstream_mode: direct\negress_allow:{listed}"))
    with Target(echo) as target, login(gateway) as device:
        device.send(stream_open("a", target.address), stream_data("a", b"x"))
        assert device.collect("a", 1) == b"x"


def test_an_empty_yaml_file_changes_nothing(start, yaml):
    assert stream_limit(start(GATEWAY_CONFIG_PATH=yaml(""))) == 8


# --- addresses ---------------------------------------------------------------------------------


def accepts(host, port):
    try:
        socket.create_connection((host, port), 2).close()
        return True
    except OSError:
        return False


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
        return True
    except OSError:
        return False


def test_an_empty_host_listens_on_every_address_of_both_families(launch, backend):
    port = free_port()
    with launch(backend.url, GATEWAY_LISTEN_ADDR=f":{port}", port=port) as gateway:
        assert accepts("127.0.0.1", port) and accepts("127.0.0.2", port)
        if has_ipv6():
            assert accepts("::1", port), "not on IPv6"
        with login(gateway) as device:
            device.lives()


def test_a_host_listens_there_and_nowhere_else(start):
    gateway = start()
    assert accepts("127.0.0.1", gateway.port) and not accepts("127.0.0.2", gateway.port)


def test_without_a_listen_address_it_is_port_8443(required):
    settings = required | {"GATEWAY_LISTEN_ADDR": None}
    code, out, _ = run_to_exit(settings, "gateway", "--check", "--all")
    assert code == 0 and ":8443" in out


def test_a_port_in_use_is_said_in_two_lines(required):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "127.0.0.1:%d" % taken.getsockname()[1]
        assert_refused(required | {"GATEWAY_LISTEN_ADDR": address}, "listen_addr", address)


# --- levels and switches -----------------------------------------------------------------------


@pytest.mark.parametrize("level, shown", [("debug", True), ("info", True), ("warn", False), ("error", False)])
def test_the_log_level_is_a_threshold(start, level, shown):
    gateway = start(GATEWAY_LOG_LEVEL=level)
    with login(gateway) as device:
        device.lives()
    eventually(gateway.is_idle, 3, "the session is over")
    if shown:
        gateway.says("session_started", within=3)
    else:
        gateway.never_says("session_started")
        gateway.never_says('"level":"INFO"')


def test_metrics_can_be_switched_off(start):
    gateway = start(GATEWAY_METRICS_ENABLED="false")
    assert gateway.get("/metrics").status == 404
    with login(gateway) as device:
        device.lives()


def test_the_metrics_path_moves_the_metrics(start):
    gateway = start(GATEWAY_METRICS_PATH="/internal/stats")
    assert gateway.metrics("/internal/stats").has("httvps_gateway_active_sessions")
    assert gateway.get("/metrics").status == 404


def test_the_hello_deadline_is_a_setting(start):
    gateway = start(GATEWAY_HANDSHAKE_TIMEOUT="400ms")
    with Wire(gateway) as wire:
        clock = Stopwatch()
        wire.upgrade()
        assert wire.ended_within(3)
        assert 0.3 < clock.seconds < 1.5, f"took {clock.seconds:.2f} s"


# --- bad configuration -------------------------------------------------------------------------


def assert_refused(settings, key, *words):
    """The gateway ends at once, with a code and at most two lines that name the key and contain the words."""
    code, out, err = run_to_exit(settings, "gateway", within=8)
    told = out + err
    lines = [line for line in told.splitlines() if line.strip()]
    assert code not in (0, 101) and code > 0, f"exit code {code}: {told}"
    assert 1 <= len(lines) <= 2, f"{len(lines)} lines:\n{told}"
    names = {key.lower()} | ENVIRONMENT.get(key, {f"gateway_{key}"})
    assert any(name in told.lower() for name in names), f"none of {names} in: {told}"
    for word in words:
        assert word in told, f"{word!r} is not in: {told}"
    assert "panicked" not in told and "RUST_BACKTRACE" not in told


ENVIRONMENT = {"backend_base_url": {"backend_base_url"}, "backend_timeout": {"backend_timeout"},
               "backend_secret": {"backend_gateway_secret"}, "max_streams_per_session": {"gateway_max_streams"}}


@pytest.mark.parametrize("variable, key", [("GATEWAY_TLS_CERT_PATH", "tls_cert_path"), ("GATEWAY_TLS_KEY_PATH", "tls_key_path"),
                                           ("BACKEND_BASE_URL", "backend_base_url")])
def test_a_missing_required_setting_is_named(required, variable, key):
    assert_refused(required | {variable: None}, key)


def test_nothing_at_all_is_two_lines_too():
    code, out, err = run_to_exit({}, "gateway")
    assert code > 0 and 1 <= len((out + err).strip().splitlines()) <= 2, out + err


BAD = [
    ("GATEWAY_LISTEN_ADDR", "nonsense", "listen_addr"), ("GATEWAY_LISTEN_ADDR", "127.0.0.1:99999", "listen_addr"),
    ("GATEWAY_LISTEN_ADDR", "127.0.0.1", "listen_addr"), ("BACKEND_BASE_URL", "not a url", "backend_base_url"),
    ("BACKEND_BASE_URL", "ftp://127.0.0.1", "backend_base_url"), ("BACKEND_BASE_URL", "127.0.0.1:80", "backend_base_url"),
    ("BACKEND_TIMEOUT", "5", "backend_timeout"), ("BACKEND_TIMEOUT", "soon", "backend_timeout"), ("BACKEND_TIMEOUT", "5 s", "backend_timeout"),
    ("BACKEND_TIMEOUT", "-5s", "backend_timeout"), ("BACKEND_TIMEOUT", "5parsecs", "backend_timeout"),
    ("BACKEND_TIMEOUT", "0s", "backend_timeout"), ("BACKEND_TIMEOUT", "99999999999999999999h", "backend_timeout"),
    ("GATEWAY_UPSTREAM_MODE", "warp", "upstream_mode"), ("GATEWAY_LOG_LEVEL", "loud", "log_level"), ("GATEWAY_LOG_FORMAT", "xml", "log_format"),
    ("BACKEND_GATEWAY_SECRET", "line\nbreak", "backend_secret"), ("GATEWAY_METRICS_PATH", "/ws", "metrics_path"),
    ("GATEWAY_METRICS_ENABLED", "maybe", "metrics_enabled"), ("GATEWAY_METRICS_PATH", "metrics", "metrics_path"),
    ("GATEWAY_MAX_STREAMS", "many", "max_streams_per_session"), ("GATEWAY_MAX_STREAMS", "-1", "max_streams_per_session"),
    ("GATEWAY_MAX_STREAMS", "1.5", "max_streams_per_session"), ("GATEWAY_MAX_STREAMS", "99999999999999999999", "max_streams_per_session"),
    ("GATEWAY_EGRESS_ALLOW", "127.0.0.1/99", "egress_allow"), ("GATEWAY_EGRESS_ALLOW", "localhost", "egress_allow"),
    ("GATEWAY_MAX_STREAM_OPENS_PER_SECOND", "fast", "max_stream_opens_per_second"), ("GATEWAY_ADMIN_ADDR", "nowhere", "admin_addr"),
]


@pytest.mark.parametrize("variable, value, key", BAD, ids=[ascii(f"{v}={x}") for v, x, _ in BAD])
def test_a_bad_value_is_refused_with_the_key(required, variable, value, key):
    assert_refused(required | {variable: value}, key)


@pytest.mark.parametrize("variable, key, accepted", [
    ("GATEWAY_LOG_LEVEL", "log_level", ["debug", "info", "warn", "error"]), ("GATEWAY_LOG_FORMAT", "log_format", ["json", "text"]),
    ("GATEWAY_UPSTREAM_MODE", "upstream_mode", ["echo", "blackhole", "direct"])])
def test_a_bad_choice_says_what_is_accepted(required, variable, key, accepted):
    assert_refused(required | {variable: "nonsense"}, key, "nonsense", *accepted)


@pytest.mark.parametrize("text, key", [
    ("log_level: loud\n", "log_level"), ("max_streams_per_session: [1]\n", "max_streams_per_session"), ("backend_timeout: 5\n", "backend_timeout"),
    ("metrics_enabled: sometimes\n", "metrics_enabled"), ("listen_adr: ':1'\n", "listen_adr"), ("egress_allow: [300.0.0.0/8]\n", "egress_allow"),
    ("log_level: info\nlog_level: warn\n", "log_level"),
], ids=["bad choice", "list for a number", "duration without unit", "bad switch", "unknown key", "bad network", "key given twice"])
def test_a_bad_yaml_value_is_refused_with_the_key(required, yaml, text, key):
    assert_refused(required | {"GATEWAY_CONFIG_PATH": yaml(text)}, key)


@pytest.mark.parametrize("text", ["{", "- a\n- b\n", "just words\n", "a: b: c\n", "\tx: 1\n"], ids=ascii)
def test_a_broken_yaml_file_is_refused_with_its_name(required, yaml, text):
    path = yaml(text)
    assert_refused(required | {"GATEWAY_CONFIG_PATH": path}, str(path))


def test_a_missing_yaml_file_is_refused_with_its_name(required):
    assert_refused(required | {"GATEWAY_CONFIG_PATH": "/nonexistent/config.yaml"}, "/nonexistent/config.yaml")


@pytest.mark.parametrize("variable, key", [("GATEWAY_TLS_CERT_PATH", "tls_cert_path"), ("GATEWAY_TLS_KEY_PATH", "tls_key_path")])
@pytest.mark.parametrize("what", ["missing", "folder", "empty", "garbage"])
def test_an_unreadable_certificate_or_key_is_refused_with_the_key(required, tmp_path, variable, key, what):
    path = tmp_path / "file.pem"
    if what == "folder":
        path.mkdir()
    elif what != "missing":
        path.write_text("" if what == "empty" else "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n")
    assert_refused(required | {variable: path}, key)


def test_a_key_of_another_certificate_is_refused(required, authority):
    other = authority.issue("another")
    assert_refused(required | {"GATEWAY_TLS_KEY_PATH": other.key}, "tls_key_path")


def test_an_error_shows_no_secret(required):
    settings = required | {"BACKEND_GATEWAY_SECRET": "top-secret-value", "GATEWAY_LOG_LEVEL": "loud"}
    _, out, err = run_to_exit(settings, "gateway")
    assert "top-secret-value" not in out + err


# --- --check -----------------------------------------------------------------------------------


def test_check_prints_the_resolved_values_and_hides_the_secret(required, yaml):
    settings = required | {"BACKEND_GATEWAY_SECRET": "top-secret-value", "GATEWAY_MAX_STREAMS": 77, "BACKEND_TIMEOUT": "1m30s",
                           "GATEWAY_CONFIG_PATH": yaml("metrics_path: /from-yaml\nmax_streams_per_session: 55\n")}
    code, out, err = run_to_exit(settings, "gateway", "--check", "--all")
    assert code == 0, err
    for key in FOUNDING:
        assert key in out, f"{key} is missing in:\n{out}"
    shown = dict(re.findall(r"^(\w+) = (.*?)  \(source: \w+\)$", out, re.M))
    expected = {"max_streams_per_session": "77", "metrics_path": "/from-yaml", "backend_timeout": "1m30s",
                "backend_base_url": "http://127.0.0.1:9", "tls_cert_path": str(required["GATEWAY_TLS_CERT_PATH"]),
                "log_format": "json", "log_level": "info", "backend_secret": "***"}
    assert {key: shown.get(key) for key in expected} == expected, out
    assert "top-secret-value" not in out + err


def test_check_alone_shows_what_was_set_and_ends_with_a_verdict(required):
    code, out, err = run_to_exit(required | {"GATEWAY_MAX_STREAMS": 77}, "gateway", "--check")
    assert code == 0 and "max_streams_per_session = 77" in out and "log_format" not in out, out + err
    assert "certificate: localhost" in out and out.splitlines()[-1].startswith("OK:"), out
    assert not run_to_exit(required, "gateway", "--all")[0] == 0


@pytest.mark.parametrize("settings, words", [
    ({}, ["GATEWAY_UPSTREAM_MODE", "GATEWAY_ADMIN_ADDR"]), ({"GATEWAY_UPSTREAM_MODE": "fake"}, ["GATEWAY_ADMIN_ADDR"]),
    ({"GATEWAY_UPSTREAM_MODE": "fake", "GATEWAY_ADMIN_ADDR": "127.0.0.1:1"}, []),
    ({"GATEWAY_UPSTREAM_MODE": "fake", "GATEWAY_ADMIN_ADDR": "127.0.0.1:1", "BACKEND_GATEWAY_SECRET": "'s3cret'"}, ["backend_secret"]),
], ids=["nothing chosen", "mode chosen", "both chosen", "a secret in quotation marks"])
def test_check_warns_of_what_is_hardly_meant(required, settings, words):
    code, out, err = run_to_exit(required | settings, "gateway", "--check")
    warnings = [line for line in err.splitlines() if "warning:" in line]
    assert code == 0 and len(warnings) == len(words) and all(word in err for word in words), err
    assert "s3cret" not in out + err


def test_the_start_warns_of_the_default_mode_and_names_it_as_the_setting_does(start):
    gateway = start()
    gateway.says('"upstream":"fake"')
    gateway.says("upstream_mode was not set and is fake", times=1)
    gateway.says("/healthz and /readyz are served to everybody", times=1)


def test_check_refuses_what_the_start_refuses(required):
    code, out, err = run_to_exit(required | {"GATEWAY_LOG_LEVEL": "loud"}, "gateway", "--check")
    assert code > 0 and "log_level" in (out + err).lower()
    code, out, err = run_to_exit(required | {"GATEWAY_TLS_CERT_PATH": "/nonexistent.pem"}, "gateway", "--check")
    assert code > 0 and "tls_cert_path" in (out + err).lower()


def test_check_listens_on_nothing(required):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "127.0.0.1:%d" % taken.getsockname()[1]
        assert run_to_exit(required | {"GATEWAY_LISTEN_ADDR": address}, "gateway", "--check")[0] == 0


def test_a_password_in_the_backend_url_is_never_shown(required):
    settings = required | {"BACKEND_BASE_URL": "http://user:hunter2@127.0.0.1:9"}
    _, out, err = run_to_exit(settings, "gateway", "--check")
    assert "hunter2" not in out + err


def test_help_names_the_subcommand_and_the_settings(required):
    code, out, _ = run_to_exit({}, "--help")
    assert code == 0 and "gateway" in out
    code, out, _ = run_to_exit({}, "gateway", "--help")
    assert code == 0 and "GATEWAY_LISTEN_ADDR" in out and "--check" in out and "GATEWAY_MAX_HANDSHAKES" in out
    code, short, _ = run_to_exit({}, "gateway", "-h")
    assert code == 0 and "GATEWAY_LISTEN_ADDR" in short and "GATEWAY_MAX_HANDSHAKES" not in short
    for command in (["connect"], ["backend"], ["upstream", "test"]):
        short, long = (run_to_exit({}, *command, flag)[1] for flag in ("-h", "--help"))
        assert len(short.splitlines()) < len(long.splitlines()) and "--help" in short, command


def test_an_unknown_flag_is_refused(required):
    assert run_to_exit(required, "gateway", "--chekc")[0] > 0
