"""Overlays: what is drawn, where, and that nothing else is touched."""

from __future__ import annotations

import itertools
from dataclasses import replace

import cv2
import numpy as np
import pytest

from semanom_ros.core.database.nominal_database import NominalExample
from semanom_ros.core.drift.drift_monitor import Drift, DriftState
from semanom_ros.core.localization.regions_of_map import Region
from semanom_ros.core.results import Anomaly, FrameResult, Reason, ScoreMap, Verdict
from semanom_ros.rendering.overlay import ALARM, AMBER, CALM, VIOLET, Rect, heat_colour, place_labels, render_overlay

SIZES = [(360, 480), (720, 1280), (1080, 1920)]


def street(size: tuple[int, int]) -> np.ndarray:
    """A picture with texture, so that every change of it is a change of pixels."""
    return np.random.default_rng(1).integers(60, 200, (*size, 3), np.uint8)


def jpeg(colour: tuple[int, int, int] = (0, 0, 0), size: tuple[int, int] = (120, 160)) -> bytes:
    """A picture of one colour (RGB), as a database keeps it."""
    return cv2.imencode('.jpg', np.full((*size, 3), colour[::-1], np.uint8))[1].tobytes()


def shown(overlay: np.ndarray, thumbnail: bytes) -> np.ndarray:
    """(H, W) bool: where an overlay has the colour of a thumbnail of one colour."""
    return (overlay == cv2.imdecode(np.frombuffer(thumbnail, np.uint8), cv2.IMREAD_COLOR_RGB)[0, 0]).all(axis=2)


def result_with(boxes: list[tuple[int, int, int, int]], size: tuple[int, int], *, score: float = 2.0,
                thumbnail: bytes | None = None, label: str = '', scores: np.ndarray | None = None) -> FrameResult:
    """A result whose anomalies are exactly these boxes (x, y, width, height); another map of scores if given."""
    pixel_map = np.full(size, 0.3, np.float32)
    anomalies, regions = [], []
    for number, (x, y, w, h) in enumerate(boxes):
        pixel_map[y:y + h, x:x + w] = score
        nearest = None
        if thumbnail is not None:
            nearest = NominalExample('drive', '/camera', 1, (0, 0, 8, 8), 0.4, thumbnail)
        region = Region((x, y, w, h), np.ones((h, w), bool), w * h, (x, y))
        regions.append(region)
        anomalies.append(Anomaly(number + 1, score, 0.5, 0.01, region.box, region.contour(), region.area,
                                 nearest=nearest, label=label))
    return FrameResult(
        stamp_ns=5_250_000_000, camera='front', image_size=size, score=score if boxes else 0.4, raw_score=0.3,
        p_value=0.01, threshold=1.0, verdict=Verdict.of(bool(boxes)), pixel_threshold=1.0, anomalies=tuple(anomalies),
        scores=ScoreMap.of_pixels(pixel_map if scores is None else scores), regions=tuple(regions))


def banner_height(overlay: np.ndarray, image: np.ndarray) -> int:
    """Rows from the top that differ in their whole width."""
    changed = (overlay != image).any(axis=2).all(axis=1)
    return int(np.argmin(changed)) if not changed.all() else len(changed)


@pytest.mark.parametrize('size', SIZES)
def test_a_nominal_frame_keeps_every_pixel_below_the_banner(size: tuple[int, int]) -> None:
    image = street(size)
    before = image.copy()
    overlay = render_overlay(image, result_with([], size))
    height = banner_height(overlay, image)
    assert overlay.shape == image.shape
    assert overlay.dtype == np.uint8
    assert 0.03 * size[0] < height < 0.09 * size[0]
    assert (overlay[height:] == image[height:]).all()
    assert (image == before).all()


@pytest.mark.parametrize('size', SIZES)
def test_an_anomaly_is_coloured_and_outlined_where_it_is(size: tuple[int, int]) -> None:
    image = street(size)
    x, y, w, h = size[1] // 3, size[0] // 3, size[1] // 5, size[0] // 4
    overlay = render_overlay(image, result_with([(x, y, w, h)], size))
    inside = overlay[y + 9:y + h - 9, x + 9:x + w - 9].astype(int)
    mean = image[y + 9:y + h - 9, x + 9:x + w - 9].mean(axis=(0, 1))
    wanted = 0.6 * mean + 0.4 * np.array(heat_colour(2.0))
    assert np.abs(inside.mean(axis=(0, 1)) - wanted).max() < 3
    on_edge = overlay[y + h // 2, x - 6:x + 7].min(axis=1)
    assert on_edge.max() > 230, 'a light line on the edge'
    assert on_edge.min() < 60, 'between dark ones'
    far = slice(y + h + size[0] // 10, None)
    assert (overlay[far] == image[far]).all()


def test_what_is_below_the_threshold_is_transparent() -> None:
    size = (360, 480)
    image = street(size)
    scores = np.full(size, 0.3, np.float32)
    scores[200:300, 100:200] = 0.99
    overlay = render_overlay(image, result_with([], size, scores=scores))
    assert (overlay[150:] == image[150:]).all()
    scores[200:300, 100:200] = 1.5
    overlay = render_overlay(image, result_with([], size, scores=scores))
    assert (overlay[210:290, 110:190] != image[210:290, 110:190]).any(axis=2).mean() > 0.9


def test_a_patch_map_is_enlarged_to_the_picture() -> None:
    size = (360, 480)
    image = street(size)
    patches = np.zeros((18, 24), np.float32)
    patches[10, 12] = 3.0
    overlay = render_overlay(image, result_with([], size, scores=patches))
    rows, columns = np.nonzero((overlay[150:] != image[150:]).any(axis=2))
    assert abs(rows.mean() + 150 - 210) < 2
    assert abs(columns.mean() - 250) < 2


def test_the_banner_tells_anomalous_from_nominal() -> None:
    size = (360, 480)
    image = street(size)
    alarm = render_overlay(image, result_with([(200, 200, 50, 50)], size))[2, 2].astype(int)
    calm = render_overlay(image, result_with([], size))[2, 2].astype(int)
    assert alarm[0] > alarm[1] + 100
    assert calm[1] > calm[0] + 50


def test_a_drift_is_a_line_below_the_banner_and_nothing_else():
    image, size = street((360, 480)), (360, 480)
    nominal = result_with([], size)
    calm = render_overlay(image, nominal)
    said = render_overlay(image, replace(nominal, drift=Drift(DriftState.DRIFTING, 1, 3.0, 'upper left')))
    rows = np.flatnonzero((said != calm).any(axis=(1, 2)))
    height = banner_height(calm, image)
    assert rows.min() == height
    assert rows.max() < 2.5 * height
    unknown = replace(nominal, drift=Drift(DriftState.UNKNOWN))
    assert (render_overlay(image, unknown) == calm).all()


def held_back(size: tuple[int, int], box: tuple[int, int, int, int]) -> FrameResult:
    x, y, w, h = box
    region = Region(box, np.ones((h, w), bool), w * h, (x, y))
    return replace(result_with([], size), score=1.5, reason=Reason.UNCONFIRMED, held_back_regions=(region,),
                   explanation=Reason.UNCONFIRMED.explanation)


def colour_at(overlay: np.ndarray) -> tuple[int, ...]:
    """Of the pill with the verdict."""
    return tuple(int(v) for v in overlay[2, 2])


@pytest.mark.parametrize('size', SIZES)
def test_each_verdict_has_its_colour_and_what_is_held_back_one_of_its_own(size: tuple[int, int]) -> None:
    image = street(size)
    box = (size[1] // 3, size[0] // 2, 60, 50)
    found = {'anomalous': result_with([box], size), 'nominal': result_with([], size), 'held back': held_back(size, box),
             'unknown': FrameResult.unknown(0, 'front', Reason.NOT_FINITE, '', size)}
    colours = {name: colour_at(render_overlay(image, result)) for name, result in found.items()}
    assert colours == {'anomalous': ALARM, 'nominal': CALM, 'held back': AMBER, 'unknown': VIOLET}


def test_the_colours_of_the_verdicts_differ_in_lightness_for_those_who_see_no_hue() -> None:
    """All but nominal and unknown, which a picture without colours tells apart."""
    lightness = {colour: cv2.cvtColor(np.float32([[colour]]) / 255, cv2.COLOR_RGB2LAB)[0, 0, 0]
                 for colour in (ALARM, AMBER, VIOLET, CALM)}
    for one, other in itertools.combinations((ALARM, AMBER, VIOLET), 2):
        assert abs(lightness[one] - lightness[other]) > 5
    assert abs(lightness[AMBER] - lightness[CALM]) > 20


@pytest.mark.parametrize('size', SIZES)
def test_what_is_held_back_is_outlined_in_thin_amber_dashes(size: tuple[int, int]) -> None:
    image = np.zeros((*size, 3), np.uint8)
    box = (size[1] // 3, size[0] // 3, size[1] // 5, size[0] // 4)
    overlay = render_overlay(image, held_back(size, box))
    x, y, w, h = box
    edge = overlay[y + h - 3:y + h + 3, x:x + w].astype(int)
    amber = ((edge[..., 0] > 150) & (edge[..., 2] < 60)).any(axis=0)
    assert 0.3 < amber.mean() < 0.8, 'dashes'
    assert not (overlay[y + 9:y + h - 9, x + 9:x + w - 9] > 0).any(), 'nothing inside'
    nothing = render_overlay(image, replace(held_back(size, box), held_back_regions=()))
    assert not nothing[y - 5:y + h + 5, x - 5:x + w + 5].any()


@pytest.mark.parametrize('size', SIZES)
def test_why_a_frame_is_held_back_or_unknown_stands_below_the_banner(size: tuple[int, int]) -> None:
    image = np.zeros((*size, 3), np.uint8)
    banner = size[0] // 15
    for result in (held_back(size, (9, size[0] // 2, 20, 20)),
                   FrameResult.unknown(0, 'front', Reason.NOT_FINITE, 'because ' * 40, size)):
        overlay = render_overlay(image, result)
        text = (overlay.min(axis=2) > 150)[banner:2 * banner]
        assert text.any()
        without = render_overlay(image, replace(result, reason=Reason.NONE))
        assert not (without.min(axis=2) > 150)[banner + 4:2 * banner].any()


def test_a_frame_that_is_unknown_loses_its_colours() -> None:
    size = (360, 480)
    overlay = render_overlay(street(size), FrameResult.unknown(0, 'front', Reason.NOT_FINITE, '', size))
    below = overlay[60:].astype(int)
    assert (below[..., 0] == below[..., 1]).all()
    assert (below[..., 1] == below[..., 2]).all()
    assert below.std() > 10, 'but it is still the picture'


def test_the_score_moves_the_gauge() -> None:
    size = (360, 480)
    image = np.zeros((*size, 3), np.uint8)
    widths = []
    for score in (0.2, 0.8, 1.5):
        result = result_with([], size)
        overlay = render_overlay(image, replace(result, score=score))
        row = overlay[:28, 200:340].astype(int)
        widths.append(int(((row[..., 1] > row[..., 0] + 50).any(axis=0)).sum()))
    assert widths[0] < widths[1] < widths[2]
    assert widths[1] == pytest.approx(4 * widths[0], abs=4)


def test_a_wide_picture_is_scaled_down_and_a_small_one_is_not_scaled_up() -> None:
    size = (720, 1280)
    image = street(size)
    result = result_with([(600, 300, 200, 200)], size)
    assert render_overlay(image, result, max_width=640).shape == (360, 640, 3)
    assert render_overlay(image, result, max_width=4000).shape == (720, 1280, 3)
    small = render_overlay(image, result, max_width=640).astype(int)
    colour = np.array(heat_colour(2.0))
    inside, outside = small[180:240, 320:380].mean(axis=(0, 1)), small[270:330, 100:160].mean(axis=(0, 1))
    assert np.abs(inside - colour).sum() < np.abs(outside - colour).sum()


@pytest.mark.parametrize('fault', ['noise', 'cut', 'huge', 'of 16 bits'])
def test_an_overlay_without_its_thumbnail_is_drawn_where_that_is_none(trial, fault: str) -> None:
    whole = jpeg((10, 250, 20))
    at = whole.index(b'\xff\xc0') + 5
    thumbnail = {'noise': b'no picture', 'cut': whole[:len(whole) // 2],
                 'huge': whole[:at] + (60000).to_bytes(2, 'big') * 2 + whole[at + 4:],
                 'of 16 bits': cv2.imencode('.png', np.zeros((9, 9), np.uint16))[1].tobytes()}[fault]
    image, box = street(SIZES[0]), (100, 100, 40, 40)
    with trial('Database', 'a thumbnail that is none, or announces a huge picture'):
        drawn = render_overlay(image, result_with([box], SIZES[0], thumbnail=thumbnail))
        assert np.array_equal(drawn, render_overlay(image, result_with([box], SIZES[0])))


def test_the_evidence_is_shown_away_from_the_anomaly_and_can_be_switched_off() -> None:
    size = (360, 480)
    image = np.zeros((*size, 3), np.uint8)
    thumbnail = jpeg((10, 250, 20))
    for box, corner in (((380, 260, 90, 90), 'left'), ((10, 260, 90, 90), 'right')):
        overlay = render_overlay(image, result_with([box], size, thumbnail=thumbnail))
        green = shown(overlay, thumbnail)
        assert green.sum() > 0.02 * green.size
        assert (np.nonzero(green)[1].mean() < 240) == (corner == 'left')
        without = render_overlay(image, result_with([box], size, thumbnail=thumbnail), evidence=False)
        assert not shown(without, thumbnail).any()


@pytest.mark.parametrize('size', [(1, 1), (7, 5), (24, 400), (400, 24), (3, 2000)])
def test_pictures_too_small_for_text_are_drawn_all_the_same(size: tuple[int, int]) -> None:
    thumbnail = jpeg(size=(10, 10))
    overlay = render_overlay(street(size), result_with([(0, 0, size[1], size[0])], size, thumbnail=thumbnail))
    assert overlay.shape == (*size, 3)
    for result in (held_back(size, (0, 0, size[1], size[0])), FrameResult.unknown(0, '', Reason.FAILED, '', size)):
        assert render_overlay(street(size), result).shape == (*size, 3)


def test_the_evidence_says_where_in_the_nominal_picture() -> None:
    size = (360, 480)
    image = np.zeros((*size, 3), np.uint8)
    thumbnail = jpeg((10, 250, 20))
    result = result_with([(10, 60, 90, 90)], size)
    example = NominalExample('drive', '/camera', 1, (640, 480, 320, 240), 0.4, thumbnail, (960, 1280))
    (anomaly,) = result.anomalies
    marked = replace(result, anomalies=(replace(anomaly, nearest=example),))
    overlay = render_overlay(image, marked)
    rows, columns = np.nonzero(shown(overlay, thumbnail))
    left, top, width, height = columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1
    inset = overlay[top:top + height, left:left + width]
    white_rows, white_columns = np.nonzero((inset == 255).all(axis=2))
    assert white_columns.min() / width == pytest.approx(0.5, abs=0.03)
    assert white_columns.max() / width == pytest.approx(0.75, abs=0.03)
    assert white_rows.min() / height == pytest.approx(0.5, abs=0.03)
    assert white_rows.max() / height == pytest.approx(0.75, abs=0.03)


def test_labels_with_letters_outside_ascii_are_drawn() -> None:
    size = (360, 480)
    plain = render_overlay(street(size), result_with([(200, 200, 60, 60)], size, label='?lge'))
    assert (render_overlay(street(size), result_with([(200, 200, 60, 60)], size, label='\u00d6lge')) == plain).all()


def test_labels_neither_overlap_nor_leave_the_picture() -> None:
    rng = np.random.default_rng(3)
    height, width = 360, 480
    for _ in range(50):
        numbers = rng.integers((0, 0, 5, 5), (width - 40, height - 40, 80, 80), (12, 4))
        boxes = [Rect(*(int(number) for number in row)) for row in numbers]
        sizes = [(int(w), 18) for w in rng.integers(40, 120, 12)]
        banner = Rect(0, 0, width, 27)
        places = place_labels(boxes, sizes, (height, width), [banner])
        found = [place for place in places if place is not None]
        assert len(found) == 12
        for first, second in itertools.combinations([banner, *found], 2):
            assert first.overlap(second) == 0
        for place in found:
            assert place.x >= 0
            assert place.y >= 0
            assert place.x + place.width <= width
            assert place.y + place.height <= height


def test_a_label_stands_at_its_box_where_there_is_room() -> None:
    place = place_labels([Rect(100, 100, 50, 40)], [(60, 18)], (360, 480))[0]
    assert place == Rect(100, 82, 60, 18)
    below = place_labels([Rect(100, 5, 50, 40)], [(60, 18)], (360, 480))[0]
    assert below == Rect(100, 45, 60, 18)


def test_a_label_without_room_is_left_out() -> None:
    assert place_labels([Rect(0, 0, 10, 10)], [(200, 18)], (100, 100)) == [None]
    assert place_labels([Rect(0, 0, 10, 10)] * 2, [(100, 60)] * 2, (100, 100)) == [Rect(0, 10, 100, 60), None]


def test_a_crowd_of_anomalies_shows_the_worst() -> None:
    size = (360, 480)
    boxes = [(x, y, 12, 12) for y in range(40, 340, 25) for x in range(5, 460, 25)]
    overlay = render_overlay(street(size), result_with(boxes, size))
    assert overlay.shape == (*size, 3)


def test_the_heat_colours_grow_lighter_evenly() -> None:
    """Lightness in CIELAB rises with the score: the colour map can be read without hue."""
    colours = np.array([heat_colour(level) for level in np.linspace(1.0, 3.0, 9)], np.uint8)[None]
    lightness = cv2.cvtColor(colours.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0, :, 0]
    assert (np.diff(lightness) > 0).all()
    assert heat_colour(3.0) == heat_colour(50.0)
