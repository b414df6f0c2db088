"""A vector of `LANES` float32 as a type of Numba's: loads, stores, arithmetic, and the functions that the scan needs.

Numba has scalar types and relies on LLVM to vectorise loops over them, which keeps in memory what such a loop carries
from one iteration to the next. A value that is a vector from the start stays in as many registers as the machine needs.

A place in memory is a contiguous array of float32 and an offset in numbers, whatever the array's shape; bounds are not
checked.
"""

import operator

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic, models, overload, register_model
from numpy import float32

from recbole_glintru.ops.scan.numba_scan import LANES

FOLD = 8  # lanes of a folded vector
CACHE_LINE = 64  # bytes


class Vector(types.Type):
    """`LANES` float32."""

    def __init__(self):
        super().__init__(name="Vector")


VECTOR = Vector()
NUMBERS = ir.VectorType(ir.FloatType(), LANES)
FOLDED = ir.VectorType(ir.FloatType(), FOLD)
CONTRACT = ("contract",)  # only a product and a sum may be fused into one instruction


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, vector):
        super().__init__(manager, vector, NUMBERS)


def _lanes(*indices):
    return ir.Constant(ir.VectorType(ir.IntType(32), len(indices)), list(indices))


def _filled(builder, number):
    """A vector of one repeated number; vectors are returned unchanged."""
    if isinstance(number.type, ir.VectorType):
        return number
    first = builder.insert_element(ir.Constant(NUMBERS, ir.Undefined), number, ir.IntType(32)(0))
    return builder.shuffle_vector(first, ir.Constant(NUMBERS, ir.Undefined), _lanes(*[0] * LANES))


def _address(context, builder, array_type, array, offset, kind):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [offset]), kind.as_pointer())


def _check_memory(*arrays):
    """Reject other arrays while typing: Numba shows the message to whoever compiles such a call."""
    for array in arrays:
        if not (isinstance(array, types.Array) and array.layout == "C" and array.dtype == types.float32):
            raise TypingError(f"expected a contiguous array of float32, not {array}")


def _elementwise(description, generate):
    """A function of two vectors, one of which may be a float32 that is broadcast."""

    @intrinsic
    def function(typing_context, a, b):
        def generate_filled(context, builder, signature, arguments):
            return generate(builder, *(_filled(builder, argument) for argument in arguments))

        known = {a, b} <= {VECTOR, types.float32} and VECTOR in (a, b)
        return (VECTOR(a, b), generate_filled) if known else None

    function.__doc__ = description
    return function


def _define(symbol, instruction):
    function = _elementwise(
        f"`{symbol.__name__}` of vectors.", lambda builder, a, b: getattr(builder, instruction)(a, b, flags=CONTRACT)
    )

    @overload(symbol)
    def of_vectors(a, b):
        return (lambda a, b: function(a, b)) if VECTOR in (a, b) else None


for _symbol, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _define(_symbol, _instruction)

maximum = _elementwise(
    "The larger of a and b, lane by lane; b where either is NaN.",
    lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b),
)


@intrinsic
def filled(typing_context, number):
    """A vector of one repeated number."""
    return VECTOR(types.float32), lambda context, builder, signature, arguments: _filled(builder, *arguments)


@intrinsic
def where_positive(typing_context, x, a, b):
    """a where x is positive, else b."""

    def generate(context, builder, signature, arguments):
        x, a, b = (_filled(builder, argument) for argument in arguments)
        return builder.select(builder.fcmp_ordered(">", x, _filled(builder, ir.FloatType()(0.0))), a, b)

    return VECTOR(x, a, b), generate


@intrinsic
def load(typing_context, array, offset):
    """The vector of the `LANES` numbers from an offset on."""
    _check_memory(array)

    def generate(context, builder, signature, arguments):
        return builder.load(_address(context, builder, array, *arguments, NUMBERS), align=4)

    return VECTOR(array, types.intp), generate


@intrinsic
def fill(typing_context, array, offset):
    """A vector that repeats the number at an offset."""
    _check_memory(array)

    def generate(context, builder, signature, arguments):
        return _filled(builder, builder.load(_address(context, builder, array, *arguments, ir.FloatType())))

    return VECTOR(array, types.intp), generate


@intrinsic
def store(typing_context, array, offset, x):
    """Write a vector to the `LANES` numbers from an offset on."""
    _check_memory(array)

    def generate(context, builder, signature, arguments):
        array_, offset_, x_ = arguments
        builder.store(x_, _address(context, builder, array, array_, offset_, NUMBERS), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, VECTOR), generate


@intrinsic
def prefetch(typing_context, array, offset):
    """Start fetching the `LANES` numbers from an offset on into the L1 cache; they may lie outside the array."""
    _check_memory(array)

    def generate(context, builder, signature, arguments):
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        fetch = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [byte, number, number, number]), "llvm.prefetch.p0i8"
        )
        start = _address(context, builder, array, *arguments, ir.IntType(8))
        for line in range(0, 4 * LANES, CACHE_LINE):
            builder.call(fetch, [builder.gep(start, [number(line)]), number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@intrinsic
def store_folded(typing_context, array, offset, x):
    """Write the sums of those lanes of x that are `FOLD` apart to the `FOLD` numbers from an offset on."""
    _check_memory(array)

    def generate(context, builder, signature, arguments):
        array_, offset_, x_ = arguments
        while x_.type.count > FOLD:
            half = x_.type.count // 2
            low, high = (builder.shuffle_vector(x_, x_, _lanes(*range(k, k + half))) for k in (0, half))
            x_ = builder.fadd(low, high, flags=CONTRACT)
        builder.store(x_, _address(context, builder, array, array_, offset_, FOLDED), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, VECTOR), generate


@intrinsic
def add_sums(typing_context, array, offset, rows, first):
    """Add to `FOLD` numbers, from `array[offset]` on, the sums of `FOLD` rows of `FOLD`, from `rows[first]` on."""
    _check_memory(array, rows)

    def generate(context, builder, signature, arguments):
        array_, offset_, rows_, first_ = arguments
        source = _address(context, builder, rows, rows_, first_, FOLDED)
        vectors = [builder.load(builder.gep(source, [ir.IntType(64)(k)]), align=4) for k in range(FOLD)]
        even, odd = (_lanes(*(k + i for k in (0, FOLD) for i in range(start, FOLD, 2))) for start in (0, 1))
        while len(vectors) > 1:  # two vectors become one, of sums of neighbouring lanes
            pairs = zip(vectors[::2], vectors[1::2])
            vectors = [builder.fadd(*(builder.shuffle_vector(*pair, lanes) for lanes in (even, odd))) for pair in pairs]
        target = _address(context, builder, array, array_, offset_, FOLDED)
        builder.store(builder.fadd(builder.load(target, align=4), vectors[0]), target, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, rows, types.intp), generate


MANTISSA_BITS, BIAS = 23, 127  # of a float32, and of its exponent
ROUNDING = float32(1.5 * 2**MANTISSA_BITS + BIAS)  # the last bits of x + ROUNDING are x's nearest integer plus BIAS


@intrinsic
def _power_of_two(typing_context, rounded):
    """2^k from k + ROUNDING, for an integer k from -126 to 127; infinity for 128."""

    def generate(context, builder, signature, arguments):
        integers = ir.VectorType(ir.IntType(32), LANES)
        exponents = builder.bitcast(arguments[0], integers)
        return builder.bitcast(builder.shl(exponents, ir.Constant(integers, [MANTISSA_BITS] * LANES)), NUMBERS)

    return VECTOR(VECTOR), generate


def _interpolated(function, low, high, count):
    """The float32 coefficients, the constant first, of the polynomial that equals `function` at the Chebyshev nodes."""
    nodes = np.cos((np.arange(count) + 0.5) * np.pi / count)
    nodes = (low + high) / 2 + (high - low) / 2 * nodes
    series = np.polynomial.Chebyshev.fit(nodes, function(nodes), count - 1, domain=(low, high))
    return tuple(series.convert(kind=np.polynomial.Polynomial).coef.astype(np.float32))


def _polynomial(coefficients):
    """The polynomial with these coefficients, the constant first, as a function of a vector."""

    @intrinsic
    def value(typing_context, x):
        def generate(context, builder, signature, arguments):
            *others, total = (ir.Constant(NUMBERS, [float(number)] * LANES) for number in coefficients)
            for number in reversed(others):
                product = builder.fmul(total, arguments[0], flags=CONTRACT)
                total = builder.fadd(product, number, flags=CONTRACT)
            return total

        return VECTOR(VECTOR), generate

    return value


ONE, ZERO = float32(1), float32(0)
LOG_2, LOG2_E = np.log(2), float32(1 / np.log(2))
# (2^x - 1) / x, to 1e-8 of 2^x. As 1 is added exactly, a state does not change where the step is zero.
_power = _polynomial(_interpolated(lambda x: np.expm1(LOG_2 * x) / x, -0.5, 0.5, 6))
_log1p_ratio = _polynomial(_interpolated(lambda x: np.log1p(x) / x, 0, 1, 10))  # relative error 1.5e-8
SMALLEST = float32(-126)  # 2^-126 is the smallest normal number
LOG_SMALLEST = float32(-87.3)
LOG_2_HIGH = float32(round(LOG_2 * 2**12) / 2**12)  # its product with an integer of up to 12 bits is exact
LOG_2_LOW = float32(LOG_2 - round(LOG_2 * 2**12) / 2**12)


@njit
def exp2(x):
    """2^x with a relative error of 1e-7, for x up to 128; 2^-126 for all x below -126, NaN for NaN."""
    x = maximum(SMALLEST, x)
    rounded = x + ROUNDING
    rest = x - (rounded - ROUNDING)
    return (ONE + rest * _power(rest)) * _power_of_two(rounded)


@njit
def exp(x):
    """e^x with a relative error of 1.3e-7, for x up to 88; e^-87.3 for all x below -87.3, NaN for NaN."""
    x = maximum(LOG_SMALLEST, x)
    rounded = x * LOG2_E + ROUNDING
    whole = rounded - ROUNDING
    rest = LOG2_E * ((x - whole * LOG_2_HIGH) - whole * LOG_2_LOW)
    return (ONE + rest * _power(rest)) * _power_of_two(rounded)


@njit
def softplus_and_slope(x):
    """log(1 + e^x), and its derivative 1 / (1 + e^-x)."""
    small = exp(ZERO - maximum(x, ZERO - x))  # at most 1
    softplus = maximum(x, ZERO) + small * _log1p_ratio(small)
    return softplus, where_positive(x, ONE, small) / (ONE + small)
