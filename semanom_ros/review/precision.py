"""How often alarms were right, from verdicts: over time, by kind, and what was missed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any

from semanom_ros.review.verdict_files import ReviewVerdict, agreed, disagree, standing

UNSAID = 'not said'
"""Kind of what nobody named."""


def precision(verdicts: Iterable[ReviewVerdict]) -> dict[str, Any]:
    """Figures of what was decided; a thing on which authors differ counts in none but `disagreed`.

    Days are those on which the frames were taken, by their stamps, UTC.

    Returns:
        `nominal` (false alarms), `anomaly`, `missed`, `skipped`, `disagreed`, `precision` (anomaly / (anomaly +
        nominal), None where nothing was decided), `kinds` and `days` (the same by kind and by day).
    """
    total: Counter[str] = Counter()
    kinds: dict[str, Counter[str]] = {}
    days: dict[str, Counter[str]] = {}
    for thing, by_author in standing(verdicts).items():
        verdict = agreed(by_author)
        if disagree(by_author):
            total['disagreed'] += 1
        elif verdict is None:
            total['skipped'] += 1
        else:
            name = verdict.opinion.value
            total[name] += 1
            day = datetime.fromtimestamp(thing.stamp_ns // 10**9, timezone.utc).strftime('%Y-%m-%d')
            days.setdefault(day, Counter())[name] += 1
            kinds.setdefault(verdict.kind or UNSAID, Counter())[name] += 1
    return {
        **_figures(total), 'skipped': total['skipped'], 'disagreed': total['disagreed'],
        'kinds': {kind: _figures(kinds[kind]) for kind in sorted(kinds)},
        'days': {day: _figures(days[day]) for day in sorted(days)}}


def _figures(counts: Counter[str]) -> dict[str, Any]:
    decided = counts['anomaly'] + counts['nominal']
    return {**{name: counts[name] for name in ('anomaly', 'nominal', 'missed')},
            'precision': counts['anomaly'] / decided if decided else None}
