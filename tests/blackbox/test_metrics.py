"""Metrics: the founding names, before, during and after."""

import os
import re

import pytest

from rig.backend import allowed
from rig.client import fresh_device, login, stream_close, stream_data, stream_open
from rig.poll import eventually
from rig.wire import wire_login

P = "httvps_gateway_"
FOUNDING = {"active_sessions": "gauge", "active_streams": "gauge", "handshakes_total": "counter", "handshake_duration_seconds": "histogram",
            "backend_errors_total": "counter", "bytes_in_total": "counter", "bytes_out_total": "counter"}


@pytest.fixture
def gateway(start):
    return start()


def test_all_founding_names_are_there_from_the_start_with_their_types(gateway):
    now = gateway.metrics()
    assert {name: now.type_of(P + name) for name in FOUNDING} == FOUNDING


def test_everything_is_0_at_the_start(gateway):
    now = gateway.metrics()
    for name in ("active_sessions", "active_streams", "bytes_in_total", "bytes_out_total"):
        assert [value for _, value in now.series(P + name)] == [0], name
    for result in ("accepted", "rejected", "error"):
        assert [value for _, value in now.series(P + "handshakes_total", result=result)] == [0], result
    assert {labels["result"] for labels, _ in now.series(P + "handshakes_total")} == {"accepted", "rejected", "error"}
    assert now.series(P + "handshake_duration_seconds_count")[0][1] == 0


def test_backend_errors_have_a_code_label_from_the_start(gateway):
    series = gateway.metrics().series(P + "backend_errors_total")
    assert series and all(set(labels) == {"code"} and value == 0 for labels, value in series), series


def test_the_answer_is_in_a_format_that_prometheus_names(gateway):
    answer = gateway.get("/metrics")
    kind = answer.headers["content-type"]
    assert re.match(r"(text/plain; *version=0\.0\.4|application/openmetrics-text; *version=1\.0\.0)", kind), kind
    if "openmetrics" in kind:
        assert answer.body.endswith(b"# EOF\n")
    assert answer.body.endswith(b"\n") and b"\r" not in answer.body


def test_sessions_and_streams_are_counted_while_they_live(gateway):
    def gauges():
        now = gateway.metrics()
        return now.sum(P + "active_sessions"), now.sum(P + "active_streams")
    with login(gateway) as one, login(gateway) as two:
        one.send(stream_open("a"), stream_open("b"), stream_open("b"))
        two.send(stream_open("a"))
        two.echo("a", b"x")
        eventually(lambda: gauges() == (2, 3), 3, f"2 sessions and 3 streams, not {gauges()}")
        one.send(stream_close("a"))
        eventually(lambda: gauges() == (2, 2), 3, f"2 sessions and 2 streams, not {gauges()}")
        two.close()
        eventually(lambda: gauges() == (1, 1), 3, f"1 session and 1 stream, not {gauges()}")
    eventually(lambda: gauges() == (0, 0), 3, f"nothing, not {gauges()}")


def test_gauges_return_to_0_after_resets_and_rude_ends(gateway):
    for _ in range(10):
        wire = wire_login(gateway)
        for stream_id in "abc":
            wire.text(stream_open(stream_id))
        wire.text(stream_data("a", bytes(50_000)))
        wire.reset()
    eventually(gateway.is_idle, 5, "gauges at 0")


def test_bytes_count_the_payload_and_nothing_else(gateway):
    sizes = [0, 1, 2, 3, 1000, 65_536, 300_001]
    with login(gateway, client_version="v" * 100) as device:
        device.send(stream_open("a"))
        for size in sizes[1:]:
            device.echo("a", os.urandom(size))
        device.assert_quiet()
        eventually(lambda: (gateway.metric("bytes_in_total"), gateway.metric("bytes_out_total")) == (sum(sizes), sum(sizes)), 3,
                   f"{sum(sizes)} bytes each way")


def test_refused_data_is_no_payload(gateway):
    with login(gateway) as device:
        device.send(stream_open("a"), stream_data("unknown", b"12345"))
        device.expect_error("stream_error")
        device.send({"type": "stream_data", "stream_id": "a", "data": "MTIzNDU*"})
        device.expect_error("bad_stream")
        device.echo("a", b"abc")
        eventually(lambda: gateway.metric("bytes_in_total") == 3, 3, "3 bytes")
        assert gateway.metric("bytes_out_total") == 3


def test_the_duration_of_a_handshake_is_observed(gateway, backend):
    device_id = fresh_device()
    backend.set(device_id, allowed(delay=0.3))
    with login(gateway, device_id):
        now = gateway.metrics()
    name = P + "handshake_duration_seconds"
    assert now.sum(name + "_count") == 1
    assert 0.3 <= now.sum(name + "_sum") < 2
    buckets = [(float(labels["le"].replace("+Inf", "inf")), value) for labels, value in now.series(name + "_bucket")]
    assert buckets == sorted(buckets) and buckets[-1] == (float("inf"), 1)
    assert [v for _, v in buckets] == sorted(v for _, v in buckets)
    assert all(value == 0 for bound, value in buckets if bound < 0.3)


def test_counters_only_grow(gateway):
    seen = -1
    for _ in range(3):
        with login(gateway) as device:
            device.send(stream_open("a"))
            device.echo("a", b"x")
            eventually(lambda: gateway.metric("bytes_in_total") > seen, 3, "more bytes than before")
            seen = gateway.metric("bytes_in_total")


def test_no_series_carries_what_clients_choose(gateway):
    with login(gateway, "device-in-a-label", region="region-in-a-label", client_version="version-in-a-label") as device:
        device.send(stream_open("stream-in-a-label", "target-in-a-label:1"), {"type": "type-in-a-label"})
        device.expect_error("unsupported")
        text = gateway.metrics().text
        assert "in-a-label" not in text and device.auth["session_id"] not in text


def test_the_process_and_the_build_are_described(gateway):
    now = gateway.metrics()
    names = {name for name, _, _ in now.samples}
    assert any("build_info" in name for name in names)
    assert {"process_resident_memory_bytes", "process_open_fds"} <= names
    assert 1e6 < now.sum("process_resident_memory_bytes") < 1e9


def test_a_scrape_changes_nothing_it_reports(gateway):
    def founding():
        return [s for s in gateway.metrics().samples if s[0].startswith(tuple(P + n for n in FOUNDING))]
    assert founding() == founding()


def test_an_admin_address_moves_the_operators_routes_off_the_main_listener(start):
    gateway = start(admin=True)
    for path in ("/metrics", "/healthz", "/readyz"):
        assert gateway.get(path, admin=True).status == 200, path
        assert gateway.get(path).status == 404, path
    assert gateway.get("/", admin=True).status == 404
    assert gateway.get("/ws", admin=True).status in (400, 404, 426)
    with login(gateway) as device:
        device.lives()
        assert gateway.metric("active_sessions") == 1


def test_an_admin_address_with_a_metrics_path_of_its_own(start):
    gateway = start(admin=True, GATEWAY_METRICS_PATH="/m")
    assert gateway.get("/m", admin=True).status == 200
    assert gateway.get("/metrics", admin=True).status == 404


def test_healthz_and_readyz_say_yes_while_it_serves(gateway):
    assert gateway.get("/healthz").status == 200
    assert gateway.get("/readyz").status == 200
