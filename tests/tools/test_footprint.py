"""Memory of a training, counted on tensors without content."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from ldcast.config import AUTOENCODER_PRESETS, DIFFUSION_PRESETS, CRPSLossConfig
from ldcast.errors import InputError
from ldcast.settings import override
from ldcast.tools import GIB
from ldcast.tools.footprint import (
    AllocationCounter,
    Footprint,
    autoencoder_pass,
    count,
    diffusion_pass,
    fitting_card,
    main,
)

AUTOENCODER, DIFFUSION = AUTOENCODER_PRESETS["tiny"], DIFFUSION_PRESETS["tiny"]


def tiny_autoencoder_pass() -> tuple:
    return autoencoder_pass(AUTOENCODER)


def test_storages_are_counted_while_they_live() -> None:
    with AllocationCounter() as counter:
        first = torch.zeros(100)
        view = first[:10]
        second = torch.ones(50) + 1  # the ones are gone after the sum
        assert (counter.num_bytes, counter.peak) == (600, 800)
        del first
        assert counter.num_bytes == 600  # the view holds the storage
        del view, second
        assert (counter.num_bytes, counter.peak) == (0, 800)


def test_a_layer_needs_weights_gradients_and_its_input() -> None:
    """y = W x: W and its gradient, x and y, and one number each for loss and norm."""

    def linear_pass() -> tuple:
        layer = nn.Linear(1000, 1000, bias=False)
        return layer, lambda batch_size, _: layer(torch.zeros(batch_size, 1000)).sum()

    footprint = count(linear_pass, 1, 16, "off", use_activation_checkpointing=False)
    assert footprint.parameters == 10**6
    assert 8.0e6 <= footprint.passes <= 8.1e6
    assert footprint.total(32) == footprint.passes + 12e6
    assert footprint.total(8) == footprint.passes + 4e6 + 2.03125e6


def wide_diffusion_pass() -> tuple:
    """Wide enough that the denoiser needs more than the encoder."""
    return diffusion_pass(override(DIFFUSION, {"denoiser.channels": 64}), AUTOENCODER)


@pytest.mark.parametrize("make_pass", [tiny_autoencoder_pass, wide_diffusion_pass])
def test_activation_checkpointing_lowers_the_footprint(make_pass: Callable[[], tuple]) -> None:
    kept, again = (count(make_pass, 8, 64, "off", is_again).passes for is_again in (False, True))
    assert again < 0.8 * kept


def test_of_a_loss_of_forecasts_each_member_takes_memory() -> None:
    """The preset small: carried frames, a linear forecast, and members that are decoded."""
    first_stage, second_stage = AUTOENCODER_PRESETS["small"], DIFFUSION_PRESETS["small"]

    def passes(num_members: int) -> int:
        settings = override(second_stage, {"crps.num_members": num_members})
        return count(lambda: diffusion_pass(settings, first_stage), 1, 64, "off", False).passes

    two, three, four = map(passes, (2, 3, 4))
    assert 0.7 * (three - two) < four - three < 1.3 * (three - two)
    assert four > 1.3 * two


@pytest.mark.parametrize("is_around", [True, False])
def test_what_small_denoises_is_counted_too(is_around: bool) -> None:
    """Latents as large as in rain, around a linear forecast, which makes the networks wider."""
    first_stage, small = AUTOENCODER_PRESETS["small"], DIFFUSION_PRESETS["small"]
    changes = {"diffusion.around_linear_forecast": is_around, "diffusion.member_noise": "white"}
    denoising = {"diffusion.sampler": "plms", "diffusion.sampler_settings": {}, "loss": "denoising"}
    settings = override(replace(small, crps=CRPSLossConfig()), {**denoising, **changes})
    of_noise = count(lambda: diffusion_pass(settings, first_stage), 1, 64, "off", False)
    of_forecasts = count(lambda: diffusion_pass(small, first_stage), 1, 64, "off", False)
    assert of_noise.passes < 0.8 * of_forecasts.passes
    assert (of_noise.parameters == of_forecasts.parameters) is is_around


def test_half_precision_and_smaller_batches_lower_the_footprint() -> None:
    def passes(batch_size: int, crop_size: int, amp: str) -> int:
        return count(tiny_autoencoder_pass, batch_size, crop_size, amp, False).passes

    usual = passes(8, 64, "off")
    assert passes(8, 64, "bf16") < 0.9 * usual
    assert passes(4, 64, "off") < 0.7 * usual
    assert passes(2, 128, "off") == pytest.approx(usual, rel=0.1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("again", [False, True])
def test_the_count_is_what_a_device_allocates(again: bool) -> None:
    from ldcast.training.activations import checkpoint_activations

    expected = count(tiny_autoencoder_pass, 8, 64, "off", again).passes
    with torch.device("cuda"):
        networks, loss = tiny_autoencoder_pass()
        if again:
            checkpoint_activations(networks)
        torch.cuda.reset_peak_memory_stats()
        loss(8, 64).backward()
    assert torch.cuda.max_memory_allocated() == pytest.approx(expected, rel=0.25)


def test_cards_keep_a_tenth_to_themselves() -> None:
    assert fitting_card(14.3 * GIB) == "16 GB"
    assert fitting_card(14.5 * GIB) == "24 GB"
    assert fitting_card(73 * GIB) == "none"


def test_eight_bits_save_nearly_six_bytes_per_parameter() -> None:
    footprint = Footprint(passes=0, parameters=1000)
    assert footprint.total(32) - footprint.total(8) == 1000 * (8 - 2 * (1 + 4 / 256))


def test_a_table_with_a_line_per_case(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--preset", "tiny", "--crop-sizes", "32", "--batch-sizes", "2", "--amp", "off"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| 32 |")]
    assert [row.split("|")[2:5] for row in rows] == [
        [" 2 ", " off ", f" {activations} "] for activations in ("kept", "again")
    ]


@pytest.mark.parametrize("flags", [("--crop-sizes", "100"), ("--batch-sizes", "0")])
def test_impossible_sizes_are_refused(flags: tuple[str, str]) -> None:
    with pytest.raises(InputError, match="expected"):
        main(["--preset", "tiny", *flags])
