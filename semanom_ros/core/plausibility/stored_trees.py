"""Boosted trees as LightGBM writes them, checked before it walks them: it trusts what their nodes point to."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

MOST_TREES = 10_000
MOST_LEAVES = 1 << 16

_OF_NODES = ('split_feature', 'left_child', 'right_child', 'threshold', 'decision_type')
_PLAIN = {'num_cat': '0', 'is_linear': '0'}
"""Kinds of trees that are learned here: no categories, no linear models in leaves."""


def check_trees(text: str, features: int) -> None:
    """Checks that every node of a model leads to nodes and leaves that there are, and every path to its end.

    LightGBM numbers a node after the one that it hangs from, so a child of a lower number would be a loop.

    Args:
        text: the model.
        features: numbers that a sample has.

    Raises:
        ValueError: what is wrong, in one line.
    """
    head, *trees = re.split(r'^Tree=\d+$', text.partition('\nend of trees')[0], flags=re.M)
    found = _fields(head).get('max_feature_idx')
    if found != str(features - 1):
        raise ValueError(f'trees: max_feature_idx: found {found!s:.40}, expected {features - 1}')
    if not 0 < len(trees) <= MOST_TREES:
        raise ValueError(f'trees: found {len(trees)}, expected 1 to {MOST_TREES}')
    for number, tree in enumerate(trees):
        try:
            _check(_fields(tree), features)
        except (KeyError, ValueError) as error:
            reason = f'no {error}' if isinstance(error, KeyError) else f'{error!s:.120}'
            raise ValueError(f'trees: tree {number}: {reason}') from error


def _check(tree: dict[str, str], features: int) -> None:
    leaves = int(tree['num_leaves'])
    if not 0 < leaves <= MOST_LEAVES:
        raise ValueError(f'num_leaves: found {leaves}, expected 1 to {MOST_LEAVES}')
    for name, expected in _PLAIN.items():
        if tree.get(name, expected) != expected:
            raise ValueError(f'{name}: found {tree[name]:.40}, expected {expected}')
    if not np.isfinite(_numbers(tree, 'leaf_value', leaves, np.float64)).all():
        raise ValueError('leaf_value: found one that is not finite, expected numbers')
    if leaves == 1:
        return
    nodes = leaves - 1
    split, left, right, threshold, decision = (
        _numbers(tree, name, nodes, np.float64 if name == 'threshold' else np.int64) for name in _OF_NODES)
    if np.isnan(threshold).any():
        raise ValueError('threshold: found NaN, expected numbers')
    if (decision & 1).any():
        raise ValueError('decision_type: found one of categories, expected thresholds')
    if split.min() < 0 or split.max() >= features:
        raise ValueError(f'split_feature: found {split.min()} to {split.max()}, expected 0 to {features - 1}')
    for name, child in (('left_child', left), ('right_child', right)):
        leads = np.where(child >= 0, (child > np.arange(nodes)) & (child < nodes), ~child < leaves)
        if not leads.all():
            node = int(np.flatnonzero(~leads)[0])
            raise ValueError(f'{name}: found {child[node]} of node {node}, expected a later node or a leaf')


def _fields(section: str) -> dict[str, str]:
    lines = [line.partition('=') for line in section.splitlines() if '=' in line]
    names = [name for name, _, _ in lines]
    if len(set(names)) < len(names):
        raise ValueError('found a field twice, expected it once')
    return {name: value for name, _, value in lines}


def _numbers(tree: dict[str, str], name: str, count: int, kind: type) -> npt.NDArray:
    numbers: npt.NDArray = np.array(tree[name].split(), kind)
    if len(numbers) != count:
        raise ValueError(f'{name}: found {len(numbers)} numbers, expected {count}')
    return numbers
