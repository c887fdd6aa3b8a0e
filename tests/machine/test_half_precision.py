"""Half precision that computes garbage is refused, half precision that is emulated is named."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from stages import ROOT, Stage, start_two
from tiny_models import tiny_model
from torch import Tensor, nn

import infer
from ldcast import calibrate, verify
from ldcast.errors import InputError, run_script
from ldcast.machine import half_precision
from ldcast.machine.half_precision import (
    ConvolutionKind,
    HalfPrecision,
    check_half_precision,
    forecast_dtype,
    has_bf16_instructions,
    kinds_of,
    largest_error,
    measure,
)

CPU = torch.device("cpu")
RIGHT = HalfPrecision(slowdown=1.0, worst_kind="Conv3d kernel 3x3x3", worst_error=3e-3)
GARBAGE = replace(RIGHT, worst_error=1e5)
EMULATED = replace(RIGHT, slowdown=43.7)


class Spoiled(torch.autograd.Function):
    """Hands a tensor on; its gradient becomes `factor` times as large."""

    @staticmethod
    def forward(ctx, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.factor * gradient, None


class SpoiledConv(nn.Conv3d):
    """Wrong in bf16, but not in float32, and only in what `part` names."""

    def __init__(self, part: str, factor: float) -> None:
        super().__init__(4, 4, 3, padding=1)
        self.part, self.factor = part, factor

    def forward(self, x: Tensor) -> Tensor:
        is_half = torch.is_autocast_enabled("cpu")
        factors = {name: 1.0 for name in ("input", "weight", "bias", "output")}
        if is_half:
            factors[self.part] = self.factor
        x = Spoiled.apply(x, factors["input"])
        weight = Spoiled.apply(self.weight, factors["weight"])
        bias = Spoiled.apply(self.bias, factors["bias"])
        return factors["output"] * self._conv_forward(x, weight, bias)


def example(width: int = 4) -> Tensor:
    return torch.randn(2, width, 4, 6, 8, generator=torch.Generator().manual_seed(0))


# ---- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["input", "weight", "bias", "output"])
def test_each_part_that_is_wrong_is_found(part) -> None:
    assert largest_error(SpoiledConv(part, 1.0), example(), torch.bfloat16) < 0.01
    error = largest_error(SpoiledConv(part, 1e5), example(), torch.bfloat16)
    assert error == pytest.approx(1e5, rel=0.02)
    assert largest_error(SpoiledConv(part, 1.1), example(), torch.bfloat16) > 0.05
    for factor in (torch.nan, torch.inf):
        conv = SpoiledConv(part, factor)
        assert largest_error(conv, example(), torch.bfloat16) == torch.inf


def test_without_gradients_only_the_output_counts() -> None:
    conv = SpoiledConv("weight", torch.nan)
    assert largest_error(conv, example(), torch.bfloat16, with_gradients=False) < 0.01
    conv = SpoiledConv("output", torch.nan)
    assert largest_error(conv, example(), torch.bfloat16, with_gradients=False) == torch.inf


@torch.no_grad()
def test_gradients_are_taken_whoever_asks() -> None:
    assert largest_error(SpoiledConv("weight", torch.nan), example(), torch.bfloat16) == torch.inf


# ---- kinds ---------------------------------------------------------------------------------------


def test_the_kinds_of_all_networks_are_found_once() -> None:
    words = [str(kind) for kind in kinds_of(tiny_model().networks().values())]
    for kind in (
        *("Conv3d kernel 3x3x3", "Conv3d kernel 1x3x3", "Conv3d kernel 1x1x1"),
        *("Conv3d kernel 2x2x2 stride 2x2x2", "ConvTranspose3d kernel 2x2x2 stride 2x2x2"),
        "Conv3d kernel 3x3x3 stride 1x2x2",
    ):
        assert kind in words
    assert len(words) == len(set(kinds_of(tiny_model().networks().values())))
    assert kinds_of([nn.Linear(3, 3)]) == ()


LAYERS = [
    nn.Conv1d(3, 5, 7),
    nn.Conv2d(2, 2, 3, padding=1, groups=2),
    nn.Conv3d(8, 12, 3, groups=4, padding="same"),
    nn.Conv3d(128, 128, (1, 3, 3), groups=128),
    nn.Conv3d(200, 100, 1, groups=100),
    nn.Conv3d(4, 4, 3, dilation=(1, 20, 20)),
    nn.Conv2d(4, 4, 41, bias=False),
    nn.ConvTranspose1d(6, 5, 4, stride=2, padding=1),
    nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2),
    nn.ConvTranspose3d(3, 3, (1, 2, 2), stride=(1, 2, 2)),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("width", half_precision.WIDTHS)
def test_any_convolution_can_be_tried(layer, width) -> None:
    kind, generator = ConvolutionKind.of(layer), torch.Generator()
    conv = kind.build(width, generator)
    assert (type(conv), conv.kernel_size, conv.stride) == (
        type(layer),
        layer.kernel_size,
        layer.stride,
    )
    assert (conv.padding, conv.dilation) == (layer.padding, layer.dilation)
    assert conv.in_channels == conv.out_channels >= width
    is_depthwise = layer.groups == layer.in_channels
    assert conv.groups == (conv.in_channels if is_depthwise else layer.groups)
    x = kind.input(conv, half_precision.SMALL_FIELD, generator)
    assert largest_error(conv, x, torch.bfloat16, with_gradients=False) < 0.05


def test_weights_keep_their_order_in_memory() -> None:
    conv = nn.Conv3d(8, 8, 3).to(memory_format=torch.channels_last_3d)
    plain = ConvolutionKind.of(nn.Conv3d(8, 8, 3))
    assert ConvolutionKind.of(conv) == replace(plain, is_channels_last=True)
    assert ConvolutionKind.of(conv).build(24, torch.Generator()).weight.stride(1) == 1
    assert plain.build(24, torch.Generator()).weight.stride(1) == 27


# ---- this processor ------------------------------------------------------------------------------


def test_the_check_draws_nothing_from_anyone_and_repeats() -> None:
    kinds = kinds_of([nn.Conv3d(2, 2, 3, padding=1), nn.ConvTranspose3d(2, 2, 2, stride=2)])
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first, second = (measure(kinds, CPU, torch.bfloat16, with_gradients=False) for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    assert (first.worst_kind, first.worst_error) == (second.worst_kind, second.worst_error)
    assert 0 < first.worst_error < 0.05  # the forward pass is right everywhere
    assert not torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()


def test_the_widest_convolutions_are_tried(monkeypatch) -> None:
    """Garbage is worst at 48 and 64 channels, whatever the networks' own widths."""
    tried = []

    def note(conv: nn.Module, *_: object) -> float:
        tried.append(conv.in_channels)
        return torch.inf if conv.in_channels == 48 else 0.001

    monkeypatch.setattr(half_precision, "largest_error", note)
    found = measure(kinds_of([nn.Conv3d(2, 2, 3)]), CPU, torch.bfloat16)
    assert tried == [24, 48, 64]
    assert not found.is_right
    assert (found.worst_kind, found.worst_error) == ("Conv3d kernel 3x3x3, 48 channels", torch.inf)


def test_networks_without_convolutions_are_right() -> None:
    assert check_half_precision([nn.Linear(2, 2)], CPU, torch.bfloat16) == []


def test_emulation_is_measured_where_a_processor_has_no_bf16() -> None:
    """As on a processor with AVX2 alone."""
    program = (
        "import torch; from ldcast.machine.half_precision import *; "
        "print(*check_half_precision([torch.nn.Conv3d(2, 2, 3)], torch.device('cpu'), "
        "torch.bfloat16))"
    )
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": str(ROOT)}
    environment["OMP_NUM_THREADS"] = "1"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("bf16 is emulated on this processor: ")
    assert done.stdout.endswith(" times slower than float32; use --amp off\n")


def test_slowness_is_that_of_half_precision_alone(monkeypatch) -> None:
    """Other work on the same cores does not count."""

    def slow(conv: nn.Module, x: Tensor, dtype: torch.dtype | None, with_gradients: bool) -> list:
        time.sleep(0.002)
        assert torch.get_num_threads() == 1
        end = time.thread_time() + (0.004 if dtype else 0.001)
        while time.thread_time() < end:
            pass
        return [torch.ones(1)]

    monkeypatch.setattr(half_precision, "_compute", slow)
    monkeypatch.setattr(half_precision, "largest_error", lambda *_: 0.001)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        kinds = kinds_of([nn.Conv3d(2, 2, 3), nn.Conv3d(2, 2, 1)])
        found = measure(kinds, CPU, torch.bfloat16)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(num_threads)
    assert found.slowdown == pytest.approx(4, rel=0.3)
    assert found.is_emulated


# ---- forecasts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
@pytest.mark.parametrize(
    ("capabilities", "isa", "expected"),
    [
        ({"avx512_bf16": True}, None, True),
        ({"avx512_bf16": True}, "avx512_core_bf16", True),
        ({"amx_bf16": True}, None, True),
        ({"avx512_bf16": True}, "AVX512_CORE", False),
        ({"avx512_bf16": False, "avx512_f": True}, None, False),
        ({}, None, False),
    ],
)
def test_a_processor_has_bf16_where_its_instructions_may_be_used(
    monkeypatch, capabilities, isa, expected, variable
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    if isa:
        monkeypatch.setenv(variable, isa)
    assert has_bf16_instructions() == expected


@pytest.mark.parametrize(
    ("has_instructions", "is_right"), [(True, True), (True, False), (False, True)]
)
def test_auto_is_bf16_in_forecasts_where_that_is_right(
    monkeypatch, has_instructions, is_right
) -> None:
    """Where it is not, or where there are no instructions for it, float32."""
    monkeypatch.setattr(half_precision, "has_bf16_instructions", lambda: has_instructions)
    monkeypatch.setattr(half_precision, "_can_forecast", lambda *_: is_right)
    expected = {"auto": None, "off": None, "fp16": torch.float16}
    if has_instructions and is_right:
        expected["auto"] = torch.bfloat16
    networks = [nn.Conv3d(2, 2, 3)]
    assert {amp: forecast_dtype(networks, amp, CPU) for amp in expected} == expected
    assert forecast_dtype(networks, "auto", torch.device("cuda")) == torch.bfloat16


@pytest.mark.parametrize("fault", ["", "wrong", "other alone"])
def test_convolutions_that_forecast_are_right_and_the_same_alone(monkeypatch, fault) -> None:
    kinds = kinds_of([nn.Conv3d(2, 2, 3, padding=1), nn.Conv3d(2, 2, (1, 3, 3))])
    half_precision._can_forecast.cache_clear()

    def compute(
        conv: nn.Module, x: Tensor, dtype: torch.dtype | None, with_gradients: bool
    ) -> list[Tensor]:
        y = 2 * x
        is_spoilt = dtype is not None and conv.kernel_size == (1, 3, 3)
        if is_spoilt and (fault == "wrong" or (fault == "other alone" and len(x) == 1)):
            y = y * 1.2
        return [y]

    monkeypatch.setattr(half_precision, "_compute", compute)
    assert half_precision._can_forecast(kinds, torch.bfloat16) == (not fault)
    half_precision._can_forecast.cache_clear()


# ---- what the user sees --------------------------------------------------------------------------


@pytest.fixture
def found(monkeypatch) -> list[HalfPrecision]:
    """What the check finds, to be filled, instead of a measurement; tells who asked for it."""
    findings = []
    monkeypatch.setattr(half_precision, "measure", lambda *_: findings[0])
    return findings


@pytest.mark.parametrize(
    ("has_amx", "dtype", "isa", "is_named"),
    [
        (True, torch.bfloat16, None, True),
        (True, torch.bfloat16, "AVX512_CORE_BF16", False),
        (True, torch.float16, None, False),
        (False, torch.bfloat16, None, False),
    ],
)
def test_the_line_names_the_remedies_that_there_are(
    found, monkeypatch, has_amx, dtype, isa, is_named
) -> None:
    found.append(replace(GARBAGE, worst_error=torch.inf))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": has_amx})
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if isa:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
    with pytest.raises(InputError) as error:
        check_half_precision([nn.Conv3d(2, 2, 3)], CPU, dtype)
    assert "values that are not finite), expected float32's values to 5%" in str(error.value)
    assert "use --amp off" in str(error.value)
    assert "Conv3d kernel 3x3x3" in str(error.value)
    assert ("set ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16" in str(error.value)) == is_named


def test_float32_is_not_checked(found) -> None:
    assert check_half_precision([nn.Conv3d(2, 2, 3)], CPU, None) == []  # found is empty


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_a_training_on_garbage_does_not_begin(found, stage: Stage, amp, tmp_path, capsys) -> None:
    found.append(GARBAGE)
    line = stage.fails(capsys, tmp_path / "run", "--amp", amp)
    assert f"{amp} computes garbage" in line and "off by 1e+05 times its size" in line
    assert not (tmp_path / "run").exists()
    assert stage.is_refused(capsys, tmp_path / "run", "--amp", amp)
    assert not stage.is_refused(capsys, tmp_path / "run")


def test_a_training_in_emulated_precision_is_told_so_and_continues(
    found, stage: Stage, tmp_path, capsys
) -> None:
    found.append(EMULATED)
    stage.run(tmp_path / "run", 1, "--amp", "bf16")
    line = "note: bf16 is emulated on this processor: 44 times slower than float32; use --amp off"
    assert capsys.readouterr().out.count(line) == 1


RANK_1_IS_WRONG = """
import sys
from dataclasses import replace

import os
import train_autoenc
from ldcast.errors import run_script
from ldcast.machine import half_precision

found = half_precision.HalfPrecision(1.0, "Conv3d kernel 3x3x3", float(os.environ["RANK"]))
half_precision.measure = lambda *_: found
sys.exit(run_script(lambda: train_autoenc.main(sys.argv[1:])))
"""


@pytest.mark.slow
def test_all_processes_stop_where_one_computes_garbage(
    event_path: Path, autoencoder_run: Path, tmp_path: Path
) -> None:
    script = tmp_path / "train.py"
    script.write_text(RANK_1_IS_WRONG)
    stage = Stage("autoencoder", event_path, autoencoder_run)
    process = start_two(script, *stage.arguments(tmp_path / "run", 1, "--amp", "bf16"))
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "rank 1: error: bf16 computes garbage" in output
    assert "error: stopped because of the error of rank 1" in output
    assert not (tmp_path / "run").exists()


def forecast(model_folder: Path, event_path: Path, out: Path, *more: str) -> int:
    arguments = ["--model", str(model_folder), "--data", str(event_path), "--out", str(out)]
    return run_script(lambda: infer.main([*arguments, "--members", "1", "--device", "cpu", *more]))


def test_a_forecast_asks_for_the_forward_pass_alone(
    monkeypatch, model_folder: Path, event_path: Path, tmp_path, capsys
) -> None:
    inputs = (model_folder, event_path, tmp_path / "forecast.npz")
    found = {False: EMULATED, True: GARBAGE}  # by with_gradients: as a CPU with AMX has it
    monkeypatch.setattr(half_precision, "measure", lambda *arguments: found[arguments[-1]])
    assert forecast(*inputs, "--amp", "bf16") == 0
    assert "note: bf16 is emulated" in capsys.readouterr().out
    assert forecast(*inputs) == 0
    assert "emulated" not in capsys.readouterr().out
    found[False] = GARBAGE
    assert forecast(*inputs, "--amp", "bf16") == 2
    assert "bf16 computes garbage" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["verify", "calibrate"])
def test_scores_and_calibrations_are_not_made_of_garbage(
    found, name, model_folder: Path, event_path: Path, tmp_path, capsys, monkeypatch
) -> None:
    script, where = {"verify": (verify, "--out"), "calibrate": (calibrate, "--cache")}[name]
    monkeypatch.chdir(tmp_path)
    found.append(GARBAGE)
    arguments = ["--model", str(model_folder), "--data", str(event_path), "--device", "cpu"]
    arguments += ["--amp", "bf16", where, "out"]
    assert run_script(lambda: script.main(arguments)) == 2
    assert "bf16 computes garbage" in capsys.readouterr().err
