"""How much time lies between the frames of a camera."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass, field

LONGEST_GAP_NS = 2_000_000_000  # after a longer pause nothing can be recognized by its place
GAP_INTERVALS = 3.0  # usual intervals that a camera may miss all the same: a slow one does not pause all the time
USUAL_OF = 5  # latest intervals whose median is the usual one
UNKNOWN_INTERVAL_NS = 100_000_000  # where neither stamps nor reception tell: cameras have about 10 Hz


@dataclass
class FrameClock:
    """Time between the frames of one camera: by their stamps, or by their reception where stamps say nothing."""

    _stamp_ns: int | None = None
    _received_ns: int = 0
    _intervals: deque[int] = field(default_factory=lambda: deque(maxlen=USUAL_OF))

    def advance(self, stamp_ns: int, received_ns: int = 0) -> int | None:
        """Takes the next frame.

        A stamp that is zero, equal to the last one or a little before it (frames out of order) tells no time; reception
        does then, or the usual interval where that is unknown as well. A pause is what is longer than two seconds and
        than three usual intervals; the first interval of a camera is none, however long.

        Args:
            stamp_ns: of the frame; 0: it has none.
            received_ns: when it came, by any clock that goes on; 0: unknown.

        Returns:
            Nanoseconds since the frame before, above 0; None where this one does not follow it: the first one, one
            after a pause, and one whose stamp lies far before the last (a looped recording).
        """
        if self._stamp_ns is None:
            self._stamp_ns, self._received_ns = stamp_ns, received_ns
            return None
        missing = stamp_ns <= 0 < self._stamp_ns
        by_stamp = 0 if missing else stamp_ns - self._stamp_ns
        by_reception = received_ns - self._received_ns if received_ns and self._received_ns else 0
        self._received_ns = received_ns
        usual = round(statistics.median(self._intervals)) if self._intervals else 0
        longest = max(LONGEST_GAP_NS, round(GAP_INTERVALS * usual))
        if by_stamp > 0 or by_stamp < -longest:
            self._stamp_ns = stamp_ns
        if by_stamp < -longest:
            return None
        elapsed = by_stamp if by_stamp > 0 else by_reception if by_reception > 0 else usual or UNKNOWN_INTERVAL_NS
        self._intervals.append(elapsed)
        return elapsed if not usual or elapsed <= longest else None
