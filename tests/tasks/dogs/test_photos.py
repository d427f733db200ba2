"""Photos as users have them: every mode is read, everything broken is named."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tasks.dogs.photos import Unreadable, read_photo


def ramp(side=64):
    """A horizontal ramp from black to white."""
    return np.repeat(np.linspace(0, 255, side).astype(np.uint8)[None, :], side, axis=0)


MODES = {
    "grey.png": lambda: Image.fromarray(ramp()),
    "rgb.jpg": lambda: Image.fromarray(ramp()).convert("RGB"),
    "cmyk.jpg": lambda: Image.fromarray(ramp()).convert("RGB").convert("CMYK"),
    "palette.png": lambda: (
        Image.fromarray(ramp()).convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE, colors=256)
    ),
    "16bit.png": lambda: Image.fromarray(ramp().astype(np.uint16) * 257),
    "alpha.png": lambda: Image.fromarray(ramp()).convert("RGBA"),
    "grey_alpha.png": lambda: Image.fromarray(ramp()).convert("LA"),
    "palette.gif": lambda: Image.fromarray(ramp()).convert("P"),
    "float.tiff": lambda: Image.fromarray(ramp().astype(np.float32) / 255),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_reads_as_the_same_ramp(tmp_path, name):
    MODES[name]().save(tmp_path / name)
    photo = read_photo(tmp_path / name, 64)
    assert (photo.shape, photo.dtype) == ((64, 64, 3), np.uint8)
    assert np.abs(photo.astype(int) - ramp()[..., None]).max() <= 12


def test_a_photo_of_one_pixel_is_read(tmp_path):
    Image.new("RGB", (1, 1), (10, 200, 30)).save(tmp_path / "p.png")
    assert (read_photo(tmp_path / "p.png", 8) == (10, 200, 30)).all()


def test_the_centre_square_is_what_is_seen(tmp_path):
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 255
    Image.fromarray(wide).save(tmp_path / "w.png")
    assert read_photo(tmp_path / "w.png", 10)[:, 2:-2].min() == 255


def test_a_photo_taken_sideways_stands_upright(tmp_path):
    image = Image.fromarray(np.stack([ramp()] * 3, axis=2))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    image.save(tmp_path / "e.jpg", exif=exif, quality=95)
    photo = read_photo(tmp_path / "e.jpg", 64).astype(int)
    assert photo[-1].mean() - photo[0].mean() > 200


def test_what_is_no_whole_picture_is_refused(tmp_path):
    good = tmp_path / "good.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 80, 3), dtype=np.uint8)).save(good)
    cases = {"truncated": good.read_bytes()[:900], "text": b"not a picture at all", "empty": b""}
    for name, content in cases.items():
        path = tmp_path / f"{name}.jpg"
        path.write_bytes(content)
        with pytest.raises(Unreadable):
            read_photo(path, 32)
