"""The whole system: forecasts as published, members, odd sizes, missing data, and bad requests."""

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from golden_arrays import assert_close, load, nowcaster, relative_error
from tiny_models import NUM_CALLS, rain, tiny_config, tiny_model
from torch import Tensor, nn

from ldcast import LatentNowcaster, LDCast, NoiseSchedule
from ldcast.diffusion import DDPMLoss, PLMSSampler
from ldcast.diffusion.schedule import PREDICTIONS
from ldcast.errors import InputError
from ldcast.inputs.known import Known
from ldcast.machine import half_precision
from ldcast.motion import fill_gaps
from ldcast.nowcast.ldcast import build
from ldcast.rain import pad_to_multiple, to_model_units
from ldcast.seeds import draw_noise, keyed_generator, keyed_generators

ARRAYS = load("forecast_e2e")
# Members in other batches agree to rounding, which the diffusion and 10^x magnify.
REBATCHED = 1e-4


@pytest.fixture(scope="module")
def model() -> LDCast:
    return tiny_model()


def count_calls(module: nn.Module) -> list:
    """A list that grows by the first input at every call of `module`."""
    calls = []
    module.register_forward_pre_hook(lambda _module, inputs: calls.append(inputs[0]))
    return calls


# ---- as published


@pytest.mark.core
@torch.no_grad()
def test_context_is_as_published():
    published = nowcaster()
    rain_rate = ARRAYS["R_past"].clamp(min=0)[None, None]
    z_past, _ = published.autoencoder.encode(to_model_units(rain_rate, published.rain_scale))
    context = published.latent_nowcaster.conditioner(z_past)
    for level, size in zip(context, ("16x16", "8x8", "4x4"), strict=True):
        assert_close(level, ARRAYS[f"cascade.{size}"])


@pytest.mark.core
def test_forecast_is_as_published(monkeypatch):
    """Ten steps from the same noise. Negative rain, here an error, was taken for dry there."""
    published = nowcaster()
    seen = {}
    decode = published.autoencoder.decode

    def spy(z: Tensor) -> Tensor:
        seen["latent"], seen["decoded"] = z, decode(z)
        return seen["decoded"]

    monkeypatch.setattr(published.autoencoder, "decode", spy)
    past = ARRAYS["R_past"].clamp(min=0)
    asked = {"num_sampling_steps": 10, "noise": ARRAYS["x_T"], "amp": "off"}
    forecast = published.predict(past, num_members=1, **asked)[0]
    assert_close(seen["latent"], ARRAYS["latent"])
    assert_close(seen["decoded"], ARRAYS["decoded"])

    has_data = ~torch.isnan(past[-1]).expand_as(forecast)
    assert torch.equal(~torch.isnan(forecast), has_data)
    expected = ARRAYS["R_pred"]
    is_clear_cut = (expected - 0.1).abs() > 1e-3  # less than 0.1 mm/h is cut to 0
    compared = has_data & is_clear_cut
    assert compared.float().mean() > 0.9
    # 1e-6 of a decoded field that reaches 14 is 2e-5 of the rain, which is ten to its power.
    assert_close(forecast[compared], expected[compared], 1e-4)


# ---- members and noise


@pytest.mark.core
def test_members_have_their_own_noise_whatever_their_number_and_batches():
    model = tiny_model()
    asked = count_calls(model.latent_nowcaster.denoiser)
    noises = []
    for num_members, members_per_batch in ((5, 8), (5, 2), (3, 1)):
        asked.clear()
        model.predict(rain(), num_members, seed=7, members_per_batch=members_per_batch)
        noises.append(torch.cat(asked[::NUM_CALLS]))
    assert torch.equal(noises[0], noises[1])
    assert torch.equal(noises[0][:3], noises[2])


def test_forecasts_of_a_member_agree_in_any_batch(model):
    expected = model.predict(rain(), num_members=5, seed=7)
    for num_members, members_per_batch in ((5, 2), (3, 1), (1, 4)):
        got = model.predict(rain(), num_members, seed=7, members_per_batch=members_per_batch)
        assert_close(got, expected[:num_members], REBATCHED)


@pytest.mark.core
def test_seed_decides_the_forecast(model):
    first, same, other = (model.predict(rain(), num_members=2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    for forecast in (other, first.flip(0)):  # another seed, and the other member
        assert relative_error(forecast, first) > 0.05


@pytest.mark.core
def test_global_random_state_is_neither_used_nor_changed(model):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    model.predict(rain(), num_members=1)
    assert torch.equal(torch.rand(3), expected)


def test_noise_given_repeats_the_forecast(model):
    shape = (2, 4, 5, 8, 12)
    noise = draw_noise(shape, keyed_generators(5, 3, indices=range(2)))  # 3: of members
    expected = model.predict(rain(), num_members=2, seed=5)
    assert torch.equal(model.predict(rain(), num_members=2, seed=9, noise=noise), expected)
    assert torch.equal(model.predict(rain(), num_members=2, noise=noise.double()), expected)


@pytest.mark.core
def test_context_is_computed_once_and_the_denoiser_called_once_per_step_and_once_more():
    model = tiny_model()
    of_conditioner = count_calls(model.latent_nowcaster.conditioner)
    of_denoiser = count_calls(model.latent_nowcaster.denoiser)
    model.predict(rain(), num_members=3, num_sampling_steps=7)
    assert (len(of_conditioner), len(of_denoiser)) == (1, 8)


def test_progress_counts_the_calls_of_all_batches(model):
    told = []
    model.predict(
        rain(),
        num_members=3,
        members_per_batch=2,
        progress=lambda done, of: told.append((done, of)),
    )
    num_calls = 2 * NUM_CALLS
    of_members = 3 * [(num_calls, num_calls)]  # as each is decoded
    assert told == [(done, num_calls) for done in range(1, num_calls + 1)] + of_members


def test_number_of_steps_is_the_models_unless_asked_for(model):
    default = model.predict(rain(), num_members=1)
    assert torch.equal(model.predict(rain(), num_members=1, num_sampling_steps=4), default)
    assert not torch.equal(model.predict(rain(), num_members=1, num_sampling_steps=5), default)
    assert model.config.diffusion.num_sampling_steps == 4


# ---- input and output


@pytest.mark.core
def test_an_array_gives_an_array_and_a_tensor_a_tensor(model):
    from_tensor = model.predict(rain(), num_members=2)
    from_array = model.predict(rain().numpy(), num_members=2)
    assert isinstance(from_array, np.ndarray) and isinstance(from_tensor, Tensor)
    assert from_array.dtype == np.float32 and from_tensor.dtype == torch.float32
    assert from_array.shape == (2, 20, 32, 48)
    np.testing.assert_array_equal(from_array, from_tensor.numpy())
    assert from_array[from_array > 0].min() >= 0.1 and from_array.max() <= 118.428


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_type_is_taken(model, dtype):
    past = rain().to(dtype)
    expected = model.predict(past.float(), num_members=1)
    forecast = model.predict(past, num_members=1)
    assert forecast.dtype == torch.float32
    assert_close(forecast, expected, REBATCHED)  # float64 is transformed in float64


@pytest.mark.core
def test_past_is_left_alone(model):
    past = rain(33, 50)
    past[:, :3] = torch.nan
    array = past.numpy().copy()
    before = array.copy()
    model.predict(array, num_members=1)
    np.testing.assert_array_equal(array, before)


@pytest.mark.core
@pytest.mark.parametrize("size", [(33, 50), (16, 16), (1, 100), (48, 40)])
def test_any_size_comes_back_in_its_size(model, size):
    forecast = model.predict(rain(*size), num_members=1)
    assert forecast.shape == (1, 20, *size)
    assert torch.isfinite(forecast).all()


def test_a_forecast_of_odd_size_is_that_of_the_domain_padded_with_no_data(model):
    past = rain(33, 50)
    padded = torch.full((4, 48, 64), torch.nan)
    padded[:, :33, :50] = past
    expected = model.predict(padded, num_members=1)[:, :, :33, :50]
    torch.testing.assert_close(model.predict(past, num_members=1), expected)


def test_padding_is_no_data_at_the_bottom_and_right():
    padded = pad_to_multiple(torch.ones(2, 17, 16), 16)
    assert padded.shape == (2, 32, 16)
    assert padded[:, :17].isfinite().all() and padded[:, 17:].isnan().all()


@pytest.mark.core
def test_no_data_in_the_newest_frame_alone_leaves_no_forecast(model):
    past = rain()
    past[-1, 3:7, 10:20] = torch.nan
    past[0, 20:] = torch.nan  # an older frame's gap does not matter
    forecast = model.predict(past, num_members=2)
    is_missing = torch.zeros(32, 48, dtype=torch.bool)
    is_missing[3:7, 10:20] = True
    assert torch.equal(torch.isnan(forecast), is_missing.expand_as(forecast))


@pytest.mark.core
def test_frames_are_used_in_order(model):
    expected = model.predict(rain(), num_members=1)
    assert relative_error(model.predict(rain().flip(0), num_members=1), expected) > 1e-3


@pytest.mark.core
@pytest.mark.parametrize("past", [torch.zeros(4, 32, 32), torch.full((4, 32, 32), 300.0)])
@pytest.mark.parametrize("prediction", ["noise", "v"])
def test_all_dry_and_all_drowned_give_finite_forecasts(past, prediction):
    forecast = tiny_model(prediction=prediction).predict(past, num_members=2)
    assert torch.isfinite(forecast).all()


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_half_precision_stays_close(model, amp):
    expected = model.predict(rain(), num_members=2, amp="off")
    forecast = model.predict(rain(), num_members=2, amp=amp)
    assert forecast.dtype == torch.float32
    assert not torch.equal(forecast, expected)
    assert (forecast - expected).abs().median() < 0.01 * expected.mean()
    assert ((forecast - expected).abs() / expected.clamp(min=0.1)).max() < 0.1


@pytest.mark.parametrize("is_bf16", [True, False])
def test_auto_is_bf16_where_the_processor_has_it(model, monkeypatch, is_bf16):
    monkeypatch.setattr(half_precision, "has_bf16_instructions", lambda: is_bf16)
    monkeypatch.setattr(half_precision, "_can_forecast", lambda *_: True)
    expected = model.predict(rain(), num_members=2, amp="bf16" if is_bf16 else "off")
    assert torch.equal(model.predict(rain(), num_members=2), expected)


@pytest.mark.skipif(
    not torch.cpu.get_capabilities().get("avx512_bf16")
    or torch.cpu.get_capabilities().get("amx_bf16", False),
    reason="without instructions it is emulated; AMX was not at hand",
)
@pytest.mark.parametrize("name", ["tiny", "bundled"])
def test_a_member_in_bf16_is_the_same_alone(name):
    """To the last bit: what differs by rounding to float32 would differ by rounding to bf16.

    Also beyond the first stretch, where each member has a past of its own.
    """
    model = tiny_model() if name == "tiny" else LDCast.from_pretrained("bundled", "cpu")
    past, settings = rain(96, 112), {"amp": "bf16", "lead_minutes": 120}
    expected = model.predict(past, 5, **settings)
    for num_members, members_per_batch in ((5, 1), (5, 2), (5, 3), (1, 1)):
        got = model.predict(past, num_members, members_per_batch=members_per_batch, **settings)
        assert torch.equal(got, expected[:num_members])


def test_what_members_share_is_of_one_example() -> None:
    """So that it is computed once: context, inputs and the step, which the network embeds."""
    model = LDCast.from_pretrained("bundled", "cpu")
    denoiser, seen = model.latent_nowcaster.denoiser, []

    def note(_, arguments: tuple, answer: torch.Tensor) -> None:
        z_noisy, _, context, inputs = arguments
        seen.append([len(z_noisy), len(inputs), *map(len, context), len(answer)])

    denoiser.register_forward_hook(note)
    denoiser.step_embedding.register_forward_hook(lambda _, step, __: seen.append(len(step[0])))
    model.predict(rain(32, 48), 3)
    assert seen == [1, [3, 1, 1, 1, 1, 3]]


@pytest.mark.parametrize(
    ("past", "message"),
    [
        (torch.ones(3, 16, 16), r"shape \(3, 16, 16\), expected \(4, H, W\)"),
        (torch.ones(5, 16, 16), r"shape \(5, 16, 16\)"),
        (torch.ones(4, 16), r"shape \(4, 16\)"),
        (torch.ones(1, 4, 16, 16), r"shape \(1, 4, 16, 16\)"),
        (torch.ones(4, 0, 16), r"shape \(4, 0, 16\)"),
        (torch.ones(4, 16, 16, dtype=torch.int16), "int16, expected floating point"),
        (np.ones((4, 16, 16), dtype=np.uint8), "uint8, expected floating point"),
        (torch.full((4, 16, 16), -32.0), "down to -32 mm/h"),
        (torch.full((4, 16, 16), torch.inf), "infinite rain"),
        (torch.full((4, 16, 16), torch.nan), "no data at all"),
        (torch.cat([torch.ones(3, 16, 16), torch.full((1, 16, 16), torch.nan)]), "no data at all"),
    ],
)
def test_impossible_rain_is_refused(model, past, message):
    with pytest.raises(InputError, match=message):
        model.predict(past, num_members=1)


@pytest.mark.core
@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"num_members": 0}, "got 0 members, expected a whole number of at least 1"),
        ({"num_members": -2}, "got -2 members"),
        (
            {"members_per_batch": 0},
            "got 0 members per batch, expected a whole number of at least 1",
        ),
        ({"num_sampling_steps": 0}, "got 0 sampling steps, expected a whole number"),
        ({"num_sampling_steps": 1001}, "got 1001 sampling steps"),
        ({"noise": torch.zeros(1, 4, 5, 8, 12)}, r"of shape \(2, 4, 5, 8, 12\)"),
        ({"noise": torch.zeros(2, 4, 5, 12, 8)}, r"of shape \(2, 4, 5, 8, 12\)"),
        ({"seed": -1}, "use a seed that is not negative"),
        ({"lead_minutes": 0}, "got 0 minutes of lead time"),
        ({"lead_minutes": 42}, "got 42 minutes of lead time, expected a multiple of 5"),
        ({"window": 72}, "got windows of 72 pixels, expected a multiple of 16, at least 64"),
        ({"window": 48}, "got windows of 48 pixels"),
        ({"window": 64, "members_per_batch": 2}, "got 2 members per batch with windows"),
        (
            {"noise": torch.zeros(2, 4, 5, 8, 12), "lead_minutes": 105},
            r"of shape \(2, 4, 10, 8, 12\)",
        ),
        ({"amp": "fp8"}, "expected one of auto, off, bf16, fp16"),
    ],
)
def test_impossible_requests_are_refused(model, request_, message):
    with pytest.raises(InputError, match=message):
        model.predict(rain(), **({"num_members": 2} | request_))


# ---- longer, larger, in parts


def test_shorter_forecasts_are_the_first_frames(model):
    whole = model.predict(rain(), num_members=2)
    assert torch.equal(model.predict(rain(), num_members=2, lead_minutes=60), whole[:, :12])


def test_longer_forecasts_go_on_from_each_members_own_last_frames(model):
    forecast = model.predict(rain(), num_members=3, lead_minutes=150, members_per_batch=2)
    assert forecast.shape == (3, 30, 32, 48)
    first = model.predict(rain(), num_members=3, members_per_batch=2)
    assert torch.equal(forecast[:, :20], first)
    for member in range(3):
        noise = draw_noise((1, 4, 5, 8, 12), [keyed_generator(0, 3, member, 1)])
        later = model.predict(first[member, -4:], num_members=1, noise=noise)
        assert relative_error(forecast[member, 20:], later[0, :10]) < REBATCHED


def test_noise_given_for_two_rounds(model):
    first, second = (
        draw_noise((1, 4, 5, 8, 12), [keyed_generator(0, 3, 0, *r)]) for r in ((), (1,))
    )
    noise = torch.cat([first, second], dim=2)
    forecast = model.predict(rain(), 1, seed=7, noise=noise, lead_minutes=200)
    assert torch.equal(forecast, model.predict(rain(), 1, lead_minutes=200))


def test_a_later_round_has_a_context_for_each_member_and_progress_counts_it():
    model, told = tiny_model(), []
    of_conditioner = count_calls(model.latent_nowcaster.conditioner)
    model.predict(
        rain(), 3, lead_minutes=105, members_per_batch=2, progress=lambda *n: told.append(n)
    )
    assert [len(z_past) for z_past in of_conditioner] == [1, 1, 2]
    assert told[-1] == (4 * NUM_CALLS, 4 * NUM_CALLS)


def test_a_part_of_an_ensemble_has_the_members_of_the_whole(model):
    whole = model.predict(rain(), num_members=5, lead_minutes=105)
    part = model.predict(rain(), num_members=2, first_member=3, lead_minutes=105)
    assert relative_error(part, whole[3:]) < REBATCHED


def test_a_window_as_large_as_the_domain_changes_nothing(model):
    past = rain(64, 48)
    expected = model.predict(past, 2)
    assert relative_error(model.predict(past, 2, window=64), expected) < REBATCHED


def test_windows_are_denoised_together():
    model = tiny_model()
    of_denoiser = count_calls(model.latent_nowcaster.denoiser)
    past = rain(64, 112)
    forecast = model.predict(past, num_members=2, window=64)
    assert forecast.shape == (2, 20, 64, 112) and forecast.isfinite().all()
    assert {tuple(z.shape) for z in of_denoiser} == {(2, 4, 5, 16, 16)}  # two windows
    assert len(of_denoiser) == 2 * NUM_CALLS  # of two members
    # Each window begins as the others do: what is far from the overlap comes from one alone.
    assert relative_error(forecast, model.predict(past, num_members=2)) > 1e-3


def test_nothing_but_latents_is_held_while_decoding(monkeypatch):
    model, alive = tiny_model(), []
    contexts = []
    model.latent_nowcaster.conditioner.register_forward_hook(
        lambda _module, _inputs, context: contexts.append(weakref.ref(context[0]))
    )
    decode = model.autoencoder.decode
    monkeypatch.setattr(
        model.autoencoder, "decode", lambda z: alive.append(contexts[-1]() is not None) or decode(z)
    )
    model.predict(rain(), num_members=2, lead_minutes=105)
    assert alive == [False] * 4


# ---- the latent part


SCHEDULE = NoiseSchedule.sqrt_linear()


class FixedContext(nn.Module):
    """A conditioner that passes its input on."""

    num_future_latent_frames = 2

    def forward(self, z_past: Tensor) -> tuple[Tensor, ...]:
        return (z_past,)


class PointDenoiser(nn.Module):
    """Knows that all futures equal the mean of the past latents, and says so in any kind."""

    def __init__(self, prediction: str) -> None:
        super().__init__()
        self.prediction = prediction

    def forward(self, z_noisy: Tensor, diffusion_step: Tensor, context: list[Tensor]) -> Tensor:
        point = context[0].mean(2, keepdim=True).expand_as(z_noisy)
        noise = SCHEDULE.noise_from_z(z_noisy, point, diffusion_step)
        return SCHEDULE.target(self.prediction, point, noise, diffusion_step)


def point_nowcaster(prediction: str, num_sampling_steps: int = 20) -> LatentNowcaster:
    return LatentNowcaster(
        FixedContext(),
        PointDenoiser(prediction),
        training_sampler=DDPMLoss(SCHEDULE, target=prediction),
        inference_sampler=PLMSSampler(SCHEDULE, num_sampling_steps),
        prediction=prediction,
    )


@pytest.mark.core
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_one_sampler_serves_networks_that_predict_noise_and_velocity(prediction):
    z_past = torch.randn(2, 3, 1, 4, 6, generator=torch.Generator().manual_seed(0))
    generators = keyed_generators(0, indices=range(2))
    z_future = point_nowcaster(prediction).infer(Known(z_past), generators)
    assert z_future.shape == (2, 3, 2, 4, 6)
    # What is left at diffusion step 0 is 1 % noise.
    assert (z_future - z_past).abs().max() < 0.05


@pytest.mark.core
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_perfect_denoiser_has_no_loss_with_either_prediction(prediction):
    z_past = torch.randn(2, 3, 1, 4, 6, generator=torch.Generator().manual_seed(0))
    z_future = z_past.expand(-1, -1, 2, -1, -1)
    loss = point_nowcaster(prediction)(
        Known(z_past), z_future, keyed_generators(0, indices=range(2))
    )
    assert loss.shape == (2,)
    assert loss.max() < 1e-6
    assert point_nowcaster(prediction)(Known(z_past), z_future + 1, None).min() > 1e-3


def test_weight_reaches_the_training_loss():
    nowcaster = point_nowcaster("noise")
    z_past, z_future = torch.zeros(1, 3, 1, 4, 6), torch.zeros(1, 3, 2, 4, 6)
    z_future[..., 3:] = 5.0  # the perfect denoiser of zeros is wrong there
    weight = torch.ones(1, 1, 2, 4, 6)
    weight[..., 3:] = 0.0
    assert nowcaster(Known(z_past), z_future, weight=weight).item() < 1e-6
    assert nowcaster(Known(z_past), z_future).item() > 1e-3


def test_nowcaster_refuses_two_schedules_and_unknown_predictions():
    parts = FixedContext(), PointDenoiser("noise"), DDPMLoss(SCHEDULE)
    with pytest.raises(ValueError, match="one NoiseSchedule object"):
        LatentNowcaster(*parts, PLMSSampler(NoiseSchedule.sqrt_linear()))
    with pytest.raises(ValueError, match="got prediction 'z'"):
        LatentNowcaster(*parts, PLMSSampler(SCHEDULE), prediction="z")
    with pytest.raises(ValueError, match="channel_sizes or linear_forecast with prediction 'flow'"):
        LatentNowcaster(*parts, PLMSSampler(SCHEDULE), "flow", channel_sizes=lambda: torch.ones(3))


@pytest.mark.core
def test_schedule_is_in_no_state_dict(model):
    prefixes = {".".join(name.split(".")[:2]) for name in model.state_dict()}
    assert {p for p in prefixes if p.startswith("latent_nowcaster")} == {
        "latent_nowcaster.conditioner",
        "latent_nowcaster.denoiser",
    }
    assert not any("beta" in name or "alpha" in name for name in model.state_dict())


@pytest.mark.core
def test_every_parameter_gets_a_gradient_within_three_updates():
    """Convolutions that start at zero hold the others back.

    First only the denoiser's last one learns; it lets the gradient through to the last ones of its
    residual blocks, and those to everything before them.
    """
    torch.manual_seed(0)
    network = build(tiny_model().config).latent_nowcaster
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    z_past, z_future = torch.randn(2, 4, 1, 8, 8), torch.randn(2, 4, 5, 8, 8)
    reached, of_first_update = set(), set()
    for _update in range(3):
        optimizer.zero_grad()
        network(Known(z_past), z_future).sum().backward()
        largest = {n: p.grad.abs().max().item() for n, p in network.named_parameters()}
        floor = 1e-8 * max(largest.values())  # the softmax over one key, below, rounds to this
        reached |= {name for name, value in largest.items() if value > floor}
        of_first_update = of_first_update or set(reached)
        optimizer.step()
    assert of_first_update == {"denoiser.leave.2.1.weight", "denoiser.leave.2.1.bias"}
    never = {name for name, _ in network.named_parameters()} - reached
    # One past latent frame is one key, and the choice among keys never matters.
    transformer = "conditioner.temporal_transformer."
    expected = ("attn2.query.weight", "attn2.query.bias", "norm2.weight", "norm2.bias")
    assert never == {transformer + name for name in expected}


def test_use_sampler_changes_what_it_is_told_to():
    model = tiny_model()
    before = model.latent_nowcaster.inference_sampler
    model.use_sampler(num_sampling_steps=9)
    after = model.latent_nowcaster.inference_sampler
    assert (type(after), after.num_sampling_steps) == (type(before), 9)
    assert after.schedule is before.schedule
    with pytest.raises(InputError, match="got 5000"):
        model.use_sampler("plms", 5000)


def test_any_layout_of_an_array_gives_the_same_forecast():
    model, past = tiny_model(), rain(16, 32).numpy()
    expected = model.predict(past, 1)
    flipped_twice = past[:, ::-1].copy()[:, ::-1]  # negative strides
    big_endian = past.astype(">f4")
    for same in (flipped_twice, big_endian):
        np.testing.assert_array_equal(model.predict(same, 1), expected)
    assert model.predict(past.astype(np.longdouble), 1).shape == expected.shape


def test_what_a_masked_array_hides_is_no_data():
    model, past = tiny_model(), rain(16, 32).numpy()
    hidden = np.zeros(past.shape, dtype=bool)
    hidden[:, :5, :7] = True
    masked = np.ma.masked_array(past, hidden)
    expected = model.predict(np.where(hidden, np.nan, past), 1)
    assert np.isnan(expected[..., :5, :7]).all()
    np.testing.assert_array_equal(model.predict(masked, 1), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"past": [[0.0]]}, "got list, expected a NumPy array or a tensor"),
        ({"num_members": 1.5}, "got 1.5 members"),
        ({"num_sampling_steps": 2.5}, "got 2.5 sampling steps"),
        ({"noise": torch.full((1, 4, 5, 4, 8), torch.nan)}, "expected finite numbers"),
    ],
)
def test_arguments_of_another_kind_are_refused(arguments, message):
    usual = {"past": rain(16, 32), "num_members": 1}
    with pytest.raises(InputError, match=message):
        tiny_model().predict(**{**usual, **arguments})


def test_noise_may_be_an_array():
    model, past = tiny_model(), rain(16, 32)
    noise = torch.randn(1, 4, 5, 4, 8)
    assert torch.equal(
        model.predict(past, 1, noise=noise), model.predict(past, 1, noise=noise.numpy())
    )


def test_more_levels_pad_to_larger_multiples():
    config = tiny_config()
    config = replace(
        config,
        conditioner=replace(config.conditioner, num_cascade_levels=4),
        denoiser=replace(config.denoiser, channel_multipliers=(1, 1, 1, 1)),
    )
    model = build(config)
    assert model.rain_multiple == 32
    assert model.predict(rain(40, 20), 1).shape == (1, 20, 40, 20)


def test_a_model_that_gives_nan_is_refused_rather_than_called_dry():
    model = tiny_model()
    model.autoencoder.to_decoder.bias.data[0] = torch.nan
    with pytest.raises(InputError, match="not finite"):
        model.predict(rain(16, 16), 1)


def test_a_denoiser_that_overflows_is_stopped_at_once():
    model = tiny_model(prediction="noise")
    asked = count_calls(model.latent_nowcaster.denoiser)
    model.latent_nowcaster.denoiser.leave[-1][1].weight.data *= 1e30
    with pytest.raises(InputError, match="not finite"):
        model.predict(rain(16, 16), 1)
    assert len(asked) < NUM_CALLS


@pytest.mark.parametrize(
    ("blank", "message"),
    [([3], "the newest past frame holds no data"), ([0, 1, 2], "before the newest hold no data")],
)
def test_a_past_without_data_where_it_must_have_some_is_refused(blank, message):
    past = rain(16, 16)
    past[blank] = torch.nan
    with pytest.raises(InputError, match=message):
        tiny_model().predict(past, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_gaps_of_earlier_frames_are_filled_before_the_networks_see_them(model, dtype):
    past = rain().to(dtype)
    past[1, :, :20] = past[2] = torch.nan
    filled = fill_gaps(past)
    assert filled.rain_rate.dtype == dtype and filled.was_gap.sum() > filled.is_gap.sum()
    expected = model.predict(filled.rain_rate.nan_to_num(nan=0.0), num_members=1)
    assert_close(model.predict(past, num_members=1), expected, REBATCHED)
    as_dry = model.predict(past.nan_to_num(nan=0.0), num_members=1)
    assert relative_error(as_dry, expected) > 0.05


def test_counts_may_be_numpy_integers():
    assert tiny_model().predict(rain(16, 16), np.int64(2)).shape[0] == 2
