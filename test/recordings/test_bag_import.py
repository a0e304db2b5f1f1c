"""Folders of pictures and videos as recordings."""

import cv2
import imageio_ffmpeg
import numpy as np
import pytest

from semanom_ros.cli import main
from semanom_ros.recordings.bags import BagReader
from semanom_ros.recordings.images import image_from_message, stamp_ns

IMAGE, INFO, MASK = '/camera/image_raw/compressed', '/camera/camera_info', '/ground_truth/anomaly_mask'


def picture(value, height=40, width=60):
    image = np.full((height, width, 3), value, np.uint8)
    image[:10, :20] = (10, 20, 200)  # BGR: red
    return image


@pytest.fixture
def pictures(tmp_path):
    """Pictures 2, 10 and 11 of three kinds, and masks of the first two in SegmentMeIfYouCan's form."""
    folder = tmp_path / 'images'
    (folder / 'sub').mkdir(parents=True)
    for name, value in (('frame_10.jpg', 100), ('frame_2.png', 50), ('frame_11.bmp', 150)):
        cv2.imwrite(str(folder / name), picture(value))
    masks = tmp_path / 'labels'
    masks.mkdir()
    for name in ('frame_10', 'frame_2'):
        mask = np.zeros((40, 60), np.uint8)
        mask[:10, :20], mask[30:] = 1, 255
        cv2.imwrite(str(masks / f'{name}_labels_semantic.png'), mask)
    return folder, masks


def test_folder_becomes_a_recording(pictures, tmp_path):
    folder, masks = pictures
    bag = tmp_path / 'bag'
    assert main(['import', 'images', str(folder), '--output', str(bag), '--rate', '2', '--fov', '60',
                 '--masks', str(masks), '--mask-suffix', '_labels_semantic', '--anomalous', '1',
                 '--ignore', '255']) == 0
    with BagReader(bag) as reader:
        assert reader.counts == {IMAGE: 3, INFO: 3, MASK: 2}
        frames = list(reader.images())
        assert [frame.stamp_ns for frame in frames] == [1_000_000_000, 1_500_000_000, 2_000_000_000]
        assert [round(float(frame.image[20, 40].mean())) for frame in frames] == [50, 100, 150]
        assert (frames[0].image[5, 5] == (200, 20, 10)).all()
        messages = [message for topic, _, message in reader.messages([IMAGE])]
        assert bytes(messages[1].data) == (folder / 'frame_10.jpg').read_bytes()
        for _, _, message in reader.messages([MASK]):
            mask = image_from_message(message)[..., 0]
            assert (mask[5, 5], mask[20, 40], mask[35, 5]) == (255, 0, 128)
            assert stamp_ns(message) in (1_000_000_000, 1_500_000_000)
        info = reader.camera_info(IMAGE)
        assert (info.width, info.height) == (60, 40)
        assert info.k[0] == pytest.approx(30 / np.tan(np.radians(30)))
        assert info.p.tolist() == [info.k[0], 0, 29.5, 0, 0, info.k[0], 19.5, 0, 0, 0, 1, 0]


def test_video_becomes_a_recording(tmp_path):
    file = tmp_path / 'drive.mp4'
    writer = imageio_ffmpeg.write_frames(str(file), (64, 48), fps=5, macro_block_size=2)
    writer.send(None)
    for value in range(10):
        writer.send(np.full((48, 64, 3), 20 * value, np.uint8))
    writer.close()
    assert main(['import', 'video', str(file), '--output', str(tmp_path / 'bag'), '--every', '2']) == 0
    with BagReader(tmp_path / 'bag') as reader:
        frames = list(reader.images())
    assert [frame.stamp_ns for frame in frames] == [1_000_000_000 + 400_000_000 * n for n in range(5)]
    assert [float(frame.image.mean()) for frame in frames] == pytest.approx([0, 40, 80, 120, 160], abs=6)


def test_what_cannot_be_imported_is_one_line(pictures, tmp_path, capsys):
    folder, masks = pictures
    empty = tmp_path / 'empty'
    empty.mkdir()
    (tmp_path / 'noise.mp4').write_bytes(b'no video' * 100)

    def error(*arguments):
        assert main(['import', *map(str, arguments), '--output', str(tmp_path / 'bag')]) == 2
        assert not (tmp_path / 'bag').exists()
        return capsys.readouterr().err

    assert 'found no such folder' in error('images', tmp_path / 'nowhere')
    assert 'found no picture' in error('images', empty)
    assert 'found no mask named frame_2.png' in error('images', folder, '--masks', masks)
    assert 'cannot be read as a video' in error('video', tmp_path / 'noise.mp4')
    cv2.imwrite(str(masks / 'frame_2_labels_semantic.png'), np.zeros((4, 6), np.uint8))
    assert 'found 6x4 pixels, expected the size of its picture, 60x40' in error(
        'images', folder, '--masks', masks, '--mask-suffix', '_labels_semantic')
    (folder / 'frame_3.jpg').write_bytes(b'no picture')
    assert 'frame_3.jpg: found 10 bytes that do not decode' in error('images', folder)
