"""The vectors of the compiled scan, on arrays: exponentials to the last digit, sums, and what they refuse."""

import numpy as np
import pytest

numba = pytest.importorskip("numba", reason="Numba is not installed")

from recbole_glintru.ops.scan.numba_scan import LANES  # noqa: E402
from recbole_glintru.ops.scan.numba_vectors import (  # noqa: E402
    FOLD,
    add_sums,
    exp,
    exp2,
    load,
    prefetch,
    softplus_and_slope,
    store,
    store_folded,
)


def of_arrays(function):
    """A function of vectors as one of arrays."""

    @numba.njit
    def fill(x, y):
        for i in range(0, len(x), LANES):
            store(y, i, function(load(x, i)))

    def of_array(x):
        x = np.asarray(x, np.float32)
        padded = np.pad(x, (0, -len(x) % LANES))
        y = np.empty_like(padded)
        fill(padded, y)
        return y[: len(x)].astype(np.float64)

    return of_array


def error(actual, expected):
    return np.abs(actual / expected - 1).max()


@pytest.mark.parametrize(
    "function, exact, low, high, tolerance",
    [(exp2, np.exp2, -126, 127, 1e-7), (exp, np.exp, -87, 88, 1.3e-7)],  # half of the last digit is 6e-8
    ids=["exp2", "exp"],
)
def test_exponentials(function, exact, low, high, tolerance):
    function = of_arrays(function)
    x = np.linspace(low, high, 300_001).astype(np.float32)
    assert error(function(x), exact(x.astype(np.float64))) < tolerance
    of_zero, of_small, of_smallest = function([0, -1000, -np.inf])
    assert of_zero == 1 and 0 < of_small == of_smallest < 2.0**-125.9
    every_nan = np.array([0x7FC00000, 0xFFC00000, 0x7FFFFFFF, 0x7FC00001, 0x7FC00081], np.uint32).view(np.float32)
    assert np.isnan(function(every_nan)).all()  # PyTorch's on a CPU, an invalid operation's, CUDA's, and any other


def test_softplus_and_its_slope():
    softplus = of_arrays(numba.njit(lambda x: softplus_and_slope(x)[0]))
    slope = of_arrays(numba.njit(lambda x: softplus_and_slope(x)[1]))
    x = np.linspace(-87, 88, 300_001).astype(np.float32)
    exact = x.astype(np.float64)
    assert error(softplus(x), np.logaddexp(0, exact)) < 2e-7
    assert error(slope(x), 1 / (1 + np.exp(-exact))) < 2e-7
    assert softplus([np.inf, 1000]).tolist() == [np.inf, 1000] and slope([np.inf, 1000]).tolist() == [1, 1]
    assert 0 < softplus([-np.inf]) < 1e-37 and 0 < slope([-np.inf]) < 1e-37
    assert np.isnan(softplus([np.nan])) and np.isnan(slope([np.nan]))


def test_sums_of_rows():
    @numba.njit
    def work(x, folded, sums):
        for k in range(FOLD):
            store_folded(folded, 3 + k * FOLD, load(x, k * LANES))
        add_sums(sums, 2, folded, 3)

    x = np.random.default_rng(0).standard_normal((FOLD, LANES)).astype(np.float32)
    folded, sums = np.zeros(FOLD * FOLD + 3, np.float32), np.ones(FOLD + 4, np.float32)
    work(x, folded, sums)
    np.testing.assert_allclose(sums, [1, 1, *(1 + x.sum(axis=1)), 1, 1], rtol=1e-5)


def test_what_is_fetched_may_lie_outside():
    numba.njit(lambda x: [prefetch(x, at) for at in (0, 10**12, -(10**12))])(np.zeros(LANES, np.float32))


@pytest.mark.parametrize("array", [np.zeros(64), np.zeros((64, 2), np.float32)[:, 0]], ids=["float64", "strided"])
def test_other_memory_is_refused(array):
    with pytest.raises(numba.TypingError, match="a contiguous array of float32"):
        numba.njit(lambda x: store(x, 0, load(x, 0)))(array)
