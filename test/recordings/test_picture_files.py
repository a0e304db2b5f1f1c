"""Files as cameras, annotators and copying leave them: which are taken, which way up, and what masks mean."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from semanom_ros.errors import BagError
from semanom_ros.recordings.picture_files import (
    DEFAULT_VALUES,
    PICTURES,
    MaskValues,
    files_below,
    read_mask,
    read_picture,
)

SIZE = (24, 40)
FIELD = MaskValues((0,), (1,), (255,))


def scene(size: tuple[int, int] = SIZE) -> np.ndarray:
    """(H, W, 3) uint8 RGB whose corners differ: red, green, blue, white."""
    picture = np.zeros((*size, 3), np.uint8)
    rows, columns = size[0] // 2, size[1] // 2
    picture[:rows, :columns], picture[:rows, columns:] = (255, 0, 0), (0, 255, 0)
    picture[rows:, :columns], picture[rows:, columns:] = (0, 0, 255), (255, 255, 255)
    return picture


def mask_of(picture: np.ndarray) -> np.ndarray:
    """255 in the red corner."""
    return np.where((picture[..., 0] > 200) & (picture[..., 1] < 50), 255, 0).astype(np.uint8)


def save(path: Path, pixels: np.ndarray, orientation: int = 1, **options: object) -> Path:
    exif = PIL.Image.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path, exif=exif, **options)
    return path


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize(('ending', 'options'), [
    ('jpg', {'quality': 100, 'subsampling': 0}), ('png', {}), ('webp', {'lossless': True}), ('tif', {})])
def test_pictures_and_masks_end_up_the_same_way_up(trial, tmp_path, orientation, ending, options) -> None:
    """Pillow's own idea of upright is the reference."""
    path = save(tmp_path / f'1.{ending}', scene(), orientation, **options)
    with PIL.Image.open(path) as image:
        upright = np.asarray(PIL.ImageOps.exif_transpose(image).convert('RGB'))
    with trial('Pictures', 'an orientation in the EXIF of the picture, of the mask, or of both', 4):
        picture = read_picture(path)
        assert np.abs(picture.pixels[..., ::-1].astype(int) - upright).max() <= 3
        assert (picture.data == path.read_bytes()) == (orientation == 1 and ending in ('jpg', 'png'))
        assert picture.format == ('jpeg' if ending == 'jpg' else 'png')
        again = cv2.imdecode(np.frombuffer(picture.data, np.uint8), cv2.IMREAD_COLOR_RGB)
        assert np.abs(again.astype(int) - upright).mean() <= (12 if ending == 'jpg' else 0)
        raw, drawn = mask_of(scene()), mask_of(upright)
        for name, pixels, own in (('both', raw, orientation), ('drawn upright', drawn, 1), ('as stored', raw, 1)):
            mask = save(tmp_path / f'{name}.png', pixels, own)
            if own == 1 and orientation in (2, 3, 4):
                with pytest.raises(BagError, match=rf'found no orientation, and {orientation} in the EXIF of its pict'):
                    read_mask(mask, DEFAULT_VALUES, picture)
            else:
                assert np.array_equal(read_mask(mask, DEFAULT_VALUES, picture), drawn), name


def test_a_square_picture_does_not_tell_how_its_mask_was_drawn_unless_it_does_not_matter(tmp_path) -> None:
    picture = read_picture(save(tmp_path / '1.png', scene((24, 24)), 6))
    with pytest.raises(BagError, match='mogrify -auto-orient'):
        read_mask(save(tmp_path / 'mask.png', mask_of(scene((24, 24)))), DEFAULT_VALUES, picture)
    assert not read_mask(save(tmp_path / 'none.png', np.zeros((24, 24), np.uint8)), DEFAULT_VALUES, picture).any()


def test_an_orientation_that_is_none_is_ignored(tmp_path) -> None:
    assert read_picture(save(tmp_path / '1.png', scene(), 9)).orientation == 1
    whole = save(tmp_path / '2.jpg', scene(), 6).read_bytes()
    at = whole.index(b'Exif') + 14
    (tmp_path / '2.jpg').write_bytes(whole[:at] + b'\xff' * 12 + whole[at + 12:])
    assert read_picture(tmp_path / '2.jpg').size in (SIZE, SIZE[::-1])


def values_of(tmp_path: Path, image: PIL.Image.Image, values: MaskValues = DEFAULT_VALUES, ending: str = 'png'
              ) -> list[int]:
    """What the first pixels of a mask become."""
    image.save(tmp_path / f'mask.{ending}')
    picture = read_picture(save(tmp_path / 'picture.png', np.zeros((*image.size[::-1], 3), np.uint8)))
    return read_mask(tmp_path / f'mask.{ending}', values, picture)[0].tolist()


def palette_image(indices: list[int], colours: list[int]) -> PIL.Image.Image:
    image = PIL.Image.fromarray(np.array([indices], np.uint8), 'P')
    image.putpalette(colours)
    return image


VOC = [0, 0, 0, 128, 0, 0, 0, 128, 0, *[0] * 756, 224, 224, 192]


@pytest.mark.parametrize('ending', ['png', 'bmp', 'tif'])
def test_of_palettes_the_numbers_count(trial, tmp_path, ending) -> None:
    with trial('Pictures', 'label images with a palette'):
        assert values_of(tmp_path, palette_image([0, 1, 255], VOC), FIELD, ending) == [0, 255, 128]


def test_palettes_of_black_and_white_are_read_where_only_one_reading_is_declared(trial, tmp_path) -> None:
    """As programs make them that save space: the numbers then say nothing."""
    white_first = palette_image([0, 1], [255, 255, 255, 0, 0, 0])
    with trial('Pictures', 'masks with a palette of greys', 4):
        assert values_of(tmp_path, palette_image([0, 1], [0, 0, 0, 255, 255, 255])) == [0, 255]
        assert values_of(tmp_path, white_first) == [255, 0]
        assert values_of(tmp_path, white_first, MaskValues((0,), (1,), ())) == [0, 255]
        for image, values in ((white_first, FIELD), (palette_image([0, 0], [255, 255, 255]), DEFAULT_VALUES)):
            with pytest.raises(BagError, match=r'palette whose numbers \(.*\) and greys \(.*\) are both declared'):
                values_of(tmp_path, image, values)


def test_one_bit_is_zero_and_one_or_black_and_white(trial, tmp_path) -> None:
    image = PIL.Image.fromarray(np.array([[0, 255]], np.uint8)).convert('1')
    with trial('Pictures', 'masks of one bit', 3):
        assert values_of(tmp_path, image) == [0, 255]
        assert values_of(tmp_path, image, MaskValues((0,), (1,), ())) == [0, 255]
        assert values_of(tmp_path, image, MaskValues((1,), (0,), ())) == [255, 0]


def test_sixteen_bits_alpha_and_grey_in_colour_are_numbers(trial, tmp_path) -> None:
    deep = PIL.Image.fromarray(np.array([[0, 1000, 65535]], np.uint16))
    numbers = np.array([[0, 1, 255]], np.uint8)
    with trial('Pictures', 'masks of 16 bits, with alpha, or grey stored as colour', 3):
        assert values_of(tmp_path, deep, MaskValues((0,), (1000,), (65535,))) == [0, 255, 128]
        for channels in (3, 4):
            stacked = np.dstack([numbers] * 3 + [np.full_like(numbers, 9)] * (channels - 3))
            assert values_of(tmp_path, PIL.Image.fromarray(stacked), FIELD) == [0, 255, 128]
    cv2.imwrite(str(tmp_path / 'mask.png'), np.dstack([np.array([[0, 1, 2]], np.uint16)] * 3))
    picture = read_picture(save(tmp_path / 'picture.png', np.zeros((1, 3, 3), np.uint8)))
    assert read_mask(tmp_path / 'mask.png', MaskValues((0,), (1,), (2,)), picture)[0].tolist() == [0, 255, 128]


@pytest.mark.parametrize(('pixels', 'said'), [
    (np.array([[[0, 0, 0], [255, 0, 0]]], np.uint8), r'found 2 colours \(red/green/blue 0/0/0, 255/0/0\)'),
    (np.array([[[0, 0, 0, 0], [0, 0, 0, 255]]], np.uint8), 'found a transparency that varies'),
    (np.array([[0, 2, 254]], np.uint8), 'found the values 0, 2, 254, of which 2, 254 are not declared'),
    (np.array([[0, 65535]], np.uint16), 'found the values 0, 65535, of which 65535 is not declared'),
], ids=['red on black', 'drawn in alpha', 'other values', '16 bits'])
def test_masks_that_say_nothing_declared_are_refused(trial, tmp_path, pixels, said) -> None:
    with trial('Pictures', 'masks with values that were not declared'), pytest.raises(BagError, match=said):
        values_of(tmp_path, PIL.Image.fromarray(pixels))


@pytest.mark.parametrize('ending', ['png', 'tif', 'pgm'])
def test_sixteen_bits_stay_sixteen(tmp_path, ending) -> None:
    """Cameras of 12 bits write them: made to 8 bits they would be nearly black, and bit_depth could not help."""
    samples = np.arange(12, dtype=np.uint16).reshape(3, 4) * 300
    cv2.imwrite(str(tmp_path / f'1.{ending}'), samples)
    data = read_picture(tmp_path / f'1.{ending}').data
    assert np.array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), samples)


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def names(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in files_below(folder, PICTURES)]


def test_hidden_files_are_left_out_and_numbers_count(trial, tmp_path) -> None:
    taken = ['a/2.JPG', 'a/10.Png', 'b/1.tiff', 'b/3.jpeg']
    left = ['a/._2.JPG', 'a/.DS_Store', 'a/Thumbs.db', '.cache/1.png', 'b/notes.txt', 'b/.1.png', 'desktop.ini']
    for name in taken + left:
        touch(tmp_path / name)
    with trial('Pictures', 'hidden files and what is no picture beside pictures', len(left)):
        assert names(tmp_path) == taken


def test_linked_folders_are_looked_into_once(trial, tmp_path) -> None:
    folder = tmp_path / 'images'
    touch(folder / 'a/1.png')
    touch(tmp_path / 'elsewhere/deep/2.png')
    (folder / 'b').symlink_to(tmp_path / 'elsewhere')
    (folder / 'again').symlink_to(folder / 'a')
    (folder / 'a/round').symlink_to(folder)
    (folder / 'up').symlink_to(tmp_path)
    (tmp_path / 'elsewhere/deep/back').symlink_to(tmp_path / 'elsewhere')
    with trial('Pictures', 'linked folders, some of which lead round in circles', 5):
        assert names(folder) == ['a/1.png', 'b/deep/2.png']
        (tmp_path / 'link').symlink_to(folder)
        assert names(tmp_path / 'link') == ['a/1.png', 'b/deep/2.png']


def test_what_is_no_picture_is_one_line_that_names_it(trial, tmp_path) -> None:
    (tmp_path / 'link.png').symlink_to(tmp_path / 'gone')
    os.mkfifo(tmp_path / 'pipe.png')
    (tmp_path / 'text.jpg').write_text('no picture')
    (tmp_path / 'empty.png').touch()
    (tmp_path / 'pointer.png').write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123\n')
    whole = save(tmp_path / 'cut.jpg', scene((200, 300))).read_bytes()
    (tmp_path / 'cut.jpg').write_bytes(whole[:len(whole) // 2])
    with open(tmp_path / 'endless.png', 'wb') as file:
        file.truncate(1 << 40)  # holes cost nothing
    for name, said in (('link', 'found a link to nothing'), ('pipe', 'found no regular file'),
                       ('text', 'found 10 bytes that'), ('empty', 'found 0 bytes that do not decode'),
                       ('cut', r'found \d+ bytes that do not decode'), ('endless', 'found 1099511627776 bytes'),
                       ('pointer', 'found a pointer of Git LFS')):
        path, = tmp_path.glob(f'{name}.*')
        for read in (read_picture, lambda path: read_mask(path, DEFAULT_VALUES, None)):
            with trial('Pictures', 'links to nothing, pipes, texts, pointers, empty, cut and endless files'), \
                    pytest.raises(BagError, match=f'{path.name}: {said}') as caught:
                read(path)
            assert len(str(caught.value).splitlines()) == 1
