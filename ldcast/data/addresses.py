"""Where data are: a path on a disk, or an address such as s3://BUCKET/radar.zarr.

Whatever fsspec has a protocol for is an address; its settings come from fsspec's own configuration
and from the environment, such as FSSPEC_S3_ANON=true or AWS_ENDPOINT_URL.
"""

import re
from pathlib import Path

from ldcast.errors import InputError

_PROTOCOL = re.compile(r"(?P<protocol>[a-z][a-z0-9+.-]+)://")
_PACKAGES = {"s3": "s3fs", "http": "aiohttp", "https": "aiohttp", "gs": "gcsfs", "az": "adlfs"}


def is_remote(address: str | Path) -> bool:
    """Whether it is no path on a disk."""
    return isinstance(address, str) and _PROTOCOL.match(address) is not None


def located(text: str) -> str | Path:
    """The address itself, or the path that a text names."""
    return text if is_remote(text) else Path(text)


def absolute(address: str | Path) -> str:
    """The same from any working folder, links followed."""
    return str(address) if is_remote(address) else str(Path(address).resolve())


def stem(address: str | Path) -> str:
    """The last name without its suffix."""
    return Path(str(address).rstrip("/")).stem


def beside(address: str | Path, name: str) -> str | Path:
    """Another name in the same folder."""
    if not is_remote(address):
        return Path(address).with_name(name)
    return f"{str(address).rstrip('/').rpartition('/')[0]}/{name}"


def within(address: str | Path, *names: str) -> str | Path:
    """What has these names inside of it."""
    if not is_remote(address):
        return Path(address, *names)
    return "/".join([str(address).rstrip("/"), *names])


def read_bytes(address: str | Path) -> bytes:
    """All of a file. Raises OSError, FileNotFoundError if there is none."""
    if not is_remote(address):
        return Path(address).read_bytes()
    require_fsspec(address)
    import fsspec

    file_system, path = fsspec.core.url_to_fs(address)
    return file_system.cat_file(path)


def require_fsspec(address: str) -> None:
    """Raises InputError where no installed package knows the protocol of an address."""
    protocol = _PROTOCOL.match(address)["protocol"]
    packages = f"fsspec {_PACKAGES.get(protocol, '')}".strip()
    try:
        import fsspec

        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        raise InputError(
            f"{address} needs a package ({error}); install it with: pip install {packages}"
        ) from error
    except ValueError as error:
        raise InputError(
            f"{address}: {protocol} is no protocol that fsspec knows, expected s3, https or "
            "another; check it, or give a path"
        ) from error
