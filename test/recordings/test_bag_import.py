"""Folders of pictures and videos as recordings."""

import signal
import subprocess
import sys

import cv2
import imageio_ffmpeg
import numpy as np
import PIL.Image
import pytest

from semanom_ros.cli import main
from semanom_ros.recordings.bags import STILLS, BagReader
from semanom_ros.recordings.images import image_from_message, stamp_ns
from semanom_ros.recordings.videos import Video

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
def test_masks_of_one_name_belong_to_the_picture_of_their_folder(trial, tmp_path, root):
    """As MVTec AD has it: every kind of defect has its own 000.png."""
    images = ['test/crack/000', 'test/cut/000', 'test/good/000', 'train/good/000']
    for name in images if not root else images[:3]:
        write(tmp_path / 'bottle' / f'{name}.png', picture(100))
    for place, kind in ((3, 'crack'), (7, 'cut')):
        write(tmp_path / 'bottle/ground_truth' / kind / '000_mask.png', spot(place))
    assert main(['import', 'images', str(tmp_path / 'bottle' / root), '--output', str(tmp_path / 'bag'), '--masks',
                 str(tmp_path / 'bottle/ground_truth'), '--mask-suffix', '_mask']) == 0
    with trial('Pictures', 'masks of one name in several folders'):
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


@pytest.mark.parametrize(('pictures', 'masks'), [('', ''), ('images', ''), ('', 'masks')])
def test_masks_may_lie_beside_their_pictures_above_or_below_them(trial, tmp_path, pictures, masks):
    folder = tmp_path / 'set'
    for number in range(3):
        write(folder / pictures / f'{number}.png', picture(100))
        write(folder / masks / f'{number}_mask.png', spot(number))
    with trial('Pictures', 'masks beside their pictures, above or below them'):
        assert main(['import', 'images', str(folder / pictures), '--output', str(tmp_path / 'bag'), '--masks',
                     str(folder / masks), '--mask-suffix', '_mask']) == 0
        assert [np.argwhere(mask).tolist() for mask in truth_of(tmp_path / 'bag').values()] == [
            [[number, number]] for number in range(3)]


def test_masks_that_nothing_tells_from_pictures_or_that_are_no_numbers_are_refused(trial, tmp_path, capsys, caplog):
    def imported(*options):
        return main(['import', 'images', str(tmp_path / 'images'), '--output', str(tmp_path / 'bag'), *options])

    write(tmp_path / 'images/1.png', picture(100))
    write(tmp_path / 'masks/1.jpg', spot(1))
    with trial('Pictures', 'masks that cannot be told from pictures, or are no numbers', 4):
        assert imported('--masks', str(tmp_path / 'images')) == 2
        assert 'found pictures and masks in one folder' in capsys.readouterr().err
        assert imported('--masks', str(tmp_path / 'masks')) == 2
        assert 'found 1.jpg, and no mask named 1.png or like another picture; save the' in capsys.readouterr().err
        PIL.Image.fromarray(spot(1).astype(np.float32)).save(tmp_path / 'masks/1.tif')
        assert imported('--masks', str(tmp_path / 'masks')) == 2
        assert 'found samples of float32, expected unsigned ones of 8 or 16 bits' in capsys.readouterr().err
        assert imported('--mask-suffix', '_mask') == 2
        assert '--mask-suffix: found without masks, expected --masks or --dataset' in capsys.readouterr().err
    (tmp_path / 'masks/1.tif').unlink()
    write(tmp_path / 'masks/1.png', spot(1))
    write(tmp_path / 'masks/2.png', spot(1))
    with trial('Pictures', 'masks without a picture'):
        assert imported('--masks', str(tmp_path / 'masks')) == 0
        assert 'found 1 masks without a picture' in caplog.messages[-1]


@pytest.mark.parametrize(('option', 'said'), [
    (['--rate', 'inf'], 'argument --rate: found inf, expected 0.001 to 10000'),
    (['--rate', '1e-9'], 'argument --rate: found 1e-9, expected 0.001'),
    (['--rate', 'fast'], 'argument --rate: found fast, expected 0.001'),
    (['--fov', 'nan'], 'argument --fov: found nan, expected 1 to below 180')])
def test_numbers_that_will_not_do_are_one_line(trial, tmp_path, capsys, option, said):
    write(tmp_path / 'images/1.png', picture(100))
    with trial('Command line', 'numbers that will not do'), pytest.raises(SystemExit):
        main(['import', 'images', str(tmp_path / 'images'), '--output', str(tmp_path / 'bag'), *option])
    assert said in capsys.readouterr().err


def test_masks_that_could_be_of_several_pictures_are_refused(trial, tmp_path, capsys):
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
    with trial('Pictures', 'masks that could be of several pictures', 3):
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
def test_an_undeclared_value_of_a_mask_is_an_error(trial, tmp_path, capsys, pixels, declared, said):
    write(tmp_path / 'images/1.png', picture(100))
    mask = np.zeros((40, 60, *np.shape(pixels)[1:]), np.uint16 if np.max(pixels) > 255 else np.uint8)
    for row, value in enumerate(pixels):
        mask[row::len(pixels)] = value
    write(tmp_path / 'masks/1.png', mask)
    with trial('Pictures', 'masks with values that were not declared'):
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


def test_a_turned_picture_is_recorded_upright(tmp_path):
    image = PIL.Image.fromarray(picture(100)[..., ::-1])
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    for name in ('1.jpg', '2.png'):
        (tmp_path / 'images').mkdir(exist_ok=True)
        image.save(tmp_path / 'images' / name, exif=exif)
        write(tmp_path / 'masks' / f'{name[0]}.png', cv2.rotate(spot(5), cv2.ROTATE_90_CLOCKWISE))
    assert main(['import', 'images', str(tmp_path / 'images'), '--output', str(tmp_path / 'bag'), '--masks',
                 str(tmp_path / 'masks')]) == 0
    with BagReader(tmp_path / 'bag') as reader:
        for frame in reader.images():
            assert frame.image.shape == (60, 40, 3)
            assert frame.image[5, 35, 0] > 150, 'red is at the top right'
        assert {(info.height, info.width) for _, _, info in reader.messages([INFO])} == {(60, 40)}
    assert all(mask[5, 34] == 255 for mask in truth_of(tmp_path / 'bag').values())


def test_of_several_pictures_in_a_file_the_first_is_taken_and_it_is_said(tmp_path, caplog):
    pages = [PIL.Image.fromarray(picture(value)[..., ::-1]) for value in (50, 100)]
    (tmp_path / 'images').mkdir()
    pages[0].save(tmp_path / 'images/1.tif', save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / 'images/2.webp', save_all=True, append_images=pages[1:], lossless=True)
    assert main(['import', 'images', str(tmp_path / 'images'), '--output', str(tmp_path / 'bag')]) == 0
    with BagReader(tmp_path / 'bag') as reader:
        assert [frame.image[20, 40, 0] for frame in reader.images()] == [50, 50]
    assert [text.rpartition('/')[2] for text in caplog.messages] == [
        f'{name}: found 2 pictures in one file, took the first; give each a file of its own'
        for name in ('1.tif', '2.webp')]


def dataset(folder, key):
    """A small set as it is unpacked; the pictures in their order, with the values of three pixels of the truth."""
    mask = np.zeros((40, 60), np.uint8)
    mask[0, :3] = (0, 255, 0) if key == 'mvtec' else (0, 1, 255)
    town = '04_Maurener_Weg_8_000000_0000{}0'
    for picture_name, mask_name in {
        'segment-me-if-you-can': [('images/validation0000.jpg', 'labels_masks/validation0000_labels_semantic.png'),
                                  ('images/zebra0000.webp', None)],
        'fishyscapes': [(f'leftImg8bit/{town.format(3)}_leftImg8bit.png', f'0000_{town.format(3)}_labels.png'),
                        (f'leftImg8bit/{town.format(4)}_leftImg8bit.png', None)],
        'mvtec': [('test/crack/000.png', 'ground_truth/crack/000_mask.png'),
                  ('test/cut/000.png', 'ground_truth/cut/000_mask.png'), ('test/good/000.png', None),
                  ('train/good/000.png', None)]}[key]:
        write(folder / picture_name, picture(100))
        if mask_name:
            write(folder / mask_name, mask)


@pytest.mark.parametrize(('key', 'expected'), [
    ('segment-me-if-you-can', [[0, 255, 128]]), ('fishyscapes', [[0, 255, 128]]),
    ('mvtec', [[0, 255, 0], [0, 255, 0], [0, 0, 0]])])
def test_the_conventions_of_public_sets_have_names(tmp_path, key, expected):
    dataset(tmp_path / 'set', key)
    starts = {'segment-me-if-you-can': ['', 'images'], 'fishyscapes': [''], 'mvtec': ['', 'test', '..']}[key]
    for number, start in enumerate(starts):
        bag = tmp_path / f'out/{number}'
        assert main(['import', 'images', str(tmp_path / 'set' / start), '--output', str(bag), '--dataset', key]) == 0
        assert [truth[0, :3].tolist() for _, truth in sorted(truth_of(bag).items())] == expected
        with BagReader(bag) as reader:
            assert reader.stills
    assert main(['import', 'images', str(tmp_path / 'set'), '--output', str(tmp_path / 'out/rate'), '--dataset', key,
                 '--rate', '5']) == 0
    with BagReader(tmp_path / 'out/rate') as reader:
        assert not reader.stills


def test_mvtec_ad_2_has_its_ground_truth_among_the_test_pictures(tmp_path):
    mask = np.zeros((40, 60), np.uint8)
    mask[0, 1] = 255
    for name in ('bad/000_regular', 'good/000_regular'):
        write(tmp_path / f'can/test_public/{name}.png', picture(100))
    write(tmp_path / 'can/test_public/ground_truth/bad/000_regular_mask.png', mask)
    for number, start in enumerate(('can/test_public', 'can')):
        bag = tmp_path / f'out/{number}'
        assert main(['import', 'images', str(tmp_path / start), '--output', str(bag), '--dataset', 'mvtec']) == 0
        assert [truth[0, 1] for _, truth in sorted(truth_of(bag).items())] == [255, 0]


def test_masks_of_a_convention_may_lie_elsewhere_and_have_other_values(tmp_path):
    dataset(tmp_path / 'set', 'segment-me-if-you-can')
    (tmp_path / 'set/labels_masks').rename(tmp_path / 'masks')
    assert main(['import', 'images', str(tmp_path / 'set/images'), '--output', str(tmp_path / 'bag'), '--dataset',
                 'segment-me-if-you-can', '--masks', str(tmp_path / 'masks'), '--anomalous', '255', '--ignore',
                 '1']) == 0
    assert truth_of(tmp_path / 'bag')[0][0, :3].tolist() == [0, 128, 255]


def test_a_folder_without_the_convention_and_a_defect_without_its_mask_are_named(tmp_path, capsys):
    dataset(tmp_path / 'set', 'mvtec')

    def error(*arguments):
        assert main(['import', 'images', str(tmp_path / 'set'), '--output', str(tmp_path / 'bag'), *arguments]) == 2
        assert not (tmp_path / 'bag').exists()
        return capsys.readouterr().err

    assert 'found ground_truth/, test/, train/, expected images/NAME.* with labels_masks/' in error(
        '--dataset', 'segment-me-if-you-can')
    assert 'found ground_truth/, test/, train/, expected 0000_NAME' in error('--dataset', 'fishyscapes')
    assert '--mask-suffix: found together with --dataset' in error('--dataset', 'mvtec', '--mask-suffix', '_mask')
    (tmp_path / 'set/ground_truth/cut/000_mask.png').unlink()
    assert 'test/cut/000.png: found no mask in' in error('--dataset', 'mvtec')


@pytest.mark.parametrize('kind', ['images', 'video'])
def test_an_interrupted_import_leaves_nothing(trial, pictures, tmp_path, kind):
    source = tmp_path / 'images'
    if kind == 'images':
        for number in range(20, 3000):
            (source / f'{number}.png').symlink_to(source / 'frame_2.png')
    else:
        source = film(tmp_path / 'drive.mkv', 'testsrc2=size=320x240:rate=30:duration=120', '-preset', 'ultrafast')
    output = tmp_path / 'out/bag'
    with trial('Command line', 'Ctrl-C while pictures or a video are imported'):
        program = subprocess.Popen([sys.executable, '-m', 'semanom_ros.cli', 'import', kind, str(source), '--output',
                                    str(output)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        with program:
            while not list(output.parent.glob('.bag.*/bag/bag*')) and program.poll() is None:
                pass
            program.send_signal(signal.SIGINT)
            said = program.communicate()[1]
        assert program.returncode == 130, said
        assert 'Traceback' not in said
        assert said.splitlines()[-1] == 'semanom import: interrupted'
        assert not list(output.parent.iterdir())


def film(file, source, *options):
    """A video by ffmpeg from one of its test sources."""
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), '-loglevel', 'error', '-f', 'lavfi', '-i', source, *options,
                    str(file)], check=True)
    return file


def test_a_video_keeps_the_times_of_its_container(trial, tmp_path):
    """Ten frames a second, then, as telephones do in the dark, five; and sound that begins before the picture."""
    slower = "setpts='if(lt(N,5),N/10,0.5+(N-5)/5)/TB+2/TB'"
    file = film(tmp_path / 'dark.mp4', f'testsrc=size=64x48:rate=10:duration=1,{slower}', '-fps_mode', 'passthrough')
    with trial('Pictures', 'a video of variable rate'):
        assert main(['import', 'video', str(file), '--output', str(tmp_path / 'bag')]) == 0
        with BagReader(tmp_path / 'bag') as reader:
            stamps = [frame.stamp_ns - 10**9 for frame in reader.images()]
        assert [stamp // 10**6 for stamp in stamps] == [0, 100, 200, 300, 400, 500, 700, 900, 1100, 1300]


def test_a_raw_stream_says_that_it_has_no_times(trial, tmp_path, caplog):
    files = [film(tmp_path / f'raw.{kind}', 'testsrc=size=64x48:rate=10:duration=1', '-f', kind)
             for kind in ('h264', 'mjpeg')]
    with trial('Pictures', 'a raw stream without times', len(files)):
        for file in files:
            caplog.clear()
            assert main(['import', 'video', str(file), '--output', str(tmp_path / file.suffix / 'said')]) == 0
            assert len(caplog.messages) == 1
            assert 'found no times in it' in caplog.messages[0]
            assert 'give --rate' in caplog.messages[0]
            caplog.clear()
            assert main(['import', 'video', str(file), '--output', str(tmp_path / file.suffix / 'given'), '--rate',
                         '4']) == 0
            assert not caplog.messages
            with BagReader(tmp_path / file.suffix / 'given') as reader:
                assert [frame.stamp_ns for frame in reader.images()] == [10**9 + 250_000_000 * n for n in range(10)]


def test_a_turned_video_is_recorded_upright(tmp_path):
    file = film(tmp_path / 'flat.mp4', 'color=red:size=64x48:duration=0.2,drawbox=w=32:h=24:color=blue:t=fill')
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), '-loglevel', 'error', '-display_rotation:v', '90', '-i', str(file),
                    '-c', 'copy', str(tmp_path / 'turned.mp4')], check=True)
    assert main(['import', 'video', str(tmp_path / 'turned.mp4'), '--output', str(tmp_path / 'bag')]) == 0
    with BagReader(tmp_path / 'bag') as reader:
        image = next(iter(reader.images())).image
    assert image.shape == (64, 48, 3)
    assert image[60, 5, 2] > 200, 'blue is at the bottom left'
    assert image[5, 5, 0] > 200


@pytest.mark.parametrize('place', [0.2, 0.45, 0.7])
def test_of_a_damaged_video_every_whole_frame_is_kept_and_no_other(trial, tmp_path, caplog, place):
    """A key frame every ten frames; what follows a damaged one is left out until the next.

    With one thread the film is the same each time: pictures that still decode, by chance, are not known to be damaged.
    """
    file = film(tmp_path / 'whole.mp4', 'testsrc2=size=160x120:rate=10:duration=6', '-g', '10', '-threads', '1')
    with Video(file) as video:
        whole = {frame.time_ns: frame.image for frame in video}
    data = bytearray(file.read_bytes())
    begin, end = data.index(b'mdat') + 4, data.rindex(b'moov')
    at = begin + int(place * (end - begin))
    data[at:at + 300] = bytes(np.random.default_rng(1).integers(0, 256, 300, dtype=np.uint8))
    file.write_bytes(data)
    with trial('Pictures', 'a video that is damaged in its middle'):
        with Video(file) as video:
            kept = list(video)
        for frame in kept:
            assert np.array_equal(frame.image, whole[frame.time_ns])
        assert 38 <= len(kept) < 60
        assert kept[-1].time_ns == 5_900_000_000
        assert len(caplog.messages) == 1
        assert 'found damage' in caplog.messages[0]
        assert f'took {len(kept)} frames, left out' in caplog.messages[0]


@pytest.mark.parametrize(('name', 'content', 'said'), [
    ('notes.txt', 'what was driven when\n' * 30, 'it is a text'),
    ('live.m3u8', '#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{}\n#EXT-X-ENDLIST\n', 'it is a list of videos'),
    ('all.ffconcat', 'ffconcat version 1.0\nfile small.mkv\n', 'it is a list of videos')])
def test_texts_and_lists_are_no_videos(trial, tmp_path, capsys, name, content, said):
    video = film(tmp_path / 'small.mkv', 'testsrc=size=64x48:rate=1:duration=1', '-c:v', 'mjpeg')
    (tmp_path / name).write_text(content.format(video))
    with trial('Pictures', 'a text or a list of videos in place of a video'):
        assert main(['import', 'video', str(tmp_path / name), '--output', str(tmp_path / 'bag')]) == 2
        assert f'found no frame that can be decoded ({said}), expected a video' in capsys.readouterr().err
        assert not list(tmp_path.glob('*bag*'))


def test_a_video_of_huge_frames_is_refused(trial, tmp_path, capsys):
    file = film(tmp_path / 'small.mkv', 'testsrc=size=64x48:rate=1:duration=1', '-c:v', 'mjpeg')
    data = bytearray(file.read_bytes())
    at = data.index(b'\xff\xc0') + 5
    data[at:at + 4] = (30000).to_bytes(2, 'big') * 2
    file.write_bytes(data)
    with trial('Pictures', 'a video that announces huge frames'):
        assert main(['import', 'video', str(file), '--output', str(tmp_path / 'bag')]) == 2
        assert 'found no frame that can be decoded' in capsys.readouterr().err
        assert not list(tmp_path.glob('.bag*'))


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
