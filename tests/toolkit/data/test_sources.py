"""Every kind of source gives the same samples."""

from __future__ import annotations

import struct
import sys
import tracemalloc
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.toolkit.calibration.networks import chain, model, sentences
from toolkit.base.errors import DataError
from toolkit.base.profiles import Extent, Profiles, ShapeProfile
from toolkit.base.types import Array
from toolkit.contract.journal import Journal
from toolkit.data.arrays import open_archive, open_array
from toolkit.data.dataset import CalibrationData

VALUES = np.random.default_rng(0).standard_normal((6, 3, 4), np.float32)


def generator() -> Iterator[dict[str, Array]]:
    for row in VALUES:
        yield {"x": row[None]}


def stacked(data: CalibrationData) -> Array:
    return np.concatenate([s.inputs["x"] for s in data.samples()])


def check(source: Any, **settings: Any) -> CalibrationData:
    data = CalibrationData.open(source, chain(), **settings)
    assert np.array_equal(stacked(data), VALUES)
    assert np.array_equal(stacked(data), VALUES), "it can be read again"
    assert len(data) == 6
    return data


def test_an_archive_holds_samples_joined_or_one_by_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=VALUES)
    assert [s.origin for s in check(tmp_path / "a.npz").samples()][3] == f"{tmp_path}/a.npz, sample 3"
    np.savez_compressed(tmp_path / "b.npz", **{f"x/{i:05d}": VALUES[i : i + 1] for i in range(6)})
    check("b.npz", base=tmp_path)


def test_folder_of_archives(tmp_path: Path) -> None:
    np.savez(tmp_path / "b.npz", x=VALUES[2:5])
    np.savez(tmp_path / "a.npz", x=VALUES[:2])
    np.savez(tmp_path / "c.npz", **{"x/0": VALUES[5:]})
    data = check(tmp_path)
    reads: list[str] = []
    _, held = data.split(0.17)
    for sample in held.samples():
        reads.append(sample.origin)
    assert len(reads) == 1, "files without a wanted sample are passed over"


def test_folder_of_arrays_for_one_input(tmp_path: Path) -> None:
    for i in range(5):
        np.save(tmp_path / f"{i}.npy", VALUES[i : i + 1])
    np.save(tmp_path / "z.npy", VALUES[5:])
    check(tmp_path)
    np.save(tmp_path / "all.npy", VALUES)
    check(tmp_path / "all.npy")


@pytest.mark.parametrize("pattern", ["{name}/{stem}.npy", "{name}.{stem}.npy", "{stem}.{name}.npy"])
def test_folder_of_arrays_for_two_inputs(tmp_path: Path, pattern: str) -> None:
    for stem in ("a", "b"):
        for name, value in (("ids", 1), ("mask", 0), ("label", 7)):
            path = tmp_path / pattern.format(name=name, stem=stem)
            path.parent.mkdir(exist_ok=True)
            np.save(path, np.full((1, 3), value))
    samples = list(CalibrationData.open(tmp_path, sentences(), labels=True).samples())
    assert len(samples) == 2
    assert [s.inputs["ids"].max() for s in samples] == [1, 1]
    assert [s.labels["label"].max() for s in samples] == [7, 7]


def test_inputs_saved_by_polygraphy_are_read(tmp_path: Path) -> None:
    from polygraphy.json import save_json

    save_json([OrderedDict(x=row[None]) for row in VALUES], str(tmp_path / "inputs.json"))
    check(tmp_path / "inputs.json")


def test_iterables_and_code(monkeypatch: pytest.MonkeyPatch) -> None:
    check([{"x": row[None]} for row in VALUES])
    check(generator)
    check(generator())
    check(f"{__name__}:generator", allow_code=True)
    monkeypatch.setattr(sys.modules[__name__], "listed", list(generator()), raising=False)
    check(f"{__name__}:listed", allow_code=True)


class Shuffled:
    """Iterated for the n-th time, it gives the samples that the n-th of ``orders`` says."""

    def __init__(self, *orders: Sequence[int]) -> None:
        self._orders = list(orders)

    def __iter__(self) -> Iterator[dict[str, Array]]:
        for row in VALUES[self._orders.pop(0)]:
            yield {"x": row[None]}


class Augmented:
    """Values that are a little different in each pass."""

    def __init__(self) -> None:
        self._passes = 0

    def __iter__(self) -> Iterator[dict[str, Array]]:
        self._passes += 1
        for row in VALUES:
            yield {"x": row[None] + np.float32(0.001 * self._passes)}


class Collating:
    """What torch's DataLoader is to us: batches of two rows."""

    dataset, batch_size = VALUES, 2

    def __iter__(self) -> Iterator[dict[str, Array]]:
        for start in range(0, len(VALUES), 2):
            yield {"x": VALUES[start : start + 2]}


def test_a_loader_of_batches_gives_its_rows_wherever_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    check(Collating())
    check(lambda: Collating())
    check(Collating)
    monkeypatch.setattr(sys.modules[__name__], "made", lambda: Collating(), raising=False)
    check(f"{__name__}:made", allow_code=True)


class CollatingPairs(Collating):
    """Its data set gives pairs of a sample and a label, as most of torchvision's do."""

    def __iter__(self) -> Iterator[Any]:
        yield [VALUES[:2], np.zeros(2)]


def test_batches_that_are_no_dictionaries_are_refused_once() -> None:
    with pytest.raises(DataError) as error:
        stacked(CalibrationData.open(CollatingPairs(), chain()))
    assert str(error.value).startswith("the iterable: a batch is of type list. Let the data set return dictionaries")
    assert "failed" not in str(error.value)


def test_samples_that_come_in_another_order_are_not_mixed() -> None:
    straight = range(len(VALUES))
    # looked at for rows and thereby counted, and read twice
    data = CalibrationData.open(Shuffled(straight, straight, straight[::-1]), chain())
    calibration, held_out = data.split(0.5)
    assert len(stacked(calibration)) == 3
    with pytest.raises(
        DataError, match=r"sample 0: .*not the sample yielded before at this place: it came as sample 5 then"
    ):
        stacked(held_out)
    shorter = CalibrationData.open(Shuffled(straight, straight[:4]), chain())
    stacked(shorter)
    with pytest.raises(DataError, match="it yields 4 samples, before 6"):
        stacked(shorter)
    longer = CalibrationData.open(Shuffled(straight[:4], straight), chain())
    stacked(longer)
    with pytest.raises(DataError, match="it yields more than the 4 samples that it yielded before"):
        stacked(longer)
    augmented = CalibrationData.open(Augmented(), chain())
    stacked(augmented)
    with pytest.raises(
        DataError, match=r"its values were not among them; a run reads .* seed random augmentation again"
    ):
        stacked(augmented)
    # somebody may look at the first ones only
    data = CalibrationData.open(Shuffled(straight, straight, straight), chain())
    assert next(data.samples()).index == 0
    assert np.array_equal(stacked(data), stacked(data))


def test_random_data_is_seeded_and_said() -> None:
    profiles = Profiles(
        tuple(
            ShapeProfile(n, {"x": Extent((2, 3, low), (2, 3, low + 1), (8, 3, low + 2))})
            for n, low in (("a", 2), ("b", 9))
        )
    )
    journal = Journal()

    def opened(seed: int) -> CalibrationData:
        return CalibrationData.open(None, chain(), profiles, random={"seed": seed, "samples": 7}, journal=journal)

    data = opened(3)
    assert data.random
    assert [e.rule for e in journal] == ["random data"]
    assert [s.inputs["x"].shape for s in data.samples()] == [(1, 3, w) for w in (3, 10, 2, 9, 4, 11, 3)]
    assert opened(3).fingerprint() == data.fingerprint() != opened(4).fingerprint()
    ids = CalibrationData.open(
        None, model("g (int64[2, 3] x) => (int64[2, 3] y) { y = Neg(x) }"), random={"seed": 0, "samples": 2}
    )
    assert {int(v) for s in ids.samples() for v in s.inputs["x"].reshape(-1)} == {0, 1}


IMAGE_MODEL = "g (float[n, 3, 4, 4] x) => (float[n, 3, 4, 4] y) { y = Relu(x) }"


def test_images_are_scaled_and_normalized(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[..., 0], pixels[..., 2] = 51, 255
    pixels[:, :2] = 0
    image.fromarray(pixels).save(tmp_path / "a.png")
    settings = {"mean": [0.1, 0.0, 0.5], "std": [1, 1, 0.5]}
    (sample,) = CalibrationData.open(tmp_path, model(IMAGE_MODEL), images=settings).samples()
    assert sample.inputs["x"].shape == (1, 3, 4, 4)
    assert sample.inputs["x"][0, :, 0, 0] == pytest.approx([0.1, 0, 1])
    (sample,) = CalibrationData.open(tmp_path, model(IMAGE_MODEL), images={"colour": "bgr", "crop": "pad"}).samples()
    assert sample.inputs["x"][0, :, 1, 3] == pytest.approx([1, 0, 0.2], abs=0.01)
    assert not sample.inputs["x"][0, :, 0].any(), "zeros above the image"
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"b\.png: it cannot be read as an image"):
        list(CalibrationData.open(tmp_path, model(IMAGE_MODEL)).samples())


@pytest.mark.parametrize("ending", ["png", "tiff", "pgm"])
def test_pixels_of_more_than_eight_bits_are_refused_rather_than_cut_off_at_255(tmp_path: Path, ending: str) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.full((4, 4), 30_000, np.uint16)).save(tmp_path / f"a.{ending}")
    with pytest.raises(DataError, match=r"more than 8 bits .*\.npz"):
        list(CalibrationData.open(tmp_path, model(IMAGE_MODEL)).samples())


def test_pixels_of_floats_are_refused(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(DataError, match="mode F"):
        list(CalibrationData.open(tmp_path, model(IMAGE_MODEL)).samples())


@pytest.mark.parametrize("ending", ["tif", "png", "webp"])
def test_a_file_of_several_pages_is_refused_rather_than_read_in_part(tmp_path: Path, ending: str) -> None:
    image = pytest.importorskip("PIL.Image")
    pages = [image.fromarray(np.full((4, 4, 3), 80 * page, np.uint8)) for page in range(3)]
    pages[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=pages[1:])
    with pytest.raises(DataError, match=rf"a\.{ending}.* it holds 3 pages or frames.* a file of its own"):
        list(CalibrationData.open(tmp_path, model(IMAGE_MODEL)).samples())
    pages[0].save(tmp_path / f"a.{ending}", save_all=True)
    assert len(list(CalibrationData.open(tmp_path, model(IMAGE_MODEL)).samples())) == 1


@pytest.mark.parametrize(("kind", "taken"), [(1, True), (4, True), (2, False)], ids=["smaller", "mask", "page"])
def test_smaller_copies_and_masks_of_a_tiff_are_no_pages(tmp_path: Path, kind: int, taken: bool) -> None:
    image = pytest.importorskip("PIL.Image")
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    whole, other = (image.fromarray(np.full((4, 4, 3), level, np.uint8)) for level in (51, 0))
    tags = ImageFileDirectory_v2()
    tags[254] = kind
    other.encoderinfo = {"tiffinfo": tags}
    whole.save(tmp_path / "a.tif", save_all=True, append_images=[other])
    data = CalibrationData.open(tmp_path, model(IMAGE_MODEL))
    if not taken:
        with pytest.raises(DataError, match="it holds 2 pages or frames"):
            list(data.samples())
        return
    (sample,) = data.samples()
    assert np.allclose(next(iter(sample.inputs.values())), 51 / 255)


def test_a_tiff_with_a_damaged_second_page_is_refused_without_warnings(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.full((4, 4, 3), 51, np.uint8)).save(tmp_path / "a.tif")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    # TIFF 6.0: the header holds the offset of the first directory; its count of 12-byte tags, then the next one's offset
    (first,) = struct.unpack_from("<I", content, 4)
    (tags,) = struct.unpack_from("<H", content, first)
    struct.pack_into("<I", content, first + 2 + 12 * tags, len(content))
    (tmp_path / "a.tif").write_bytes(content + struct.pack("<HHH", 1, 256, 3))
    with pytest.raises(DataError, match="cannot be read as an image"):
        list(CalibrationData.open(tmp_path, model(IMAGE_MODEL)).samples())
    assert not recwarn.list


def test_a_palette_with_transparent_colours_is_read_as_its_colours_without_a_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    image = pytest.importorskip("PIL.Image")
    palette = image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 255, 0, 51])
    palette.save(tmp_path / "a.png", transparency=bytes([0, 128]))
    (sample,) = CalibrationData.open(tmp_path, model(IMAGE_MODEL)).samples()
    assert sample.inputs["x"][0, :, 2, 2] == pytest.approx([1, 0, 0.2])
    assert not recwarn.list


def test_images_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match=r"needs Pillow. Install it by pip install 'qtool\[images\]'"):
        list(CalibrationData.open(tmp_path, model(IMAGE_MODEL)).samples())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sise": [4, 4]}, r"images.sise is not an image setting \(images in .*\). Did you mean 'size'"),
        ({"crop": "middle"}, r"images.crop is 'middle' .*. One of center, none, pad"),
        ({"mean": [1, 2]}, r"images.mean is \[1, 2\]"),
        ({"std": 0}, "images.std is 0"),
        ({"size": 4}, r"images.size is 4, not \[height, width\]"),
    ],
)
def test_wrong_image_settings_are_named_with_what_is_wanted(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=message):
        CalibrationData.open(tmp_path, model(IMAGE_MODEL), images=settings)


def test_plain_archives_are_read_row_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "plain.npz", x=VALUES, label=np.arange(6))
    np.savez_compressed(tmp_path / "packed.npz", x=VALUES)
    np.savez(tmp_path / "fortran.npz", x=np.asfortranarray(VALUES))
    np.save(tmp_path / "fortran.npy", np.asfortranarray(VALUES))
    for name in ("packed.npz", "fortran.npz", "fortran.npy"):
        check(tmp_path / name)
    monkeypatch.setattr("toolkit.data.arrays.Stored._whole", lambda self: pytest.fail("the whole array was read"))
    check(tmp_path / "plain.npz")


@pytest.mark.parametrize("form", ["npy", "npz"])
def test_rows_are_read_with_those_that_follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """One row after another opened the file for each: of 5,000 samples most of the time went into that."""
    values = np.random.default_rng(0).standard_normal((1000, 64), np.float32)
    path = tmp_path / f"a.{form}"
    save = {"npy": lambda kept: np.save(path, kept), "npz": lambda kept: np.savez(path, x=kept)}[form]
    save(values)
    stored = open_array(path) if form == "npy" else open_archive(path)["x"]
    reads: list[int] = []
    fromfile = np.fromfile

    def counted(file: Any, dtype: Any, count: int, offset: int) -> Array:
        reads.append(count * np.dtype(dtype).itemsize)
        return fromfile(file, dtype, count, offset=offset)

    monkeypatch.setattr(np, "fromfile", counted)
    found = [stored.rows(i, i + 1) for i in range(1000)]
    assert np.array_equal(np.concatenate(found), values)
    assert len(reads) == 2 and max(reads) <= 128 << 10
    # what a caller does with a row changes no other, and rows are found in any order
    found[999][:] = 0
    for start, stop in ((999, 1000), (0, 3), (2, 3), (510, 514), (900, 1200), (7, 7), (0, 1000)):
        assert np.array_equal(stored.rows(start, stop), values[start:stop])
    # another content is seen at once; an archive's has another checksum
    stored.rows(5, 6)
    save(-values)
    if form == "npy":
        assert np.array_equal(stored.rows(6, 7), -values[6:7])
    else:
        with pytest.raises(DataError, match="CRC"):
            stored.rows(6, 7)


def test_arrays_that_are_read_in_one_go_are_not_kept(tmp_path: Path) -> None:
    """An archive may hold a small array for every sample: kept read ahead, they would be the whole archive in memory."""
    np.savez(tmp_path / "a.npz", **{str(i): np.full((4, 2000), i, np.float32) for i in range(200)})
    stored = open_archive(tmp_path / "a.npz")
    tracemalloc.start()
    try:
        for i in range(200):
            assert np.array_equal(stored[str(i)].rows(0, 4), np.full((4, 2000), i, np.float32))
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_file_cut_short(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VALUES)
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(whole[:-8])
    with pytest.raises(DataError, match=r"a\.npy: it cannot be read"):
        check(tmp_path / "a.npy")
