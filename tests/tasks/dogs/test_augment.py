"""Batched augmentation, against torchvision photo by photo."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torchvision.transforms.v2 import functional

from tasks.dogs.augment import Augment, Drawn, Settings, centre, draw

SIDE = 48
ALL = Settings(flip=True, rotation=10, zoom=0.2, shift=0.1, colour=0.2, mask=0.5, splice=0.5)


def photos(n=4, side=SIDE, seed=0):
    """Smooth photos: interpolation agrees where there are no edges of one pixel."""
    noise = np.random.default_rng(seed).uniform(0, 255, (n, side, side, 3))
    smooth = ndimage.gaussian_filter(noise, (0, 2, 2, 0)) - 127.5
    return torch.from_numpy(np.clip(127.5 + smooth * 5, 0, 255).astype(np.uint8))


def nothing(n=4, **changed):
    """What is drawn when nothing is to happen, but for what is given."""
    one, zero = torch.ones(n), torch.zeros(n)
    none = torch.full((n,), -1)
    still = Drawn(torch.zeros(n, dtype=torch.bool), zero, one, zero, zero, one, one, one, none, none)
    return still._replace(**{name: torch.as_tensor(values) for name, values in changed.items()})


def planes(x):
    return x.permute(0, 3, 1, 2).float() / 255


def inner(x, margin=10):
    return x[..., margin:-margin, margin:-margin]


def apply(settings, drawn, x, labels=None, size=SIDE, crop=1.0, **more):
    labels = torch.arange(len(x)) if labels is None else torch.tensor(labels)
    return Augment(settings, size, crop, **more).apply_drawn(x, labels, drawn)


def test_when_nothing_is_drawn_the_photo_is_as_it_was():
    x = photos()
    assert torch.allclose(apply(ALL, nothing(), x), planes(x), atol=1e-5)
    assert torch.allclose(apply(Settings(), nothing(), x), planes(x), atol=1e-5)


@pytest.mark.parametrize("degrees", [-10.0, 7.0])
def test_rotation_is_torchvisions(degrees):
    x = photos()
    ours = apply(ALL, nothing(angle=[math.radians(degrees)] * 4), x)
    theirs = functional.rotate(planes(x), degrees, interpolation=functional.InterpolationMode.BILINEAR)
    assert (inner(ours) - inner(theirs)).abs().max() < 0.01


def test_zoom_and_shift_are_torchvisions_affine():
    x = photos()
    drawn = nothing(zoom=[1.2] * 4, right=[4 / SIDE] * 4, down=[-3 / SIDE] * 4, angle=[math.radians(5)] * 4)
    theirs = functional.affine(planes(x), -5, [4, -3], 1.2, [0, 0], interpolation=functional.InterpolationMode.BILINEAR)
    assert (inner(apply(ALL, drawn, x)) - inner(theirs)).abs().max() < 0.01


def test_rotation_is_pillows_too():
    x = photos(1)
    image = Image.fromarray(x[0].numpy()).rotate(9, Image.Resampling.BILINEAR)
    theirs = torch.from_numpy(np.asarray(image).copy())[None]
    ours = apply(ALL, nothing(1, angle=[math.radians(9)]), x)
    assert (inner(ours) - inner(planes(theirs))).abs().max() < 0.02


@pytest.mark.parametrize("settings", [ALL, Settings(flip=True)])
def test_a_flip_is_a_flip_with_and_without_resampling(settings):
    x = photos()
    flipped = apply(settings, nothing(flip=[True, False, True, False]), x)
    expected = planes(x)
    expected[::2] = expected[::2].flip(3)
    assert torch.allclose(flipped, expected, atol=1e-5)


def test_the_middle_is_what_is_seen_without_zoom():
    x = photos(side=60)
    assert torch.equal(centre(x, 48), x[:, 6:54, 6:54])
    for settings in (ALL, Settings()):
        assert torch.allclose(apply(settings, nothing(), x, crop=0.8), planes(x[:, 6:54, 6:54]), atol=1e-4)


def test_where_a_smaller_photo_leaves_room_another_of_its_block_shows():
    x = torch.zeros(6, 40, 40, 3, dtype=torch.uint8)
    x += torch.arange(6, dtype=torch.uint8)[:, None, None, None] * 40
    seen = apply(ALL, nothing(6, zoom=[0.8] * 6), x, size=40) * 255
    assert torch.allclose(seen[:, 0, 20, 20], torch.arange(6.0) * 40, atol=1e-3)
    assert torch.allclose(seen[:, 0, 0, 0], torch.tensor([2.0, 3, 0, 1, 5, 4]) * 40, atol=1e-3)
    # A photo at .8 covers 32 of 40 px.
    assert [int((row != row[0]).sum()) for row in seen[:, 0, 20].round()] == [32] * 6


def test_colour_is_torchvisions_in_brightness_and_saturation():
    x = (photos() // 2 + 40).to(torch.uint8)  # away from the ends, where torchvision clips
    bright = apply(ALL, nothing(brightness=[1.2] * 4), x)
    assert torch.allclose(bright, functional.adjust_brightness(planes(x), 1.2), atol=1e-4)
    grey = apply(ALL, nothing(saturation=[0.8] * 4), x)
    assert torch.allclose(grey, functional.adjust_saturation(planes(x), 0.8), atol=1e-3)


def test_contrast_is_about_middle_grey_and_normalising_comes_last():
    x = photos()
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    ours = apply(ALL, nothing(contrast=[1.1] * 4), x, mean=mean, std=std)
    theirs = functional.normalize((planes(x) - 0.5) * 1.1 + 0.5, list(mean), list(std))
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_a_mask_covers_one_whole_quarter():
    x = photos() // 2 + 60
    plain, masked = (apply(ALL, nothing(quarter=q), x) for q in ([-1] * 4, [0, 1, 2, 3]))
    changed = (plain != masked).all(1)
    half = SIDE // 2
    for photo, (down, right) in enumerate([(0, 0), (0, half), (half, 0), (half, half)]):
        assert changed[photo].double().mean() == 0.25
        assert changed[photo, down : down + half, right : right + half].all()
        assert (masked[photo][:, changed[photo]] == 0).all()


@pytest.mark.parametrize("kind", range(4))
def test_a_splice_has_half_of_either_photo_of_the_class_and_no_other(kind):
    x = torch.zeros(4, 40, 40, 3, dtype=torch.uint8) + torch.tensor([10, 60, 110, 160])[:, None, None, None].byte()
    seen = (apply(ALL, nothing(splice=[kind, -1, kind, kind]), x, [5, 5, 6, 7], size=40) * 255).round()
    assert set(seen[0].unique().tolist()) == {10.0, 60.0}
    assert (seen[0] == 10).double().mean() == pytest.approx(0.5, abs=0.02)
    assert [set(photo.unique().tolist()) for photo in seen[1:]] == [{60.0}, {110.0}, {160.0}]
    kept = ([1, 0, 1, 0], [1, 1, 0, 0], [1, 1, 0, 1], [1, 1, 1, 0])[kind]  # top left, top right, bottom left and right
    assert [int(seen[0, 0, y, x_] == 10) for y, x_ in ((0, 0), (0, 39), (39, 0), (39, 39))] == kept


def test_a_photo_depends_on_its_own_row_and_block_alone():
    x, labels = photos(8), torch.arange(8) // 2
    drawn = draw(ALL, 8, torch.Generator().manual_seed(3))
    whole = Augment(ALL, 40, 0.9).apply_drawn(x, labels, drawn)
    part = slice(4, 8)
    assert torch.equal(whole[part], Augment(ALL, 40, 0.9).apply_drawn(x[part], labels[part], drawn.part(part)))
    other = x.clone()
    other[4:] = 0
    assert torch.equal(whole[:4], Augment(ALL, 40, 0.9).apply_drawn(other, labels, drawn)[:4])


def test_the_generator_alone_decides():
    x, labels, augment = photos(), torch.tensor([0, 0, 1, 1]), Augment(ALL, 40, 0.9)
    before = torch.get_rng_state()
    first, second, third = (augment(x, labels, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert torch.equal(before, torch.get_rng_state())


def test_what_is_drawn_lies_in_its_range_with_its_probability():
    drawn = draw(ALL, 20_000, torch.Generator().manual_seed(0))
    assert 9.9 < math.degrees(drawn.angle.abs().max()) <= 10
    assert 0.8 <= drawn.zoom.min() < 0.801
    assert 1.199 < drawn.zoom.max() <= 1.2
    for kind, p in ((drawn.quarter, ALL.mask), (drawn.splice, ALL.splice)):
        shares = torch.bincount(kind + 1, minlength=5) / len(kind)
        expected = torch.tensor([1 - p] + [p / 4] * 4)
        assert (shares - expected).abs().max() < 4 * math.sqrt(0.25 / 20_000)  # four standard deviations
    assert abs(float(drawn.flip.double().mean()) - 0.5) < 4 * math.sqrt(0.25 / 20_000)


def test_clean_photos_are_flipped_and_no_more():
    assert ALL.clean() == Settings(flip=True)
    drawn = draw(ALL.clean(), 100, torch.Generator().manual_seed(0))
    assert drawn.flip.any()
    assert not drawn.angle.any()
    assert (drawn.zoom == 1).all()
    assert (drawn.quarter == -1).all()
    assert (drawn.splice == -1).all()
