"""What the benchmarks of gateways, whole requests and deadlines make of their measurements, by hand."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from loadtest.bench import deadline, end_to_end, gateway, scorer
from loadtest.bench.cli import bench_app
from loadtest.bench.end_to_end import ADAPTIVE, AGAIN, FIXED, PEERS, RAW, Measured
from loadtest.bench.gateway import DIRECT, OURS, UNROUTED, Figures


def test_what_a_gateway_adds_is_a_median_of_paired_differences() -> None:
    figures = {
        DIRECT: Figures(latency_ms=[1.0, 2.0, 3.0], stream_ms=[4.0] * 3, per_second=[100.0, 200.0, 300.0]),
        OURS: Figures([3.0, 3.0, 9.0], [5.0] * 3, [50.0, 50.0, 50.0], route_ms=[0.5, 0.6, 0.7]),
        UNROUTED: Figures([2.0, 3.0, 4.0], [5.0] * 3, [80.0, 90.0, 100.0]),
        "peer": Figures([5.0, 5.0, 5.0], [], [10.0, 25.0, 50.0]),
    }
    found = gateway._summary(figures, 3)["contestants"]
    # Differences 2, 1 and 6, not the difference of the medians.
    assert found[OURS]["added_ms"] == 2.0
    assert found[OURS]["route_ms"] == 0.6
    # Ratios 5, 2 and 1; 8, 3.6 and 2.
    assert found["peer"]["ours_per_second_over_its"]["median"] == 2.0
    assert found["peer"]["unrouted_per_second_over_its"]["median"] == pytest.approx(3.6)
    assert found["peer"]["stream_ms"] is None
    rows = gateway.table({"contestants": found}).splitlines()
    assert len(rows) == 2 + len(figures)
    assert rows[3].startswith("| winnow | 3.00 ms | 2.00 ms | 0.60 ms | 5.00 ms | 50 |")


def test_whole_requests_are_compared_prompt_by_prompt() -> None:
    def measured(wall: float, tokens: int, score: float, tail: float | None = None) -> Measured:
        return Measured(wall, 2 * wall, tokens, score, None, tail)

    rows = [
        {
            RAW: measured(4.0, 800, 1.0),
            FIXED: measured(5.0, 800, 1.0, 100.0),
            AGAIN: measured(5.0, 800, 1.0, 100.0),
            ADAPTIVE: measured(4.0, 400, 0.0, 50.0),
            PEERS[1]: measured(8.0, 800, 1.0),
        },
        {
            RAW: measured(2.0, 400, 3.0),
            FIXED: measured(3.0, 400, 3.0, 300.0),
            AGAIN: measured(3.0, 400, 3.0, 300.0),
            ADAPTIVE: measured(2.0, 500, 3.0, 50.0),
            PEERS[1]: measured(8.0, 400, 2.0),
        },
    ]
    found = end_to_end._summary(rows)
    # 5/4 and 3/2; 8/4 and 8/2.
    assert found["wall_over_raw"][FIXED]["median"] == pytest.approx(1.375)
    assert found["wall_over_raw"][PEERS[1]]["median"] == pytest.approx(3.0)
    assert found["tokens_over_fixed"] == pytest.approx(900 / 1200)
    # Means 2 and 1.5; winners' scores 1 and 3 deviate by the root of 2.
    assert found["score_loss"] == pytest.approx(0.5 / 2**0.5)
    assert found["contestants"][FIXED]["scoring_tail_ms"] == 200.0
    assert found["contestants"][RAW]["scoring_tail_ms"] is None
    table = end_to_end.table(found).splitlines()
    assert len(table) == 2 + 5
    assert PEERS[0] not in "\n".join(table)


def test_degraded_answers_are_a_share_of_all_requests() -> None:
    latency = {"p50": 10.0, "p95": 20.0, "p99": 30.0}
    run = {"of_capacity": 0.8, "rate": 2.0, "requests": 40, "late_or_failed": 0.025, "latency_ms": latency}
    rows = deadline.table({"runs": [run | {"degraded": {"deadline": 3, "unscored": 1}}]}).splitlines()
    assert rows[2] == "| 0.8 of capacity | 2.00 | 2.5% | 10 ms | 20 ms | 30 ms | 10.0% |"


def test_operations_of_a_request_whose_prompt_is_computed_once() -> None:
    # One layer of width 4 with 2 heads of 2 and 1 key head, inner width 8: q 16, k 8, v 8, o 16, three of 32.
    config = {"hidden_size": 4, "num_attention_heads": 2, "num_key_value_heads": 1}
    config |= {"intermediate_size": 8, "num_hidden_layers": 3}
    pairs = 50 + (20 + 2) + (60 + 18)
    assert scorer._flops(config, 10, [2, 6]) == 3 * (2 * 144 * 18 + 4 * 4 * pairs)


def test_a_rate_at_which_all_failed_has_no_times_and_is_not_met() -> None:
    loads = [
        {"rate": 2.0, "p50_ms": 60.0, "p95_ms": 119.0, "p99_ms": 150.0, "failed": 0, "roofline_share": 0.5},
        {"rate": 4.0, "failed": 7, "roofline_share": 0.0},
    ]
    rows = scorer.table({"loads": loads}).splitlines()
    assert rows[2:] == ["| 2 | 60 ms | 119 ms | 150 ms | yes | 0 | 0.50 |", "| 4 |  |  |  | no | 7 | 0.00 |"]


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--shape", "9b"], "'9b'"), (["--rates", "1,x"], "1,x"), (["--rates", "0"], "more than 0")],
)
def test_a_load_that_cannot_be_made_is_refused_first(options: list[str], message: str) -> None:
    done = CliRunner().invoke(bench_app, ["scorer", *options])
    assert done.exit_code == 2
    assert message in done.output


@pytest.mark.parametrize("command", ["gateway", "end-to-end"])
def test_peers_that_nobody_knows_are_named(command: str) -> None:
    done = CliRunner().invoke(bench_app, [command, "--without", "nobody"])
    assert done.exit_code == 2
    assert "nobody" in done.output
