"""A small world of pictures whose every attribute can be read back from the pixels.

`examples/tiny-sd` is trained on it. A picture shows one to three equal shapes in one colour on a plain
background; a `Scene` says what is to be seen, `draw` draws it, `caption` describes it in tags and
`measure` reads a `Reading` from any picture. Trainers can therefore be tested by figures: did a slider
move the size, did a character's LoRA bring its shape.

    scene = random_scene(random.Random(1))
    picture = draw(scene)
    print(caption(scene), measure(picture))

`zobi`, a five-pointed star, belongs to the world's ruler but not to its pictures: the shipped model has
never seen one, so it can stand for a new subject (`examples/dataset/10_zobi`).
"""

from __future__ import annotations

import colorsys
import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDE = 64
"""Pictures are SIDE x SIDE pixels."""

OVERSAMPLING = 4
MARGIN = 0.03
GAP = 0.09

HUES = {"red": 0.0, "yellow": 55.0, "green": 122.0, "cyan": 183.0, "blue": 233.0, "purple": 290.0}
"""Degrees of the named colours of shapes."""

HUE_JITTER = 10.0
TINTS = {"blue": 222.0, "green": 130.0}
"""Degrees of the coloured backgrounds."""

SIZES = {"small": (0.28, 0.41), "medium": (0.41, 0.59), "large": (0.59, 0.80)}
"""Side of the shape's bounding box as a part of the picture's side."""

BACKGROUNDS = {"black": (0.0, 0.25), "grey": (0.25, 0.75), "white": (0.75, 1.0)}
"""Brightness (mean of red, green and blue) of the backgrounds without a tint."""

DARK, BRIGHT = 0.35, 0.65
OFF_CENTRE = 0.09
COUNTS = {1: "solo", 2: "duo", 3: "trio"}
SUBJECT = "zobi"
"""Trigger word and name of the subject that the shipped model has never seen."""

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Scene:
    """What a picture shows. Lengths and places are parts of the picture's side, hue is in degrees."""

    shape: str = "circle"
    hue: float = 0.0
    size: float = 0.5
    x: float = 0.5
    y: float = 0.5
    brightness: float = 0.9
    tint: str = ""
    number: int = 1
    saturation: float = 0.9
    value: float = 0.95
    angle: float = 0.0


@dataclass(frozen=True)
class Reading:
    """What `measure` read from a picture; the same units as in `Scene`.

    shape and colour are "" where no shape was found. overlap is the agreement with the shape's template
    (0..1), area the part of the picture that all shapes cover, saturation that of the shape's colour.
    """

    shape: str
    colour: str
    size: float
    x: float
    y: float
    background: str
    brightness: float
    number: int
    hue: float
    saturation: float
    area: float
    overlap: float

    @property
    def size_word(self) -> str:
        """small, medium or large."""
        return size_word(self.size)

    @property
    def place_words(self) -> tuple[str, ...]:
        """center, or one or two of left, right, top and bottom."""
        return place_words(self.x, self.y)


# -- words ----------------------------------------------------------------------------------------


def colour_word(hue: float) -> str:
    """The named colour nearest to a hue in degrees."""
    return min(HUES, key=lambda name: hue_distance(HUES[name], hue))


def hue_distance(a: float, b: float) -> float:
    """Degrees between two hues, 0..180."""
    return abs((a - b + 180.0) % 360.0 - 180.0)


def size_word(size: float) -> str:
    """small, medium or large."""
    return "small" if size < SIZES["medium"][0] else "large" if size >= SIZES["large"][0] else "medium"


def place_words(x: float, y: float) -> tuple[str, ...]:
    """center, or where the shapes' common centre lies off it."""
    words = []
    if abs(y - 0.5) > OFF_CENTRE:
        words.append("top" if y < 0.5 else "bottom")
    if abs(x - 0.5) > OFF_CENTRE:
        words.append("left" if x < 0.5 else "right")
    return tuple(words) or ("center",)


def background_word(brightness: float, tint: str = "") -> str:
    """black, grey or white, or the tint's name."""
    if tint:
        return tint
    return next(name for name, (_, high) in BACKGROUNDS.items() if brightness < high or high == 1.0)


def tags(scene: Scene) -> list[str]:
    """All tags that are true of a scene, in a fixed order."""
    found = [COUNTS[scene.number], f"{colour_word(scene.hue)} {scene.shape}", size_word(scene.size)]
    if scene.number == 1:
        found += place_words(scene.x, scene.y)
    found.append(f"{background_word(scene.brightness, scene.tint)} background")
    if scene.brightness < DARK or scene.brightness > BRIGHT:
        found.append("dark" if scene.brightness < DARK else "bright")
    return found


def caption(scene: Scene, rng: random.Random | None = None, left_out: float = 0.1) -> str:
    """Comma-separated tags; with a generator they are shuffled and each is left out with that chance.

    "red circle" may also lose one of its two words, so that either is understood alone.
    """
    words = tags(scene)
    if rng is None:
        return ", ".join(words)
    kept = [_thinned(word, rng, left_out) for word in words]
    kept = [word for word in kept if word] or [words[1]]
    rng.shuffle(kept)
    return ", ".join(kept)


def _thinned(tag: str, rng: random.Random, left_out: float) -> str:
    """The tag, a part of a two-word tag, or nothing."""
    if rng.random() >= left_out:
        return tag
    first, _, rest = tag.partition(" ")
    return rng.choice([first, rest, ""]) if rest and rest != "background" else ""


WORDS = [
    *("solo", "duo", "trio", "red", "yellow", "green", "cyan", "blue", "purple"),
    *("circle", "square", "triangle", "cross", "ring", "diamond", "small", "medium", "large"),
    *("black", "grey", "white", "background", "dark", "bright", "left", "right", "top", "bottom", "center"),
]
"""All words of captions; the shipped model's tokenizer has one token for each."""


# -- scenes ---------------------------------------------------------------------------------------


def random_scene(rng: random.Random) -> Scene:
    """A scene with every attribute drawn anew; the shape's colour stands off its background."""
    number = rng.choices([1, 2, 3], [0.84, 0.11, 0.05])[0]
    size = _random_size(rng, number)
    hue = HUES[rng.choice(list(HUES))] + rng.triangular(-HUE_JITTER, HUE_JITTER)
    tint = rng.choice(list(TINTS)) if rng.random() < 0.25 else ""
    if tint and hue_distance(TINTS[tint], hue) < 40:
        tint = ""
    low, high = (0.25, 0.78) if tint else rng.choice(list(BACKGROUNDS.values()))
    mode = {0.0: 0.07, 0.75: 0.94}.get(low, 0.5)
    scene = Scene(
        shape=rng.choice(list(BASE_SHAPES)),
        hue=hue % 360.0,
        size=size,
        brightness=rng.triangular(low, high, mode),
        tint=tint,
        number=number,
        saturation=rng.uniform(0.85, 1.0),
        value=rng.uniform(0.88, 1.0),
        angle=rng.uniform(-2.0, 2.0),
    )
    return _placed(scene, rng)


def _random_size(rng: random.Random, number: int) -> float:
    """A size whose three words are equally likely for one shape; several shapes must fit side by side."""
    if number == 1:
        return rng.triangular(*rng.choice(list(SIZES.values())))
    return rng.uniform(0.28, 0.42 if number == 2 else 0.38)


def _placed(scene: Scene, rng: random.Random) -> Scene:
    """The scene at a random place where all of it lies within the picture."""
    reach_x, reach_y = _reach(scene)
    room_x, room_y = (max(0.0, 0.5 - MARGIN - reach) for reach in (reach_x, reach_y))
    aside = [rng.random() < 0.5, rng.random() < 0.5]
    dx, dy = (_shift(rng, off, room) for off, room in zip(aside, (room_x, room_y)))
    return replace(scene, x=0.5 + dx, y=0.5 + dy)


def _shift(rng: random.Random, aside: bool, room: float) -> float:
    """A distance from the middle: well to one side as far as there is room, or hardly any."""
    if aside:
        return rng.choice([-1, 1]) * rng.triangular(min(0.08, room), room, room)
    return rng.uniform(-1, 1) * min(0.06, room)


def _offsets(scene: Scene) -> Points:
    """Centres of the single shapes relative to the scene's centre."""
    step = (scene.size + GAP) / 2
    layouts: dict[int, Points] = {1: [(0, 0)], 2: [(-step, 0), (step, 0)], 3: [(-step, step), (step, step), (0, -step)]}
    return layouts[scene.number]


def _reach(scene: Scene) -> tuple[float, float]:
    """Half the width and half the height of the scene's bounding box."""
    offsets, half = _offsets(scene), scene.size / 2
    return max(abs(x) for x, _ in offsets) + half, max(abs(y) for _, y in offsets) + half


def batch_of_prompts(n: int, seed: int = 0, **fixed: object) -> list[tuple[str, Scene]]:
    """n full captions with the scenes they describe; keyword arguments fix fields of every scene."""
    rng = random.Random(seed)
    scenes = [replace(random_scene(rng), **fixed) for _ in range(n)]
    return [(caption(scene), scene) for scene in scenes]


# -- drawing --------------------------------------------------------------------------------------

# A shape is a list of layers in a box from -1 to 1: polygon points, and whether they add or cut out.
Layers = list[tuple[Points, bool]]


def _round(radius: float) -> Points:
    return [(radius * math.cos(a), radius * math.sin(a)) for a in np.linspace(0, 2 * math.pi, 64, endpoint=False)]


def _star(points: int, inner: float) -> Points:
    """Stretched so that it fills its box, as every shape does."""
    turns = [math.pi * i / points for i in range(2 * points)]
    radii = [1.0, inner] * points
    xs = [r * math.sin(turn) for r, turn in zip(radii, turns)]
    ys = [-r * math.cos(turn) for r, turn in zip(radii, turns)]
    return list(zip(stretched(xs), stretched(ys)))


def stretched(values: list[float]) -> list[float]:
    """The values moved and scaled so that they reach from -1 to 1."""
    low, high = min(values), max(values)
    return [2 * (value - low) / (high - low) - 1 for value in values]


def _cross(arm: float) -> Points:
    a = arm
    return [(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a), (a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a), (-a, -a)]


BASE_SHAPES: dict[str, Layers] = {
    "circle": [(_round(1.0), True)],
    "square": [([(-1, -1), (1, -1), (1, 1), (-1, 1)], True)],
    "triangle": [([(0, -1), (1, 1), (-1, 1)], True)],
    "cross": [(_cross(0.36), True)],
    "ring": [(_round(1.0), True), (_round(0.52), False)],
    "diamond": [([(0, -1), (1, 0), (0, 1), (-1, 0)], True)],
}
"""The shapes that the shipped model knows."""

SHAPES: dict[str, Layers] = {**BASE_SHAPES, SUBJECT: [(_star(5, 0.46), True)]}
"""The shapes that `measure` knows."""


def shape_colour(scene: Scene) -> np.ndarray:
    """RGB in 0..1 of the scene's shapes."""
    return np.array(colorsys.hsv_to_rgb(scene.hue / 360.0, scene.saturation, scene.value))


def background_colour(scene: Scene) -> np.ndarray:
    """RGB in 0..1 of the scene's background; its mean is the scene's brightness."""
    grey = np.full(3, scene.brightness)
    if not scene.tint:
        return grey
    hue = np.array(colorsys.hsv_to_rgb(TINTS[scene.tint] / 360.0, 1.0, 1.0))
    away = hue - hue.mean()
    strength = min(0.45, (1 - scene.brightness) / away.max(), scene.brightness / -away.min())
    return grey + strength * away


def coverage(layers: Layers, centres: Points, size: float, angle: float = 0.0) -> np.ndarray:
    """How much of each pixel the shapes cover, SIDE x SIDE in 0..1."""
    big = SIDE * OVERSAMPLING
    canvas = Image.new("L", (big, big), 0)
    pen = ImageDraw.Draw(canvas)
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    for cx, cy in centres:
        for points, adds in layers:
            turned = [(x * cos - y * sin, x * sin + y * cos) for x, y in points]
            # Pillow's polygon covers the pixels of its outline too; half a pixel back keeps its size.
            placed = [((cx + x * size / 2) * big - 0.5, (cy + y * size / 2) * big - 0.5) for x, y in turned]
            pen.polygon(placed, fill=255 if adds else 0)
    return np.asarray(canvas.reduce(OVERSAMPLING), dtype=np.float32) / 255.0


def draw(scene: Scene, shapes: Mapping[str, Layers] | None = None) -> Image.Image:
    """The scene's picture, SIDE x SIDE, RGB; with outlines of one's own in place of `SHAPES`."""
    centres = [(scene.x + dx, scene.y + dy) for dx, dy in _offsets(scene)]
    alpha = coverage((shapes or SHAPES)[scene.shape], centres, scene.size, scene.angle)[..., None]
    pixels = alpha * shape_colour(scene) + (1 - alpha) * background_colour(scene)
    return Image.fromarray((pixels * 255.0 + 0.5).astype(np.uint8))


def random_picture(rng: random.Random) -> Image.Image:
    """A picture of a wider world (polygons, stars, stripes, gradients, two tones), for training a VAE."""
    pixels = _random_fill(rng)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        outline = _random_outline(rng)
        size = rng.uniform(0.2, 0.9)
        centre = (rng.uniform(0.15, 0.85), rng.uniform(0.15, 0.85))
        alpha = coverage([(outline, True)], [centre], size, rng.uniform(0, 360))[..., None]
        pixels = alpha * _random_fill(rng) + (1 - alpha) * pixels
    return Image.fromarray((np.clip(pixels, 0, 1) * 255.0 + 0.5).astype(np.uint8))


def _random_outline(rng: random.Random) -> Points:
    kind = rng.choice(["polygon", "star", "shape", "regular"])
    if kind == "shape":
        return rng.choice(list(BASE_SHAPES.values()))[0][0]
    if kind == "star":
        return _star(rng.randint(4, 8), rng.uniform(0.3, 0.7))
    corners = rng.randint(3, 8)
    turns = [2 * math.pi * (i + (rng.random() if kind == "polygon" else 0.0)) / corners for i in range(corners)]
    return [(math.sin(turn), -math.cos(turn)) for turn in turns]


def _random_colour(rng: random.Random) -> np.ndarray:
    saturation = rng.choice([0.0, rng.random(), 1.0])
    return np.array(colorsys.hsv_to_rgb(rng.random(), saturation, rng.random() ** 0.5))


def _random_fill(rng: random.Random) -> np.ndarray:
    """SIDE x SIDE x 3: one colour, a gradient, stripes or two halves."""
    first, second = _random_colour(rng), _random_colour(rng)
    turn = rng.uniform(0, 2 * math.pi)
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] / SIDE - 0.5
    along = rows * math.sin(turn) + columns * math.cos(turn)
    kind = rng.choices(["plain", "gradient", "stripes", "halves"], [0.6, 0.16, 0.14, 0.1])[0]
    period = rng.uniform(0.15, 0.4)
    mix = {
        "plain": np.zeros_like(along),
        "gradient": np.clip(along + 0.5, 0, 1),
        "stripes": np.clip(np.sin(along * 2 * math.pi / period) * period * 20 + 0.5, 0, 1),
        "halves": np.clip((along - rng.uniform(-0.25, 0.25)) * SIDE + 0.5, 0, 1),
    }[kind]
    return first + mix[..., None] * (second - first)


# -- measuring ------------------------------------------------------------------------------------

TEMPLATE_SIDE = 24


def measure(image: Image.Image | np.ndarray) -> Reading:
    """Reads a picture of any size (RGB; arrays: HWC, uint8 or 0..1) and says what it shows.

    The background is the median of the border, shapes are what differs from it, a shape's name is that
    of the template its outline overlaps best after both fill the same box.
    """
    pixels = _as_pixels(image)
    ground = _border_median(pixels)
    brightness = float(ground.mean())
    background = background_word(brightness, _tint_of(ground))
    alpha, colour = _foreground(pixels, ground)
    parts = _components(alpha > 0.5) if alpha is not None else []
    if not parts:
        return Reading("", "", 0.0, 0.5, 0.5, background, brightness, 0, 0.0, 0.0, 0.0, 0.0)
    boxes = [_fine_box(part, alpha) for part in parts]
    shape, overlap = _best_template(parts[0], alpha)
    hue, saturation, _ = colorsys.rgb_to_hsv(*np.clip(colour, 0, 1))
    sizes = [max(bottom - top, right - left) / SIDE for top, bottom, left, right in boxes]
    return Reading(
        shape=shape,
        colour=colour_word(hue * 360.0),
        size=float(np.mean(sizes)),
        x=(min(b[2] for b in boxes) + max(b[3] for b in boxes)) / 2 / SIDE,
        y=(min(b[0] for b in boxes) + max(b[1] for b in boxes)) / 2 / SIDE,
        background=background,
        brightness=brightness,
        number=len(parts),
        hue=hue * 360.0,
        saturation=saturation,
        area=float(sum(part.sum() for part in parts)) / SIDE**2,
        overlap=overlap,
    )


def _as_pixels(image: Image.Image | np.ndarray) -> np.ndarray:
    """SIDE x SIDE x 3 floats in 0..1."""
    if isinstance(image, np.ndarray):
        scaled = image if image.dtype == np.uint8 else (np.clip(image, 0, 1) * 255.0 + 0.5).astype(np.uint8)
        image = Image.fromarray(scaled)
    image = image.convert("RGB")
    if image.size != (SIDE, SIDE):
        image = image.resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(image, dtype=np.float32) / 255.0


def _border_median(pixels: np.ndarray) -> np.ndarray:
    edges = [pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:]]
    return np.median(np.concatenate([edge.reshape(-1, 3) for edge in edges]), axis=0)


def _tint_of(ground: np.ndarray) -> str:
    """The tint's name where a background is coloured, else ""."""
    if ground.max() - ground.min() < 0.17:
        return ""
    hue = colorsys.rgb_to_hsv(*ground)[0] * 360.0
    return min(TINTS, key=lambda name: hue_distance(TINTS[name], hue))


def _foreground(pixels: np.ndarray, ground: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """How far each pixel stands from the background towards the shapes' colour (0..1), and that colour."""
    away = pixels - ground
    distance = np.linalg.norm(away, axis=-1)
    strongest = np.sort(distance.ravel())[-40:].mean()
    if strongest < 0.15:
        return None, ground
    colour = np.median(pixels[distance > 0.75 * strongest], axis=0)
    axis = colour - ground
    return np.clip(away @ axis / (axis @ axis), 0, 1), colour


def _components(mask: np.ndarray) -> list[np.ndarray]:
    """Connected parts of a mask, the largest first; specks are left out."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:  # every pixel takes the highest label around it until nothing changes
        grown = labels.copy()
        for axis in (0, 1):
            ahead, behind = np.roll(grown, 1, axis), np.roll(grown, -1, axis)
            first, last = [slice(None)] * 2, [slice(None)] * 2
            first[axis], last[axis] = 0, -1
            ahead[tuple(first)], behind[tuple(last)] = 0, 0
            grown = np.maximum(grown, np.maximum(ahead, behind))
        grown = np.where(mask, grown, 0)
        if np.array_equal(grown, labels):
            break
        labels = grown
    names, counts = np.unique(labels[labels > 0], return_counts=True)
    if not len(counts) or counts.max() < 25:
        return []
    order = np.argsort(-counts)
    return [labels == names[i] for i in order if counts[i] > max(20, 0.3 * counts.max())]


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """top, bottom, left and right of a mask, ends not included."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _fine_box(mask: np.ndarray, alpha: np.ndarray) -> tuple[float, float, float, float]:
    """`_box` to parts of a pixel: where the coverage falls below one half between two pixels' centres."""
    top, bottom, left, right = _box(mask)
    rows = np.pad(alpha[:, left:right].max(1), 1)
    columns = np.pad(alpha[top:bottom].max(0), 1)

    def beyond(profile: np.ndarray, inside: int, step: int) -> float:
        here, there = profile[inside + 1], min(profile[inside + 1 + step], 0.5)
        return float((here - 0.5) / (here - there)) - 0.5

    return (
        top - beyond(rows, top, -1),
        bottom + beyond(rows, bottom - 1, 1),
        left - beyond(columns, left, -1),
        right + beyond(columns, right - 1, 1),
    )


def _filled(mask: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The mask's own box, scaled to TEMPLATE_SIDE x TEMPLATE_SIDE."""
    top, bottom, left, right = _box(mask)
    crop = Image.fromarray((alpha * mask * 255.0).astype(np.uint8)[top:bottom, left:right])
    return np.asarray(crop.resize((TEMPLATE_SIDE, TEMPLATE_SIDE), Image.Resampling.BILINEAR), dtype=np.float32) / 255.0


@lru_cache(maxsize=1)
def _templates() -> list[tuple[str, np.ndarray]]:
    found = []
    for name, layers in SHAPES.items():
        for size in (0.3, 0.45, 0.7):
            for angle in (-4.0, 0.0, 4.0):
                alpha = coverage(layers, [(0.5, 0.5)], size, angle)
                found.append((name, _filled(alpha > 0.5, alpha)))
    return found


def _best_template(mask: np.ndarray, alpha: np.ndarray) -> tuple[str, float]:
    """Name of the shape with the highest soft intersection over union, and that figure."""
    seen = _filled(mask, alpha)
    scores = [(float(np.minimum(seen, t).sum() / np.maximum(seen, t).sum()), name) for name, t in _templates()]
    overlap, name = max(scores)
    return name, overlap


def agreement(scenes: list[Scene], readings: list[Reading]) -> dict[str, float]:
    """Part of the readings that agree with what was asked for, by attribute; place: of single shapes alone."""
    pairs = list(zip(scenes, readings, strict=True))
    single = [(s, r) for s, r in pairs if s.number == 1]
    return {
        "colour": _part(r.colour == colour_word(s.hue) for s, r in pairs),
        "shape": _part(r.shape == s.shape for s, r in pairs),
        "size": _part(r.size_word == size_word(s.size) for s, r in pairs),
        "background": _part(r.background == background_word(s.brightness, s.tint) for s, r in pairs),
        "number": _part(r.number == s.number for s, r in pairs),
        "place": _part(r.place_words == place_words(s.x, s.y) for s, r in single),
    }


def _part(truths: Iterable[bool]) -> float:
    found = list(truths)
    return sum(found) / len(found) if found else 1.0


# -- a new subject --------------------------------------------------------------------------------


def subject_scenes(n: int, seed: int = 0) -> list[Scene]:
    """Scenes with the subject alone, as varied as the world's own but never small: its points need pixels.

    The colours take turns.
    """
    rng, colours = random.Random(seed), list(HUES)
    scenes: list[Scene] = []
    while len(scenes) < n:
        scene = replace(random_scene(rng), shape=SUBJECT)
        its_turn = colour_word(scene.hue) == colours[len(scenes) % len(colours)]
        if its_turn and scene.number == 1 and size_word(scene.size) != "small":
            scenes.append(scene)
    return scenes


def subject_captions(scenes: list[Scene]) -> list[str]:
    """Captions that begin with the trigger; the colour stands in a tag of its own, so that the trigger alone names the shape."""
    return [", ".join([SUBJECT] + [tag.replace(f" {SUBJECT}", "") for tag in tags(scene)]) for scene in scenes]


def write_dataset(folder: Path, n: int = 16, seed: int = 7) -> list[Path]:
    """Pictures of the subject with their captions, in a folder `repeats_name`."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    scenes = subject_scenes(n, seed)
    for i, (scene, text) in enumerate(zip(scenes, subject_captions(scenes), strict=True), start=1):
        path = folder / f"{i:03d}.png"
        draw(scene).save(path)
        path.with_suffix(".txt").write_text(text + "\n", encoding="utf-8", newline="\n")
        written.append(path)
    return written


def write_regularisation(folder: Path, n: int = 64, seed: int = 21) -> list[Path]:
    """Pictures of the world as it was, with their captions: what a LoRA of the subject shall not unlearn."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, written = random.Random(seed), []
    for i in range(1, n + 1):
        scene = random_scene(rng)
        path = folder / f"{i:03d}.png"
        draw(scene).save(path)
        path.with_suffix(".txt").write_text(caption(scene) + "\n", encoding="utf-8", newline="\n")
        written.append(path)
    return written
