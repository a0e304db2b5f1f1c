"""Public sets are recognised by their files, and each picture gets its own mask."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from semanom_ros.errors import BagError
from semanom_ros.recordings.public_sets import SETS, recognise

LAF = ('04_Maurener_Weg_8_000000_000030', '07_Festplatz_Flugfeld_000001_000180')


def write(path: Path, image: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.zeros((8, 12), np.uint8) if image is None else image)


def anomaly_track(folder: Path) -> list[str]:
    for name in ('validation0000', 'validation0001', 'zebra0000'):
        write(folder / f'images/{name}.jpg')
    for name in ('validation0000', 'validation0001'):
        write(folder / f'labels_masks/{name}_labels_semantic.png')
        write(folder / f'labels_masks/{name}_labels_semantic_color.png')
    return ['validation0000', 'validation0001']


def obstacle_track(folder: Path) -> list[str]:
    for name in ('validation_1', 'validation_20', 'validation_25', 'motorway_basket_1'):
        write(folder / f'images/{name}.webp')
        if name.startswith('validation'):
            write(folder / f'labels_masks/{name}_labels_semantic.png')
    return ['validation_1', 'validation_20']  # 25 is not in the benchmark's own split


def fishyscapes(folder: Path) -> list[str]:
    for number, name in enumerate(LAF):
        write(folder / f'fishyscapes_lostandfound/{number:04d}_{name}_labels.png')
        write(folder / f'leftImg8bit/train/{name[:-14]}/{name}_leftImg8bit.png')
    write(folder / f'leftImg8bit/train/{LAF[0][:-14]}/{LAF[0][:-2]}40_leftImg8bit.png')
    return [f'{name}_leftImg8bit' for name in LAF]


def fishyscapes_numbered(folder: Path) -> list[str]:
    for number, name in enumerate(LAF):
        write(folder / f'labels/{number:04d}_{name}_labels.png')
        write(folder / f'original/{number:04d}_{name}_leftImg8bit.png')
    return [f'{number:04d}_{name}_leftImg8bit' for number, name in enumerate(LAF)]


def road_anomaly(folder: Path) -> list[str]:
    for name in ('animals01_Calves', 'animals03_Zebras'):
        write(folder / f'frames/{name}.jpg')
        write(folder / f'frames/{name}.labels/labels_semantic.png')
        write(folder / f'frames/{name}.labels/labels_semantic_color.png')
    (folder / 'frame_list.json').write_text(json.dumps(['animals03_Zebras.jpg']))
    return ['animals03_Zebras']


LAYOUTS = [('road-anomaly-21', anomaly_track), ('road-obstacle-21', obstacle_track),
           ('fishyscapes-lost-and-found', fishyscapes), ('fishyscapes-lost-and-found', fishyscapes_numbered),
           ('road-anomaly', road_anomaly)]


@pytest.mark.parametrize('above', [False, True], ids=['its own folder', 'the folder above'])
@pytest.mark.parametrize(('key', 'make'), LAYOUTS, ids=lambda value: getattr(value, '__name__', value))
def test_a_set_is_recognised_and_paired(tmp_path, key, make, above):
    names = make(tmp_path / 'dataset' if above else tmp_path)
    for found in (recognise(tmp_path), recognise(tmp_path, key)):
        assert found.set.key == key
        assert [picture.path.stem for picture in found.pictures] == names
        for picture in found.pictures:
            bare = picture.path.stem.removesuffix('_leftImg8bit')
            assert str(picture.mask).endswith((
                f'{bare}_labels_semantic.png', f'{bare}_labels.png', f'{bare}.labels/labels_semantic.png'))


def test_what_is_no_set_is_named_in_one_line(tmp_path):
    (tmp_path / 'pictures').mkdir()
    (tmp_path / 'notes.txt').write_text('')
    with pytest.raises(BagError, match=r'found notes\.txt, pictures/, expected the layout of RoadAno') as error:
        recognise(tmp_path)
    assert all(one.name in str(error.value) for one in SETS)
    with pytest.raises(BagError, match='found no such folder'):
        recognise(tmp_path / 'nowhere')


def test_another_set_than_the_one_that_was_named_is_refused(tmp_path):
    road_anomaly(tmp_path)
    with pytest.raises(BagError, match=r'found frame_list\.json, frames/, expected the layout of RoadObstacle21'):
        recognise(tmp_path, 'road-obstacle-21')


def test_of_several_sets_one_must_be_named(tmp_path):
    anomaly_track(tmp_path / 'dataset_AnomalyTrack')
    obstacle_track(tmp_path / 'dataset_ObstacleTrack')
    with pytest.raises(BagError, match=r'found RoadAnomaly21 in .* and RoadObstacle21 in .*, expected one set'):
        recognise(tmp_path)
    assert recognise(tmp_path, 'road-obstacle-21').set.key == 'road-obstacle-21'
    assert recognise(tmp_path / 'dataset_AnomalyTrack').set.key == 'road-anomaly-21'


def test_missing_and_doubled_pictures_are_named(tmp_path):
    fishyscapes(tmp_path / 'fishy')
    gone = next((tmp_path / 'fishy').rglob(f'{LAF[1]}_leftImg8bit.png'))
    gone.rename(tmp_path / 'away.png')
    with pytest.raises(BagError, match=f'found 2 masks and no picture of 1 of them, first {LAF[1]}_leftImg8bit.png'):
        recognise(tmp_path / 'fishy')
    anomaly_track(tmp_path / 'track')
    write(tmp_path / 'track/images/validation0001.webp')
    with pytest.raises(BagError, match=r'found the pictures .*validation0001.*, expected one'):
        recognise(tmp_path / 'track')
    road_anomaly(tmp_path / 'road')
    (tmp_path / 'road/frame_list.json').write_text(json.dumps(['animals03_Zebras.jpg', 'animals04_Cows.jpg']))
    with pytest.raises(BagError, match='found 1 frames without labels, first animals04_Cows'):
        recognise(tmp_path / 'road')


def test_published_figures_name_their_source():
    assert len({one.key for one in SETS}) == len(SETS)
    for one in SETS:
        assert one.source
        assert one.published_split
        for other in one.published:
            assert all(0 < figure < 100 for figure in other[3:] if figure is not None), other
            assert other.paper
