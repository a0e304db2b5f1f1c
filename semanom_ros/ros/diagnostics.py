"""What `/diagnostics` says about the detector: rates, latencies, drops and reasons."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from semanom_ros.core.drift.drift_monitor import DriftState
from semanom_ros.core.results import FrameResult, Reason, Verdict
from semanom_ros.ros.middleware import PROFILES

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR

LOST = 'lost before the node took them'
SUPERSEDED = 'superseded by a newer one'
DROPS = (LOST, SUPERSEDED)

ANOMALOUS = 'anomalous'
UNKNOWN = tuple(reason for reason in Reason if reason is not Reason.NONE and not reason.holds_back)
"""Why frames could not be judged."""

_UNKNOWN_WORDS = tuple(reason.words for reason in UNKNOWN)

CLOCKS_APART_S = 600.0
"""Ages above say that stamps and the node's time are of different clocks."""

_WINDOW_S = 10.0
_LOST_SHARE = 0.1  # of the images that came; more is worth a warning


def clocks_apart(age: float) -> str:
    """How a stamp of an age (seconds) lies to the node's clock, where no camera can be that late; else ''.

    Recordings that are played without /clock have such stamps.
    """
    if abs(age) <= CLOCKS_APART_S:
        return ''
    return f'the stamps are {abs(age) / 86400:.1f} days {"behind" if age > 0 else "ahead of"} the node\'s clock'


@dataclass
class Health:
    """Findings that make up one status: the worst level, every reason."""

    level: bytes = OK
    reasons: list[str] = field(default_factory=list)

    def add(self, level: bytes, reason: str) -> None:
        self.level = max(self.level, level)
        self.reasons.append(reason)

    def status(self, name: str, values: Mapping[str, object], hardware_id: str = '',
               fine: str = 'ok') -> DiagnosticStatus:
        """The message; `fine` is said where there is nothing to find fault with."""
        return DiagnosticStatus(
            level=self.level, name=name, message='; '.join(self.reasons) or fine, hardware_id=hardware_id,
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()])


class CameraMonitor:
    """What becomes of the frames of one camera. For several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = Counter[str]()
        self._reported = Counter[str]()  # in the last status
        self._told = Counter[str]()  # in the last verdict
        self._fine = True  # the last verdict was that nothing is wrong
        self._judged = time.monotonic()  # when something was last said of a frame
        self._doubt: Reason | None = None  # why the last frame was unknown
        self._nearest = math.nan
        self._times: deque[float] = deque(maxlen=4096)
        self._latencies: deque[float] = deque(maxlen=4096)
        self._started = self._received = time.monotonic()
        self._last: FrameResult | None = None
        self._age: float | None = None
        self._unknown: dict[Reason, str] = {}  # the last explanation of each
        self._waiting_since: float | None = None  # since when a late answer is waited for
        self._late_answer = 0.0  # seconds that the last answer took, where that was too long
        self._bearing_fault = ''
        self._distance_fault = ''
        self._measurement_fault = ''
        self._masks_fault = ''

    def start(self) -> None:
        """Images are expected from now on."""
        with self._lock:
            self._started = self._received = time.monotonic()
            self._times.clear()
            self._latencies.clear()
            self._waiting_since, self._late_answer = None, 0.0
            self._last, self._fine, self._told = None, True, self._counts.copy()
            self._judged, self._doubt = time.monotonic(), None

    def received(self, lost: int) -> None:
        """A frame has come; so many before it have not."""
        with self._lock:
            self._received = time.monotonic()
            self._counts['received'] += 1
            self._counts[LOST] += lost

    def dropped(self, reason: str) -> None:
        """Nothing is said about a frame, because of one of DROPS."""
        with self._lock:
            self._counts[reason] += 1

    def processed(self, result: FrameResult, latency: float, age: float | None, nearest: float = math.nan) -> None:
        """A frame has gone through the pipeline, whatever came of it.

        Args:
            result: of the frame.
            latency: seconds from receiving the image to publishing its score.
            age: seconds from its stamp, by the node's clock; None while that clock stands still.
            nearest: metres to the nearest anomaly; NaN: there is none, or that is not known.
        """
        with self._lock:
            self._counts['processed'] += 1
            self._counts[ANOMALOUS] += result.anomalous
            self._times.append(time.monotonic())
            self._latencies.append(latency)
            self._last, self._age, self._nearest = result, age, nearest
            self._judged, self._doubt = time.monotonic(), None
            if result.verdict is Verdict.UNKNOWN:
                self._count_unknown(result.reason, result.explanation)

    def unknown(self, reason: Reason, explanation: str) -> None:
        """A frame could not be judged, and has not gone through the pipeline."""
        with self._lock:
            self._count_unknown(reason, explanation)

    def _count_unknown(self, reason: Reason, explanation: str) -> None:
        self._counts[reason.words] += 1
        self._unknown[reason] = explanation
        self._judged, self._doubt = time.monotonic(), reason

    def late(self, since: float) -> bool:
        """The worker has not answered in time; returns whether that is news.

        Args:
            since: monotonic seconds; when the frame came that is waited for.
        """
        with self._lock:
            news = self._waiting_since is None and not self._late_answer
            self._waiting_since = since if self._waiting_since is None else self._waiting_since
            return news

    def answered(self, latency: float, limit: float) -> None:
        """The worker has answered, after so many seconds; up to `limit` it is in time."""
        with self._lock:
            self._waiting_since, self._late_answer = None, latency if latency > limit else 0.0

    def restarted(self) -> None:
        """Stamps have gone back."""
        with self._lock:
            self._counts['restarted'] += 1

    def standing(self) -> None:
        """A frame has the stamp of the one before."""
        with self._lock:
            self._counts['standing'] += 1

    def unstamped(self) -> None:
        """A frame has no stamp."""
        with self._lock:
            self._counts['unstamped'] += 1

    def bearings(self, fault: str) -> None:
        """Why bearings cannot be computed; empty: they can."""
        with self._lock:
            self._bearing_fault = fault

    def distances(self, fault: str) -> None:
        """Why distances cannot be computed; empty: they can."""
        with self._lock:
            self._distance_fault = fault

    def measurements(self, fault: str) -> None:
        """Why distances are not measured; empty: they are."""
        with self._lock:
            self._measurement_fault = fault

    def masks(self, fault: str) -> None:
        """Why a frame has no masks; empty: it has some."""
        with self._lock:
            self._masks_fault = fault

    def count(self, what: str) -> int:
        """How many frames: `received`, `processed`, one of DROPS, or the words of one of UNKNOWN."""
        with self._lock:
            return self._counts[what]

    def turned(self) -> bool:
        """Whether something is anomalous or unknown since the last verdict, which was that nothing is."""
        with self._lock:
            return self._fine and any(self._since_told(what) for what in (ANOMALOUS, *_UNKNOWN_WORDS))

    def _since_told(self, what: str) -> int:
        return self._counts[what] - self._told[what]

    def verdict(self, name: str, camera: str, image_timeout: float) -> DiagnosticStatus:
        """The worst of what was said about the frames since the last call, for monitors that know levels only.

        Args:
            name: of the status.
            camera: its name.
            image_timeout: seconds without a verdict after which nothing is known any more.

        Returns:
            OK: nominal, or held back. WARN: anomalous. ERROR: unknown, or there was none in time.
        """
        with self._lock:
            health, last, values = Health(), self._last, dict[str, object]()
            for reason in UNKNOWN:
                if self._since_told(reason.words) or reason is self._doubt:
                    health.add(ERROR, f'unknown, {reason.words}: {self._unknown[reason]}')
            silent = time.monotonic() - self._judged
            if silent > image_timeout and not health.reasons:
                health.add(ERROR, f'unknown, no verdict for {silent:.1f} s, expected one within {image_timeout:g} s; '
                                  'see the status of the camera')
            if count := self._since_told(ANOMALOUS):
                health.add(WARN, f'anomalous, {count} of {self._since_told("processed")} frames')
            fine = 'no frame yet'
            if last is not None:
                fine = f'held back, {last.reason.words}' if last.held_back else last.verdict.words
                if last.anomalous and not health.reasons:  # of a camera that is slower than diagnostics
                    health.add(WARN, last.verdict.words)
                values = {'verdict': last.verdict.words, 'held back': last.held_back, 'score': f'{last.score:.4g}',
                          'threshold': f'{last.threshold:.4g}', 'p-value': f'{last.p_value:.4g}',
                          'anomalies': len(last.anomalies), 'nearest (m)': f'{self._nearest:.1f}'}
            self._told, self._fine = self._counts.copy(), health.level == OK
        return health.status(name, values, camera, fine)

    def status(self, name: str, camera: str, topic: str, publishers: int, image_timeout: float,
               latency_limit: float) -> DiagnosticStatus:
        """Judges what has happened since the last call.

        Args:
            name: of the status.
            camera: its name.
            topic: of its images.
            publishers: that send on the topic.
            image_timeout: seconds without an image that are an error.
            latency_limit: seconds of latency; a longer median is worth a warning, a single longer one is an error
                until the next answer comes in time.
        """
        with self._lock:
            now = time.monotonic()
            new = self._counts - self._reported
            self._reported = self._counts.copy()
            while self._times and self._times[0] < now - _WINDOW_S:
                self._times.popleft()
                self._latencies.popleft()
            span = min(_WINDOW_S, now - self._started)
            latencies = np.array(self._latencies) if self._latencies else None
            silent = now - self._received
            health = Health()
            if silent > image_timeout:
                health.add(ERROR, f'no image on {topic} for {silent:.1f} s ({publishers} publishers); start the camera '
                                  'or remap the topic')
            if self._waiting_since is not None:
                health.add(ERROR, f'no answer of the worker for {now - self._waiting_since:.1f} s, expected within '
                                  f'{latency_limit:g} s; choose a smaller encoder or input_size, or end the process if '
                                  'the encoder hangs')
            elif self._late_answer:
                health.add(ERROR, f'the last answer took {self._late_answer:.1f} s, expected at most '
                                  f'{latency_limit:g} s; choose a smaller encoder or input_size')
            for reason in UNKNOWN:
                if new[reason.words]:
                    health.add(ERROR, f'{new[reason.words]} frames unknown, {reason.words}: {self._unknown[reason]}')
            if new['standing'] > new[Reason.STANDING_STAMPS.words]:
                health.add(ERROR, f'{new["standing"]} frames have the stamp of the frame before; mend the camera '
                                  'driver')
            if new['unstamped']:
                health.add(WARN, f'{new["unstamped"]} frames have no stamp: time is taken from their reception; mend '
                                 'the camera driver')
            if new['restarted']:
                health.add(WARN, 'stamps went back: the recording has started again, or two cameras send on one topic')
            if new[LOST] > _LOST_SHARE * new['received']:
                health.add(WARN, f'{new[LOST]} images were lost on their way, {new["received"]} came; '
                                 f'give the camera\'s process {PROFILES}, see config/fastdds_large_images.xml, or set '
                                 'image_transport to compressed')
            if latencies is not None and (median := np.median(latencies)) > latency_limit:
                health.add(WARN, f'latency {median:.2f} s, expected at most {latency_limit:g} s; choose a smaller '
                                 'encoder or input_size')
            if self._masks_fault:
                health.add(WARN, self._masks_fault)
            if self._bearing_fault:
                health.add(WARN, self._bearing_fault)
            if self._distance_fault:
                health.add(WARN, f'distances are left out: {self._distance_fault}')
            if self._measurement_fault:
                health.add(WARN, f'distances are not measured: {self._measurement_fault}')
            if self._last is not None and self._last.drift.state is DriftState.DRIFTING:
                health.add(WARN, f'{self._last.drift}: p-values and the false-alarm rate do not hold; check the '
                                 'camera, or record nominal drives like this one')
            values: dict[str, object] = {
                'image topic': topic, 'frames received': self._counts['received'],
                'frames processed': self._counts['processed'],
                'processed per second': f'{len(self._times) / span:.2f}' if span > 0 else '0',
            }
            values |= {f'dropped: {reason}': self._counts[reason] for reason in DROPS}
            values |= {f'unknown frames: {reason.words}': self._counts[reason.words] for reason in UNKNOWN}
            if latencies is not None:
                for percent in (50, 95, 99):
                    values[f'latency p{percent} (ms)'] = f'{np.percentile(latencies, percent) * 1e3:.1f}'
            if self._age is not None:
                apart = clocks_apart(self._age)
                values['age of the last result (ms)'] = f'unknown, {apart}' if apart else f'{self._age * 1e3:.1f}'
            if self._last is not None:
                values |= {'verdict': self._last.verdict.words, 'held back': self._last.held_back,
                           'score': f'{self._last.score:.4g}', 'threshold': f'{self._last.threshold:.4g}',
                           'p-value': f'{self._last.p_value:.4g}', 'anomalies': len(self._last.anomalies),
                           'drift': self._last.drift.state.name.lower(),
                           'drift strength': f'{self._last.drift.strength:.2f}'}
                if self._last.reason is not Reason.NONE:
                    values |= {'reason': self._last.reason.words}
                values |= {f'{stage} (ms)': f'{spent:.2f}' for stage, spent in self._last.timings_ms.items()}
        return health.status(name, values, camera)


def gpu_memory(device: torch.device) -> dict[str, object]:
    """Values on the memory that PyTorch holds on a GPU; none on a CPU."""
    if device.type != 'cuda':
        return {}
    return {'GPU': torch.cuda.get_device_name(device),
            'GPU memory used (MB)': f'{torch.cuda.memory_allocated(device) / 1e6:.1f}',
            'GPU memory reserved (MB)': f'{torch.cuda.memory_reserved(device) / 1e6:.1f}'}


def free_gpu_memory(device: torch.device) -> None:
    """Gives back what PyTorch keeps of a GPU for later."""
    if device.type == 'cuda':
        torch.cuda.empty_cache()
