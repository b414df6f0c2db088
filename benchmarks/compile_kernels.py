"""Compiles every Triton kernel of the package for a GPU, which need not be present, and shows what each uses of it.

    python benchmarks/compile_kernels.py                    # Hopper
    python benchmarks/compile_kernels.py --capability 80    # Ampere

Needs Triton, but no GPU. Registers are those of one thread; the stack is registers that spill to memory; copies are
instructions that load what a loop needs next, while it computes. A question mark means that this Triton comes without
the tool that reports it.
"""

import argparse
import functools
import multiprocessing
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Union

import triton
from measure.options import cores, obey_interrupts, positive
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
SHARED_MEMORY = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448}  # bytes that one program may use


def compile_kernel(kernel, types: dict, constants: dict, capability: int = 90, **options):
    """Compile one kernel: the types of its arguments by name ("*fp32", "i32"), its constants, num_warps."""
    names = kernel.arg_names
    signature = {name: types.get(name, "constexpr") for name in names}
    places = {(names.index(name),): value for name, value in constants.items()}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name].startswith("*")}
    source = ASTSource(fn=kernel, signature=signature, constexprs=places, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def resources(compiled) -> dict[str, Union[int, str]]:
    """Registers of a thread, spilled bytes, bytes of shared memory, kinds of matrix instructions, pipelined copies."""
    names = ("wgmma.mma_async", "mma.sync", "cp.async.c")  # .ca or .cg; others wait for copies
    wide, narrow, copies = (compiled.asm["ptx"].count(name) for name in names)
    registers, stack = _registers_and_stack(compiled.asm["cubin"])
    shared = compiled.metadata.shared
    used = {"registers": registers, "stack": stack, "shared": shared}
    return {**used, "wgmma": wide, "mma": narrow, "copies": copies}


def _registers_and_stack(cubin):
    tool = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", "cuobjdump")
    if not os.path.isfile(tool):
        return "?", "?"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True).stdout
    return tuple(map(int, re.search(r"REG:(\d+) STACK:(\d+)", said).groups()))


def gru_cases(capability: int):
    """(name, kernel, types, constants, options) of the GRU at every width, type and layout, as on such a GPU."""
    import torch

    from recbole_glintru.ops.gru import triton_gru

    for d in (32, 48, 64, 128, 160, 256):
        for name, short in TYPES.items():
            for padded in (True, False):
                dtype = getattr(torch, name)
                like, memory = torch.empty(0, dtype=dtype, device="meta"), SHARED_MEMORY.get(capability)
                constants = triton_gru.constants(d, like, padded, memory=memory)
                integers = {"lengths": "*i64", "rows": "*i64", "steps": "*i64", "batch": "i32", "width": "i32"}
                tensors = {"gates": f"*{short}", "weight": f"*{short}", "states": f"*{short}"}
                for kernel in (triton_gru.gru_forward, triton_gru.gru_backward):
                    backward = {"grad_states": f"*{short}"} if kernel is triton_gru.gru_backward else {}
                    case = f"{kernel.__name__} d={d} {name} {'padded' if padded else 'packed'}"
                    types = {**tensors, **integers, **backward}
                    yield case, kernel, types, constants, {"num_warps": triton_gru.WARPS[constants["P"]]}


def conv_cases():
    """(name, kernel, types, constants, options) of the convolution at every width and type, taps turned around too."""
    import torch

    from recbole_glintru.ops.convolution import triton_convolution

    for d in (32, 48, 64, 128, 160, 256):
        for k in (3, 11) if d == 128 else (3,):
            for name, short in TYPES.items():
                integers = {"steps": "*i64", "ranks": "*i64", "lengths": "*i64", "count": "i32", "share": "i32"}
                tensors = {**dict.fromkeys(("x", "taps", "y", "grad_y"), f"*{short}"), "biases": "*fp32"}
                whole = triton_convolution.summing_constants(d, d, k)
                options = triton_convolution.summing_options(whole)
                cases = [("tap_gradients", triton_convolution.tap_gradients, whole, options)]
                for turned in (False, True):
                    constants = triton_convolution.constants(d, d, k, getattr(torch, name), turned, bias=not turned)
                    case = "convolve, turned," if turned else "convolve"
                    options = {"num_warps": triton_convolution.warps(constants["COLUMNS"])}
                    cases.append((case, triton_convolution.convolve, constants, options))
                for case, kernel, constants, options in cases:
                    types = {**tensors, "partial": "*fp32", **integers}
                    types = {argument: kind for argument, kind in types.items() if argument in kernel.arg_names}
                    yield f"{case} d={d} k={k} {name}", kernel, types, constants, options


def scan_cases():
    """(name, kernel, types, constants, options) of the selective scan in every type, whole and at one position."""
    from recbole_glintru.ops.scan import triton_scan

    for channels, states in ((128, 16), (256, 32)):
        for name, short in TYPES.items():
            for last_only in (False, True):
                constants = triton_scan.constants(channels, states, True, True, True, True, last_only)
                for kernel in (triton_scan.scan_forward, triton_scan.scan_backward):
                    single = ("A", "skip", "bias", "kept", "later", "grad_A", "grad_B", "grad_C", "grad_skip")
                    types = {argument: "i32" for argument in kernel.arg_names if argument not in constants}
                    types.update({argument: "*fp32" for argument in types if argument in single})
                    typed = ("u", "delta", "B", "C", "z", "out", "grad_u", "grad_delta", "grad_z")
                    types.update({argument: f"*{short}" for argument in types if argument in typed})
                    types["lengths"] = "*i64"
                    case = f"{kernel.__name__} D={channels} N={states} {name} {'last' if last_only else 'all'}"
                    yield case, kernel, types, constants, {"num_warps": triton_scan.WARPS}


@functools.cache
def all_cases(capability: int) -> dict[str, tuple]:
    """Name -> (kernel, types, constants, options)."""
    return {name: case for name, *case in (*gru_cases(capability), *conv_cases(), *scan_cases())}


def compile_case(name: str, capability: int) -> Union[dict, str]:
    """The resources of a case, or the compiler's error."""
    kernel, types, constants, options = all_cases(capability)[name]
    try:
        return resources(compile_kernel(kernel, types, constants, capability, **options))
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[-400:]}"


def compile_all(names: Sequence[str], capability: int, jobs: int) -> Iterator[tuple[str, Union[dict, str]]]:
    """Each case and its outcome, in order; in several processes if several jobs may run at once."""
    compile_one = functools.partial(compile_case, capability=capability)
    if min(jobs, len(names)) <= 1:
        yield from zip(names, map(compile_one, names))
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(names)), mp_context=context) as pool:
        yield from zip(names, pool.map(compile_one, names))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--capability", type=int, default=90, help="90 is Hopper, 80 Ampere")
    parser.add_argument("--device-capability", action="store_true", help="that of the present GPU")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--jobs", type=positive(int), default=cores(), help="at once (default: the cores)")
    arguments = parser.parse_args()
    obey_interrupts()
    if arguments.device_capability:
        import torch

        arguments.capability = 10 * torch.cuda.get_device_capability()[0] + torch.cuda.get_device_capability()[1]
    limit = SHARED_MEMORY.get(arguments.capability)
    failed = []
    print("| kernel | registers | stack | shared memory | wgmma | mma | copies |\n|---|---|---|---|---|---|---|")
    names = [name for name in all_cases(arguments.capability) if arguments.only in name]
    for name, found in compile_all(names, arguments.capability, arguments.jobs):
        if isinstance(found, str):
            failed.append(name)
            print(f"| {name} | {found} |", flush=True)
            continue
        too_large = limit is not None and found["shared"] > limit
        failed += [name] * too_large
        print(f"| {name} | {' | '.join(map(str, found.values()))} |{' too large' * too_large}", flush=True)
    if failed:
        raise SystemExit(f"{len(failed)} of the kernels cannot be run: {', '.join(failed)}")


if __name__ == "__main__":
    main()
