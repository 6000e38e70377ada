"""Writes animated GIFs, small ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import IO

import numpy as np
from PIL import Image, ImageDraw

SIZE = 400  # pixels: what the longer side is brought to
CAPTION = 16  # pixels: height of the line above a picture
HOLD = 1000  # milliseconds that the last picture stays longer
LEVELS = [round(round(i * 31 / 255) * 255 / 31) for i in range(256)]
"""What red, green and blue are rounded to. Films are drawn with few colours but many shades of
them, from smoothing; rounded they fit a palette, and Pillow looks colours up with 6 bits only."""


def write_gif(
    file: IO[bytes], frames: Iterable[np.ndarray], captions: Sequence[str], fps: int
) -> None:
    """Encodes pictures of equal size with one palette for all.

    Args:
        file: open for writing bytes.
        frames: [H, W, 3] uint8 each.
        captions: a line above each picture.
        fps: pictures per second, at most 50.
    """
    # one palette for all: with one each, what stands still would flicker
    pictures = [_captioned(*pair) for pair in zip(map(_scaled, frames), captions, strict=True)]
    # a part of every picture, so that no colour is missed that is there for a moment only
    sample = np.concatenate([np.asarray(picture)[::3, ::3] for picture in pictures])
    palette = Image.fromarray(sample).quantize(256)
    first, *others = (
        picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures
    )
    delays = _delays(len(pictures), fps)
    first.save(file, "GIF", save_all=True, append_images=others, duration=delays, loop=0)


def _delays(number: int, fps: int) -> list[int]:
    """Returns milliseconds for each picture: tens, as GIFs have them, right on average."""
    ends = np.round(np.arange(number + 1) * 100 / fps).astype(int)
    delays = 10 * np.diff(ends)
    delays[-1] += HOLD
    return delays.tolist()


def _scaled(frame: np.ndarray) -> Image.Image:
    """Enlarges by a whole factor, or reduces, so that the longer side has about SIZE pixels."""
    height, width = frame.shape[:2]
    factor = SIZE / max(height, width)
    if factor >= 1:
        factor = math.floor(factor)
        return Image.fromarray(frame.repeat(factor, 0).repeat(factor, 1))
    size = (round(width * factor), round(height * factor))
    return Image.fromarray(frame).resize(size, Image.Resampling.BOX)


def _captioned(picture: Image.Image, text: str) -> Image.Image:
    """Returns the picture with a line of text above it."""
    whole = Image.new("RGB", (picture.width, picture.height + CAPTION), "white")
    whole.paste(picture, (0, CAPTION))
    draw = ImageDraw.Draw(whole)
    draw.fontmode = "1"  # without shades, which cost colours and bytes
    draw.text((4, 2), text, fill="black")
    return whole.point(LEVELS * 3)
