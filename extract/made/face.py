"""Where every line of a made face goes when action units move it, after the FACS manual (Ekman, Friesen, Hager 2002).

Letters: N frames, A movements (made_signal.MOVEMENTS), P points. Coordinates are pixels of the 112 px crop.
"""

import numpy as np

from extract.made.person import Person, behind, glasses, hair
from extract.made.shapes import MIDDLE, Floats, Shape, oval, points, ring
from extract.made.signal import INDEX, MOVEMENTS

Moves = dict[str, Floats]
EYE_Y = 46.5
HEAD_PX = 5.0  # by which the nose goes down when the head does
SIDES = (-1.0, 1.0)


def face_shapes(person: Person, movements: Floats, turn: Floats, nod: Floats) -> list[Shape]:
    """Everything to paint, back to front, for N frames.

    Args:
        person: the subject, whose resting face is added to the movements.
        movements: [N, A] intensities as they are in the frames; 1 is full.
        turn: [N] pixels by which the nose goes to the side as the head turns; other parts go less far.
        nod: [N] pixels by which the nose goes down as the head nods.
    """
    moves = {name: (movements + person.rest)[:, INDEX[name], None].clip(-0.6, 1.4) for name in MOVEMENTS}
    layers = (
        (-0.35, behind(person)),
        (0.0, _head(person, moves)),
        (0.45, [*_forehead(person, moves), *_cheeks(person, moves)]),
        (0.5, [shape for side in SIDES for shape in _eye(person, moves, side)]),
        (1.0, _nose(person, moves)),
        (0.65, [*_folds(person, moves), *_beard(person, moves), *_mouth(person, moves)]),
        (0.0, hair(person)),
        (0.5, [_brow(person, moves, side) for side in SIDES]),
        (0.6, glasses(person)),
    )
    pitch = nod + HEAD_PX * (moves["AU54"] - moves["AU53"])[:, 0]
    shift = np.stack([turn, pitch], axis=-1)[:, None, :]
    return [
        Shape(shape.points + depth * shift, shape.colour, shape.width) for depth, shapes in layers for shape in shapes
    ]


def _head(person: Person, moves: Moves) -> list[Shape]:
    """The face itself, darker towards its edge; AU26 lowers the chin."""
    drop = 6.0 * moves["AU26"]
    tones = ((1.0, 0.86), (0.955, 0.93), (0.90, 1.0))
    return [Shape(_outline(person, drop, scale), person.skin * tone) for scale, tone in tones]


def _outline(person: Person, drop: Floats, scale: float) -> Floats:
    """The face's edge [N, P, 2]; `drop` [N, 1] pixels lowers the chin."""
    angle = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    side, down = np.sin(angle), -np.cos(angle)
    jaw = np.where(down > 0, np.abs(side) ** person.jaw * np.sign(side), side)
    height = np.where(down > 0, person.chin - 52, 42)
    x = MIDDLE + jaw * person.width * scale * (1 - 0.10 * np.clip(down, 0, 1))
    return points(x, 52 + scale * (down * height) + drop * np.clip(down, 0, 1) ** 1.5)


def _forehead(person: Person, moves: Moves) -> list[Shape]:
    """Lines across the forehead (AU1 in the middle, AU2 at the sides) and upright ones between the brows (AU4)."""
    raised, outer, frown = moves["AU1"], moves["AU2"], moves["AU4"]
    u = np.linspace(-1, 1, 9)
    strength = np.maximum(0.55 * raised + 0.55 * outer, 0.8 * raised) + 0.5 * person.lines - 0.1
    rows = [26.5 - 2.5 * (raised * (1 - u**2) + outer * u**2) + 1.5 * u**2 + step for step in (0.0, 4.0)]
    shapes = [Shape(points(MIDDLE + 17 * u, y), person.crease(strength, 0.6), 1.1) for y in rows]
    for side in SIDES:
        x = MIDDLE + side * (3.2 - 1.4 * frown + np.array([0.8, 0.0, 0.4]))
        colour = person.crease(1.1 * frown + 0.4 * person.lines - 0.1, 0.65)
        shapes.append(Shape(points(x, np.array([34.0, 39.0, 44.0])), colour, 1.2))
    return shapes


def _cheeks(person: Person, moves: Moves) -> list[Shape]:
    """The cheek's apple, pushed up by AU6 and AU12, the furrow under the eye, and crow's feet (AU6)."""
    lift, smile = moves["AU6"], moves["AU12"]
    shapes = []
    for side in SIDES:
        eye = MIDDLE + side * person.eye_gap
        rise = (5.5 * lift + 2.0 * smile).clip(-2, 8)
        for size, tone in ((1.0, 0.965), (0.8, 0.94), (0.55, 0.915)):
            apple = oval(eye + side * (2.5 + 1.5 * smile), 69.5 - rise, 9.5 * size, (6.5 + lift) * size)
            shapes.append(Shape(apple, person.skin * (1.0, tone, tone - 0.01)))
        u = np.linspace(-1, 1, 7)
        furrow = EYE_Y + 8.5 - 2.0 * lift + (3.0 - 1.2 * lift) * (1 - u**2)
        shapes.append(
            Shape(points(eye + (person.eye_size + 1) * u, furrow), person.crease(0.15 + 0.8 * lift, 0.6), 1.4)
        )
        for slope in (-3.4, 0.2, 3.6):
            x = eye + side * (person.eye_size + 2.2 + np.array([0.0, 2.8, 5.6]))
            y = EYE_Y + 0.5 + slope * np.array([0.25, 0.8, 1.3])
            shapes.append(Shape(points(x, y), person.crease(1.2 * lift - 0.1, 0.65), 1.0))
    return shapes


def _eye(person: Person, moves: Moves, side: float) -> list[Shape]:
    """One eye: AU5 raises the upper lid, AU7 and AU6 raise the lower one, AU4 presses down a little."""
    squint = (0.90 * moves["AU7"] + 0.30 * moves["AU6"] + 0.2 * moves["AU9"]).clip(-0.4, 1.0)
    shut = moves["AU45"].clip(0, 1)
    upper = person.eye_open * (1 + 0.75 * moves["AU5"] - 0.18 * squint - 0.12 * moves["AU4"]) * (1 - shut) - 2.2 * shut
    lower = person.eye_open * 0.72 * (1 - 0.95 * squint + 0.15 * moves["AU5"]) * (1 - 0.3 * shut)
    upper = np.maximum(upper, 0.5 - lower)
    u = np.linspace(-1, 1, 11)
    middle = MIDDLE + side * person.eye_gap
    x = middle + side * person.eye_size * u
    tilt = EYE_Y - person.eye_tilt * u
    top, bottom = tilt - upper * (1 - u**2) ** 0.8, tilt + lower * (1 - u**2)
    shapes = [Shape(ring(points(x, top), points(x, bottom)), np.array([238.0, 236, 232]))]
    for radius, colour in ((0.95, person.iris), (0.45, np.full(3, 18.0))):
        circle = oval(middle, EYE_Y - 0.4, person.eye_open * radius, person.eye_open * radius)
        at = side * (circle[..., 0] - middle) / person.eye_size
        room = (1 - at**2).clip(0, 1)
        lid, rim = EYE_Y - person.eye_tilt * at - upper * room**0.8, EYE_Y - person.eye_tilt * at + lower * room
        shapes.append(Shape(points(circle[..., 0], np.clip(circle[..., 1], lid, rim)), colour))
    fold = top - 2.6 + 1.2 * moves["AU5"] - 0.8 * moves["AU4"].clip(0, 1)
    shapes.append(Shape(points(x, fold), person.crease(0.45), 1.0))
    shapes.append(Shape(points(x, top), np.array([36.0, 26, 24]), 1.5))
    shapes.append(Shape(points(x, bottom), person.crease(0.45 + 0.5 * moves["AU7"]), 1.0))
    return shapes


def _brow(person: Person, moves: Moves, side: float) -> Shape:
    """One brow: AU1 lifts the inner end, AU2 the outer one, AU4 lowers both and draws them together."""
    u = np.linspace(0, 1, 8)
    inner, outer = (1 - u) ** 1.3, u**1.1
    frown = moves["AU4"]
    x = person.eye_gap - 11.0 - 3.6 * frown * inner + 21.5 * u
    y = EYE_Y - person.brow_height - person.brow_arch * np.sin(np.pi * u**1.2) + 1.5 * u**2
    y = y - 7.5 * moves["AU1"] * inner - 7.0 * moves["AU2"] * outer + frown * (5.2 * inner + 1.8)
    y = y + 1.6 * moves["AU9"] * inner + 0.8 * moves["AU6"] * outer
    half = person.brow_size * (1 - 0.72 * u)
    colour = np.minimum(person.hair * 0.8, person.skin * 0.55)
    return Shape(ring(points(MIDDLE + side * x, y - half), points(MIDDLE + side * x, y + half)), colour)


def _nose(person: Person, moves: Moves) -> list[Shape]:
    """Bridge, wings and nostrils; AU9 wrinkles the bridge and lifts the wings, AU10 lifts them less."""
    wrinkle, sneer = moves["AU9"], moves["AU10"]
    rise = (2.6 * wrinkle + 1.3 * sneer).clip(-1, 4)
    size = person.nose_size * (1 + 0.12 * wrinkle + 0.08 * sneer)
    bridge = points(MIDDLE - 3.6 + np.array([0, 0.3, -1.2]), np.array([48.0, 55, 61]))
    shapes = [Shape(bridge, person.crease(0.3), 1.2)]
    for side in SIDES:
        wing = points(
            MIDDLE + side * size * np.array([0.75, 1.0, 0.98, 0.6]),
            person.nose_tip - rise + np.array([-4.0, -1.5, 1.6, 2.4]),
        )
        nostril = oval(MIDDLE + side * size * 0.45, person.nose_tip + 1.8 - 0.8 * rise, 1.8, 1.1)
        shapes += [Shape(wing, person.crease(0.65), 1.3), Shape(nostril, person.crease(1.0, 0.7))]
        for row in (49.5, 53.0, 56.5):
            line = points(MIDDLE + side * np.array([1.0, 3.6, 6.2]), row + np.array([0.6, -0.8, -2.6]) - 0.8 * wrinkle)
            shapes.append(Shape(line, person.crease(1.2 * wrinkle, 0.65), 1.1))
    tip = np.linspace(-0.5, 0.5, 5)
    under = points(MIDDLE + person.nose_size * tip, person.nose_tip + 3.4 - 0.6 * rise - 3 * tip**2)
    return [*shapes, Shape(under, person.crease(0.5), 1.2)]


def _folds(person: Person, moves: Moves) -> list[Shape]:
    """Nasolabial folds: AU12 pulls them out and up, AU10 and AU9 deepen them beside the nose."""
    smile, sneer, wrinkle = moves["AU12"], moves["AU10"], moves["AU9"]
    colour = person.crease(0.15 + person.lines + 0.6 * smile + 0.8 * sneer + 0.4 * wrinkle, 0.55)
    end_x, end_y, _ = _corner(person, moves)
    shapes = []
    for side in SIDES:
        x = np.array([person.nose_size + 1.5, 0, 0, 0]) + np.array([0, 0.4, 0.8, 1.0]) * (end_x + 3.5)
        x = x + np.array([0.0, person.nose_size * 0.75, person.nose_size * 0.3, 0]) + np.array([0, 1.5, 1.0, 0]) * smile
        top = person.nose_tip - 2.5 - 1.5 * sneer - 1.0 * wrinkle
        y = top + np.array([0.0, 0.3, 0.7, 1.0]) * (end_y - 1.5 - top)
        shapes.append(Shape(points(MIDDLE + side * x, y), colour, 1.3))
    return shapes


def _corner(person: Person, moves: Moves) -> tuple[Floats, Floats, Floats]:
    """Half width of the mouth, height of its corners and height of its middle, each [N, 1]."""
    size = 1 + 0.25 * moves["AU12"] + 0.28 * moves["AU20"] - 0.26 * moves["AU23"] - 0.10 * moves["AU26"].clip(0, 1)
    lift = -7.6 * moves["AU12"] + 6.6 * moves["AU15"] + 1.6 * moves["AU20"]
    middle = person.mouth_y + 1.0 * moves["AU26"] - 0.8 * moves["AU10"]
    return person.mouth_size * size, middle + lift, middle - 0.12 * lift


def _mouth(person: Person, moves: Moves) -> list[Shape]:
    """Lips, teeth and what is behind them; AU10 lifts the upper lip, AU25 parts the lips, AU26 drops the jaw,
    AU23 makes the lips small and narrow, AU24 presses them to a line."""
    half, corner, middle = _corner(person, moves)
    u = np.linspace(-1, 1, 13)
    arc = 1 - u**2
    press = moves["AU24"].clip(-0.4, 1.1)
    gap = ((5.2 * moves["AU25"] + 7.5 * moves["AU26"].clip(0, 1.4)) * (1 - 0.9 * press.clip(0, 1))).clip(0, 14)
    sneer = 3.8 * moves["AU10"].clip(-0.4, 1.3) * np.exp(-((np.abs(u) - 0.35) ** 2) / 0.2)
    centre = middle + (corner - middle) * np.abs(u) ** 1.8
    upper_in = centre - 0.22 * gap * arc - 0.75 * sneer * arc**0.3 * (0.3 + 0.7 * np.clip(gap / 3, 0, 1))
    lower_in = centre + 0.78 * gap * arc
    thin = (1 - 0.50 * moves["AU23"] - 0.88 * press).clip(0.06, 1.5)
    cupid = arc**0.7 * (1 - 0.22 * np.exp(-((u / 0.13) ** 2)))
    upper_out = upper_in - person.lip_upper * thin * (1 - 0.2 * moves["AU12"]) * cupid - 0.45 * sneer * arc**0.3
    lower_out = lower_in + person.lip_lower * thin * arc**0.8
    x = MIDDLE + half * u
    teeth = np.minimum(upper_in + (0.5 * gap - 0.5).clip(0, 3.2) * arc**0.6, lower_in)
    seam = person.lips * 0.55 * (1 - 0.35 * press.clip(0, 1))
    shapes = [
        Shape(ring(points(x, upper_out), points(x, upper_in)), person.lips * 0.94),
        Shape(ring(points(x, lower_in), points(x, lower_out)), person.lips),
        Shape(ring(points(x, upper_in), points(x, lower_in)), np.array([74.0, 24, 26])),
        Shape(ring(points(x, upper_in), points(x, teeth)), np.array([240.0, 236, 226])),
        Shape(points(x, upper_in), seam, 1.2),
    ]
    return [*shapes, *_around_mouth(person, moves, half, corner, lower_out[:, 6:7])]


def _around_mouth(person: Person, moves: Moves, half: Floats, corner: Floats, under: Floats) -> list[Shape]:
    """Dents at the corners (AU24, AU12), pouches below them (AU15), bulges over and under pressed lips (AU24)."""
    press, pull = moves["AU24"], moves["AU15"]
    shapes = []
    for side in SIDES:
        dent = points(MIDDLE + side * (half + 1.2 + np.array([0.6, 0, 0.6])), corner + np.array([-2.2, 0, 2.2]))
        colour = person.crease(0.9 * press + 0.45 * moves["AU12"] + 0.5 * moves["AU20"])
        pouch = points(MIDDLE + side * (half + np.array([0.0, 1.0, 0.2])), corner + np.array([1.0, 4.0, 7.0]))
        shapes += [Shape(dent, colour, 1.2), Shape(pouch, person.crease(0.9 * pull), 1.2)]
    u = np.linspace(-1, 1, 7)
    chin = points(MIDDLE + 0.55 * half * u, under + 2.6 - 1.2 * (1 - u**2))
    return [*shapes, Shape(chin, person.crease(0.25 + 0.7 * press + 0.4 * pull), 1.2)]


def _beard(person: Person, moves: Moves) -> list[Shape]:
    """A beard along the jaw and a moustache over the mouth, moving with both."""
    if person.beard == "none":
        return []
    strength = 0.30 if person.beard == "stubble" else 0.85
    colour = person.skin * (1 - strength) + person.hair * strength
    half, corner, middle = _corner(person, moves)
    u = np.linspace(-1, 1, 9)
    lip = middle - person.lip_upper - 1.5 - 1.6 * moves["AU10"].clip(-0.4, 1.3) + (corner - middle) * np.abs(u) ** 2
    shapes = [
        Shape(ring(points(MIDDLE + half * u, lip - 2.4 + 2.0 * u**2), points(MIDDLE + half * u, lip + 2.0)), colour)
    ]
    if person.beard == "moustache":
        return shapes
    edge = _outline(person, 6.0 * moves["AU26"], 0.985)[:, 10:27]
    v = np.linspace(1, -1, 17)
    inner = 96.5 + 6.0 * moves["AU26"].clip(0, 1.4) - 34.0 * np.abs(v) ** 3
    return [Shape(ring(edge, points(MIDDLE + 0.8 * person.width * v, inner)), colour), *shapes]
