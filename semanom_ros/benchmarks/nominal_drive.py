"""The benchmark's drive as a recording, and the small nominal database that is made of it."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from semanom_ros.benchmarks.plan import Plan, drive
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.pipeline import Judge
from semanom_ros.core.progress import SILENT
from semanom_ros.recordings.bags import BagWriter
from semanom_ros.recordings.nominal_recording import BagRecording, record_bags

TOPIC = '/camera/image_raw'
FRAME_PERIOD_NS = 500_000_000


def bag_of(plan: Plan) -> Path:
    """A bag of raw 720p images, made where it is not there yet."""
    path = plan.scratch / 'bag'
    if not path.exists():
        with BagWriter(path) as writer:
            frames = tqdm(drive(plan.frames), desc='bag', total=plan.frames, leave=False, disable=None)
            for number, image in enumerate(frames):
                writer.write_image(TOPIC, image, 'bgr8', (number + 1) * FRAME_PERIOD_NS, 'camera_optical')
    return path


def record(plan: Plan, embedder: Embedder, path: Path) -> BagRecording:
    """Records the drive for an embedder's variant."""
    return record_bags([bag_of(plan)], path, plan.settings.changed({'variant': embedder.variant}), SILENT, embedder)


def nominal_of(plan: Plan, embedder: Embedder) -> Path:
    """The nominal database of the drive, recorded where it is not there yet."""
    path = plan.scratch / f'nominal-{embedder.variant}'
    if not path.exists():
        record(plan, embedder, path)
    return path


def judge_of(plan: Plan, embedder: Embedder) -> Judge:
    """What the detector judges frames by, warmed up, with that database."""
    settings = plan.settings.method.changed({'variant': embedder.variant})
    return Judge.load(settings, nominal_of(plan, embedder), embedder)
