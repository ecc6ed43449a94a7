"""Buckets: sizes that a batch may have, and which of them a picture goes to. Rules and rounding exactly as kohya's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from library.util.records import Problem, UserError
from library.util.said import say

Size = tuple[int, int]
"""(width, height) in pixels."""


@dataclass(frozen=True)
class Placement:
    """What happens to a picture: scaled to ``resized``, then cut to ``bucket`` from its middle."""

    bucket: Size
    resized: Size
    ratio_error: float
    """Picture's width/height less the bucket's."""

    @property
    def centre_offset(self) -> Size:
        """(left, top) of a centred cut."""
        return (self.resized[0] - self.bucket[0]) // 2, (self.resized[1] - self.bucket[1]) // 2


@dataclass(frozen=True)
class BucketRules:
    """The settings that decide about buckets."""

    resolution: Size
    min_side: int = 256
    max_side: int = 1024
    step: int = 64
    no_upscale: bool = False
    enabled: bool = True

    @cached_property
    def sizes(self) -> list[Size]:
        """The predefined buckets, sorted; sides between min and max in steps, area at most the resolution's."""
        area = self.resolution[0] * self.resolution[1]
        square = int(math.sqrt(area) // self.step) * self.step
        found = {(square, square)}
        for width in range(self.min_side, self.max_side + 1, self.step):
            height = min(self.max_side, int((area // width) // self.step) * self.step)
            if height >= self.min_side:
                found |= {(width, height), (height, width)}
        return sorted(found)

    def place(self, size: Size) -> Placement:
        """Choose the bucket of a picture and the size it is scaled to.

        Raises UserError where a side would come out smaller than one step (kohya: ZeroDivisionError).
        """
        if not self.enabled:
            return Placement(self.resolution, _cover(size, self.resolution), 0.0)
        ratio = size[0] / size[1]
        if self.no_upscale:
            bucket, resized = self._without_upscaling(size, ratio)
        else:
            bucket = self._nearest(size, ratio)
            resized = _cover(size, bucket)
        if 0 in bucket:
            raise UserError(Problem(
                "--bucket_no_upscale",
                say("A picture of {size[0]}x{size[1]} is smaller than one bucket step ({step}) once "
                    "it fits {resolution[0]}x{resolution[1]}.", size=size, step=self.step, resolution=self.resolution),
                "Remove it, make it larger, or lower --bucket_reso_steps."))
        return Placement(bucket, resized, bucket[0] / bucket[1] - ratio)

    def placed_in(self, bucket: Size, size: Size) -> Placement:
        """Place a picture in a bucket that something else has chosen."""
        return Placement(bucket, _cover(size, bucket), bucket[0] / bucket[1] - size[0] / size[1])

    def _nearest(self, size: Size, ratio: float) -> Size:
        if size in self.sizes:
            return size
        return min(self.sizes, key=lambda bucket: abs(bucket[0] / bucket[1] - ratio))

    def _down(self, side: float) -> int:
        return int(side) - int(side) % self.step

    def _without_upscaling(self, size: Size, ratio: float) -> tuple[Size, Size]:
        """Scale down to the area where larger, never up, then cut each side to a multiple of the step."""
        area = self.resolution[0] * self.resolution[1]
        resized = size
        if size[0] * size[1] > area:
            width = math.sqrt(area * ratio)
            by_width = self._down(width + 0.5)
            by_width_height = self._down(by_width / ratio + 0.5)
            by_height = self._down(area / width + 0.5)
            by_height_width = self._down(by_height * ratio + 0.5)
            if 0 in (by_width_height, by_height):
                return (0, 0), size
            if abs(by_width / by_width_height - ratio) < abs(by_height_width / by_height - ratio):
                resized = by_width, int(by_width / ratio + 0.5)
            else:
                resized = int(by_height * ratio + 0.5), by_height
        return (self._down(resized[0]), self._down(resized[1])), resized


def _cover(size: Size, bucket: Size) -> Size:
    """Scale so that the bucket is just covered."""
    wide = size[0] / size[1] > bucket[0] / bucket[1]
    scale = bucket[1] / size[1] if wide else bucket[0] / size[0]
    return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)


def whole_steps(rules: BucketRules) -> tuple[BucketRules, list[Problem]]:
    """Round the smallest side down and the largest up to steps, with notes; stops where they contradict the resolution."""
    from dataclasses import replace

    low = max(rules.step, rules.min_side - rules.min_side % rules.step)
    high = -(-rules.max_side // rules.step) * rules.step
    problems = []
    if min(rules.resolution) < rules.step:
        width, height = rules.resolution
        problems.append(Problem("--resolution", say("{width}x{height} is smaller than one bucket step ({step}).",
                                                    width=width, height=height, step=rules.step),
                                say("Give {step} or more, or leave out --enable_bucket.", step=rules.step)))
        rules = replace(rules, resolution=(max(width, rules.step), max(height, rules.step)))
    for flag, given, used in (("--min_bucket_reso", rules.min_side, low), ("--max_bucket_reso", rules.max_side, high)):
        if given != used:
            problems.append(Problem(flag, say("{given} is no multiple of --bucket_reso_steps {step}; {used} is used.",
                                              given=given, step=rules.step, used=used),
                                    say("Write {used}.", used=used), "note"))
    if low > min(rules.resolution):
        problems.append(Problem("--min_bucket_reso", say("{low} is larger than the resolution {resolution[0]}x{resolution[1]}.",
                                                         low=low, resolution=rules.resolution),
                                say("Give {side} or less.", side=min(rules.resolution))))
    if high < max(rules.resolution):
        problems.append(Problem("--max_bucket_reso", say("{high} is smaller than the resolution {resolution[0]}x{resolution[1]}.",
                                                         high=high, resolution=rules.resolution),
                                say("Give {side} or more.", side=max(rules.resolution))))
    return replace(rules, min_side=low, max_side=high), problems


def kept_region(size: Size, bucket: Size) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) in the bucket's coordinates that kohya writes as ``crop_ltrb`` into latent caches."""
    ratio, bucket_ratio = size[0] / size[1], bucket[0] / bucket[1]
    width, height = (bucket[1] * ratio, bucket[1]) if bucket_ratio > ratio else (bucket[0], bucket[0] / ratio)
    left, top = (bucket[0] - width) // 2, (bucket[1] - height) // 2
    return left, top, left + width, top + height
