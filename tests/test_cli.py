"""The command line on real files."""

import json
import subprocess
import sys
import time
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from skimage import data
from typer.testing import CliRunner, Result

import sgs
from sgs import _bench, _core, _images, _sections, cli, demo

SCALE = 0.15


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def succeeds(*arguments: object) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


def refused(*arguments: object, saying: str, code: int = 1) -> None:
    """Exit code, and one line to stderr that has the words."""
    result = run(*arguments)
    assert result.exit_code == code
    assert result.stdout == ""
    assert saying in result.stderr
    if code == 1:
        assert result.stderr.startswith("sgs: ")
        assert result.stderr.count("\n") == 1


def expected(pixels: np.ndarray, levels: int, **options: object) -> np.ndarray:
    """What the filter makes of colours (H, W, C), rounded back."""
    x = pixels.astype(np.float32) / levels
    y = sgs.semi_global_filter(x, channel_axis=-1, **{"scale": SCALE, "blocks": 2, **options})
    return np.rint(y.clip(0, 1) * levels).astype(pixels.dtype)


def photo(channels: int, dtype: type = np.uint8) -> np.ndarray:
    """A part of a real photo; alpha, if asked for, is a ramp. 16 bits are all used."""
    rgb = data.chelsea()[60:130, 100:190].astype(dtype)
    grey = rgb[:, :, 1:2]
    colours = grey if channels < 3 else rgb
    if dtype == np.uint16:
        colours = colours * 257 - (colours > 0) * np.arange(colours.shape[1], dtype=np.uint16)[:, np.newaxis]
    ramp = np.broadcast_to(np.arange(colours.shape[1], dtype=dtype)[:, np.newaxis], (*colours.shape[:2], 1))
    return colours if channels in (1, 3) else np.concatenate([colours, ramp], axis=2)


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    squeezed = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
    if pixels.dtype == np.uint8:
        Image.fromarray(squeezed).save(path, **options)
    elif path.suffix == ".png":
        path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(squeezed)))
    else:
        kind = "rgb" if pixels.shape[2] > 2 else "minisblack"
        extra = ["unassalpha"] if pixels.shape[2] in (2, 4) else []
        options = {"metadata": None, **options}
        tifffile.imwrite(path, squeezed, photometric=kind, extrasamples=extra, planarconfig="contig", **options)
    return path


def load(path: Path) -> np.ndarray:
    """By other ways than those under test, where there are any."""
    if path.suffix == ".png":
        pixels = imagecodecs.png_decode(path.read_bytes())
    elif path.suffix == ".tif":
        pixels = tifffile.imread(path)
    else:
        pixels = np.asarray(Image.open(path))
    return pixels if pixels.ndim == 3 else pixels[:, :, np.newaxis]


# ---- filter: what comes out


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_images_keep_bits_and_alpha(tmp_path: Path, channels: int, dtype: type, suffix: str) -> None:
    pixels = photo(channels, dtype)
    source, output = save(tmp_path / f"in{suffix}", pixels), tmp_path / f"out{suffix}"
    succeeds("filter", source, output, "--scale", SCALE)
    result = load(output)
    assert result.dtype == pixels.dtype
    assert result.shape == pixels.shape
    colours = channels - (channels in (2, 4))
    np.testing.assert_array_equal(result[:, :, :colours], expected(pixels[:, :, :colours], np.iinfo(dtype).max))
    np.testing.assert_array_equal(result[:, :, colours:], pixels[:, :, colours:])


def test_jpeg(tmp_path: Path) -> None:
    source = save(tmp_path / "in.jpg", photo(3), quality=90)
    succeeds("filter", source, tmp_path / "out.JPEG", "--scale", SCALE)
    wanted = expected(np.asarray(Image.open(source)), 255).astype(int)
    got = np.asarray(Image.open(tmp_path / "out.JPEG")).astype(int)
    assert abs(got - wanted).mean() < 2  # JPEG itself changes this much


def test_palettes_and_bitmaps_become_colours_and_grey(tmp_path: Path) -> None:
    Image.fromarray(photo(3)).quantize(16).save(tmp_path / "palette.png")
    Image.fromarray(photo(4)).quantize(16).save(tmp_path / "see-through.png")
    Image.fromarray(photo(1)[:, :, 0]).convert("1").save(tmp_path / "bits.png")
    for name, mode in {"palette": "RGB", "see-through": "RGBA", "bits": "L"}.items():
        succeeds("filter", tmp_path / f"{name}.png", tmp_path / f"{name}-out.png")
        assert Image.open(tmp_path / f"{name}-out.png").mode == mode
    before, after = (Image.open(tmp_path / f"see-through{end}.png").convert("RGBA") for end in ("", "-out"))
    np.testing.assert_array_equal(np.asarray(after)[:, :, 3], np.asarray(before)[:, :, 3])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_images_are_turned_upright(tmp_path: Path, orientation: int, dtype: type) -> None:
    pixels = photo(3, dtype)
    exif = Image.Exif()
    exif[0x0112] = orientation
    if dtype == np.uint8:
        source = save(tmp_path / "in.png", pixels, exif=exif)
    else:
        tag = (0x0112, "H", 1, orientation, True)
        source = save(tmp_path / "in.tif", pixels, extratags=[tag])
    output = tmp_path / f"out{source.suffix}"
    succeeds("filter", source, output, "--scale", "1e-6")  # so small that nothing is smoothed
    turns = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.swapaxes(0, 1),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(pixels),
    }
    np.testing.assert_array_equal(load(output), turns[orientation])
    assert Image.open(output).getexif().get(0x0112, 1) == 1 if dtype == np.uint8 else True


def test_profile_exif_and_resolution_are_kept(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    for suffix in (".jpg", ".png"):
        source = save(tmp_path / f"in{suffix}", photo(3), icc_profile=profile, exif=exif, dpi=(300, 300))
        for to in (".jpg", ".png", ".tif"):
            output = tmp_path / f"from{suffix}{to}"
            succeeds("filter", source, output)
            with Image.open(output) as image:
                assert image.info["icc_profile"] == profile
                assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
                assert image.getexif()[0x010F] == "a camera"


def test_profile_of_16_bits_is_kept_or_missed_aloud(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    source = save(tmp_path / "in.tif", photo(3, np.uint16), iccprofile=profile)
    assert succeeds("filter", source, tmp_path / "out.tif").stderr == ""
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        assert tiff.pages.first.tags[34675].value == profile
    assert "colour profile" in succeeds("filter", source, tmp_path / "out.png").stderr


@pytest.mark.parametrize("compression", ["lzw", "zlib"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiff_flavours(tmp_path: Path, compression: str, planar: str) -> None:
    pixels = photo(3, np.uint16)
    stored = pixels if planar == "contig" else np.moveaxis(pixels, -1, 0)
    tifffile.imwrite(tmp_path / "in.tif", stored, photometric="rgb", planarconfig=planar, compression=compression)
    succeeds("filter", tmp_path / "in.tif", tmp_path / "out.tif", "--scale", SCALE)
    np.testing.assert_array_equal(load(tmp_path / "out.tif"), expected(pixels, 65535))


def test_every_option_reaches_the_filter(tmp_path: Path, rng: np.random.Generator) -> None:
    x = rng.standard_normal((4, 20, 30))
    guide, trust = rng.random((2, 20, 30)), rng.random((20, 30)) > 0.5
    for name, array in {"x": x, "guide": guide, "trust": trust}.items():
        np.save(tmp_path / f"{name}.npy", array)
    output = tmp_path / "y.npy"
    common = {"scale": (0.3, 0.7), "step": 0.05, "blocks": 3, "metric": "cityblock"}
    arguments = [tmp_path / "x.npy", output, "-f", "--guide", tmp_path / "guide.npy"]
    arguments += ["--scale", "0.3,0.7", "--step", 0.05, "--blocks", 3, "--metric", "cityblock"]

    succeeds("filter", *arguments, "--normalization", "none", "--residual")
    wanted = sgs.semi_global_filter(x, guide, normalization=None, residual=True, **common)
    np.testing.assert_array_equal(np.load(output), wanted)

    succeeds("filter", *arguments, "--confidence", tmp_path / "trust.npy", "--fill-value", -3)
    wanted = sgs.semi_global_filter(x, guide, confidence=trust, fill_value=-3, **common)
    np.testing.assert_array_equal(np.load(output), wanted)


def test_maps_keep_shape_and_type(tmp_path: Path, rng: np.random.Generator) -> None:
    for shape in ((12, 15), (3, 12, 15), (2, 3, 12, 15)):
        for dtype, back in {"f2": "f2", "f4": "f4", "f8": "f8", "i2": "f4"}.items():
            x = (10 * rng.random(shape)).astype(dtype)
            np.save(tmp_path / "x.npy", x)
            succeeds("filter", tmp_path / "x.npy", tmp_path / "y.npy", "-f")
            y = np.load(tmp_path / "y.npy")
            assert y.dtype == back
            np.testing.assert_array_equal(y, sgs.semi_global_filter(x, channel_axis=-3, blocks=2))


def test_a_map_that_looks_like_an_image_is_filtered_with_a_note(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((12, 15, 3)))
    assert "channel_axis" in succeeds("filter", tmp_path / "x.npy", tmp_path / "y.npy").stderr


def test_image_to_map_is_neither_rounded_nor_clipped(tmp_path: Path) -> None:
    source = save(tmp_path / "in.png", photo(3))
    succeeds("filter", source, tmp_path / "out.npy", "--scale", SCALE, "--normalization", "none")
    x = np.moveaxis(photo(3).astype(np.float32) / 255, -1, 0)
    wanted = sgs.semi_global_filter(x, scale=SCALE, blocks=2, normalization=None)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), wanted)


@pytest.mark.parametrize("options", [("--normalization", "line"), ("--residual",)])
def test_brightness_is_kept(tmp_path: Path, options: tuple[str, ...]) -> None:
    flat = np.full((20, 30, 3), 200, np.uint8)
    succeeds("filter", save(tmp_path / "in.png", flat), tmp_path / "out.png", "--blocks", 3, *options)
    np.testing.assert_array_equal(load(tmp_path / "out.png"), flat)


def test_guide_image_has_the_range_of_all_images(tmp_path: Path) -> None:
    source = save(tmp_path / "in.png", photo(1))
    for name, guide in {"8.png": photo(3), "16.png": photo(3).astype(np.uint16) * 257}.items():
        succeeds("filter", source, tmp_path / f"out-{name}", "--guide", save(tmp_path / name, guide))
    eight, sixteen = load(tmp_path / "out-8.png"), load(tmp_path / "out-16.png")
    np.testing.assert_array_equal(eight, sixteen)
    assert not np.array_equal(eight, photo(1))


def test_holes_are_filled(tmp_path: Path) -> None:
    pixels = np.full((20, 30, 3), (200, 100, 50), np.uint8)
    pixels[5:10, 5:10] = 0
    trust = np.full((20, 30, 1), 255, np.uint8)
    trust[5:10, 5:10] = 0
    source = save(tmp_path / "in.png", pixels)
    for channels in (1, 3):  # a grey mask stored as RGB is one too
        mask = save(tmp_path / "mask.png", np.repeat(trust, channels, axis=2))
        succeeds("filter", source, tmp_path / "out.png", "--confidence", mask, "-f")
        np.testing.assert_array_equal(load(tmp_path / "out.png"), np.broadcast_to([200, 100, 50], (20, 30, 3)))


# ---- filter: what does not


def test_an_output_is_not_overwritten_by_accident(tmp_path: Path) -> None:
    source = save(tmp_path / "in.png", photo(3))
    before = source.read_bytes()
    refused("filter", source, source, saying="exists already; --overwrite")
    assert source.read_bytes() == before
    (tmp_path / "link.png").symlink_to(source)
    refused("filter", source, tmp_path / "link.png", saying="exists already")
    succeeds("filter", source, tmp_path / "link.png", "--overwrite")
    assert source.read_bytes() != before
    assert (tmp_path / "link.png").is_symlink()
    succeeds("filter", source, source, "--force")


def test_a_failed_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 5, 6)))
    (tmp_path / "old.npy").write_bytes(b"old")
    before = sorted(tmp_path.iterdir())

    def fails_late(file: object, values: object, **_: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_images.np, "save", fails_late)
    refused("filter", tmp_path / "x.npy", tmp_path / "new.npy", saying="No space left on device")
    refused("filter", tmp_path / "x.npy", tmp_path / "old.npy", "-f", saying="No space left on device")
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "old.npy").read_bytes() == b"old"


def test_errors_name_the_file_and_what_is_wrong(tmp_path: Path) -> None:
    png = save(tmp_path / "in.png", photo(3))
    deep = save(tmp_path / "deep.png", photo(3, np.uint16))
    small = save(tmp_path / "small.png", photo(3)[:50])
    clear = save(tmp_path / "clear.png", photo(4))
    out = tmp_path / "out.png"
    np.save(tmp_path / "map.npy", np.zeros((3, 70, 90)))
    np.save(tmp_path / "line.npy", np.zeros(7))
    np.save(tmp_path / "complex.npy", np.zeros((3, 4, 5), complex))
    np.save(tmp_path / "minus.npy", -np.ones((70, 90)))
    np.save(tmp_path / "objects.npy", np.array([[None]]), allow_pickle=True)
    (tmp_path / "broken.png").write_bytes(png.read_bytes()[:3000])
    (tmp_path / "broken16.png").write_bytes(deep.read_bytes()[:3000])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.npy").write_bytes(b"")
    tifffile.imwrite(tmp_path / "pages.tif", np.zeros((2, 20, 20), np.uint8), photometric="minisblack")
    tifffile.imwrite(tmp_path / "float.tif", np.zeros((20, 20), np.float32))
    Image.new("CMYK", (20, 20)).save(tmp_path / "ink.tif")
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.png", save_all=True, append_images=frames[1:])

    refused("filter", tmp_path / "none.png", out, saying="none.png: no such file")
    refused("filter", tmp_path, out, saying="expected a name ending in .png")
    refused("filter", png, tmp_path / "out.gif", saying="out.gif: expected a name ending in .png")
    refused("filter", png, tmp_path / "no" / "out.png", saying="there is no directory")
    refused("filter", tmp_path / "text.png", out, saying="text.png: not a PNG, JPEG or TIFF image")
    for name in ("broken.png", "broken16.png", "empty.npy", "objects.npy"):
        refused("filter", tmp_path / name, tmp_path / "out.npy", saying=f"{name}: cannot be read")
    refused("filter", tmp_path / "pages.tif", out, saying="2 pages")
    refused("filter", tmp_path / "moving.png", out, saying="animated")
    refused("filter", tmp_path / "float.tif", out, saying="float32")
    refused("filter", tmp_path / "ink.tif", out, saying="CMYK")
    refused("filter", tmp_path / "line.npy", tmp_path / "out.npy", saying="(7,)")
    refused("filter", tmp_path / "complex.npy", tmp_path / "out.npy", saying="real numbers")
    refused("filter", tmp_path / "map.npy", out, saying="write .npy")
    refused("filter", clear, tmp_path / "out.jpg", saying="JPEG holds no transparency")
    refused("filter", deep, tmp_path / "out.jpg", saying="JPEG holds no 16 bits")
    refused("filter", png, out, "--guide", small, saying="90 x 50 (width x height)")
    refused("filter", png, out, "--guide", tmp_path / "none.png", saying="no such file")
    refused("filter", png, out, "--confidence", png, saying="expected one channel, got 3")
    refused("filter", png, out, "--confidence", tmp_path / "minus.npy", saying="confidence")
    refused("filter", png, out, "--scale", 0, saying="scale")
    refused("filter", png, out, "--scale", "a", saying="--scale: expected a number")
    refused("filter", png, out, "--scale", "1,2,3", saying="scale")
    refused("filter", png, out, "--step", -1, saying="step")
    refused("filter", png, out, "--blocks", 0, saying="blocks")
    refused("filter", png, out, "--normalization", "none", saying="write .npy")
    refused("filter", png, out, "--fill-value", 2, saying="0 to 1")
    refused("filter", png, out, "--fill-value", "nan", saying="0 to 1")
    refused("filter", png, out, "--residual", "--confidence", tmp_path / "minus.npy", saying="write .npy")
    refused("filter", png, out, "--metric", "nearest", saying="nearest", code=2)
    refused("filter", png, saying="OUT", code=2)
    assert not list(tmp_path.glob("out*"))
    assert not list(tmp_path.glob(".*"))


# ---- attention


def test_attention(tmp_path: Path) -> None:
    source, output = save(tmp_path / "in.png", photo(4)), tmp_path / "map.png"
    result = succeeds("attention", source, "--at", "35,40", "--at", "0,0", "-o", output)
    assert result.stderr == ""
    two_rows = Image.open(output).size
    refused("attention", source, "--at", "35,40", "-o", output, saying="exists already")
    succeeds("attention", save(tmp_path / "grey.png", photo(1)), "--at", "35,40", "-o", output, "-f")
    one_row = Image.open(output).size
    assert two_rows[0] == one_row[0]
    assert two_rows[1] > 1.7 * one_row[1]


def test_attention_reduces_large_images_and_says_so(tmp_path: Path) -> None:
    source = save(tmp_path / "in.png", photo(3))
    result = succeeds("attention", source, "--at", "69,89", "-o", tmp_path / "map.png", "--max-side", 45)
    assert "90 x 70 is reduced to 45 x 35" in result.stderr


def test_attention_errors(tmp_path: Path) -> None:
    source, output = save(tmp_path / "in.png", photo(3)), tmp_path / "map.png"
    refused("attention", source, "--at", "70,0", "-o", output, saying="Y from 0 to 69 and X from 0 to 89")
    refused("attention", source, "--at", "-1,0", "-o", output, saying="Y from 0 to 69")
    refused("attention", source, "--at", "7", "-o", output, saying="expected Y,X")
    refused("attention", source, "--at", "1,1", "-o", tmp_path / "map.pdf", saying=".png")
    refused("attention", source, "--at", "1,1", "-o", output, "--scale", 0, saying="scale")
    refused("attention", source, "-o", output, saying="--at", code=2)
    assert not output.exists()


# ---- demo, info, help


def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it, but for the largest sizes of (e); the quality that (c) and (d) promise."""
    found: dict[str, demo.Comparison] = {}
    for name in ("stereo", "fill"):
        compute = getattr(demo, name)
        monkeypatch.setattr(demo, name, lambda advance, f=compute, n=name: found.setdefault(n, f(advance)))
    timings = demo.timing
    monkeypatch.setattr(demo, "timing", lambda advance: timings(advance, sides=(64, 128, 256)))

    output = succeeds("demo", tmp_path / "pictures").stdout
    for part in _sections.PARTS:
        assert part.title in output
        with Image.open(tmp_path / "pictures" / part.picture) as image:
            assert min(image.size) > 400
    assert len(list((tmp_path / "pictures").iterdir())) == len(_sections.PARTS)

    (ours,) = (r for r in found["stereo"].results if r.ours)
    rivals = [r for r in found["stereo"].results if not r.ours]
    assert ours.wrong_by_2 <= 10.6
    assert len(rivals) == 4  # the test extra brings OpenCV's
    assert all(ours.wrong_by_2 < rival.wrong_by_2 for rival in rivals)
    (filled,) = (r for r in found["fill"].results if r.ours)
    assert filled.mean_error <= 0.57
    assert filled.wrong_by_2 <= 3.7


def test_demo_without_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    names = [r.name for r in demo.fill().results]
    assert names == ["bilinear", f"sgs, {demo.FILL_BLOCKS} blocks"]


def test_brute_force_is_the_definition(rng: np.random.Generator) -> None:
    x = rng.random((2, 9, 13))
    wanted = sgs.reference.semi_global_filter(x, x, 0.3)
    np.testing.assert_allclose(demo.brute_force(x, x, 0.3), wanted, rtol=1e-12)


def test_demo_refuses_a_file_for_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused("demo", tmp_path / "file", saying="cannot be made a directory")


# Each line for no longer than it takes, at an eighth of the side.
BRIEF = ("--seconds", 0, "--shrink", 8)


def test_bench_tells_what_it_measured(tmp_path: Path) -> None:
    """The tables and the file have the same figures, of plausible size, for everything that was promised."""
    file = tmp_path / "found.json"
    result = succeeds("bench", *BRIEF, "--threads", 1, "--json", file)
    found = json.loads(file.read_text())
    assert (found["threads"], found["shrink"], found["instruction set"]) == (1, 8, sgs.get_isa())
    assert [line["name"] for line in found["shapes"]] == list(_bench.SHAPES)
    assert [line["elements"] for line in found["shapes"]][:2] == [512 * 12 * 12, 64 * 64 * 64]
    assert [line["elements"] for line in found["sizes"]] == [4 * (side // 8) ** 2 for side in _bench.SIDES]
    assert list(found["instruction sets"]) == _core.available_isas()
    assert set(found["rivals"]) == {"sgs, one block", "np.copyto", "torch copy_", "OpenCV dtFilter, one iteration"}
    for line in found["shapes"] + found["sizes"]:
        assert 0 < line["copy"] < 10
        assert 0 < line["seconds"] < 10
        assert line["name"] in result.stdout
        assert f"{1000 * line['seconds']:.3g} ms" in result.stdout
        assert f"{1e9 * line['seconds'] / line['elements']:.3g}" in result.stdout
    for name, seconds in (found["rivals"] | found["instruction sets"]).items():
        assert name in result.stdout
        assert f"{1000 * seconds:.3g} ms" in result.stdout
    assert "divided by 8" in result.stderr
    assert "1 thread," in result.stdout


def test_bench_leaves_settings_as_they_were() -> None:
    before = sgs.get_isa(), sgs.get_num_threads()
    succeeds("bench", *BRIEF, "--threads", 1)
    assert (sgs.get_isa(), sgs.get_num_threads()) == before


def test_bench_without_torch_and_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch", "cv2"):
        monkeypatch.setitem(sys.modules, name, None)
    assert list(_bench.rivals(lambda: None, 0, shrink=64)) == ["sgs, one block", "np.copyto"]


def test_bench_finds_an_instruction_set_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    if len(_core.available_isas()) < 2:
        pytest.skip("this machine has one instruction set")
    correct, last = sgs.semi_global_filter, _core.available_isas()[-1]
    monkeypatch.setattr(
        sgs, "semi_global_filter", lambda *args, **kwargs: correct(*args, **kwargs) + (sgs.get_isa() == last)
    )
    with pytest.raises(RuntimeError, match=last):
        _bench.instruction_sets(lambda: None, 0, shrink=16)


def test_bench_takes_turns() -> None:
    """Slow calls are timed for three rounds at least, quick ones are repeated within a round."""
    called = {"slow": 0, "quick": 0}

    def slow() -> None:
        called["slow"] += 1
        time.sleep(0.05)

    def quick() -> None:
        called["quick"] += 1

    times = _bench.in_turn({"slow": slow, "quick": quick}, 0)
    assert len(times["slow"]) == len(times["quick"]) == 3
    assert called["slow"] == 4
    assert called["quick"] > 50
    assert 0.05 <= times["slow"].min()
    assert times["quick"].max() < 1e-3


def test_bench_does_not_overwrite(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    file.write_text("kept")
    refused("bench", *BRIEF, "--json", file, saying="exists already")
    assert file.read_text() == "kept"


def test_info() -> None:
    output = succeeds("info").stdout
    for word in (sgs.__version__, np.__version__, sgs.get_isa(), "threads", "CUDA", "pillow"):
        assert word in output


def test_help_names_every_command_and_option() -> None:
    assert all(command in succeeds("--help").stdout for command in ("filter", "attention", "demo", "bench", "info"))
    text = succeeds("filter", "--help").stdout
    options = "guide scale step blocks normalization metric confidence fill-value residual overwrite"
    assert all(f"--{option}" in text for option in options.split())


@pytest.mark.parametrize("missing", ["typer", "PIL", "rich", "matplotlib", "skimage"])
def test_without_the_extra_it_says_what_to_install(missing: str, tmp_path: Path) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; sys.argv[1:] = ['demo', {str(tmp_path)!r}]"
    code += "; import sgs.__main__ as m; m.main()"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f'sgs: the command line needs {missing}, which is not installed: pip install "sgsnet[demo]"\n'


def test_the_module_runs_as_a_command() -> None:
    done = subprocess.run([sys.executable, "-m", "sgs", "info"], capture_output=True, text=True, check=True)
    assert "instruction set" in done.stdout


def test_importing_sgs_imports_nothing_of_the_command_line() -> None:
    code = "import sgs, sys; print({'typer', 'rich', 'PIL', 'matplotlib', 'skimage', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
