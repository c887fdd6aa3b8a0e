"""Another autoencoder is a file and a line: trained, saved, loaded and forecast with."""

from dataclasses import dataclass, replace

import pytest
import torch
from stages import Stage
from tiny_models import rain, tiny_config, tiny_model
from torch import Tensor, nn

from ldcast import LDCast
from ldcast.config import ModelConfig
from ldcast.errors import InputError
from ldcast.models import AutoencoderConfig
from ldcast.models.registry import AUTOENCODERS
from ldcast.nowcast.ldcast import build
from ldcast.nowcast.model_folder import read_description
from ldcast.settings import from_dict, setting, to_dict


@dataclass(frozen=True)
class PatchesConfig(AutoencoderConfig):
    """Sizes of `Patches`."""

    kind: str = setting("patches", "which autoencoder")
    has_bias: bool = setting(True, "whether patches have one")


class Patches(nn.Module):
    """Linear patches of 2 x 2 x 2 pixels: another compression than the published."""

    Config = PatchesConfig
    compression = 2

    def __init__(self, config: PatchesConfig) -> None:
        super().__init__()
        self.config, self.latent_channels, self.channels = config, config.latent_channels, 1
        self.to_moments = nn.Conv3d(1, 2 * self.latent_channels, 2, 2, bias=config.has_bias)
        self.to_rain = nn.ConvTranspose3d(self.latent_channels, 1, 2, 2, bias=config.has_bias)

    def encode(self, rain_norm: Tensor) -> tuple[Tensor, Tensor]:
        return self.to_moments(rain_norm).chunk(2, dim=1)

    def decode(self, z: Tensor) -> Tensor:
        return self.to_rain(z)

    def forward(self, rain_norm: Tensor, noise: Tensor | None = None) -> tuple[Tensor, ...]:
        z_mean, z_log_var = self.encode(rain_norm)
        z = z_mean if noise is None else z_mean + torch.exp(0.5 * z_log_var) * noise
        return self.decode(z), z_mean, z_log_var


@pytest.fixture
def patches(monkeypatch):
    """The line that a new autoencoder takes."""
    monkeypatch.setitem(AUTOENCODERS, "patches", Patches)


def patches_model() -> LDCast:
    config = replace(tiny_config(), autoencoder=PatchesConfig(latent_channels=3, has_bias=False))
    torch.manual_seed(0)
    return build(config).eval()


def test_it_is_saved_loaded_and_forecast_with(patches, tmp_path) -> None:
    model = patches_model()
    assert model.rain_multiple == 8
    forecast = model.predict(rain(30, 44), 2)
    assert forecast.shape == (2, 20, 30, 44) and torch.isfinite(forecast).all()
    assert model.predict(rain(64, 40), 1, window=32).shape == (1, 20, 64, 40)
    model.save_pretrained(tmp_path)
    loaded = LDCast.from_pretrained(tmp_path, device="cpu")
    assert type(loaded.autoencoder) is Patches and loaded.config == model.config
    assert torch.equal(loaded.predict(rain(30, 44), 2), forecast)


def test_it_is_trained_by_both_scripts(patches, event_path, autoencoder_run, tmp_path) -> None:
    first = Stage("autoencoder", event_path, autoencoder_run)
    flags = ["--autoencoder.kind", "patches", "--autoencoder.has-bias", "false"]
    out = first.run(tmp_path / "autoenc", 2, *flags)
    # A flag of its own, and its own defaults in place of the preset's sizes.
    assert read_description(out).model.autoencoder == PatchesConfig(has_bias=False)
    second = Stage("diffusion", event_path, out)
    run = second.run(tmp_path / "ldcast", 1)
    assert type(LDCast.from_pretrained(run, device="cpu").autoencoder) is Patches


def test_an_unknown_kind_is_refused_by_the_script(
    event_path, autoencoder_run, tmp_path, capsys
) -> None:
    stage = Stage("autoencoder", event_path, autoencoder_run)
    line = stage.fails(capsys, tmp_path / "run", "--autoencoder.kind", "lk")
    assert "unknown kind of autoencoder lk" in line


def test_one_that_is_not_registered_is_not_saved(tmp_path) -> None:
    model = patches_model_unregistered()
    assert torch.isfinite(model.predict(rain(), 1)).all()
    with pytest.raises(InputError, match="Patches is not registered as 'patches'"):
        model.save_pretrained(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def patches_model_unregistered() -> LDCast:
    """A tiny model of 4 x 4 x 4 compression around an autoencoder that nothing names."""

    class Coarser(Patches):
        compression = 4

        def __init__(self, config: PatchesConfig) -> None:
            super().__init__(config)
            self.to_moments = nn.Conv3d(1, 2 * self.latent_channels, 4, 4)
            self.to_rain = nn.ConvTranspose3d(self.latent_channels, 1, 4, 4)

    Coarser.__name__ = "Patches"
    model = tiny_model()
    model.autoencoder = Coarser(PatchesConfig(latent_channels=4))
    return model


def test_a_table_without_a_kind_is_the_published_one() -> None:
    table = to_dict(tiny_config())
    assert table["autoencoder"].pop("kind") == "kl"
    assert from_dict(ModelConfig, table) == tiny_config()


def test_an_unknown_kind_is_named() -> None:
    table = to_dict(tiny_config())
    table["autoencoder"]["kind"] = "lk"
    with pytest.raises(InputError, match="unknown kind of autoencoder lk: known are kl"):
        from_dict(ModelConfig, table)
