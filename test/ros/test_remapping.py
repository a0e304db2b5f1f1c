"""What the launch files' arguments mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from semanom_ros.errors import ParameterError
from semanom_ros.ros.remapping import GivenCameras, camera_remappings, words


@pytest.mark.parametrize(
    ('argument', 'expected'),
    [
        ('', []),
        ('[]', []),
        ('front', ['front']),
        ('[front]', ['front']),
        ('[front,rear]', ['front', 'rear']),
        (' [ front , rear ] ', ['front', 'rear']),
        ('["front", \'rear\']', ['front', 'rear']),
    ],
)
def test_words(argument: str, expected: list[str]) -> None:
    assert words(argument) == expected


def test_without_topics_nothing_is_remapped() -> None:
    assert camera_remappings(['camera'], [], [], 'raw') == []


def test_camera_info_is_beside_the_image() -> None:
    assert camera_remappings(['front', 'rear'], ['/front/image_raw', 'rear/image_raw'], [], 'raw') == [
        ('~/input/front/image', '/front/image_raw'),
        ('~/input/front/camera_info', '/front/camera_info'),
        ('~/input/rear/image', 'rear/image_raw'),
        ('~/input/rear/camera_info', 'rear/camera_info'),
    ]


def test_camera_info_of_a_topic_without_a_folder() -> None:
    assert camera_remappings(['camera'], ['image'], [], 'raw')[1] == ('~/input/camera/camera_info', 'camera_info')
    assert camera_remappings(['camera'], ['/image'], [], 'raw')[1] == ('~/input/camera/camera_info', '/camera_info')


def test_camera_info_may_be_named() -> None:
    assert camera_remappings(['camera'], ['/a/image'], ['/b/camera_info'], 'raw') == [
        ('~/input/camera/image', '/a/image'),
        ('~/input/camera/camera_info', '/b/camera_info'),
    ]


def test_what_comes_beside_the_images() -> None:
    beside = {'depth_topic': ['/front/depth', '/rear/depth'], 'points_topic': [], 'segments_topic': ['/a', '/b']}
    assert camera_remappings(['front', 'rear'], [], [], 'raw', beside) == [
        ('~/input/front/depth', '/front/depth'), ('~/input/rear/depth', '/rear/depth'),
        ('~/input/front/segments', '/a'), ('~/input/rear/segments', '/b')]
    with pytest.raises(ParameterError, match=r'^depth_topic: found 1 \(/depth\), expected one for each of the 2'):
        camera_remappings(['front', 'rear'], [], [], 'raw', {'depth_topic': ['/depth']})


@pytest.mark.parametrize('topic', ['/camera/image_raw', '/camera/image_raw/compressed'])
def test_compressed_images_with_and_without_suffix(topic: str) -> None:
    assert camera_remappings(['camera'], [topic], [], 'compressed') == [
        ('~/input/camera/image/compressed', '/camera/image_raw/compressed'),
        ('~/input/camera/camera_info', '/camera/camera_info'),
    ]


def test_one_topic_for_two_cameras_is_refused() -> None:
    with pytest.raises(ParameterError, match=r'image_topic: found 1 \(/a\), expected one for each of the 2 cameras'):
        camera_remappings(['front', 'rear'], ['/a'], [], 'raw')
    with pytest.raises(ParameterError, match='camera_info_topic: found 1'):
        camera_remappings(['front', 'rear'], ['/a', '/b'], ['/c'], 'raw')


def test_compressed_topic_as_raw_is_refused() -> None:
    with pytest.raises(ParameterError, match='image_transport:=compressed'):
        camera_remappings(['camera'], ['/camera/image_raw/compressed'], [], 'raw')


@pytest.mark.parametrize(('argument', 'items'), [
    ('', []), (' [] ', []), ('front', ['front']), ('[front, "rear"]', ['front', 'rear']), ('a,b', ['a', 'b']),
    ('/data/[monday]', ['/data/[monday]']), ('[/data/[monday]]', ['/data/[monday]']), ('[a', ['[a'])])
def test_brackets_are_of_a_list_where_they_enclose_it(argument: str, items: list[str]) -> None:
    assert words(argument) == items


@pytest.mark.parametrize('topic', ['/front camera/image', '/1a', '/a/', 'http://camera/image'])
def test_what_is_no_topic_is_refused(topic: str) -> None:
    with pytest.raises(ParameterError, match=r'image_topic: found .*, expected the name of a topic'):
        camera_remappings(['camera'], [topic], [], 'raw')


def test_cameras_in_one_argument() -> None:
    given = GivenCameras.of('front:=/cam_front/image_raw, left:=/cam_left/image_raw')
    assert given.names == ['front', 'left']
    assert given.image_topics == ['/cam_front/image_raw', '/cam_left/image_raw']
    assert (given.info_topics, given.transport) == ([], 'raw')
    assert GivenCameras.of('[a:=/a/compressed]').transport == 'compressed'
    assert GivenCameras.of(' ').names == []


def test_cameras_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / 'cameras.yaml'
    file.write_text('front: {image_topic: /front/image_raw, camera_info_topic: /front/info}\n'
                    'rear: {image_topic: /rear/image_raw, camera_info_topic: /rear/info}\n')
    given = GivenCameras.of(str(file))
    assert given.names == ['front', 'rear']
    assert given.info_topics == ['/front/info', '/rear/info']
    file.write_text('front: /front/image_raw\n')
    assert GivenCameras.of(str(file)).image_topics == ['/front/image_raw']


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('front:=', 'cameras: found front:=, expected'),
        (':=/a', 'cameras: found :=/a, expected'),
        ('front:=/a,rear', 'cameras: found rear, expected'),
        ('a:=b:=c', 'cameras: found a:=b:=c, expected'),
        ('a:=/a,a:=/b', 'expected every name once'),
        ('a:=/a,b:=/b/compressed', 'expected all raw or all compressed'),
        ('/nowhere.yaml', '/nowhere.yaml: found no such file'),
    ],
)
def test_cameras_that_will_not_do(text: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        GivenCameras.of(text)


@pytest.mark.parametrize(
    'content',
    ['', '[/a, /b]', 'front: 3', 'front: {image: /a}', 'front: {image_topic: /a, depth: /b}', '{', '3: /a',
     'front: {image_topic: }', 20_000 * '[', 'a: {image_topic: /a, camera_info_topic: /i}\nb: /b',
     'a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]'],
)
def test_files_of_cameras_that_will_not_do(tmp_path: Path, content: str) -> None:
    file = tmp_path / 'cameras.yaml'
    file.write_text(content)
    with pytest.raises(ParameterError, match=r'cameras: .*expected'):
        GivenCameras.of(str(file))
