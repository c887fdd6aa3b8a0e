"""Devices and precision by the names that users give."""

import pytest
import torch

from ldcast.errors import InputError
from ldcast.machine.device import amp_dtype, autocast, choose_device

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_names_of_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == choose_device("cuda") == CUDA
    assert choose_device("cuda:1") == torch.device("cuda:1")
    assert choose_device("cpu") == choose_device(CPU) == CPU
    with pytest.raises(InputError, match="got device 'cuda:2', but PyTorch sees 2 CUDA devices"):
        choose_device("cuda:2")


def test_auto_is_the_cpu_where_there_is_no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert choose_device("auto") == choose_device() == CPU
    with pytest.raises(InputError, match="use cpu"):
        choose_device("cuda")


@pytest.mark.parametrize("name", ["tpu", "meta", "cuda:x", "", "CPU 0"])
def test_other_devices_are_refused(name):
    with pytest.raises(InputError, match="expected auto, cpu, cuda or cuda:N"):
        choose_device(name)


@pytest.mark.parametrize(
    ("amp", "device", "expected"),
    [
        ("auto", CPU, None),
        ("auto", CUDA, torch.bfloat16),
        ("off", CUDA, None),
        ("bf16", CPU, torch.bfloat16),
        ("fp16", CUDA, torch.float16),
    ],
)
def test_precision_of_each_mode(amp, device, expected):
    assert amp_dtype(amp, device) == expected


def test_unknown_precision_is_refused():
    with pytest.raises(InputError, match="got amp 'fp8', expected one of auto, off, bf16, fp16"):
        amp_dtype("fp8", CPU)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_autocast_computes_in_the_type_asked_for(dtype):
    x = torch.ones(2, 2)
    with autocast(CPU, dtype):
        assert (x @ x).dtype == (dtype or torch.float32)
