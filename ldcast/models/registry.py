"""The autoencoders that a model's config may name: a new one is a file here, and a line below.

What it needs is the protocol `Autoencoder`; a config class, `AutoencoderConfig` or a subclass of it
with its own `kind` and sizes; and that class as its attribute `Config`.
"""

from collections.abc import Mapping
from typing import Any

from ldcast.errors import InputError
from ldcast.models.autoencoder import Autoencoder, AutoencoderConfig, AutoencoderKL
from ldcast.models.cosine_autoencoder import CosineAutoencoder
from ldcast.settings import unknown_name

AUTOENCODERS: dict[str, type] = {
    "kl": AutoencoderKL,
    "cosine": CosineAutoencoder,
}


def autoencoder_class(kind: str) -> type:
    """The class of that kind. Raises InputError for one that is not registered."""
    if kind not in AUTOENCODERS:
        raise InputError(unknown_name(kind, list(AUTOENCODERS), "kind of autoencoder"))
    return AUTOENCODERS[kind]


def build_autoencoder(config: AutoencoderConfig) -> Autoencoder:
    """The network that a config describes, with fresh weights."""
    return autoencoder_class(config.kind)(config)


def config_class(values: Mapping[str, Any]) -> type[AutoencoderConfig]:
    """The config class of a table of settings, by its `kind`; without one, the published."""
    return autoencoder_class(values.get("kind", AutoencoderConfig.kind)).Config


def check_autoencoder_registered(autoencoder: Autoencoder) -> None:
    """Raises InputError for an autoencoder that config.json could not name."""
    if AUTOENCODERS.get(autoencoder.config.kind) is not type(autoencoder):
        raise InputError(
            f"the autoencoder {type(autoencoder).__name__} is not registered as "
            f"'{autoencoder.config.kind}', so no model folder can name it: add a line for it to "
            "AUTOENCODERS in ldcast/models/registry.py"
        )
