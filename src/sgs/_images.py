"""Pictures and feature maps in files, for the command line.

Pillow reads and writes pictures of 8 bits. It has no colour of 16 bits (it would drop half of them without a word), so
these go through imagecodecs (PNG) and tifffile (TIFF)."""

import os
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image, ImageOps, UnidentifiedImageError

Array = npt.NDArray[Any]

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF"}
_OPTIONS: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95}, "TIFF": {"compression": "tiff_adobe_deflate"}}
_PNG = b"\x89PNG\r\n\x1a\n"
_ORIENTATION = 0x0112  # EXIF and TIFF name the same tag
_ICC_PROFILE = 34675


class FileError(Exception):
    """What is wrong with a file, in one line for the user."""


@dataclass(frozen=True)
class Picture:
    """An image as it is stored, but upright.

    Attributes
    ----------
    pixels : ndarray of uint8 or uint16, (H, W, 1 or 3)
        Grey or RGB.
    alpha : ndarray of the type of `pixels`, (H, W), or None
    extras : dict
        What else the file says: "icc_profile", "exif", "dpi", by Pillow's names.
    """

    pixels: Array
    alpha: Array | None
    extras: dict[str, Any]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def __str__(self) -> str:
        kind = ("grey" if self.pixels.shape[2] == 1 else "RGB") + ("" if self.alpha is None else " with alpha")
        return f"{self.size[1]} x {self.size[0]}, {kind}, {8 * self.pixels.itemsize} bit"

    def values(self) -> Array:
        """Colours as float32 (C, H, W) between 0 and 1."""
        return np.moveaxis(self.pixels.astype(np.float32) / np.iinfo(self.pixels.dtype).max, -1, 0)

    def with_values(self, values: Array) -> "Picture":
        """The same picture with other colours, (C, H, W) between 0 and 1; what is outside is clipped."""
        levels = np.iinfo(self.pixels.dtype).max
        pixels = np.rint(np.moveaxis(values, 0, -1).clip(0, 1) * levels).astype(self.pixels.dtype)
        return replace(self, pixels=pixels)


def is_map(path: Path) -> bool:
    """Whether a file is a feature map (.npy) and not a picture, by its name.

    Raises
    ------
    FileError
        Its name ends otherwise than in any known format.
    """
    suffix = path.suffix.lower()
    if suffix != ".npy" and suffix not in _FORMATS:
        raise FileError(f"{path}: expected a name ending in {', '.join([*_FORMATS, '.npy'])}")
    return suffix == ".npy"


# ---- reading


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            # A photo of 90 to 180 million pixels is fine here; above that Pillow raises.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    except FileError:
        raise
    except FileNotFoundError:
        raise FileError(f"{path}: no such file") from None
    except UnidentifiedImageError:
        raise FileError(f"{path}: not a PNG, JPEG or TIFF image") from None
    except Exception as error:  # decoders raise all sorts of things on broken files
        text = " ".join(str(error).split())
        raise FileError(f"{path}: cannot be read: {text or type(error).__name__}") from error


def read_map(path: Path) -> Array:
    """A feature map of at least two axes, (C, H, W) or (H, W), as it is in the file."""
    with _reading(path):
        values = np.load(path, allow_pickle=False)
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
            raise FileError(f"{path}: expected an array of real numbers")
        if values.ndim < 2:
            raise FileError(f"{path}: expected an array (C, H, W) or (H, W), got shape {values.shape}")
        return values


def read_picture(path: Path) -> Picture:
    """A picture, turned upright as its EXIF orientation asks."""
    with _reading(path):
        with path.open("rb") as file:
            head = file.read(26)
        if head[:8] == _PNG and head[24:25] == b"\x10":  # the bits of one sample
            return _deep_png(path)
        if head[:2] in (b"II", b"MM"):
            with tifffile.TiffFile(path) as tiff:
                if len(tiff.pages) > 1:
                    raise FileError(f"{path}: has {len(tiff.pages)} pages, expected one")
                page = tiff.pages.first
                if page.dtype is not None and page.dtype != np.uint8 and page.dtype != np.bool_:
                    return _deep_tiff(path, page)
        return _shallow(path)


def _shallow(path: Path) -> Picture:
    with Image.open(path, formats=("PNG", "JPEG", "TIFF")) as image:
        if image.format == "PNG" and getattr(image, "n_frames", 1) > 1:
            raise FileError(f"{path}: is animated, expected one picture")
        upright = ImageOps.exif_transpose(image)
        extras = {"icc_profile": upright.info["icc_profile"]} if upright.info.get("icc_profile") else {}
        dpi = upright.info.get("dpi", (0, 0))
        if all(0 < d < 1e6 for d in dpi):  # files may say anything
            extras["dpi"] = dpi
        if image.format != "TIFF" and (exif := upright.getexif()):
            extras["exif"] = exif.tobytes()
    transparent = upright.has_transparency_data
    if upright.mode in ("1", "L", "LA"):
        upright = upright.convert("LA" if transparent else "L")
    elif upright.mode in ("P", "PA", "RGB", "RGBA"):
        upright = upright.convert("RGBA" if transparent else "RGB")
    else:
        raise FileError(f"{path}: expected grey or RGB, got {upright.mode}")
    return _split(path, np.asarray(upright), extras)


def _deep_png(path: Path) -> Picture:
    with Image.open(path) as image:
        orientation = image.getexif().get(_ORIENTATION, 1)
        extras = {"icc_profile": image.info["icc_profile"]} if "icc_profile" in image.info else {}
    return _split(path, _upright(imagecodecs.png_decode(path.read_bytes()), orientation), extras)


def _deep_tiff(path: Path, page: Any) -> Picture:
    kind = getattr(page.photometric, "name", "unknown")
    if page.dtype != np.uint16 or kind not in ("MINISBLACK", "RGB"):
        raise FileError(f"{path}: expected grey or RGB of 8 or 16 bits, got {kind} of {page.dtype}")
    if tifffile.EXTRASAMPLE.ASSOCALPHA in page.extrasamples:
        raise FileError(f"{path}: colours are multiplied by alpha, expected them apart")
    pixels = page.asarray()
    if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and pixels.ndim == 3:
        pixels = np.moveaxis(pixels, 0, -1)
    tags = page.tags
    extras = {"icc_profile": tags[_ICC_PROFILE].value} if _ICC_PROFILE in tags else {}
    return _split(path, _upright(pixels, tags[_ORIENTATION].value if _ORIENTATION in tags else 1), extras)


def _upright(pixels: Array, orientation: int) -> Array:
    """What `ImageOps.exif_transpose` does, for what Pillow cannot hold."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    down = orientation in (3, 4, 7, 8)
    right = orientation in (2, 3, 6, 7)
    return pixels[:: -1 if down else 1, :: -1 if right else 1]


def _split(path: Path, pixels: Array, extras: dict[str, Any]) -> Picture:
    if pixels.ndim == 2:
        pixels = pixels[:, :, np.newaxis]
    channels = pixels.shape[2]
    if not 1 <= channels <= 4:
        raise FileError(f"{path}: expected grey or RGB, got {channels} channels; a feature map belongs in .npy")
    pixels = np.ascontiguousarray(pixels)  # the same picture gives the same result, bit for bit, however it is stored
    if channels in (1, 3):
        return Picture(pixels, None, extras)
    return Picture(pixels[:, :, :-1], pixels[:, :, -1], extras)


# ---- writing


def check_output(path: Path, overwrite: bool) -> None:
    """Raise FileError if a file may not be written there."""
    if path.is_dir():
        raise FileError(f"{path}: is a directory, expected the name of a file")
    if path.exists() and not overwrite:
        raise FileError(f"{path}: exists already; --overwrite replaces it")
    if not path.parent.is_dir():
        raise FileError(f"{path}: there is no directory {path.parent}")


def check_holds(path: Path, picture: Picture) -> None:
    """Raise FileError if the format of a file to write cannot hold the picture."""
    if _FORMATS[path.suffix.lower()] != "JPEG":
        return
    if picture.alpha is not None:
        raise FileError(f"{path}: JPEG holds no transparency; write PNG or TIFF")
    if picture.pixels.itemsize > 1:
        raise FileError(f"{path}: JPEG holds no 16 bits; write PNG or TIFF")


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that appears under its name when it is complete, or not at all."""
    path = path.resolve()  # where a link points to, the file is replaced and the link stays
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            yield file
        os.replace(part, path)
    except OSError as error:
        raise FileError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def write_map(path: Path, values: Array) -> None:
    """Write a feature map."""
    with new_file(path) as file:
        np.save(file, values, allow_pickle=False)


def write_picture(path: Path, picture: Picture) -> None:
    """Write a picture in the format that the name ends in."""
    check_holds(path, picture)
    form = _FORMATS[path.suffix.lower()]
    alpha = () if picture.alpha is None else (picture.alpha,)
    pixels = np.dstack([picture.pixels, *alpha])
    if pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    with new_file(path) as file:
        if pixels.dtype == np.uint8:
            Image.fromarray(pixels).save(file, form, **_OPTIONS.get(form, {}), **picture.extras)
        elif form == "PNG":
            file.write(imagecodecs.png_encode(np.ascontiguousarray(pixels)))
        else:
            tifffile.imwrite(
                file,
                pixels,
                photometric="rgb" if picture.pixels.shape[2] == 3 else "minisblack",
                planarconfig="contig" if pixels.ndim == 3 else None,
                extrasamples=["unassalpha"] * len(alpha),
                compression="zlib",
                iccprofile=picture.extras.get("icc_profile"),
                metadata=None,
            )


def loses_profile(path: Path, picture: Picture) -> bool:
    """Whether the file to write cannot carry the picture's colour profile."""
    deep = picture.pixels.itemsize > 1
    return deep and _FORMATS[path.suffix.lower()] == "PNG" and "icc_profile" in picture.extras
