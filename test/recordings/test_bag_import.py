"""Folders of pictures and videos as recordings."""

import cv2
import imageio_ffmpeg
import numpy as np
import pytest

from semanom_ros.cli import main
from semanom_ros.recordings.bags import STILLS, BagReader
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
        assert not reader.stills
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


def truth_of(bag):
    """The masks of a recording by the number of the frame that they belong to."""
    with BagReader(bag) as reader:
        stamps = [frame.stamp_ns for frame in reader.images()]
        return {stamps.index(stamp_ns(message)): image_from_message(message)[..., 0]
                for _, _, message in (reader.messages([MASK]) if MASK in reader.topics else ())}


def test_stills_are_far_apart_and_the_recording_says_so(pictures, tmp_path, capsys):
    folder, masks = pictures
    bag = tmp_path / 'bag'
    assert main(['import', 'images', str(folder), '--output', str(bag), '--stills', '--masks', str(masks),
                 '--mask-suffix', '_labels_semantic', '--anomalous', '1', '--ignore', '255',
                 '--unmasked', 'nominal']) == 0
    assert '3 frames, 2 with a mask, 1 nominal without one' in capsys.readouterr().out
    with BagReader(bag) as reader:
        assert reader.stills
        assert reader.counts[STILLS] == 1
        assert list(reader.image_topics) == [IMAGE]
        frames = list(reader.images())
    assert [frame.still for frame in frames] == [True] * 3
    assert [frame.stamp_ns // 10**9 for frame in frames] == [1, 11, 21]
    truth = truth_of(bag)
    assert sorted(truth) == [0, 1, 2]
    assert truth[0].max() == 255
    assert not truth[2].any()
    with BagReader(next(bag.glob('*.mcap'))) as reader:  # the file on its own knows it too
        assert reader.stills


def test_without_masks_all_may_be_nominal_or_unknown(pictures, tmp_path):
    folder, _ = pictures
    for how, known in (('nominal', 3), ('unknown', 0)):
        assert main(['import', 'images', str(folder), '--output', str(tmp_path / how), '--unmasked', how]) == 0
        truth = truth_of(tmp_path / how)
        assert len(truth) == known
        assert not any(mask.any() for mask in truth.values())


def spot(place):
    """A mask that is anomalous in one pixel."""
    mask = np.zeros((40, 60), np.uint8)
    mask[place, place] = 255
    return mask


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


@pytest.mark.parametrize('root', ['test', ''], ids=['below test', 'below the set'])
def test_masks_of_one_name_belong_to_the_picture_of_their_folder(tmp_path, root):
    """As MVTec AD has it: every kind of defect has its own 000.png."""
    images = ['test/crack/000', 'test/cut/000', 'test/good/000', 'train/good/000']
    for name in images if not root else images[:3]:
        write(tmp_path / 'bottle' / f'{name}.png', picture(100))
    for place, kind in ((3, 'crack'), (7, 'cut')):
        write(tmp_path / 'bottle/ground_truth' / kind / '000_mask.png', spot(place))
    assert main(['import', 'images', str(tmp_path / 'bottle' / root), '--output', str(tmp_path / 'bag'), '--masks',
                 str(tmp_path / 'bottle/ground_truth'), '--mask-suffix', '_mask']) == 0
    truth = truth_of(tmp_path / 'bag')
    assert sorted(truth) == [0, 1]  # in the order of the names: crack, cut, good
    assert [np.argwhere(truth[number] == 255).tolist() for number in (0, 1)] == [[[3, 3]], [[7, 7]]]


def test_masks_in_one_folder_belong_to_pictures_in_several_where_no_name_comes_twice(tmp_path):
    write(tmp_path / 'images/a/1.png', picture(100))
    write(tmp_path / 'images/b/2.png', picture(100))
    write(tmp_path / 'masks/2.png', spot(5))
    assert main(['import', 'images', str(tmp_path / 'images'), '--output', str(tmp_path / 'bag'), '--masks',
                 str(tmp_path / 'masks')]) == 0
    assert list(truth_of(tmp_path / 'bag')) == [1]


def test_masks_that_could_be_of_several_pictures_are_refused(tmp_path, capsys):
    def error(name):
        assert main(['import', 'images', str(tmp_path / name / 'images'), '--output', str(tmp_path / 'bag'), '--masks',
                     str(tmp_path / name / 'masks')]) == 2
        assert not (tmp_path / 'bag').exists()
        return capsys.readouterr().err

    for kind in ('crack', 'cut'):
        write(tmp_path / 'flat/images' / kind / '000.png', picture(100))
        write(tmp_path / 'deep/masks' / kind / '000.png', spot(1))
    write(tmp_path / 'flat/masks/000.png', spot(1))
    write(tmp_path / 'deep/images/000.png', picture(100))
    write(tmp_path / 'twins/images/000.jpg', picture(100))
    write(tmp_path / 'twins/images/000.png', picture(100))
    write(tmp_path / 'twins/masks/000.png', spot(1))
    assert 'found the pictures' in error('flat')
    assert 'found the masks' in error('deep')
    assert '000.jpg and' in error('twins')


@pytest.mark.parametrize(('pixels', 'declared', 'said'), [
    ([0, 1], [], 'found the values 0, 1, of which 1 is not declared, expected 0 (nominal), 255 (anomalous), 128'),
    ([0, 2, 254], [], 'of which 2, 254 are not declared'),
    ([0, 1, 255], ['--anomalous', '1'], 'of which 255 is not declared'),
    ([0, 65535], [], 'found the values 0, 65535, of which 65535'),
    ([1, 2, 255], ['--anomalous', '2', '--ignore', '255'], 'of which 1 is not declared'),
    ([(0, 0, 0), (0, 0, 255)], [], 'found 2 colours (red/green/blue 0/0/0, 255/0/0), expected numbers in one channel'),
    ([0, 1], ['--anomalous', '1', '--ignore', '1'], 'found the value 1 declared twice')])
def test_an_undeclared_value_of_a_mask_is_an_error(tmp_path, capsys, pixels, declared, said):
    write(tmp_path / 'images/1.png', picture(100))
    mask = np.zeros((40, 60, *np.shape(pixels)[1:]), np.uint16 if np.max(pixels) > 255 else np.uint8)
    for row, value in enumerate(pixels):
        mask[row::len(pixels)] = value
    write(tmp_path / 'masks/1.png', mask)
    assert main(['import', 'images', str(tmp_path / 'images'), '--output', str(tmp_path / 'bag'), '--masks',
                 str(tmp_path / 'masks'), *declared]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / 'bag').exists()


def test_several_values_may_mean_one_thing(tmp_path):
    write(tmp_path / 'images/1.png', picture(100))
    mask = np.zeros((40, 60), np.uint8)
    mask[0], mask[1], mask[2], mask[3] = 1, 2, 3, 255
    write(tmp_path / 'masks/1.png', np.dstack([mask] * 3))  # grey stored as colour is still numbers
    assert main(['import', 'images', str(tmp_path / 'images'), '--output', str(tmp_path / 'bag'), '--masks',
                 str(tmp_path / 'masks'), '--nominal', '0', '1', '--anomalous', '2', '3', '--ignore', '255']) == 0
    assert truth_of(tmp_path / 'bag')[0][:5, 0].tolist() == [0, 255, 255, 128, 0]


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
    assert 'found no frame that can be decoded (moov atom not found), expected a video' in error(
        'video', tmp_path / 'noise.mp4')
    cv2.imwrite(str(masks / 'frame_2_labels_semantic.png'), np.zeros((4, 6), np.uint8))
    assert 'found 6x4 pixels, expected the size of its picture, 60x40' in error(
        'images', folder, '--masks', masks, '--mask-suffix', '_labels_semantic')
    (folder / 'frame_3.jpg').write_bytes(b'no picture')
    assert 'frame_3.jpg: found 10 bytes that do not decode' in error('images', folder)
