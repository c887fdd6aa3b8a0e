"""Whether a processor computes convolutions in half precision correctly, and how fast.

With PyTorch 2.13 (oneDNN 3.12) on CPUs with AMX the weight gradients of convolutions in bf16 are
NaN or many times too large from 24 channels on. Other processors have no instructions for a half
precision and emulate it, which takes many times as long. PyTorch warns of neither. So one small
convolution of each kind that the networks hold is computed in both precisions and compared.
"""

import contextlib
import functools
import math
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ldcast.errors import InputError
from ldcast.machine.device import amp_dtype, autocast
from ldcast.machine.processes import Processes
from ldcast.machine.threads import one_thread

NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16"}
CONVOLUTIONS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
WIDTHS = (24, 48, 64)  # channels: garbage begins at 24 and is worst at 48 and 64
BATCH = 2  # a single float32 example takes another code path in PyTorch
FIELD, SMALL_FIELD = (4, 16, 32), (4, 4, 8)  # the small one where half precision is slow
# Of a tensor's norm. Rounding to bf16 gives 3e-3, 7e-3 where sums are rounded too; fp16 1e-3.
TOLERANCE = 0.05
EMULATED = 1.5  # times as slow as float32: native ones 0.8 to 1.1, emulated 2 to 74
NUM_TIMED = 3  # the first one warms up
# Kernels without AMX compute right.
ISA_VARIABLE, RIGHT_ISA = "ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16"
# What that variable may allow, and what a processor may have, that includes bf16.
BF16_ISAS = ("", "ALL", "DEFAULT", "AVX512_CORE_BF16", "AVX10_1_512")
BF16_ISAS += ("AVX512_CORE_FP16", "AVX512_CORE_AMX", "AVX512_CORE_AMX_FP16")
BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")
OLD_ISA_VARIABLE = "DNNL_MAX_CPU_ISA"  # is read, too


@dataclass(frozen=True)
class HalfPrecision:
    """What was found of a processor's half precision.

    slowdown: time of the convolutions over that in float32.
    worst_kind, worst_error: the convolution that differs most from float32's, and by which share of
        the norm of its output or of a gradient; infinite for NaN. "" and 0 without convolutions.
    """

    slowdown: float
    worst_kind: str
    worst_error: float

    @property
    def is_right(self) -> bool:
        return self.worst_error <= TOLERANCE

    @property
    def wrong_by(self) -> str:
        """`worst_error` in words."""
        if math.isinf(self.worst_error):
            return "values that are not finite"
        return f"off by {self.worst_error:.2g} times its size"

    @property
    def is_emulated(self) -> bool:
        return self.slowdown >= EMULATED


@dataclass(frozen=True)
class ConvolutionKind:
    """What decides how a convolution is computed, except its channels.

    groups: 0 where each channel is a group of its own.
    """

    layer: type[nn.Module]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int
    is_channels_last: bool

    @classmethod
    def of(cls, conv: nn.Module) -> "ConvolutionKind":
        is_depthwise = conv.groups == conv.in_channels > 1
        return cls(
            next(layer for layer in CONVOLUTIONS if isinstance(conv, layer)),
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            0 if is_depthwise else conv.groups,
            # Of kernels that are one pixel large, both orders are the same.
            conv.weight.stride(1) == 1 and math.prod(conv.kernel_size) > 1,
        )

    def build(self, width: int, generator: torch.Generator) -> nn.Module:
        """Such a convolution of `width` channels, rounded up to whole groups; no draw is global."""
        groups = self.groups or width
        width = -(-width // groups) * groups
        with torch.random.fork_rng(devices=[]):  # skip_init would load the compiler: 0.2 s
            conv = self.layer(
                *(width, width, self.kernel_size),
                stride=self.stride,
                padding=self.padding,
                dilation=self.dilation,
                groups=groups,
            )
        for parameter in conv.parameters():
            parameter.data.normal_(generator=generator).div_(math.sqrt(conv.weight[0].numel()))
        if self.is_channels_last and conv.weight.ndim in (4, 5):
            order = (torch.channels_last, torch.channels_last_3d)[conv.weight.ndim - 4]
            conv.weight.data = conv.weight.data.contiguous(memory_format=order)
        return conv

    def input(self, conv: nn.Module, field: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """(B, C, *field), of as many axes as the kernel has and no smaller than it."""
        reaches = [(k - 1) * d + 1 for k, d in zip(self.kernel_size, self.dilation, strict=True)]
        sizes = map(max, field[-len(reaches) :], reaches)
        return torch.randn(BATCH, conv.in_channels, *sizes, generator=generator)

    def __str__(self) -> str:
        words = [self.layer.__name__, "kernel", "x".join(map(str, self.kernel_size))]
        if any(step > 1 for step in self.stride):
            words += ["stride", "x".join(map(str, self.stride))]
        if any(step > 1 for step in self.dilation):
            words += ["dilation", "x".join(map(str, self.dilation))]
        if self.groups != 1:
            words += [f"{self.groups} groups" if self.groups else "depthwise"]
        return " ".join(words)


def forecast_dtype(
    networks: Iterable[nn.Module], amp: str, device: torch.device
) -> torch.dtype | None:
    """What autocast computes the networks in, in forecasts; None means float32 throughout.

    amp: as for `amp_dtype`, but "auto" is bf16 on CPUs too that have instructions for it and
    compute convolutions in it rightly, an example alone as they do in a batch: so members stay the
    same whatever the batch. Gradients, wrong on some of these CPUs, have no part in forecasts.
    """
    dtype = amp_dtype(amp, device)
    if amp != "auto" or device.type != "cpu" or not has_bf16_instructions():
        return dtype
    return torch.bfloat16 if _can_forecast(kinds_of(networks), torch.bfloat16) else dtype


def has_bf16_instructions() -> bool:
    """Whether this CPU computes in bf16 by itself, and oneDNN is there and may do so."""
    found = torch.cpu.get_capabilities()
    allowed = [os.environ.get(name, "").upper() for name in (ISA_VARIABLE, OLD_ISA_VARIABLE)]
    return (
        any(found.get(name) for name in BF16_INSTRUCTIONS)
        and all(isa in BF16_ISAS for isa in allowed)
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
    )


@functools.cache
def _can_forecast(kinds: tuple[ConvolutionKind, ...], dtype: torch.dtype) -> bool:
    """Whether a CPU computes small convolutions of these kinds rightly in `dtype`, and an example
    alone bit for bit as in a batch; a tenth or a quarter of a second."""
    cpu = torch.device("cpu")
    for kind in kinds:
        for width in WIDTHS:
            conv, x = _example(kind, width, SMALL_FIELD, cpu)
            if largest_error(conv, x, dtype, with_gradients=False) > TOLERANCE:
                return False
            (both,) = _compute(conv, x, dtype, with_gradients=False)
            (alone,) = _compute(conv, x[:1], dtype, with_gradients=False)
            if not torch.equal(alone, both[:1]):
                return False
    return True


def check_half_precision(
    networks: Iterable[nn.Module],
    device: torch.device,
    dtype: torch.dtype | None,
    with_gradients: bool = True,
) -> list[str]:
    """Lines for the user about computing the networks in `dtype`; none where all is well.

    dtype: None for float32, which needs no check. with_gradients: for a training.
    Raises InputError where the results are wrong.
    """
    if dtype is None:
        return []
    found, name = measure(kinds_of(networks), device, dtype, with_gradients), NAMES[dtype]
    if not found.is_right:
        raise InputError(
            f"{name} computes garbage on this processor ({found.worst_kind}: {found.wrong_by}), "
            f"expected float32's values to {TOLERANCE:.0%}: use --amp off"
            f"{_other_remedy(device, dtype)}"
        )
    if found.is_emulated:
        return [
            f"{name} is emulated on this processor: {found.slowdown:.0f} times slower than "
            "float32; use --amp off"
        ]
    return []


@contextlib.contextmanager
def checked_half_precision(
    networks: Iterable[nn.Module], dtype: torch.dtype | None, processes: Processes
) -> Iterator[list[str]]:
    """`check_half_precision` before a training begins; all processes stop where one must."""
    with processes.failing_together():
        notes = check_half_precision(networks, processes.device, dtype)
    yield notes


def _other_remedy(device: torch.device, dtype: torch.dtype) -> str:
    """For CPUs whose fault lies in AMX, unless it is in force."""
    has_amx = device.type == "cpu" and torch.cpu.get_capabilities().get("amx_bf16", False)
    if not has_amx or dtype != torch.bfloat16 or os.environ.get(ISA_VARIABLE) == RIGHT_ISA:
        return ""
    return f", or set {ISA_VARIABLE}={RIGHT_ISA} in the environment"


def measure(
    kinds: tuple[ConvolutionKind, ...],
    device: torch.device,
    dtype: torch.dtype,
    with_gradients: bool = True,
) -> HalfPrecision:
    """Computes a small convolution of each kind in `dtype` and in float32.

    Takes half a second, or about two where half precision is emulated. Weights and inputs are the
    same at each call.
    """
    with one_thread():
        slowdown = _slowdown(kinds, device, dtype, with_gradients)
    field = SMALL_FIELD if slowdown >= EMULATED else FIELD
    worst_kind, worst_error = "", 0.0
    for kind in kinds:
        for width in WIDTHS:
            conv, x = _example(kind, width, field, device)
            error = largest_error(conv, x, dtype, with_gradients)
            if error > worst_error:
                worst_kind, worst_error = f"{kind}, {conv.in_channels} channels", error
    return HalfPrecision(slowdown, worst_kind, worst_error)


def kinds_of(networks: Iterable[nn.Module]) -> tuple[ConvolutionKind, ...]:
    """The kinds of convolutions in the networks, each once, in their order."""
    layers = [layer for network in networks for layer in network.modules()]
    kinds = [ConvolutionKind.of(layer) for layer in layers if isinstance(layer, CONVOLUTIONS)]
    return tuple(dict.fromkeys(kinds))


def largest_error(
    conv: nn.Module, x: Tensor, dtype: torch.dtype, with_gradients: bool = True
) -> float:
    """How far a layer in `dtype` is from itself in float32: the worst of its output and gradients.

    x: float32, on the layer's device. Gradients are those of the input and of each parameter.
    Returns the norm of the difference over that in float32; infinite for NaN.
    """
    exact = _compute(conv, x, None, with_gradients)
    half = _compute(conv, x, dtype, with_gradients)
    errors = [((a.float() - b).norm() / b.norm()).item() for a, b in zip(half, exact, strict=True)]
    return max(error if math.isfinite(error) else math.inf for error in errors)


def _compute(
    conv: nn.Module, x: Tensor, dtype: torch.dtype | None, with_gradients: bool
) -> list[Tensor]:
    """Output, and gradients of input and parameters, as autocast computes them in `dtype`."""
    with torch.set_grad_enabled(with_gradients):
        x = x.detach().requires_grad_(with_gradients)
        with autocast(x.device, dtype):
            y = conv(x)
        if not with_gradients:
            return [y]
        generator = torch.Generator().manual_seed(1)
        direction = torch.randn(y.shape, generator=generator).to(y)
        return [y.detach(), *torch.autograd.grad(y, [x, *conv.parameters()], direction)]


def _slowdown(
    kinds: list[ConvolutionKind], device: torch.device, dtype: torch.dtype, with_gradients: bool
) -> float:
    """Time in `dtype` over that in float32, of all kinds together; 1 if there are none."""
    half, exact = 0.0, 0.0
    for kind in kinds:
        conv, x = _example(kind, WIDTHS[0], FIELD, device)
        pairs = [
            (_seconds(conv, x, dtype, with_gradients), _seconds(conv, x, None, with_gradients))
            for _ in range(NUM_TIMED)
        ]
        half_seconds, exact_seconds = map(min, zip(*pairs, strict=True))
        half, exact = half + half_seconds, exact + exact_seconds
    return half / exact if kinds else 1.0


def _seconds(conv: nn.Module, x: Tensor, dtype: torch.dtype | None, with_gradients: bool) -> float:
    """On a CPU those of one core at work, so that other work on the machine does not count."""
    is_cuda = x.device.type == "cuda"
    clock = time.perf_counter if is_cuda else time.thread_time
    start = clock()
    _compute(conv, x, dtype, with_gradients)
    if is_cuda:
        torch.cuda.synchronize(x.device)
    return clock() - start


def _example(
    kind: ConvolutionKind, width: int, field: tuple[int, ...], device: torch.device
) -> tuple[nn.Module, Tensor]:
    """A convolution of a kind and an input, the same at each call."""
    generator = torch.Generator().manual_seed(0)
    conv = kind.build(width, generator)
    x = kind.input(conv, field, generator)
    return conv.to(device), x.to(device)
