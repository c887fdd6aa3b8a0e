"""Files that no reader was named for: each line says what they are and what to do."""

import gzip
from pathlib import Path

import pytest

from ldcast.data.build import main
from ldcast.data.formats import kind_of, looks_like, next_step
from ldcast.data.readers.importers import read_mch
from ldcast.data.readers.specs import read_event
from ldcast.errors import InputError, run_script

GRIB = b"GRIB\0\0\0\2" + bytes(40)
CONVERT_GRIB = "GRIB, which is not read.*wgrib2 FILE -netcdf .*set standard_name to rainfall_rate"


def packed(contents: bytes) -> bytes:
    return gzip.compress(contents, mtime=0)  # parameters of tests must not depend on the time


WITH_READER = (
    r"infer\.py reads it with --reader {0}; for other commands convert it: "
    r"python -m ldcast\.data\.build {1} --reader {2} --out EVENT\.npz"
)


def save(path: Path, contents: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(contents)
    return path


def refuse(spec: Path, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        read_event(spec)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("MRMS.grib2", GRIB, f"it is {CONVERT_GRIB}"),
        ("MRMS", GRIB, CONVERT_GRIB),
        (
            "MRMS.grib2.gz",
            packed(GRIB),
            "gzipped: unpack it by gunzip, then convert it",
        ),
        (
            "a.h5",
            b"\x89HDF\r\n\x1a\n",
            "it is HDF5: " + WITH_READER.format("odim or knmi", ".*h5", "odim"),
        ),
        ("a.h5.gz", packed(b"\x89HDF\r\n"), r"gunzip, then infer\.py .*convert .*/a\.h5 --"),
        (
            "a.pgm.gz",
            packed(b"P5\n# a"),
            "a PGM, gzipped: " + WITH_READER.format("fmi", ".*gz", "fmi"),
        ),
        ("a", b"P5\n# a", "it is a PGM: infer.py reads it with --reader fmi"),
        ("a.gif", b"GIF89a", "it is a GIF: infer.py reads it with --reader mch"),
        ("a.png", b"\x89PNG\r\n", "a PNG: colours are no rain rates"),
        ("a.tif", b"II*\0", "a TIFF, which is not read: write it as NetCDF"),
        ("a", b"CDF\1", r"it is NetCDF: give it a name that ends in \.nc"),
        ("a.bz2", b"BZh9", "packed by bzip2: unpack it first"),
        ("a.gz", packed(bytes(99)), "it is gzipped: unpack it by gunzip"),
        ("a.csv", b"1,2", r"is not an \.npz file, or its end is missing; fetch it again"),
        ("a.gz", packed(bytes(99))[:9], "or its end is missing; fetch it again"),
    ],
)
def test_a_file_is_named_by_what_is_in_it(tmp_path, name, contents, message):
    refuse(save(tmp_path / name, contents), message)


@pytest.mark.parametrize(
    ("file", "contents", "message"),
    [
        (
            "a.gif",
            b"GIF89a",
            "infer.py reads it with --reader mch; .*convert .*/feed/. --reader mch",
        ),
        (
            "a.npz",
            b"PK\x03\x04",
            r"infer\.py reads it with --reader npz, other commands take .*/feed/.",
        ),
        ("a.grb2", GRIB, f"a.grb2 in it is {CONVERT_GRIB}"),
        ("zarr.json", b"{}", r"it is a Zarr store: give it a name that ends in \.zarr"),
        (".zgroup", b"{}", r"it is a Zarr store: give it a name that ends in \.zarr"),
        (".hidden", GRIB, "name a file, or a folder that has files of radar rain"),
    ],
)
def test_a_folder_is_named_by_its_files(tmp_path, file, contents, message):
    save(tmp_path / "feed" / file, contents)
    refuse(tmp_path / "feed", f"feed is a folder, expected a file; {message}")


def test_hdf5_tells_whose_it_is(tmp_path):
    h5py = pytest.importorskip("h5py", reason="looks into HDF5")
    kinds = {"odim": ("what", "dataset1"), "knmi": ("overview", "image1")}
    for reader, groups in kinds.items():
        with h5py.File(tmp_path / f"{reader}.h5", "w") as file:
            for group in groups:
                file.create_group(group)
        assert kind_of(tmp_path / f"{reader}.h5").readers == (reader,)
    with h5py.File(tmp_path / "netcdf", "w") as file:
        file.attrs["_NCProperties"] = "version=2"
    assert next_step(tmp_path / "netcdf") == "it is NetCDF: give it a name that ends in .nc"


def test_a_reader_that_may_be_right_is_not_talked_out_of(tmp_path):
    gif = save(tmp_path / "a.gif", b"GIF89a")
    assert looks_like(gif) == "a.gif is a GIF (--reader mch)"
    assert looks_like(gif, other_than="mch") == ""
    assert looks_like(save(tmp_path / "a.h5", b"\x89HDF"), other_than="xarray") == ""
    assert looks_like(tmp_path / "none") == ""


def test_grib_under_another_name_or_reader(tmp_path):
    pytest.importorskip("xarray", reason="reads NetCDF")
    refuse(save(tmp_path / "a.nc", GRIB), CONVERT_GRIB)
    pytest.importorskip("pysteps", reason="reads files of weather services")
    pytest.importorskip("h5py", reason="reads files of weather services")
    with pytest.raises(InputError, match=CONVERT_GRIB) as error:
        read_mch(save(tmp_path / "AQC161932045V_00005.801.gif", GRIB))
    assert "name another --reader" not in str(error.value)


def test_build_says_what_the_reader_would_be(tmp_path, capsys):
    path, out = save(tmp_path / "a.grib2", GRIB), tmp_path / "out.npz"
    assert run_script(lambda: main([str(path), "--out", str(out)])) == 2
    error = capsys.readouterr().err
    assert "odim, xarray, npz; a.grib2 is GRIB, which is not read" in error
    assert run_script(lambda: main([str(tmp_path), "--out", str(out)])) == 2
    assert capsys.readouterr().err == error  # of the only file in this folder
