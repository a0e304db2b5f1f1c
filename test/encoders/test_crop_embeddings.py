"""Segments that are embedded as pictures cut out round them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from semanom_ros.core.curation.publishing import Recipe
from semanom_ros.core.curation.writer import DatabaseWriter
from semanom_ros.core.database.storage import FrameRecord, NominalAddition
from semanom_ros.core.embedding.crops import masked_crops
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.frames import Frame, Segments
from semanom_ros.core.pipeline import CameraState, Judge
from semanom_ros.errors import DatabaseError, EncoderError
from semanom_ros.settings import MethodSettings

CLOSE = {'atol': 1e-5, 'rtol': 1e-4}


def test_segments_can_be_embedded_as_crops(clip_folder, tmp_path):
    """Recorded and compared as crops; a database of pooled patches is refused."""
    asked = MethodSettings.of({
        'encoder': 'open_clip:tiny-clip', 'encoder_weights': f'local-dir:{clip_folder}', 'variant': 'instance',
        'encoder_features': 'maskclip', 'segmenter': 'topic', 'segment_embedding': 'crop'})
    labels = np.zeros((96, 128), np.int32)
    labels[20:60, 30:80], labels[70:90, 5:20] = 1, 2
    segments = Segments(labels, np.ones(2, np.float32), ('car', 'cat'))

    def frame(second: int) -> Frame:
        noise = np.random.default_rng(second).integers(0, 255, (6, 8, 3)).astype(np.uint8)
        return Frame(cv2.resize(noise, (128, 96)), second * 10**9, segments=segments)

    for kind in ('patches', 'crop'):
        embedder = Embedder.load(asked.changed({'segment_embedding': kind}))
        writer = DatabaseWriter.begin(tmp_path / kind, embedder.description)
        for second in range(8):
            queries = embedder.queries(embedder.embed([frame(second)])[0])
            record = FrameRecord('drive', 'f' * 64, '/camera', second * 10**9, (96, 128), held_out=second > 5)
            writer.add(NominalAddition(record, queries.vectors, queries.boxes, queries.positions))
        writer.commit(Recipe.of(asked))
    judge = Judge.load(asked.changed({'standardize': False}), tmp_path / 'crop')
    embedding = judge.embedder.embed([frame(3)])[0]
    queries = judge.embedder.queries(embedding)
    crops = masked_crops(embedding.frame.image, labels, queries.boxes[:2], (64, 64))
    images = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).to(judge.embedder.encoder.device) / 255
    torch.testing.assert_close(queries.vectors[:2], judge.embedder.encoder.encode_image(images), **CLOSE)
    assert judge.score(embedding).distances.max() < 1e-5
    assert judge.process(frame(30), CameraState()).score > 0
    with pytest.raises(DatabaseError, match='settings: segment_embedding: found unset, expected crop'):
        Judge.load(asked, tmp_path / 'patches')


@pytest.mark.parametrize('encoder', [{'encoder': 'semanom-tiny'}, {'encoder_features': 'tokens'}])
def test_crops_need_patches_in_the_space_of_pictures(encoder, clip_folder):
    asked = {'encoder': 'open_clip:tiny-clip', 'variant': 'instance', 'segment_embedding': 'crop'} | encoder
    if asked['encoder'] != 'semanom-tiny':
        asked['encoder_weights'] = f'local-dir:{clip_folder}'
    with pytest.raises(EncoderError, match='expected a CLIP encoder of open_clip with encoder_features maskclip'):
        Embedder.load(MethodSettings.of(asked))
