from hypothesis import given
from hypothesis import strategies as st

from recbole_glintru.ops.layouts.pieces import blocks, pieces


def test_blocks():
    assert blocks([4, 2, 2, 1]) == [slice(0, 4), slice(4, 6), slice(6, 8), slice(8, 9)]


@given(st.lists(st.integers(1, 9), min_size=1).map(lambda counts: sorted(counts, reverse=True)), st.integers(0, 30))
def test_pieces(counts, most):
    """All steps, once each, in their order; none too large but single steps; none that the next fitted into."""
    parts = pieces(counts, most)
    assert [step for _, steps in parts for step in steps] == list(range(len(counts)))
    sizes = [sum(counts[step] for step in steps) for _, steps in parts]
    assert [rows.stop - rows.start for rows, _ in parts] == sizes and parts[-1][0].stop == sum(counts)
    for (_, steps), size in zip(parts, sizes):
        assert size <= most or len(steps) == 1
    for (_, after), size in zip(parts[1:], sizes):
        assert size + counts[after[0]] > most
