import hashlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distseg.config import Sampling
from distseg.data.loading.plan import (
    SampleRef,
    TrainPlan,
    _floor_sum,
    _Shares,
    lanes_of,
    number_in_shard,
)
from distseg.data.loading.sampling import Stream, streams_of
from tests.unit.data.loading.toy_plans import windows

# ---- conditions, classes, mixtures


class ToyShard(NamedTuple):
    condition: str
    shows: tuple[tuple[bool, ...], ...]  # of each sample, of each of 3 classes

    @property
    def num_samples(self) -> int:
        return len(self.shows)

    @property
    def class_samples(self) -> tuple[int, ...]:
        return tuple(map(sum, zip(*self.shows, strict=True)))


samples = st.tuples(st.just(True), st.booleans(), st.booleans())  # as the road, class 0 is everywhere


shards = st.builds(ToyShard, st.sampled_from("abc"), st.lists(samples, min_size=1, max_size=9).map(tuple))


datasets = st.lists(st.lists(shards, min_size=1, max_size=6), min_size=1, max_size=3)


samplings = st.sampled_from(["each", "condition", "class"])


shares = st.lists(st.floats(0.01, 100), min_size=1, max_size=7)


def mixed(of: Sequence[Sequence[ToyShard]], sampling: Sampling, batch_size: int, window: int = 7) -> TrainPlan:
    return TrainPlan(streams_of(of, sampling), batch_size=batch_size, seed=4, shuffle_window=window)


class Group(NamedTuple):
    """What tells a stream."""

    dataset: int
    condition: str | None
    target_class: int | None


def group_of(ref: SampleRef, of: Sequence[Sequence[ToyShard]], sampling: Sampling) -> Group:
    condition = of[ref.dataset][ref.shard].condition if sampling == "condition" else None
    return Group(ref.dataset, condition, ref.target_class)


def test_sampling_each_is_what_it_was_before_there_was_another() -> None:
    """Runs of before go on with exactly the next batch."""
    seen = hashlib.sha256()
    cases = [([5, 0, 17, 40, 1], 7, 3, 4), ([100] * 9, 16, 2**40, 256), ([3], 5, 0, 1)]
    for lengths, batch_size, seed, window in cases:
        plan = TrainPlan([Stream(lengths)], batch_size=batch_size, seed=seed, shuffle_window=window)
        for b in (*range(40), 10**6):
            refs = [(ref.shard, ref.index, ref.epoch, ref.position) for ref in plan.batch(b)]
            seen.update(repr(refs).encode())
    assert seen.hexdigest() == "b03a03aba5ab46b21b2d7edc27838f9e4302a1cbbf0c696160cead3cc3994a3c"


@given(datasets, samplings, st.integers(1, 4), st.integers(1, 16), windows, st.integers(0, 10**6))
def test_any_sampling_is_the_same_for_any_world_and_at_any_time(
    of: list[list[ToyShard]], sampling: Sampling, samples_per_rank: int, world: int, window: int, b: int
) -> None:
    batch_size = samples_per_rank * world
    whole = mixed(of, sampling, batch_size, window)
    before = whole.batch(b)
    whole.batch(b // 3)
    ranks = [mixed(of, sampling, batch_size, window).batch(b, lanes_of(r, world, batch_size)) for r in range(world)]
    assert list(itertools.chain(*ranks)) == before == whole.batch(b)


@given(datasets, samplings, st.integers(1, 20), windows, st.integers(1, 60))
def test_every_stream_has_each_of_its_samples_once_per_epoch(
    of: list[list[ToyShard]], sampling: Sampling, batch_size: int, window: int, num_batches: int
) -> None:
    plan = mixed(of, sampling, batch_size, window)
    drawn: dict[tuple[Group, int], list[tuple[int, int]]] = defaultdict(list)
    reached: dict[Group, list[int]] = defaultdict(lambda: [-1] * batch_size)
    for b, lane in itertools.product(range(num_batches), range(batch_size)):
        ref = plan.at(b * batch_size + lane)
        group = group_of(ref, of, sampling)
        drawn[group, ref.epoch].append((ref.shard, ref.index))
        assert reached[group][lane] <= ref.epoch
        reached[group][lane] = ref.epoch
    for (group, epoch), chosen in drawn.items():
        assert len(set(chosen)) == len(chosen)
        if epoch < min(reached[group]):
            assert set(chosen) == {
                (s, i)
                for s, shard in enumerate(of[group.dataset])
                if group.condition in (None, shard.condition)
                for i in range(
                    shard.num_samples if group.target_class is None else shard.class_samples[group.target_class]
                )
            }


@given(st.lists(shards, min_size=1, max_size=6), st.integers(1, 20), st.integers(0, 300))
def test_what_is_drawn_for_a_class_shows_it(of: list[ToyShard], batch_size: int, b: int) -> None:
    for ref in mixed([of], "class", batch_size).batch(b):
        assert ref.target_class is not None
        shard = of[ref.shard]
        number = number_in_shard(ref, np.array(shard.shows) * 100)
        assert shard.shows[number][ref.target_class]
        assert sum(shows[ref.target_class] for shows in shard.shows[:number]) == ref.index


@given(shares, st.integers(1, 300), st.integers(0, 2**40), st.integers(0, 10**9))
def test_every_batch_has_the_shares_to_within_one(shares: list[float], batch_size: int, seed: int, turn: int) -> None:
    dealt = _Shares(shares, batch_size, seed)
    counts = Counter(dealt.at(lane, turn)[0] for lane in range(batch_size))
    for stream, share in enumerate(shares):
        assert abs(counts[stream] - batch_size * share / sum(shares)) < 1 + 1e-6


@given(shares, st.integers(1, 300), st.integers(0, 2**40), st.integers(0, 299))
def test_every_lane_has_the_shares_and_counts_its_turns(
    shares: list[float], batch_size: int, seed: int, lane: int
) -> None:
    dealt = _Shares(shares, batch_size, seed)
    counts: Counter[int] = Counter()
    for turn in range(400):
        stream, own_turn = dealt.at(lane % batch_size, turn)
        assert own_turn == counts[stream]
        counts[stream] += 1
        # The discrepancy of the golden rotation is below 0.6 + 0.7 ln n: 5 after 400 turns.
        assert all(abs(counts[s] - (turn + 1) * share / sum(shares)) < 5 for s, share in enumerate(shares))


@given(st.integers(0, 50), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 1000))
def test_a_sum_of_floors(n: int, a: int, b: int, m: int) -> None:
    assert _floor_sum(n, a, b, m) == sum((a * i + b) // m for i in range(n))


def town(num_day: int, num_night: int, one_pole_in: int) -> list[ToyShard]:
    """Shards of 50; a pole (class 1) in one sample of so many, a tram (class 2) in none."""
    shows = tuple((True, i % one_pole_in == 0, False) for i in range(50))
    return [ToyShard("day", shows)] * num_day + [ToyShard("night", shows)] * num_night


@pytest.mark.parametrize("seed", [0, 1])
def test_conditions_and_classes_are_balanced(seed: int) -> None:
    """1,000 samples, 950 by day; a pole in 40. In 500 batches of 16, 4,000 slots for each: σ of random draws is 45."""
    of = town(19, 1, 25)
    num_in_rare: dict[Sampling, int] = {"condition": 50, "class": 40}
    for sampling, num in num_in_rare.items():
        plan = TrainPlan(streams_of([of], sampling), batch_size=16, seed=seed, shuffle_window=64)
        refs = [ref for b in range(500) for ref in plan.batch(b)]
        rare = Counter(
            (r.shard, r.index) for r in refs if (r.shard == 19 if sampling == "condition" else r.target_class == 1)
        )
        assert abs(rare.total() - 4000) <= 16
        assert len(rare) == num  # and each of them as often as any other
        assert all(4000 // num - 2 <= count <= 4000 // num + 2 for count in rare.values())
        assert all(ref.target_class != 2 for ref in refs)  # nobody sees a tram


def test_a_mixture_has_its_weights() -> None:
    of = [town(19, 1, 25), town(1, 1, 2)]
    by_size = Counter(ref.dataset for b in range(100) for ref in mixed(of, "each", 11).batch(b))
    assert by_size[1] == pytest.approx(1100 * 100 / 1100, abs=5)
    plan = TrainPlan(streams_of(of, "condition", (3, 1)), batch_size=8, seed=0, shuffle_window=64)
    for b in range(100):
        counts = Counter((ref.dataset, of[ref.dataset][ref.shard].condition) for ref in plan.batch(b))
        assert counts == {(0, "day"): 3, (0, "night"): 3, (1, "day"): 1, (1, "night"): 1}


def test_ranks_too_have_their_share_of_each_stream() -> None:
    plan = TrainPlan(streams_of([town(4, 4, 2)], "condition"), batch_size=256, seed=0, shuffle_window=64)
    for b, rank in itertools.product(range(50), range(16)):
        nights = sum(ref.shard >= 4 for ref in plan.batch(b, lanes_of(rank, 16, 256)))
        assert 5 <= nights <= 11
