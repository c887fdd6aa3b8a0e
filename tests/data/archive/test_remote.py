"""Archives behind addresses, served by this process."""

import http.server
import re
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest
from archives import days_of_rain, make_archive, write_archive

import train_autoenc
from ldcast.data import index as door
from ldcast.data.archive import patience
from ldcast.data.archive.events import find_archive
from ldcast.data.archive.sidecar import index_address
from ldcast.data.readers.specs import absolute_spec, read_event
from ldcast.data.reading import AS_STATED
from ldcast.errors import InputError, UnreadableError, run_script
from ldcast.training.metrics import metrics_lines

pytest.importorskip("aiohttp", reason="reads https://")


class Store(http.server.SimpleHTTPRequestHandler):
    """A folder as plain files, and under /bucket as an object store of the kind of S3.

    `is_away` of the server refuses everything.
    """

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(is_whole=False)

    def do_GET(self) -> None:
        self.answer(is_whole=True)

    def answer(self, is_whole: bool) -> None:
        self.server.num_requests += 1
        if self.server.num_requests > self.server.num_until_away:
            return self.reply(503, b"", is_whole)
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        name = urllib.parse.unquote(url.path).removeprefix("/bucket").lstrip("/")
        path = self.server.folder / name
        if "list-type" in query:
            return self.reply(200, self.list(query), is_whole, "application/xml")
        if not path.is_file():
            return self.reply(404, b"", is_whole)
        content, status, headers = path.read_bytes(), 200, {}
        if asked := self.headers.get("Range"):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            stop = int(last) + 1 if last else len(content)
            start = int(first) if first else len(content) - int(last)
            total, content = len(content), content[start : stop if first else None]
            status = 206
            headers["Content-Range"] = f"bytes {start}-{start + len(content) - 1}/{total}"
        return self.reply(status, content, is_whole, **headers)

    def list(self, query: dict[str, str]) -> bytes:
        """What is under a prefix, down to the next slash."""
        prefix = query.get("prefix", "")
        folder = self.server.folder
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
        found = [name for name in names if name.startswith(prefix) and (folder / name).is_file()]
        inside = {name for name in found if "/" not in name[len(prefix) :]}
        folders = {prefix + name[len(prefix) :].split("/")[0] + "/" for name in {*found} - inside}
        files = "".join(
            f"<Contents><Key>{escape(name)}</Key><Size>{(folder / name).stat().st_size}</Size>"
            "<LastModified>2020-01-01T00:00:00.000Z</LastModified><ETag>x</ETag>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
            for name in sorted(inside)
        )
        below = "".join(
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
            for name in sorted(folders)
        )
        return (
            '<?xml version="1.0"?><ListBucketResult><Name>bucket</Name>'
            f"<KeyCount>{len(inside) + len(folders)}</KeyCount><IsTruncated>false</IsTruncated>"
            f"{files}{below}</ListBucketResult>"
        ).encode()

    def reply(
        self, status: int, content: bytes, is_whole: bool, kind: str = "", **headers: str
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind or "application/x", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if is_whole:
            self.wfile.write(content)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[http.server.ThreadingHTTPServer]:
    """Serves tmp_path."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Store)
    server.daemon_threads = True
    server.folder, server.num_requests, server.num_until_away = tmp_path, 0, np.inf
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def http_address(server: http.server.ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def s3_address(server: http.server.ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> str:
    s3fs = pytest.importorskip("s3fs", reason="reads s3://")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    s3fs.S3FileSystem.clear_instance_cache()
    return "s3://bucket"


@pytest.fixture(params=["http_address", "s3_address"])
def address(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("version", [2, 3])
def test_an_archive_behind_an_address_is_read_in_place(tmp_path, address, version):
    make_archive(tmp_path / "radar.zarr", num_days=2, version=version)
    spec = f"{address}/radar.zarr"
    events = find_archive(spec, AS_STATED).events(24, 5)
    assert [len(event.time) for event in events] == [40, 40] and events[0].source == spec
    rain_rate = days_of_rain(2, 40)[1]
    np.testing.assert_array_equal(events[1].rain_rate[3:9, 10:30], rain_rate[43:49, 10:30])
    span = f"{spec}@2020-06-02/"
    assert absolute_spec(span) == span
    np.testing.assert_array_equal(read_event(span).rain_rate, rain_rate[40:])


def test_an_index_on_a_disk_names_an_archive_behind_an_address(tmp_path, address, capsys):
    path = make_archive(tmp_path / "radar.zarr", num_days=1)
    out = tmp_path / "here.index.zarr"
    index_address(path).rename(tmp_path / "elsewhere")
    assert find_archive(f"{address}/radar.zarr", AS_STATED) is None
    door.main([f"{address}/radar.zarr", "--out", str(out), "--workers", "1"])
    (event,) = find_archive(str(out), AS_STATED).events(24, 5)
    np.testing.assert_array_equal(event.rain_rate[5:8], days_of_rain(1, 40)[1][5:8])


def test_what_is_not_there_is_named(tmp_path, address):
    with pytest.raises(UnreadableError, match=r"nothing\.zarr is not a readable"):
        read_event(f"{address}/nothing.zarr")
    with pytest.raises(InputError, match="is no protocol that fsspec knows"):
        read_event("ftpx://server/radar.zarr")


def test_a_web_server_needs_consolidated_metadata(tmp_path, http_address):
    write_archive(tmp_path / "radar.zarr", *days_of_rain(1, 30), is_consolidated=False)
    with pytest.raises(InputError, match="needs a store with consolidated metadata"):
        read_event(f"{http_address}/radar.zarr")


def test_a_missing_package_is_named(monkeypatch):
    fsspec = pytest.importorskip("fsspec")

    def fail(protocol: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "get_filesystem_class", fail)
    with pytest.raises(InputError, match=r"Install s3fs.*pip install fsspec s3fs"):
        read_event("s3://bucket/radar.zarr")


@pytest.mark.slow
def test_training_stops_with_its_state_saved_where_a_store_is_gone(
    tmp_path, http_address, server, event_path, monkeypatch, capsys
):
    """And continues where it was, once the store is back: as if nothing had been."""
    make_archive(tmp_path / "radar.zarr", num_days=2)
    monkeypatch.setattr(patience.time, "sleep", lambda seconds: None)
    arguments = ["--preset", "tiny", "--crop-size", "32", "--iterations", "6"]
    arguments += ["--data", f"{http_address}/radar.zarr", "--data.crop-picker", "uniform"]
    arguments += ["--validation-data", str(event_path), "--loop.num-validation-examples", "2"]
    arguments += ["--loop.log-interval", "1"]
    read = train_autoenc.Batches.read

    def cut_off(batches) -> bool:
        if len(asked) == 3:
            server.num_until_away = 0
        asked.append(True)
        return read(batches)

    def train(out: Path) -> int:
        return run_script(lambda: train_autoenc.main([*arguments, "--out", str(out)]))

    asked: list[bool] = []
    monkeypatch.setattr(train_autoenc.Batches, "read", cut_off)
    assert train(tmp_path / "cut") == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: http://") and "tried 5 times" in line
    assert re.search(r"at frames \d+ to \d+ of the archive", line)
    assert line.endswith("; saved at iteration 3; repeat to resume")
    lines = metrics_lines(tmp_path / "cut" / "metrics.jsonl")
    assert max(of["iteration"] for of in lines) == 3
    server.num_until_away = np.inf
    assert train(tmp_path / "cut") == 0
    asked.append(True)
    assert train(tmp_path / "whole") == 0
    states = [(tmp_path / name / "state.safetensors").read_bytes() for name in ("cut", "whole")]
    assert states[0] == states[1]
