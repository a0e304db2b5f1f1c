"""The one table of figures: what each is called, what it divides by what, and its goal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from semanom_ros.benchmarks.timing import interval, ratio

VIT_S, VIT_B, TINY = 'timm:vit_small_patch14_dinov2.lvd142m', 'open_clip:ViT-B-16', 'semanom-tiny'


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        key: in bench.json; with a dot before the key of one of several.
        words: for people.
        goal: None: none is set.
        at_most: whether less is better; else more.
        goals: of encoders that have one of their own.
    """

    key: str
    words: str
    goal: float | None = None
    at_most: bool = True
    goals: Mapping[str, float] = field(default_factory=dict)

    def goal_of(self, encoder: str) -> float | None:
        """The goal with an encoder."""
        return self.goals.get(encoder, self.goal)

    def of(self, result: Mapping[str, Any]) -> float | None:
        """The figure in a bench.json, or in what it holds of an encoder; None where it was not measured."""
        found: Any = result
        for part in self.key.split('.'):
            found = (found or {}).get(part)
        return found


PER_ENCODER: tuple[Figure, ...] = (
    Figure('end_to_end_over_forward', 'end to end / forward', 1.05, goals={TINY: 1.20}),
    Figure('throughput_over_forward', 'saturated: images a second / bare', 0.95, at_most=False),
    Figure('six_cameras_over_forward', 'six cameras: images a second / bare, six at once', 0.95, at_most=False),
    Figure('six_cameras_in_process_over_forward', 'the same without ROS', 0.95, at_most=False),
    Figure('pipeline_over_forward', 'a frame without ROS / forward'),
    Figure('record_over_forward', 'record: time a frame / forward', 1.00),
    Figure('evaluate_over_forward', 'evaluate: time a frame / forward', 1.05),
    Figure('instance_over_grid', 'instance / grid', 1.10),
    Figure('search_over_forward.1e5', 'search / forward, 1e5', 0.03),
    Figure('search_over_forward.1e6', 'search / forward, 1e6', 0.05),
    Figure('search_over_forward.1e7', 'search / forward, 1e7', 0.10),
)
"""With each encoder."""

OVERALL: tuple[Figure, ...] = (
    Figure('anomalib_over_ours.1e5', 'anomalib / ours, bank of 1e5', 3.0, at_most=False),
    Figure('anomalib_over_ours.1e6', 'anomalib / ours, bank of 1e6', 10.0, at_most=False),
    Figure('anomalib_memory_over_ours', 'anomalib / ours, peak memory', 4.0, at_most=False),
    Figure('start_over_import_and_weights', 'start / (import + weights)', 1.5),
    Figure('dropped_at_three_times_the_rate', 'share dropped at three times the rate'),
    Figure('memory_growth.record', 'memory of record, four times as long'),
    Figure('memory_growth.evaluate', 'memory of evaluate, four times as long'),
    Figure('received_fps_720p', '720p images received a second'),
)
"""With the first encoder alone."""


class Found:
    """What was measured with one encoder.

    Attributes:
        values: figures by key; those of several sizes or names are one level deeper.
        intervals: 95 % bootstrap intervals of the ratios, by key as in Figure.
        details: the times behind the figures, by benchmark.
    """

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.intervals: dict[str, list[float]] = {}
        self.details: dict[str, Any] = {}

    def put(self, key: str, value: Any) -> None:
        """A figure that is there already."""
        name, _, within = key.partition('.')
        if within:
            self.values.setdefault(name, {})[within] = value
        else:
            self.values[name] = value

    def put_ratio(self, key: str, above: Sequence[float], below: Sequence[float]) -> None:
        """The quotient of two medians, and how sure it is."""
        self.put(key, ratio(above, below))
        self.intervals[key] = interval(above, below)

    def onto(self, result: dict[str, Any]) -> None:
        """Puts the figures to the top of a bench.json; of several sizes those that were not measured stay null."""
        for name, value in self.values.items():
            result[name] = {**(result.get(name) or {}), **value} if isinstance(value, dict) else value

    def content(self) -> dict[str, Any]:
        """For bench.json."""
        return {**self.values, 'intervals': self.intervals, 'details': self.details}
