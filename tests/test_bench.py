"""The benchmark's own arithmetic: what counts as work done, medians, ratios, and time at a fixed rate."""

import re
import socket
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"
sys.path.append(str(BENCH))

import cases  # noqa: E402
import loads  # noqa: E402
import machine  # noqa: E402
from figures import Figure, Trouble, percentile  # noqa: E402
from paced import LARGEST, Lane, Plan, whole  # noqa: E402

import bench  # noqa: E402

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n"
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


def test_requests_that_came_due_during_a_pause_keep_their_times():
    plan = Plan(100.0, 4.0, 5)
    assert plan.due(99.9) == []
    assert plan.due(100.0) == [100.0]
    assert plan.next == 100.25
    assert plan.due(100.8) == [100.25, 100.5, 100.75]
    assert plan.due(109.0) == [101.0]
    assert plan.next is None


def test_time_counts_from_when_a_request_was_meant_to_leave():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        lane = Lane(ours, b"GET")
        for meant, now in ((5.0, 7.5), (6.0, 7.75)):  # the second waited for the first
            lane.send(meant)
            assert theirs.recv(10) == b"GET"
            theirs.sendall(OK[:-1])
            assert lane.receive(now) is None
            theirs.sendall(OK[-1:])
            assert lane.receive(now) == now - meant


def test_a_connection_that_closes_fails_the_round():
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        with pytest.raises(Trouble):
            Lane(ours, b"GET").receive(0.0)


def test_an_answer_is_whole_at_its_last_byte():
    assert [whole(OK[:end]) for end in range(len(OK) + 1)] == [False] * len(OK) + [True]


@pytest.mark.parametrize(
    "answer",
    [
        OK.replace(b"200", b"502"),
        OK.replace(b"200", b"301"),
        OK.replace(b"Content-Length: 6", b"Transfer-Encoding: chunked"),
        b"x" * (LARGEST + 1),
    ],
)
def test_any_other_answer_fails_the_round(answer):
    with pytest.raises(Trouble):
        whole(answer)


def test_only_an_end_tells_that_a_connection_is_gone():
    ours, theirs = socket.socketpair()
    with ours:
        assert not cases.is_gone(ours)
        theirs.sendall(b"x")
        assert not cases.is_gone(ours)
        ours.recv(1)
        theirs.close()
        assert cases.is_gone(ours)


@pytest.mark.parametrize(("suffix", "kind"), [(".cpython-311.so", "compiled"), (".py", "pure Python")])
def test_the_file_tells_which_build_it_is(suffix, kind):
    build = machine.Build(f"/srv/rproxy/exchange{suffix}", "1", "3.11.7", "26.10", "4.0.3")
    facts = {"nginx": "1", "haproxy": "2", "cpu": "2 x", "system": "Linux", "load": "0.10"}
    assert f"rproxy 1, {kind} (/srv/rproxy/exchange{suffix})" in bench.introduction(build, facts)
    assert "not idle" not in bench.introduction(build, facts)
    assert "not idle" in bench.introduction(build, facts | {"load": "1.00"})


def test_every_case_can_be_measured_and_is_in_the_table():
    explained = set(re.findall(r"^\| `(\w+)` \|", (BENCH / "README.md").read_text(), re.MULTILINE))
    assert set(cases.MEASURES) == explained
    known = {cases.compare: cases.WORKS, cases.idle: cases.QUESTIONS}
    assert all(case in known.get(measure, cases.MEASURES) for case, measure in cases.MEASURES.items())
