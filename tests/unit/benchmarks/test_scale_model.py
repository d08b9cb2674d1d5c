"""The model of many GPUs: cases worked out by hand, published optima, and a simulation of failures."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.scale_model import (
    HEADER,
    Inputs,
    daly_s,
    interval_of,
    measured,
    mtbf_s,
    rows,
    shares_of,
    step_of,
    trained_share,
    young_s,
)

HOUR = 3600.0
IDEAL = Inputs(
    gradient_MB=0, latency_us=0, image_kB=0, decoded_per_core=1e9, checkpoint_s=1e-9, writing_s=0, restart_s=0
)


def test_without_any_cost_all_time_is_useful() -> None:
    shares = shares_of(replace(IDEAL, node_mtbf_h=1e12), 1024)
    assert shares.useful == pytest.approx(1, abs=1e-6)
    assert shares[1:] == pytest.approx((0, 0, 0, 0), abs=1e-6)


def test_the_exchange_by_hand() -> None:
    inputs = replace(IDEAL, gradient_MB=1000, gpu_GBps=10, step_s=0.1, hidden_share=0.5)
    # Two GPUs: 2 · 1/2 · 1 GB at 10 GB/s are 100 ms, of which 50 ms are hidden.
    assert step_of(inputs, 2).exchange == pytest.approx(0.050)
    # 1,024: 2 · 1023/1024 · 100 ms - 50 ms
    assert step_of(inputs, 1024).exchange == pytest.approx(0.2 * 1023 / 1024 - 0.05)
    assert step_of(replace(inputs, hidden_share=1, gradient_MB=500), 2).exchange == 0


def test_batch_norms_wait_for_the_latency_of_each_message() -> None:
    inputs = replace(IDEAL, latency_us=10, num_norms=50)
    assert step_of(inputs, 8).exchange == 0  # one node
    # 64 GPUs are 8 nodes: a tree of depth 3, up and down, forward and backward
    assert step_of(inputs, 64).exchange == pytest.approx(50 * 2 * 2 * 3 * 10e-6)


def test_reading_is_as_slow_as_its_slowest_part() -> None:
    inputs = replace(IDEAL, images_per_gpu=10, step_s=0.1)
    by_cores = replace(inputs, decoded_per_core=5, cores_per_gpu=4)  # 10 / 20 s
    assert step_of(by_cores, 8).reading == pytest.approx(0.4)
    by_node = replace(inputs, image_kB=1000, node_read_GBps=0.4, store_GBps=1e9)  # 80 MB at 0.4 GB/s
    assert step_of(by_node, 8).reading == pytest.approx(0.1)
    by_store = replace(inputs, image_kB=1000, node_read_GBps=1e9, store_GBps=20)  # 10,240 MB at 20 GB/s
    assert step_of(by_store, 1024).reading == pytest.approx(0.412)
    assert step_of(by_store, 8).reading == 0


@pytest.mark.parametrize(
    ("mtbf", "minutes"), [(24 * HOUR, 117), (6 * HOUR, 57), (0.25 * HOUR, 9.1)], ids=["24 h", "6 h", "15 min"]
)
def test_the_best_interval_is_that_of_dalys_figures_3_to_5(mtbf: float, minutes: float) -> None:
    assert daly_s(300, mtbf) / 60 == pytest.approx(minutes, rel=0.01)


def test_youngs_interval_by_hand() -> None:
    assert young_s(50, 10_000) == 1000
    assert daly_s(50, 10_000) == pytest.approx(1000 * (1 + 0.05 / 3 + 0.0025 / 9) - 50)
    assert daly_s(300, 100) == 100


@pytest.mark.parametrize("mtbf", [600.0, 6 * HOUR, 24 * HOUR])
def test_no_other_interval_trains_more(mtbf: float) -> None:
    best_s = daly_s(30, mtbf)
    best = trained_share(best_s, 30, 120, mtbf)
    for factor in (0.5, 0.8, 1.25, 2):
        assert trained_share(factor * best_s, 30, 120, mtbf) < best


@pytest.mark.parametrize(
    ("interval_s", "checkpoint_s", "restart_s", "mtbf"),
    [(600, 20, 180, 2 * HOUR), (100, 5, 60, 600), (1800, 30, 300, 24 * HOUR)],
)
def test_the_formula_is_what_a_simulation_of_failures_gives(
    interval_s: float, checkpoint_s: float, restart_s: float, mtbf: float
) -> None:
    rng = np.random.default_rng(0)
    num_intervals, whole_s = 40_000, 0.0
    until_failure_s = rng.exponential(mtbf)
    for _ in range(num_intervals):
        left_s = interval_s + checkpoint_s  # of work that a failure undoes
        while until_failure_s < left_s:
            whole_s += until_failure_s
            until_failure_s = rng.exponential(mtbf)
            left_s = restart_s + interval_s + checkpoint_s  # also a failure during a restart begins it anew
            while until_failure_s < restart_s:
                whole_s += until_failure_s
                until_failure_s = rng.exponential(mtbf)
        whole_s += left_s
        until_failure_s -= left_s
    simulated = num_intervals * interval_s / whole_s
    assert trained_share(interval_s, checkpoint_s, restart_s, mtbf) == pytest.approx(simulated, rel=0.01)


def simulated_shares(inputs: Inputs, num_gpus: int, num_intervals: int) -> float:
    """Training in the whole time, where a checkpoint counts only when it is written while training goes on."""
    rng = np.random.default_rng(1)
    interval_s, mtbf = interval_of(inputs, num_gpus), mtbf_s(inputs, num_gpus)
    now_s = trained_s = saved_s = writing_s = 0.0
    is_safe_at_s = math.inf
    fails_at_s = rng.exponential(mtbf)
    while saved_s < num_intervals * interval_s:
        ends_s = now_s + interval_s + inputs.checkpoint_s
        if fails_at_s < min(ends_s, is_safe_at_s):
            now_s = fails_at_s
            trained_s, is_safe_at_s = saved_s, math.inf
            while (fails_at_s := now_s + rng.exponential(mtbf)) < now_s + inputs.restart_s:
                now_s = fails_at_s
            now_s += inputs.restart_s
        elif is_safe_at_s <= ends_s:
            saved_s, is_safe_at_s = writing_s, math.inf
        else:
            now_s, trained_s = ends_s, trained_s + interval_s
            writing_s, is_safe_at_s = trained_s, now_s + inputs.writing_s
    return saved_s / now_s


@pytest.mark.parametrize("num_gpus", [8, 256, 1024])
def test_the_shares_are_those_of_a_simulation_with_checkpoints_that_are_written_meanwhile(num_gpus: int) -> None:
    inputs = Inputs(node_mtbf_h=200, checkpoint_s=2, writing_s=60, restart_s=240)
    shares, step = shares_of(inputs, num_gpus), step_of(inputs, num_gpus)
    assert sum(shares) == pytest.approx(1)
    trained = shares.useful * step.total / step.compute
    assert trained == pytest.approx(simulated_shares(inputs, num_gpus, 20_000), rel=0.01)


def test_a_checkpoint_is_not_begun_before_the_last_one_is_written() -> None:
    assert interval_of(Inputs(node_mtbf_h=0.1, writing_s=500, checkpoint_s=0.1), 1024) == 500
    assert interval_of(Inputs(interval_s=900), 64) == 900


def test_a_measured_step_takes_the_place_of_the_assumed_one(tmp_path: Path) -> None:
    found = tmp_path / "gpu.json"
    found.write_text(json.dumps({"steps": {"pspnet resnet50": {"step_ms": 320.0, "images_per_s": 50.0}}}))
    inputs = measured(Inputs(bench_gpu=str(found)))
    assert (inputs.step_s, inputs.images_per_gpu) == (0.32, 16)
    found.write_text('{"steps": {"pspnet resnet50": {"error": "out of memory"}}}')
    with pytest.raises(SystemExit, match="has no step of PSPNet-50"):
        measured(Inputs(bench_gpu=str(found)))


def test_more_gpus_train_faster_and_less_well() -> None:
    useful = [shares_of(Inputs(), 2**k).useful for k in range(3, 11)]
    assert useful == sorted(useful, reverse=True)
    table = list(rows(Inputs()))
    assert [row[0] for row in table] == ["8", "16", "32", "64", "128", "256", "512", "1,024"]
    assert {len(row) for row in table} == {len(HEADER)}
    rates = [float(row[1].replace(",", "")) for row in table]
    assert rates == sorted(rates)
