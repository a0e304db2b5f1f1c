"""Recordings with the topics, encodings and frames of CARLA's ROS bridge, through recorder, detector and evaluator."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from semanom_ros.cli import main
from semanom_ros.evaluation.live_run import run_live
from semanom_ros.evaluation.result_bag import PREFIX
from semanom_ros.parameter_files import read_yaml
from semanom_ros.recordings.bags import BagReader, BagWriter, typestore
from semanom_ros.recordings.images import stamp_ns
from semanom_ros.ros.outputs import ANOMALIES
from semanom_ros.settings import Settings

CAMERA = '/carla/ego_vehicle/rgb_front/image'
INFO = '/carla/ego_vehicle/rgb_front/camera_info'
INSTANCES = '/carla/ego_vehicle/instance_segmentation_front/image'
FRAME = 'ego_vehicle/rgb_front'
CONFIG = Path(__file__).parents[2] / 'config' / 'carla.yaml'
HEIGHT, WIDTH = 72, 96
PERIOD_NS = 50_000_000
ROAD, SKY, CAR, TRUCK = 1, 11, 14, 15
ORDINARY, STRANGE = 24, 0x0131  # actors; the second needs both bytes


class Colours(torch.nn.Module):
    """Mean colours of 8x8 pixels."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = torch.nn.functional.avg_pool2d(images, 8)
        return torch.cat([patches - 0.5, torch.full_like(patches[:, :1], 0.1)], 1)


def write(path: Path, frames: int, seed: int, strange: range = range(0)) -> Path:
    """A drive behind a blue car; in some frames a red truck stands in the lane. Images as the bridge sends them."""
    types = typestore().types
    with BagWriter(path) as writer:
        for number in range(frames):
            stamp = 5_000_000_000 + number * PERIOD_NS  # the simulation's clock starts at zero
            rng = np.random.default_rng([seed, number])
            image = np.full((HEIGHT, WIDTH, 4), (100, 96, 96, 255), np.uint8)  # BGRA
            image[:30, :, :3] = (220, 150, 110)
            instances = np.full((HEIGHT, WIDTH, 4), (0, 0, ROAD, 255), np.uint8)
            instances[:30] = (0, 0, SKY, 255)
            left = 60 + number % 5
            image[36:48, left:left + 20, :3] = (160, 60, 40)
            instances[36:48, left:left + 20] = (ORDINARY >> 8, ORDINARY & 255, CAR, 255)
            if number in strange:
                image[32:64, 16:40, :3] = (30, 30, 220)
                instances[32:64, 16:40] = (STRANGE >> 8, STRANGE & 255, TRUCK, 255)
            noise = rng.normal(0, 3, (HEIGHT, WIDTH, 3))
            image[..., :3] = np.clip(image[..., :3] + noise, 0, 255)
            writer.write(CAMERA, bgra(image, stamp), stamp)
            writer.write(INSTANCES, bgra(instances, stamp), stamp)
            header = types['std_msgs/msg/Header'](types['builtin_interfaces/msg/Time'](*divmod(stamp, 10**9)), FRAME)
            k = np.array([60, 0, WIDTH / 2, 0, 60, HEIGHT / 2, 0, 0, 1], np.float64)
            p = np.array([60, 0, WIDTH / 2, 0, 0, 60, HEIGHT / 2, 0, 0, 0, 1, 0], np.float64)
            region = types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
            writer.write(INFO, types['sensor_msgs/msg/CameraInfo'](
                header, HEIGHT, WIDTH, 'plumb_bob', np.zeros(5), k, np.eye(3).ravel(), p, 0, 0, region), stamp)
    return path


def bgra(image: np.ndarray, stamp: int) -> object:
    types = typestore().types
    header = types['std_msgs/msg/Header'](types['builtin_interfaces/msg/Time'](*divmod(stamp, 10**9)), FRAME)
    return types['sensor_msgs/msg/Image'](header, HEIGHT, WIDTH, 'bgra8', 0, 4 * WIDTH, image.ravel())


@pytest.fixture(scope='module')
def carla(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Nominal and anomalous drives, and the nominal database that `semanom record` made with config/carla.yaml."""
    folder = tmp_path_factory.mktemp('carla')
    encoder = folder / 'colours.ts'
    torch.jit.script(Colours()).save(str(encoder))
    found = {'folder': folder, 'encoder': encoder, 'nominal': write(folder / 'nominal', 120, 1),
             'anomalous': write(folder / 'anomalous', 60, 2, range(20, 45)), 'database': folder / 'database'}
    assert main(['record', str(found['nominal']), '--database', str(found['database']), *options(found)]) == 0
    return found


def options(carla: dict[str, Path]) -> list[str]:
    return ['--config', str(CONFIG), '--set', f'encoder=torchscript:{carla["encoder"]}',
            '--set', f'input_size=[{HEIGHT}, {WIDTH}]', '--set', 'false_alarm_rate=0.05']


def evaluate(carla: dict[str, Path], name: str, *more: str) -> dict:
    output = carla['folder'] / name
    assert main(['evaluate', str(carla['anomalous']), '--database', str(carla['database']), '--output', str(output),
                 '--image-topic', CAMERA, *options(carla), *more]) == 0
    return json.loads((output / 'metrics.json').read_text())


def test_the_instance_camera_is_segmenter_and_ground_truth(carla: dict[str, Path]) -> None:
    found = evaluate(carla, 'report', '--truth-topic', INSTANCES, '--truth-instances', f'{TRUCK}:{STRANGE}')
    assert (found['segmenter'], found['anomalous_frames'], found['frames']) == ('topic', 25, 60)
    for row in found['results']:
        assert row['variant'] == 'instance'
        assert row['frame']['auroc'] > 0.95
        assert row['pixel']['ap'] > 0.95  # the masks are the truth's own
    assert evaluate(carla, 'class', '--truth-topic', INSTANCES, '--truth-instances', str(CAR))['anomalous_frames'] == 60


def test_the_detector_says_live_what_the_evaluator_says(carla: dict[str, Path]) -> None:
    evaluate(carla, 'offline')
    settings = Settings.of(read_yaml(CONFIG)).changed({
        'encoder': f'torchscript:{carla["encoder"]}', 'input_size': [HEIGHT, WIDTH], 'false_alarm_rate': 0.05})
    live = carla['folder'] / 'live'
    run = run_live(carla['anomalous'], {'camera': CAMERA}, carla['database'], settings, live)['camera']
    assert run.processed > 0
    with open(carla['folder'] / 'offline' / 'scores.csv') as file:
        offline = {int(row['stamp_ns']): float(row['score']) for row in csv.DictReader(file) if row['filter'] == '0'}
    with BagReader(live) as reader:
        messages = [message for _, _, message in reader.messages([PREFIX + ANOMALIES.name])]
    assert len(messages) == run.processed
    for message in messages:
        assert message.header.frame_id == FRAME
        assert message.score == pytest.approx(offline[stamp_ns(message)], rel=1e-4)


@pytest.mark.parametrize(('more', 'expected'), [
    (['--set', "segments_topics=['']"], 'segments_topics'),
    (['--set', 'segments_topics=[/carla/ego_vehicle/lidar]'], '/carla/ego_vehicle/lidar'),
    (['--truth-topic', INSTANCES, '--truth-instances', 'truck'], 'CLASS:ACTOR'),
    (['--truth-topic', INSTANCES], '--truth-instances')])
def test_what_does_not_fit_is_said_in_one_line(carla: dict[str, Path], capsys: pytest.CaptureFixture[str],
                                               more: list[str], expected: str) -> None:
    status = main(['evaluate', str(carla['anomalous']), '--database', str(carla['database']), '--output',
                   str(carla['folder'] / 'bad'), '--image-topic', CAMERA, *options(carla), *more])
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert status == 2
    assert expected in said
    assert not (carla['folder'] / 'bad').exists()
