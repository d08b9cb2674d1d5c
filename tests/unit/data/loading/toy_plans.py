"""Numbers of samples, ranks and windows to try a plan with."""

from hypothesis import strategies as st

shard_lengths = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(lambda lengths: sum(lengths) > 0)


batch_sizes = st.integers(1, 70)  # larger than many a sum of shard_lengths


windows = st.sampled_from([1, 2, 7, 64, 10_000])


worlds = st.integers(1, 64)


def all_samples(lengths: list[int]) -> set[tuple[int, int]]:
    return {(shard, index) for shard, length in enumerate(lengths) for index in range(length)}
