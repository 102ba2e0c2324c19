"""The benchmark's own arithmetic: what counts as work done, medians, ratios, differences, and the report."""

import re
import socket
import sys
import threading
from pathlib import Path
from xml.etree import ElementTree

import pytest

BENCH = Path(__file__).parents[1] / "bench"
sys.path.append(str(BENCH))

import cases  # noqa: E402
import idle  # noqa: E402
import limits  # noqa: E402
import loads  # noqa: E402
import machine  # noqa: E402
import report  # noqa: E402
import works  # noqa: E402
from aims import aim  # noqa: E402
from figures import Figure, Trouble, percentile  # noqa: E402

import bench  # noqa: E402

WRK = """Running 1s test @ http://localhost:8080/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     4.21ms  600.00us  12.00ms   90.00%
  15012 requests in 1.00s, 2.50MB read
"""
REFUSED = WRK + "  Non-2xx or 3xx responses: 12\nRequests/sec:  15000.10\n"
H2LOAD = """finished in 1.00s, 12000.00 req/s, 600.00KB/s
requests: {done} total, 12300 started, {done} done, {done} succeeded, {failed} failed, 0 errored, 0 timeout
status codes: {done} 2xx, 0 3xx, 0 4xx, {refused} 5xx
"""
BROKEN = WRK + "  Socket errors: connect 0, read 3, write 0, timeout 0\nRequests/sec:  15000.10\n"


def figure(**rounds: list[float]) -> Figure:
    return Figure("h1", "us/request", rounds=rounds)


def refuse() -> float:
    raise Trouble("status 502")


def test_a_line_has_the_median_of_each_and_ours_as_a_multiple_of_the_best_other():
    found = figure(nginx=[40, 10, 20], haproxy=[30, 50], rproxy=[60, 30, 90])
    line = "h1             us/request  nginx 20.00  haproxy 40.00  rproxy 60.00  ratio 3.00"
    assert found.text() == line


def test_a_round_that_failed_leaves_the_median_alone_and_is_told():
    found = figure(nginx=[10])
    found.take("rproxy", lambda: 20.0)
    found.take("rproxy", refuse)
    found.take("rproxy", refuse)
    assert found.ratio() == 2
    assert found.text().splitlines()[1:] == ["  ! rproxy: 2 of 3 rounds do not count: status 502"]


def test_h2load_counts_when_all_went_well():
    assert loads.h2_requests_done(H2LOAD.format(done=12000, failed=0, refused=0)) == 12000


@pytest.mark.parametrize(("done", "failed", "refused"), [(0, 0, 0), (12000, 1, 0), (12000, 0, 7)])
def test_h2load_does_not_count_otherwise(done, failed, refused):
    with pytest.raises(Trouble, match="h2load"):
        loads.h2_requests_done(H2LOAD.format(done=done, failed=failed, refused=refused))


@pytest.mark.parametrize("failing", ["rproxy", "nginx"])
def test_without_a_round_that_counts_there_is_neither_figure_nor_ratio(failing):
    found = figure(**{name: [10.0] for name in ("nginx", "rproxy") if name != failing})
    found.take(failing, refuse)
    assert found.ratio() is None
    assert f"{failing} failed" in found.text()
    assert "ratio" not in found.text()


def test_the_record_has_every_round():
    found = figure(nginx=[10, 30], rproxy=[40])
    found.fail("rproxy", "status 502")
    record = found.record()
    assert record["rounds"] == {"nginx": [10, 30], "rproxy": [40]}
    assert record["failures"] == {"rproxy": ["status 502"]}
    assert (record["median"], record["ratio"]) == ({"nginx": 20, "rproxy": 40}, 2)


@pytest.mark.parametrize(("percent", "value"), [(50, 50), (99, 99), (99.5, 100), (100, 100), (1, 1), (0, 1)])
def test_a_percentile_is_one_of_the_values(percent, value):
    assert percentile(range(100, 0, -1), percent) == value


def test_wrk_has_done_what_it_reports():
    assert loads.requests_done(WRK) == 15012


@pytest.mark.parametrize(
    ("report", "why"),
    [(REFUSED, "responses: 12"), (BROKEN, "read 3"), ("", "no request"), (WRK.replace("15012", "0"), "no")],
)
def test_work_that_was_not_answered_well_does_not_count(report, why):
    with pytest.raises(Trouble, match=why):
        loads.requests_done(report)


def test_a_download_counts_in_units_of_a_thousand_million_bytes():
    assert loads.gigabytes(f"{1 << 30} 200") == 1.073741824


@pytest.mark.parametrize("report", [f"{1 << 30} 206", f"{(1 << 30) - 1} 200", "0 000"])
def test_a_download_that_is_not_whole_does_not_count(report):
    with pytest.raises(Trouble):
        loads.gigabytes(report)


def test_only_an_end_tells_that_a_connection_is_gone():
    ours, theirs = socket.socketpair()
    with ours:
        assert not idle.is_gone(ours)
        theirs.sendall(b"x")
        assert not idle.is_gone(ours)
        ours.recv(1)
        theirs.close()
        assert idle.is_gone(ours)


@pytest.mark.parametrize(("suffix", "kind"), [(".cpython-311.so", "compiled"), (".py", "pure Python")])
def test_the_file_tells_which_build_it_is(suffix, kind):
    build = machine.Build(f"/srv/rproxy/exchange{suffix}", "1", "3.11.7", "26.10", "4.0.3")
    facts = {"nginx": "1", "haproxy": "2", "cpu": "2 x", "system": "Linux", "load": "0.10"}
    quiet, busy = (bench.introduction(build, facts | {"load": load}) for load in ("0.10", "1.00"))
    assert quiet[0] == f"rproxy 1, {kind}"
    assert "not idle" not in "\n".join(quiet)
    assert "not idle" in "\n".join(busy)


def test_every_case_can_be_measured_and_is_in_the_table():
    explained = set(re.findall(r"^\| `(\w+)` \|", (BENCH / "README.md").read_text(), re.MULTILINE))
    assert set(cases.MEASURES) == explained
    known = {cases.compare: works.WORKS, cases.idle: idle.QUESTIONS, cases.limits: limits.CASES}
    assert all(case in known.get(measure, cases.MEASURES) for case, measure in cases.MEASURES.items())


# -- What is added ----------------------------------------------------------------------------------------


def added(*pairs: tuple[float, float]) -> Figure:
    found = Figure("limits_conn", "us/conn", ours="with", baseline="without")
    for pair in pairs:
        found.take_pair(lambda pair=pair: pair)
    return found


def test_what_is_added_is_the_median_of_the_differences_and_not_the_difference_of_the_medians():
    found = added((100, 101), (150, 152), (120, 123))
    assert found.added() == 2
    assert found.outcome() == "added 2.00"
    found.note_spread()
    assert "half of 3 differences are from 1.00 to 3.00" in found.text()


def test_a_pair_of_which_one_round_failed_does_not_count():
    def broken() -> tuple[float, float]:
        raise Trouble("status 502")

    found = added((100, 101), (150, 152))
    found.take_pair(broken)
    assert found.added() == 1.5
    assert "! with: 1 of 3 rounds do not count: status 502" in found.text()


def test_without_a_pair_nothing_is_said_to_be_added():
    found = added()
    found.note_spread()
    assert (found.added(), found.outcome(), found.notes) == (None, "", [])


@pytest.fixture
def answering():
    """A server that answers one connection after the other: with a status, or 0 for none."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve(*statuses: int) -> int:
        def answer() -> None:
            for status in statuses:
                stream, _ = listening.accept()
                with stream:
                    if status:
                        stream.recv(1000)
                        stream.sendall(b"HTTP/1.1 %d Whatever\r\n\r\n" % status)

        threading.Thread(target=answer, daemon=True).start()
        return int(listening.getsockname()[1])

    yield serve
    listening.close()


@pytest.mark.parametrize(
    ("status", "hold", "counts"),
    [(200, False, True), (0, False, False), (403, False, False), (403, True, True), (200, True, False)],
)
def test_rules_that_do_not_show_fail_the_round(answering, status, hold, counts):
    port, sign = answering(status), limits.Sign(403, "127.0.0.9")
    if counts:
        limits.check(port, sign, hold)
    else:
        with pytest.raises(Trouble, match=f"has status {status}"):
            limits.check(port, sign, hold)


def test_one_connection_too_many_is_closed():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        accepted = []

        def serve() -> None:
            for number in range(3):
                stream, _ = listening.accept()
                accepted.append(stream)
                if number == 2:
                    stream.close()

        threading.Thread(target=serve, daemon=True).start()
        limits.check(listening.getsockname()[1], limits.Sign(0, "127.0.0.9", held=2), True)
        assert len(accepted) == 3


def test_rules_differ_in_what_they_name():
    for brief in limits.CASES.values():
        assert brief.rules != limits.NO_RULES
        assert any(sign.refusal != 200 for sign in brief.signs)


# -- The report ----------------------------------------------------------------------------------------


def test_the_table_has_each_figure_with_its_ratio_its_aim_and_its_troubles():
    whole = figure(nginx=[20], haproxy=[30], rproxy=[21])
    failed = Figure("h1_bulk", "s/GB", rounds={"nginx": [1.0], "rproxy": []}, failures={"rproxy": ["cut"]})
    text = report.table(["a machine"], [whole, failed, added((150, 151))])
    assert "- a machine\n" in text
    assert "| `h1` | us/request | 20.00 | 30.00 | 21.00 | ratio 1.05 | 1.1 |" in text
    assert "| `h1_bulk` | s/GB | 1.00 |  | failed |  | 0.6 |" in text
    assert "|  |  | without: 150.00, with: 151.00 | added 1.00 | 3 us |" in text
    assert "- `h1_bulk`: rproxy: 1 of 1 rounds do not count: cut" in text


def test_the_chart_has_bars_as_long_as_the_multiples_they_stand_for():
    two, beyond = figure(nginx=[10], haproxy=[20], rproxy=[15]), figure(nginx=[1], rproxy=[90])
    drawn = ElementTree.fromstring(report.chart(["a <machine>"], [two, beyond, added((150, 151))]))
    space = "{http://www.w3.org/2000/svg}"
    bars = [bar for bar in drawn.iter(f"{space}rect") if bar.get("height") == str(report.BAR)]
    lengths = [float(bar.get("width", "")) for bar in bars]
    assert lengths[1] == pytest.approx(2 * lengths[0], abs=0.2)
    assert lengths[2] == pytest.approx(1.5 * lengths[0], abs=0.2)
    assert lengths[3:] == [lengths[0], 0.0, pytest.approx(report.WIDEST * lengths[0], abs=0.2)]
    assert lengths[-1] == report.WIDTH - report.LEFT - report.RIGHT
    words = [text.text for text in drawn.iter(f"{space}text")]
    assert "90.00 (90.0 times)" in words
    assert "a <machine>" in words


def test_a_run_of_everything_is_written_down_and_another_is_not(monkeypatch, tmp_path):
    def place(*words: str) -> Path | None:
        monkeypatch.setattr(sys, "argv", ["bench.py", *words])
        return bench.report_folder(bench.arguments())

    assert place() == BENCH
    assert place("--cases", "h1") is place("--targets", "rproxy") is place("--pure") is None
    assert place("--cases", "h1", "--report", str(tmp_path)) == tmp_path


@pytest.mark.parametrize(
    ("case", "unit", "baseline", "wanted"),
    [
        ("h1", "us/request", "", "1.1"),
        ("h1_half", "ms p99", "", "2"),
        ("h1_half", "ms p50", "", ""),
        ("sni_idle", "KiB/conn", "", "16 KiB"),
        ("limits_request", "us/request", "without", "1 us"),
    ],
)
def test_an_aim_says_in_which_unit_it_is(case, unit, baseline, wanted):
    assert aim(Figure(case, unit, baseline=baseline)) == wanted
