"""The one table of parameters.

Each section is a frozen dataclass, each field a row: type, default, what it does, what it affects, bounds.
`python -m semanom_ros.parameter_files` writes `config/*.yaml` and the README's tables from it; a test fails when they
differ.
"""

from __future__ import annotations

from dataclasses import dataclass

from semanom_ros.parameters import Affects, Section, row

EMBEDDING, SEARCH, SCORE, LIVE, RUN, START = Affects


@dataclass(frozen=True)
class EncoderSettings(Section):
    """The vision foundation model."""

    name: str = row(
        'semanom-tiny', 'vision foundation model: `open_clip:MODEL`, `timm:MODEL`, `torchscript:/path/file.ts`, the '
        'shipped `semanom-tiny`, or one of another package', EMBEDDING, name='encoder')
    weights: str = row(
        '', 'weights: a pretrained tag, a file (.safetensors, .pt), `local-dir:/path`, or `random:SEED`; empty: what '
        '`semanom models fetch` fetched', EMBEDDING, name='encoder_weights')
    features: str = row(
        'tokens', 'patch features: `tokens` of encoder_layer, or the value projection of the last block (`maskclip`), '
        'aligned with text', EMBEDDING, name='encoder_features', choices=('tokens', 'maskclip'))
    layer: int = row(
        -1, 'transformer block whose tokens are used; -1: the last', EMBEDDING, name='encoder_layer', minimum=-64,
        maximum=63)
    input_size: tuple[int, int] = row(
        (0, 0), 'height and width that the encoder sees, in pixels; 0: the encoder\'s own', EMBEDDING, minimum=0,
        maximum=8192, length=2)
    bit_depth: int = row(
        0, 'bits that 16-bit images use, as 10, 12 or 14 of many cameras; 0: all 16, the full range of the encoding',
        EMBEDDING, minimum=0, maximum=16)
    device: str = row('auto', '`auto`, `cpu`, `cuda` or `cuda:N`', RUN)
    precision: str = row(
        'auto', 'arithmetic of the encoder; auto: bf16 on a GPU that has it, else fp32; of engines, whichever is '
        'quickest; `int8`: engines alone', RUN, choices=('auto', 'fp32', 'fp16', 'bf16', 'int8'))
    backend: str = row(
        'auto', 'what runs the encoder: `torch`, or an engine that `semanom export` made for the database and '
        'certified: `compile`, `openvino`, `onnxruntime`, `tensorrt`, or one of another package; `auto`: the quickest '
        'certified engine, where there is one, else `torch`', RUN)


@dataclass(frozen=True)
class QuerySettings(Section):
    """What of a picture is compared with the database."""

    variant: str = row(
        'grid', 'what is compared with the database: every patch, or segments with the grid where no segment is',
        EMBEDDING, choices=('grid', 'instance'))
    segmenter: str = row(
        'embedding', 'instance masks: `embedding` (training-free, from the patch embeddings), `torchvision` (Mask '
        'R-CNN), `owlv2+sam2` (as in the paper), `sam2` or `sam` (masks of everything), `topic` (from another node or '
        'a simulator), or one of another package', EMBEDDING)
    segment_embedding: str = row(
        'patches', 'what stands for a segment: `patches`, the mean of its patch embeddings, or `crop`, the embedding '
        'of the picture cut out round it, for CLIP encoders of open_clip with encoder_features `maskclip`: one more '
        'pass of the encoder for each segment', EMBEDDING, choices=('patches', 'crop'))
    segmenter_weights: str = row(
        '', 'weights of the segmenter: a file for `torchvision`, a folder for `sam2` and `sam`, two with a comma '
        'between for `owlv2+sam2`; empty: what `semanom models fetch` fetched', EMBEDDING)
    segmenter_prompts: str = row(
        '', 'text file with one prompt a line, for `owlv2+sam2`; empty: the shipped ones, for driving', EMBEDDING)
    segmenter_every_n: int = row(
        1, 'find masks in every n-th frame of a camera; between, the last ones move with the picture', EMBEDDING,
        minimum=1, maximum=1000)
    segments_topics: tuple[str, ...] = row(
        ('',), 'in recordings, the topic of the masks of each image topic, for the segmenter `topic`; live they come '
        'on `~/input/NAME/segments`', RUN)
    max_segments: int = row(256, 'most segments that one image may have', EMBEDDING, minimum=1, maximum=1000)
    label_vocabulary: str = row(
        '', 'text file with one label a line, for zero-shot labels with a CLIP encoder; empty: no labels', RUN)


@dataclass(frozen=True)
class SearchSettings(Section):
    """How a database is viewed."""

    standardize: bool = row(
        True, 'bring each dimension of the embeddings to zero mean and unit variance over the nominal database before '
        'they are compared (never those of an encoder that says it does not want it, as semanom-tiny); false: the '
        'paper\'s method', SEARCH)
    position_weight: float = row(
        0.0, 'weight of the image position in the comparison: added to a distance for the squared difference, the '
        'image being 1 wide and high; 0: the paper\'s method', SEARCH, minimum=0.0, maximum=10.0)
    scale_weight: float = row(
        0.0, 'weight of the size in the comparison of segments: added to a distance for things twice as large, four '
        'times that for things four times as large; 0: the paper\'s method', SEARCH, minimum=0.0, maximum=10.0)


@dataclass(frozen=True)
class ScoreSettings(Section):
    """From distances to scores."""

    neighbours: int = row(
        1, 'nearest nominal embeddings that a distance is the mean of', SCORE, minimum=1, maximum=64)
    density_neighbours: int = row(
        0, 'PatchCore\'s re-weighting: nearest neighbours of the nearest nominal embedding that a distance is compared '
        'with, 9 in that paper; 0: none', SCORE, minimum=0, maximum=64)
    frame_score_fraction: float = row(
        0.002, 'share of the highest patch scores whose mean is the frame score; 0: the maximum', SCORE, minimum=0.0,
        maximum=1.0)
    calibrate_by_region: bool = row(
        True, 'divide distances by what is usual at that place of the image (those of semanom-tiny only after '
        '`semanom learn`)', SCORE)
    plausibility: bool = row(
        True, 'score by what `semanom learn` has learned of what belongs where, if the database holds it; false: by '
        'the distance alone', SCORE)


@dataclass(frozen=True)
class AlarmSettings(Section):
    """From scores to a verdict."""

    false_alarm_rate: float = row(
        0.01, 'share of nominal frames that may raise an alarm; sets the threshold', LIVE, minimum=0.0001, maximum=0.5)
    false_alarms_per_minute: float = row(
        0.0, 'alarms, each a run of frames, that nominal driving may raise in a minute before the filter; sets the '
        'threshold in place of false_alarm_rate unless 0', LIVE, minimum=0.0, maximum=600.0)
    pixel_threshold: float = row(
        0.5, 'how far an anomaly reaches round its core, which is above the alarm level 1.0: the anomaly map\'s value '
        'above which pixels belong to it', LIVE, minimum=0.05, maximum=1.0)


@dataclass(frozen=True)
class FilterSettings(Section):
    """Which regions are worth reporting; each part can be switched off."""

    spatial: bool = row(True, 'drop regions that are too small or at the image border', LIVE, name='filter_spatial')
    min_area: float = row(
        0.0005, 'smallest region, as a share of the image', LIVE, name='filter_min_area', minimum=0.0, maximum=1.0)
    border: float = row(
        0.0, 'width of the image border where regions are dropped, as a share of the image', LIVE,
        name='filter_border', minimum=0.0, maximum=0.4)
    agreement: float = row(
        0.0, 'share of its segment that a region must fill, where segments are known; 0: any', LIVE,
        name='filter_agreement', minimum=0.0, maximum=1.0)
    temporal: bool = row(
        True, 'report an anomaly only when enough evidence has come along its track', LIVE, name='filter_temporal')
    evidence: float = row(
        10.0, 'odds against chance that confirm an anomaly: 10 is one look at what one of 400 nominal frames holds, or '
        'weaker looks, 0.4 s apart, whose odds multiply to it; a higher value holds back more false alarms, and weak '
        'anomalies for longer', LIVE, name='filter_evidence', minimum=1.0, maximum=1000000.0)


@dataclass(frozen=True)
class DriftSettings(Section):
    """Whether driving is still like the nominal drives."""

    level: float = row(
        0.05, 'probability with which an hour of driving that is like the nominal drives may be called drifting; the '
        'lower, the longer it takes to notice a drift', LIVE, name='drift_level', minimum=1e-6, maximum=0.5)


@dataclass(frozen=True)
class MethodSettings(Section):
    """The method: detector, recorder and evaluator."""

    encoder: EncoderSettings = EncoderSettings()
    queries: QuerySettings = QuerySettings()
    search: SearchSettings = SearchSettings()
    score: ScoreSettings = ScoreSettings()
    alarm: AlarmSettings = AlarmSettings()
    filter: FilterSettings = FilterSettings()
    drift: DriftSettings = DriftSettings()


@dataclass(frozen=True)
class CameraSettings(Section):
    """Both nodes."""

    database: str = row('~/semanom/nominal', 'folder of the nominal database', RUN)
    camera_names: tuple[str, ...] = row(('camera',), 'cameras; each has its topics `~/input/NAME/...`', RUN)
    image_transport: str = row(
        'raw', 'what the cameras send: `raw` (Image on `~/input/NAME/image`) or `compressed` (CompressedImage on '
        '`~/input/NAME/image/compressed`)', RUN, choices=('raw', 'compressed'))
    segments_wait: float = row(
        0.2, 'seconds that a frame waits for its masks, for the segmenter `topic`; without them it is compared patch '
        'by patch', RUN, minimum=0.0, maximum=10.0)


@dataclass(frozen=True)
class DetectorSettings(Section):
    """The detector."""

    max_age: float = row(
        0.0, 'seconds; a frame that is older by its stamp is unknown, before it costs anything; 0: no limit, as '
        'replayed recordings without /clock need', LIVE, minimum=0.0, maximum=3600.0)
    image_rectified: bool = row(
        False, 'the images are rectified: bearings come from P of the CameraInfo, not from K and D', RUN)
    ground_frame: str = row(
        '', 'frame whose plane z = 0 is the ground, such as `base_footprint`: anomalies then have a position and a '
        'distance in metres, by CameraInfo and /tf; empty: they have none', RUN)
    distance_sensor: str = row(
        'none', 'what measures how far anomalies are, before the ground is asked: `depth` (Image registered to the '
        'camera, 16UC1 in mm or 32FC1 in m, on `~/input/NAME/depth`), `points` (PointCloud2 on `~/input/NAME/points`, '
        'with /tf from its frame to the camera\'s) or `none`; needs CameraInfo', RUN,
        choices=('none', 'depth', 'points'))
    distance_max_gap: float = row(
        0.1, 'seconds between a frame and the depth image or point cloud that is taken for it, at most; beyond that '
        'nothing is measured, and diagnostics say so', LIVE, minimum=0.0, maximum=10.0)
    marker_distance: float = row(
        10.0, 'distance from the camera at which outlines of anomalies are drawn, in metres', LIVE, minimum=0.1,
        maximum=1000.0)
    marker_lifetime: float = row(
        1.0, 'seconds that markers stay when no further frame comes', LIVE, minimum=0.0, maximum=60.0)
    read_only: bool = row(
        False, 'refuse every service that writes to the disk, which is `~/accept_as_nominal`', START)
    accept_max_age: float = row(
        60.0, 'seconds since a frame was flagged after which `~/accept_as_nominal` does not accept it any more; 0: no '
        'limit', LIVE, minimum=0.0, maximum=86400.0)
    overlay_max_width: int = row(
        1280, 'widest overlay, in pixels; 0: as wide as the image', LIVE, minimum=0, maximum=16384)
    overlay_evidence: bool = row(True, 'show the nearest nominal example in the overlay', LIVE)
    overlay_jpeg_quality: int = row(85, 'quality of the compressed overlay', LIVE, minimum=1, maximum=100)
    image_timeout: float = row(
        2.0, 'seconds without an image from a camera after which diagnostics report an error', LIVE, minimum=0.1,
        maximum=3600.0)
    latency_limit: float = row(
        1.0, 'seconds from receiving an image to its score; when the median is longer, diagnostics warn; a frame that '
        'waits longer is unknown until its verdict comes, and diagnostics report an error', LIVE,
        minimum=0.001, maximum=60.0)
    bond_heartbeat_period: float = row(
        0.25, 'seconds between the heartbeats by which Nav2\'s lifecycle manager knows that the active detector lives, '
        'on the topic `bond`; 0: none, as with `bond_timeout: 0.0` of the manager', RUN, minimum=0.0, maximum=2.0)


@dataclass(frozen=True)
class RecorderSettings(Section):
    """The recorder."""

    bags: tuple[str, ...] = row(
        ('',), 'nominal recordings: rosbag2 folders, .mcap, .db3 or .bag files; empty: record the live cameras', RUN)
    image_topics: tuple[str, ...] = row(
        ('',), 'image topics to read from the recordings; empty: the only one in each', RUN)
    append: bool = row(False, 'add to the database where it exists already', RUN)
    every_n: int = row(1, 'take every n-th frame of a camera', RUN, minimum=1, maximum=100000)
    rate: float = row(
        0.0, 'frames per second to take of a camera at most, by their stamps; 0: all', RUN, minimum=0.0,
        maximum=1000.0)
    held_out_share: float = row(
        0.0, 'share of the drive, in whole stretches of time, that is kept aside to calibrate with (split-conformal); '
        '0: every frame is recorded, and calibrates by being compared with the rest of the database (cross-conformal)',
        RUN, minimum=0.0, maximum=0.5)
    thumbnail_size: int = row(
        160, 'longer side of the pictures kept as evidence, in pixels; 0: keep none', RUN, minimum=0, maximum=1024)
    index: str = row(
        'auto', 'search on a CPU: `auto` gives the database an approximate index from where that is quicker, and '
        'leaves an exact one that is appended to as it is; `exact` never', RUN, choices=('auto', 'exact'))
    duration: float = row(
        0.0, 'seconds after which a live recording ends; 0: when it is stopped', RUN, minimum=0.0, maximum=1000000.0)
    queue_size: int = row(
        30, 'live frames that may wait for the encoder; beyond, frames are dropped, counted and reported', RUN,
        minimum=1, maximum=1000)


@dataclass(frozen=True)
class SnapshotSettings(Section):
    """The snapshot recorder."""

    folder: str = row('~/semanom/snapshots', 'folder that gets the snapshots', RUN, name='snapshot_folder')
    topics: tuple[str, ...] = row(
        ('/tf', '/tf_static'), 'topics that are kept beside the images and results of the cameras', RUN,
        name='snapshot_topics')
    before: float = row(
        5.0, 'seconds that are kept of the time before an alarm', RUN, name='snapshot_before', minimum=0.0,
        maximum=300.0)
    after: float = row(
        5.0, 'seconds that are kept of the time after it began', RUN, name='snapshot_after', minimum=0.0,
        maximum=300.0)
    per_hour: int = row(
        20, 'snapshots in an hour, at most', RUN, name='snapshots_per_hour', minimum=1, maximum=3600)
    megabytes: int = row(
        10000, 'megabytes that all snapshots in the folder may take, at most; nothing is deleted, so that what comes '
        'later is not kept', RUN, name='snapshot_megabytes', minimum=1, maximum=10000000)
    memory: int = row(
        1000, 'megabytes of messages in memory, at most; the oldest go first, and snapshots are then shorter', RUN,
        name='snapshot_memory', minimum=1, maximum=100000)


@dataclass(frozen=True)
class Settings(Section):
    """Everything."""

    method: MethodSettings = MethodSettings()
    cameras: CameraSettings = CameraSettings()
    detector: DetectorSettings = DetectorSettings()
    recorder: RecorderSettings = RecorderSettings()
    snapshots: SnapshotSettings = SnapshotSettings()
