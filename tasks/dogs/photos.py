"""Reading photos as they come: any mode, any size, some broken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

Image.MAX_IMAGE_PIXELS = 200_000_000  # a larger picture is refused by Pillow as a decompression bomb


class Unreadable(ValueError):
    """A file that is no picture, or not all of one."""


def read_photo(path: Path, side: int) -> np.ndarray:
    """The centre square of a photo at ``side`` px: uint8, (side, side, 3), RGB, upright.

    Raises `Unreadable` with the reason.
    """
    try:
        with Image.open(path) as image:
            image.draft("RGB", (side, side))  # large JPEGs decode at a fraction of their size, never below ``side``
            return _square(_to_rgb(ImageOps.exif_transpose(image)), side)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # 16 or 32 bits a pixel: Pillow would clip, not scale
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if image.mode.startswith("I") else max(1.0, float(values.max()))
        return Image.fromarray((np.clip(values / top, 0, 1) * 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("P", "LA", "PA", "RGBA"):  # transparent parts on white, not on whatever lies below
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _square(image: Image.Image, side: int) -> np.ndarray:
    width, height = image.size
    edge = min(width, height)
    left, top = (width - edge) // 2, (height - edge) // 2
    resized = image.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, left + edge, top + edge))
    return np.asarray(resized)
