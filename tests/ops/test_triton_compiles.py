"""What the Triton kernels compile to for an H100, on a machine without one."""

import re
import subprocess
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch

from spikesparse.ops.problem import Scan, SpikeGradients, Wanted
from spikesparse.ops.spec import NeuronSpec
from spikesparse.ops.surrogate import SURROGATES, surrogate

triton = pytest.importorskip("triton")


def test_without_a_device_the_kernels_are_not_to_be_had(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET"):
        import_module("spikesparse.ops.triton_kernels").prepare()


NAMES = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int32: "*i32",
    torch.uint8: "*u8",
}


@pytest.fixture
def compiled(monkeypatch):
    """The backend, and a list of what it would have launched on an H100: (kernel's name, PTX, machine code)."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    module, found = import_module("spikesparse.ops.triton_kernels"), []

    def launch(kernel, programs, *arguments):
        signature, constants, attributes = {}, {}, {}
        for i, (parameter, value) in enumerate(zip(kernel.params, arguments, strict=True)):
            if parameter.is_constexpr or value is None:
                signature[parameter.name], constants[parameter.name] = "constexpr", value
                continue
            tensor = isinstance(value, torch.Tensor)
            signature[parameter.name] = NAMES[value.dtype] if tensor else "i32"
            if tensor or (value % 16 == 0 and not parameter.do_not_specialize):
                attributes[i,] = [["tt.divisibility", 16]]
        source = triton.compiler.ASTSource(kernel, signature, constants, attributes)
        target = triton.backends.compiler.GPUTarget("cuda", 90, 32)
        built = triton.compile(source, target=target, options=module.OPTIONS)
        found.append((kernel.__name__, built.asm["ptx"], machine_code(built.asm["cubin"])))

    monkeypatch.setattr(module, "_launch", launch)
    monkeypatch.setattr(module, "_at_once", lambda device: 1056)
    return module, found


def machine_code(cubin):
    """As text; "" if Triton comes without a tool for that."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    if not tool.exists():
        return ""
    Path("kernel.cubin").write_bytes(cubin)  # in the test's own folder
    return subprocess.run([tool, "-sass", "kernel.cubin"], capture_output=True, text=True, check=True).stdout


def meta_scan(timesteps, pool, dtype, name="atan", soft=False, detach=True, constant=False):
    y = torch.empty(1 if constant else timesteps, 64, 32, 32, 64, dtype=dtype, device="meta")
    numbers = (torch.empty(shape, device="meta") for shape in ((64,), (64,), (), ()))
    initial = torch.empty((), device="meta")
    return Scan(y, *numbers, NeuronSpec(surrogate(name), soft, detach), timesteps, pool, initial)


def gradients_of(scan):
    like = scan.y.new_empty
    return SpikeGradients(
        like(scan.out_shape),
        like((64, *scan.windows), dtype=torch.float32),
        like(scan.out_shape[1:4], dtype=torch.float32) if scan.pool else None,
    )


def build(compiled, scan, learned=False):
    """Compile all that a training step of a layer launches."""
    module, found = compiled
    like, gradients = scan.y.new_empty, gradients_of(scan)
    center, coefficients = like(64, dtype=torch.float32), like((3, 64), dtype=torch.float32)
    module.forward(scan, True, True)
    module.backward(scan, gradients, Wanted(False, True, learned), center, None)
    module.backward(scan, gradients, Wanted(), center, coefficients)
    return found


def check_code(found, allowed=0):
    for name, ptx, code in found:
        # Division and logarithms are made of fused operations; those of equations would be in the forward pass, too.
        assert not re.search(r"\bfma\.\w+\.f32", ptx), name
        assert "FFMA" not in code, name
        spills = len(re.findall(r"\b(?:LDL|STL)\b", code))
        assert spills <= allowed, (name, spills)


def test_compiles_for_hopper_without_contraction_or_spills(compiled):
    check_code(build(compiled, meta_scan(8, False, torch.bfloat16)))
    assert [name for name, *_ in compiled[1]] == ["forward_kernel", "backward_kernel", "backward_kernel"]
    assert any("FMUL" in code for *_, code in compiled[1]) or not compiled[1][0][2]


def test_without_batch_norm(compiled):
    """Currents as they come, and BatchNorm with fixed statistics: what is None then must compile too."""
    module, _ = compiled
    scan = meta_scan(4, True, torch.bfloat16)
    module.forward(replace(scan, scale=None, shift=None), True, True)
    module.backward(replace(scan, scale=None, shift=None), gradients_of(scan), Wanted(learned=True), None, None)
    coefficients = scan.y.new_empty((3, 64), dtype=torch.float32)
    module.backward(scan, gradients_of(scan), Wanted(channels=True), None, coefficients)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("timesteps", [1, 4, 8, 16])
def test_no_common_length_spills(compiled, timesteps, pool, dtype):
    # Of a window's four neurons in two chunks, Triton 3.9 keeps a value or two in memory.
    check_code(build(compiled, meta_scan(timesteps, pool, dtype)), allowed=4 if pool and timesteps == 16 else 0)


@pytest.mark.slow
@pytest.mark.parametrize("i", range(len(SURROGATES)))
def test_all_else_compiles(compiled, i):
    """Every surrogate, reset, dtype, and length, though not with each other; learned decay and threshold."""
    timesteps, dtype = [1, 3, 17, 20][i % 4], [torch.float16, torch.bfloat16, torch.float32][i % 3]
    scan = meta_scan(timesteps, i % 2 == 0, dtype, list(SURROGATES)[i], i % 4 < 2, i % 3 == 0, constant=i in (1, 2))
    found = build(compiled, scan, learned=True)
    assert not any("fma.rn.f32" in ptx for kernel, ptx, _ in found if kernel == "forward_kernel")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_moments_and_bits_compile(compiled, dtype):
    module, _ = compiled
    y = meta_scan(2, False, dtype).y
    module.moments(y)
    module.unpack_bits(module.pack_bits(y.flatten(0, -2)), 64, dtype)
