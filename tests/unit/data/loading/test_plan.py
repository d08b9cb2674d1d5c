import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distseg.data.loading.plan import (
    SampleRef,
    TrainPlan,
    eval_share,
    evenly_spread,
    lanes_of,
    number_in_shard,
    numbered,
)
from distseg.data.loading.sampling import Stream
from tests.unit.data.loading.toy_plans import all_samples, batch_sizes, shard_lengths, windows, worlds


@given(shard_lengths, batch_sizes, windows, st.integers(0, 2**40), st.integers(0, 50))
def test_each_epoch_has_every_sample_once(
    lengths: list[int], batch_size: int, window: int, seed: int, first_epoch: int
) -> None:
    plan = TrainPlan([Stream(lengths)], batch_size=batch_size, seed=seed, shuffle_window=window)
    n = sum(lengths)
    for epoch in range(first_epoch, first_epoch + 3):
        refs = [plan.at(position) for position in range(epoch * n, (epoch + 1) * n)]
        assert {(ref.shard, ref.index) for ref in refs} == all_samples(lengths)
        assert all(ref.epoch == epoch for ref in refs)


@given(shard_lengths, batch_sizes, windows, st.integers(0, 30))
def test_batches_are_cut_from_the_stream_without_gap(lengths: list[int], batch_size: int, window: int, b: int) -> None:
    plan = TrainPlan([Stream(lengths)], batch_size=batch_size, seed=1, shuffle_window=window)
    positions = [ref.position for ref in plan.batch(b) + plan.batch(b + 1)]
    assert positions == list(range(b * batch_size, (b + 2) * batch_size))


@given(shard_lengths, st.integers(1, 8), worlds, windows, st.integers(0, 30))
def test_any_number_of_ranks_gives_the_same_batches(
    lengths: list[int], samples_per_rank: int, world: int, window: int, b: int
) -> None:
    batch_size = samples_per_rank * world
    alone = TrainPlan([Stream(lengths)], batch_size=batch_size, seed=3, shuffle_window=window).batch(b)
    together: list[SampleRef] = []
    for rank in range(world):
        plan = TrainPlan(
            [Stream(lengths)], batch_size=batch_size, seed=3, shuffle_window=window
        )  # nothing shared, no history
        share = plan.batch(b, lanes_of(rank, world, batch_size))
        assert len(share) == samples_per_rank
        together += share
    assert together == alone


@given(shard_lengths, batch_sizes, windows, st.integers(0, 40), st.integers(1, 10))
def test_resuming_at_any_batch_continues_the_same_stream(
    lengths: list[int], batch_size: int, window: int, stop: int, more: int
) -> None:
    undisturbed = TrainPlan([Stream(lengths)], batch_size=batch_size, seed=5, shuffle_window=window)
    batches = [undisturbed.batch(b) for b in range(stop + more)]
    resumed = TrainPlan([Stream(lengths)], batch_size=batch_size, seed=5, shuffle_window=window)
    assert [resumed.batch(b) for b in range(stop, stop + more)] == batches[stop:]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 16), windows)
def test_a_lane_reads_one_contiguous_run_of_shards(lengths: list[int], batch_size: int, window: int) -> None:
    """So a shard that lies within a run is read by one lane, and a lane starts at most one more than it shares."""
    plan = TrainPlan([Stream(lengths)], batch_size=batch_size, seed=2, shuffle_window=window)
    refs = [plan.at(position) for position in range(sum(lengths))]
    lanes_by_shard: dict[int, set[int]] = {}
    for ref in refs:
        lanes_by_shard.setdefault(ref.shard, set()).add(ref.position % batch_size)
    shared = sum(len(lanes) - 1 for lanes in lanes_by_shard.values())
    assert shared <= batch_size - 1  # each border between two lanes splits one shard at most
    for lanes in lanes_by_shard.values():
        assert max(lanes) - min(lanes) == len(lanes) - 1


def test_the_order_by_hand() -> None:
    """Window 1 shuffles nothing within a lane: 2 shards of 3 and 5, batch 3. Runs: 3, 3, 2 of the 8 samples."""
    plan = TrainPlan([Stream([3, 5])], batch_size=3, seed=0, shuffle_window=1)
    first = plan.at(0).shard
    sequence = [(first, i) for i in range([3, 5][first])] + [(1 - first, i) for i in range([3, 5][1 - first])]
    lanes = [sequence[:3], sequence[3:6], sequence[6:]]
    stream = [(ref.shard, ref.index) for ref in (plan.at(p) for p in range(8))]
    assert stream == [
        lanes[0][0],
        lanes[1][0],
        lanes[2][0],
        lanes[0][1],
        lanes[1][1],
        lanes[2][1],
        lanes[0][2],
        lanes[1][2],
    ]


def test_a_batch_is_spread_over_the_shards() -> None:
    plan = TrainPlan([Stream([64] * 16)], batch_size=16, seed=0, shuffle_window=256)
    for b in range(64):
        assert len({ref.shard for ref in plan.batch(b)}) == 16


def test_order_changes_with_epoch_and_seed() -> None:
    def orders(seed: int) -> list[list[tuple[int, int]]]:
        plan = TrainPlan([Stream([50] * 4)], batch_size=10, seed=seed, shuffle_window=64)
        return [[(r.shard, r.index) for b in range(20 * e, 20 * e + 20) for r in plan.batch(b)] for e in range(3)]

    seen = [tuple(order) for seed in range(3) for order in orders(seed)]
    assert len(set(seen)) == len(seen)


def test_within_a_window_every_order_is_as_likely() -> None:
    """One lane, one shard of 3: six orders over 1,200 epochs, each expected 200 times (σ = 13)."""
    plan = TrainPlan([Stream([3])], batch_size=1, seed=0, shuffle_window=3)
    counts = Counter(tuple(plan.at(3 * epoch + i).index for i in range(3)) for epoch in range(1200))
    assert len(counts) == 6
    assert all(140 < count < 260 for count in counts.values())


def test_a_hundred_thousand_shards_are_no_burden() -> None:
    lengths = [1000 + i % 3 for i in range(100_000)]
    plan = TrainPlan([Stream(lengths)], batch_size=256, seed=0, shuffle_window=256)
    far = plan.batch(10**9)
    assert len({(ref.shard, ref.index) for ref in far}) == 256
    assert all(ref.index < lengths[ref.shard] for ref in far)


@settings(max_examples=200)
@given(shard_lengths, worlds)
def test_evaluation_counts_every_sample_once(lengths: list[int], world: int) -> None:
    shares = [list(eval_share(lengths, rank, world)) for rank in range(world)]
    together = list(itertools.chain(*shares))
    assert [(ref.shard, ref.index) for ref in together] == sorted(all_samples(lengths))  # contiguous, nothing padded
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(st.integers(1, 200), st.integers(0, 5000))
def test_numbers_are_evenly_spread(num: int, among: int) -> None:
    numbers = evenly_spread(num, among)
    assert len(numbers) == len(set(numbers)) == min(num, among)
    if numbers:
        assert numbers[0] >= 0 and numbers[-1] < among
        ends = [-numbers[0] - 1, *numbers, 2 * among - numbers[-1] - 1]  # the same distance over both ends
        gaps = [after - before for before, after in itertools.pairwise(ends)]
        assert max(gaps) - min(gaps) <= 2


@given(shard_lengths, st.integers(1, 20))
def test_numbered_samples_are_those_of_all_shards_in_order(lengths: list[int], num: int) -> None:
    numbers = evenly_spread(num, sum(lengths))
    found = [(ref.shard, ref.index) for ref in numbered(lengths, numbers)]
    assert found == [sorted(all_samples(lengths))[number] for number in numbers]


def test_lanes_are_contiguous_blocks() -> None:
    assert [list(lanes_of(rank, 3, 6)) for rank in range(3)] == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lanes_of(0, 4, 6), "a batch of 6 cannot be shared by 4 ranks"),
        (lambda: lanes_of(4, 4, 8), "rank 4 is not one of 4"),
        (lambda: next(eval_share([3], 2, 2)), "rank 2 is not one of 2"),
        (lambda: TrainPlan([Stream([])], batch_size=1, seed=0, shuffle_window=1), "at least one sample"),
        (lambda: TrainPlan([Stream([0])], batch_size=1, seed=0, shuffle_window=1), "at least one sample"),
        (lambda: TrainPlan([], batch_size=1, seed=0, shuffle_window=1), "positive shares, not \\[\\]"),
        (lambda: TrainPlan([Stream([3], share=0)], batch_size=1, seed=0, shuffle_window=1), "positive shares"),
        (lambda: number_in_shard(SampleRef(0, 2, 0, 0, target_class=0), np.array([[1], [0], [5]])), "out of bounds"),
        (lambda: TrainPlan([Stream([3, -1])], batch_size=1, seed=0, shuffle_window=1), "negative"),
        (lambda: TrainPlan([Stream([3])], batch_size=0, seed=0, shuffle_window=1), "at least 1"),
        (lambda: TrainPlan([Stream([3])], batch_size=1, seed=0, shuffle_window=0), "at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises((ValueError, IndexError), match=message):
        call()
