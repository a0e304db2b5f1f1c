"""`semanom index` and `semanom find`: recordings embedded once, and things found in them again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from semanom_ros.cli import main
from semanom_ros.core.database.storage import LOCK, Lock
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.embedding.encoders.encoder import TextAlignedEncoder
from semanom_ros.core.progress import SILENT
from semanom_ros.errors import BagError, DatabaseError, SemanomError
from semanom_ros.finding import questions
from semanom_ros.finding.clip_bags import Stretch, write_clips
from semanom_ros.finding.clips import find
from semanom_ros.finding.embedded_recordings import EmbeddedRecordings, index_recordings, indexed
from semanom_ros.finding.opening import Places
from semanom_ros.recordings.bags import BagReader, BagWriter

SECOND = 10**9
START = 1_700_000_000 * SECOND


class ColourEncoder(TextAlignedEncoder):
    """Mean colours of patches; words are the first colour that they name."""

    name, weights, weights_sha256, settings = 'colours', 'none', '0' * 64, {}
    input_size, grid_size, dimension = (96, 128), (6, 8), 3
    device, dtype = torch.device('cpu'), torch.float32

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return F.normalize(F.avg_pool2d(images, 16).permute(0, 2, 3, 1) + 1e-3, dim=-1)

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        known = {'red': (1.0, 0.04, 0.04), 'blue': (0.04, 0.04, 1.0)}
        return F.normalize(torch.tensor([next((known[word] for word in text.split() if word in known), (1.0, 1.0, 1.0))
                                         for text in texts]), dim=-1)

    def project_to_text(self, embeddings: torch.Tensor) -> torch.Tensor:
        return embeddings


@pytest.fixture
def coloured(fleet: Any, tmp_path: Path) -> tuple[EmbeddedRecordings, Embedder]:
    """Both recordings, embedded by what knows words."""
    embedder = Embedder(ColourEncoder())
    index_recordings([fleet.one, fleet.two], tmp_path / 'index', fleet.settings, SILENT, embedder)
    return EmbeddedRecordings([], [tmp_path / 'index']), embedder


def asked(fleet: Any, output: Path, *words: str, folders: list[str] | None = None) -> dict[str, Any]:
    """What `semanom find` writes."""
    assert main(['find', *(folders or ['--index', str(fleet.index)]), '--output', str(output), *words]) == 0
    return json.loads((output / 'find.json').read_text())


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line of a command that will not do."""
    capsys.readouterr()
    assert main(list(words)) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1, said
    return said[0]


def test_an_index_is_made_once(fleet: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / 'index'
    assert main(['index', str(fleet.one), '--output', str(output), *fleet.options]) == 0
    first = {path: path.stat().st_mtime_ns for path in output.rglob('manifest.json')}
    shutil.copytree(fleet.one, tmp_path / 'one elsewhere')
    assert main(['index', str(tmp_path / 'one elsewhere'), str(fleet.two), '--output', str(output)]) == 0
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert len(indexed(output)) == 2
    assert 'one elsewhere: is in the index already' in capsys.readouterr().out


def test_an_interrupted_index_goes_on(fleet: Any, tmp_path: Path) -> None:
    class Interrupted(Exception):
        pass

    class Breaks:
        begin = end = lambda *_: None

        def advance(self, amount: int) -> None:
            raise Interrupted

    with pytest.raises(Interrupted):
        index_recordings([fleet.one], tmp_path / 'index', fleet.settings, Breaks())  # type: ignore[arg-type]
    with pytest.raises(DatabaseError, match='a recording that is not finished'):
        EmbeddedRecordings([], [tmp_path / 'index'])
    index_recordings([fleet.one], tmp_path / 'index', fleet.settings, SILENT)
    assert EmbeddedRecordings([], [tmp_path / 'index']).frames == 20


def test_another_process_at_work_is_said(fleet: Any, tmp_path: Path) -> None:
    target = tmp_path / 'index' / indexed(fleet.index)[0].name
    target.mkdir(parents=True)
    lock = Lock(target)
    with pytest.raises(DatabaseError, match='found a writer at work'):
        index_recordings([fleet.one], tmp_path / 'index', fleet.settings, SILENT)
    lock.release()
    assert (target / LOCK).exists()


def test_a_part_of_a_picture_is_found_in_every_recording(fleet: Any, tmp_path: Path) -> None:
    with BagReader(fleet.one) as reader:
        image = next(reader.images(wanted=lambda _, stamp: stamp == START + 7 * SECOND // 2)).image
    cv2.imwrite(str(tmp_path / 'red.png'), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    found = asked(fleet, tmp_path / 'found', '--like', f'{tmp_path / "red.png"}:48,64,32,32', '--count', '3')
    best, second, third = found['clips']
    assert [Path(one['recording']).name for one in (best, second)] == ['one', 'two']
    assert (best['start_ns'] - START, best['end_ns'] - START) == (3 * SECOND, 4 * SECOND)  # three frames, one clip
    assert (second['start_ns'] - START, second['frames']) == (5 * SECOND, 2)
    assert best['similarity'] > 0.999
    assert third['similarity'] < best['similarity'] - 0.01
    for one in (best, second):
        x, y, width, height = one['box']
        assert (x, y, width, height) == (48, 64, 32, 32)
    page = (tmp_path / 'found' / 'find.html').read_text()
    assert page.count('<li>') == 3
    assert 'src="data:image/jpeg;base64,' in page
    assert '<rect class="over" x="48" y="64" width="32" height="32"/>' in page


def test_links_go_to_the_moment(fleet: Any, tmp_path: Path) -> None:
    found = asked(fleet, tmp_path / 'found', '--like', f'{fleet.one}@+7.5:48,64,32,32', '--count', '1',
                  '--served-at', 'https://fleet.example/bags/')
    links = found['clips'][0]['links']
    assert links['play'] == f'ros2 bag play {fleet.one} --start-offset 6.5'  # bag time, a second before
    assert links['foxglove'] == (
        'https://app.foxglove.dev/~/view?ds=remote-file&ds.url=https%3A%2F%2Ffleet.example%2Fbags%2Fone%2Fone.mcap'
        '&time=2023-11-14T22%3A13%3A32.500000000Z')


def test_words_find_what_they_name(coloured: tuple[EmbeddedRecordings, Embedder]) -> None:
    recordings, embedder = coloured
    clips = find(recordings, questions.words('something red', embedder, Path('index')), 2)
    assert sorted(Path(clip.record.source).name for clip in clips) == ['one', 'two']
    clip, = find(recordings, questions.words('something blue', embedder, Path('index')), 1)
    assert (clip.record.stamp_ns - START, clip.frames, clip.box) == (15 * SECOND // 2, 1, (48, 64, 32, 32))


def test_clips_are_exported_with_their_messages(fleet: Any, tmp_path: Path) -> None:
    clips = tmp_path / 'clips'
    found = asked(fleet, tmp_path / 'found', '--like', f'{fleet.one}@+3.5:48,64,32,32', '--count', '1', '--margin', '1',
                  '--export', str(clips))
    path = Path(found['clips'][0]['exported'])
    assert path.parent == clips
    with BagReader(path) as clip, BagReader(fleet.one) as whole:
        expected = [(topic, time_ns, data) for topic, _, time_ns, data in whole.raw(['/camera/image_raw', '/speed'])
                    if 2 * SECOND <= time_ns - START - 5 * SECOND <= 5 * SECOND]
        assert [(topic, time_ns, data) for topic, _, time_ns, data in clip.raw(['/camera/image_raw', '/speed'])
                ] == expected
        assert clip.counts['/robot_description'] == 1  # though it came before
        assert len(expected) == 14


def test_messages_of_other_packages_are_exported_with_their_definitions(tmp_path: Path) -> None:
    types = get_typestore(Stores.ROS2_KILTED)
    types.register(get_types_from_msg('float64 force\nstring name', 'gripper_msgs/msg/Grip'))
    with BagWriter(tmp_path / 'bag') as bag:
        bag.declare('/grip', 'gripper_msgs/msg/Grip', definitions=types)
        for second in range(5):
            message = types.types['gripper_msgs/msg/Grip'](float(second), 'left')
            cdr = types.serialize_cdr(message, 'gripper_msgs/msg/Grip')
            bag.write_cdr('/grip', 'gripper_msgs/msg/Grip', cdr, START + second * SECOND)
    stretch = Stretch(START + SECOND, START + 3 * SECOND, tmp_path / 'clip')
    assert write_clips(tmp_path / 'bag', [stretch]) == []
    with BagReader(tmp_path / 'clip') as clip:
        assert [(message.force, message.name) for _, _, message in clip.messages()] == [
            (1.0, 'left'), (2.0, 'left'), (3.0, 'left')]


def test_what_vanished_is_found_and_said(fleet: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = tmp_path / 'gone'
    shutil.copytree(fleet.two, bag)
    index_recordings([bag], tmp_path / 'index', fleet.settings, SILENT)
    shutil.move(bag, tmp_path / 'moved')
    folders = ['--index', str(tmp_path / 'index')]
    like = ['--like', f'{bag}@+5:48,64,32,32', '--count', '1']
    found = asked(fleet, tmp_path / 'found', *like, '--export', str(tmp_path / 'clips'), folders=folders)
    clip, = found['clips']
    assert clip['similarity'] > 0.999
    assert clip['missing'] == f'{bag}: is not there any more; name where it lies with --recording BAG'
    assert clip['links'] == {}
    assert not clip['exported']
    assert f'clip 1 is not exported: {bag}: is not there any more' in ' '.join(found['notes'])
    assert 'src="data:image/jpeg' in (tmp_path / 'found' / 'find.html').read_text()
    found = asked(fleet, tmp_path / 'found', *like, '--recording', str(tmp_path / 'moved'), folders=folders)
    assert found['clips'][0]['recording'] == str(tmp_path / 'moved')
    assert not found['notes']


def test_a_database_is_searched_beside_an_index_and_no_frame_twice(fleet: Any, tmp_path: Path) -> None:
    index_recordings([fleet.nominal], tmp_path / 'index', fleet.settings, SILENT)
    folders = ['--database', str(fleet.database), '--index', str(tmp_path / 'index')]
    found = asked(fleet, tmp_path / 'found', '--like', f'{fleet.nominal}@+10', '--count', '50', folders=folders)
    stamps = [(one['start_ns'], one['end_ns']) for one in found['clips']]
    assert len(set(stamps)) == len(stamps)
    assert sum(one['frames'] for one in found['clips']) <= 60
    assert found['clips'][0]['stamp_ns'] == START + 10 * SECOND


@pytest.mark.parametrize(('like', 'said'), [
    ('{one}@+7:100,64,32,48', 'found the box 100,64,32,48 in a picture of 128x96, expected'),
    ('{one}@+7:1,1,0,5', 'expected x,y,width,height in pixels inside of it'),
    ('{one}@99', 'expected one within 0.5 s of 99.000 s; correct the stamp'),
    ('nowhere@+7', 'found no recording nowhere, nor one of that name among those that are embedded'),
    ('nothing.png', 'nothing.png'),
])
def test_bad_pictures_are_refused(fleet: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], like: str, said: str
                                  ) -> None:
    line = refused(capsys, 'find', '--index', str(fleet.index), '--like', like.format(one=fleet.one), '--output',
                   str(tmp_path / 'found'))
    assert said in line
    assert not (tmp_path / 'found').exists()


def test_words_need_an_encoder_that_knows_texts(fleet: Any, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, 'find', '--index', str(fleet.index), '--text', 'a cow')
    assert 'without texts, expected a CLIP encoder' in line


def test_other_encoders_are_refused(fleet: Any, tmp_path: Path, coloured: tuple[EmbeddedRecordings, Embedder],
                                    capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, 'find', '--index', str(fleet.index), '--like', f'{fleet.one}@+7', '--set',
                   'encoder=semanom-tiny')
    assert 'expected' in line
    assert 'made with' in line
    with pytest.raises(DatabaseError, match='search those apart'):
        EmbeddedRecordings([], [fleet.index, tmp_path / 'index'])
    with pytest.raises(SemanomError, match='index with what the others were made with'):
        index_recordings([fleet.nominal], tmp_path / 'index', fleet.settings, SILENT)


def test_what_is_to_be_searched_must_be_named(fleet: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 'expected what to search' in refused(capsys, 'find', '--text', 'a cow')
    assert 'give it as --database' in refused(capsys, 'find', '--text', 'a cow', '--index', str(fleet.database))
    line = refused(capsys, 'find', '--text', 'a cow', '--index', str(tmp_path / 'none'))
    assert 'found no folder, expected recordings that semanom index embedded' in line


def test_an_unknown_topic_or_a_folder_that_is_there_exports_nothing(fleet: Any, tmp_path: Path,
                                                                    capsys: pytest.CaptureFixture[str]) -> None:
    words = ['find', '--index', str(fleet.index), '--like', f'{fleet.one}@+3.5', '--count', '1', '--output',
             str(tmp_path / 'found'), '--export', str(tmp_path / 'clips')]
    assert 'found no topic /lidar, expected one of' in refused(capsys, *words, '--topics', '/lidar')
    assert not list((tmp_path / 'clips').glob('*'))
    assert main(words) == 0
    assert 'exists already' in refused(capsys, *words)


def test_a_recording_that_was_replaced_is_not_opened(fleet: Any, tmp_path: Path) -> None:
    bag = tmp_path / 'bag'
    shutil.copytree(fleet.one, bag)
    index_recordings([bag], tmp_path / 'index', fleet.settings, SILENT)
    shutil.rmtree(bag)
    shutil.copytree(fleet.two, bag)
    places = Places()
    assert places.of(EmbeddedRecordings([], [tmp_path / 'index']).stored[0].record(0)) is None
    assert 'is another recording now' in next(iter(places.missing.values()))
    with pytest.raises(BagError):
        Places([tmp_path / 'nothing'])


def test_a_box_smaller_than_a_patch_is_the_nearest_one() -> None:
    boxes = np.array([[0, 0, 16, 16], [16, 0, 16, 16], [0, 16, 16, 16]], np.int32)
    assert questions.inside(boxes, (29, 1, 2, 2)).tolist() == [1]
    assert questions.inside(boxes, (0, 0, 32, 16)).tolist() == [0, 1]
    assert questions.inside(boxes, None).tolist() == [0, 1, 2]
