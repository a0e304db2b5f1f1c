"""A real Ray cluster of three nodes on this machine, one of which is lost midway."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from semanom_ros.errors import SemanomError
from semanom_ros.fleet.fleet_recording import default_storage, record_on_fleet
from semanom_ros.settings import Settings

from .conftest import TOPICS, Watched, assert_same, one_process

ray = pytest.importorskip('ray', reason="Ray is not installed: pip install 'ray>=2.9'")
NODE = {'num_cpus': 1, 'num_gpus': 0, 'object_store_memory': 80 << 20}


@pytest.fixture(scope='module')
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**NODE, 'include_dashboard': False})
    for _ in range(2):
        cluster.add_node(**NODE)
    yield cluster
    cluster.shutdown()


def test_three_nodes_one_of_them_lost_make_the_database_of_one_process(
        tmp_path: Path, settings: Settings, drive: Callable[..., Path], cluster: Any) -> None:
    from semanom_ros.fleet.ray_actors import RayActors

    settings = settings.changed({'image_topics': TOPICS})
    bags = [drive('a'), drive('b', 50, first=100, storage='sqlite3'), drive('white', 4, white=True)]
    lost: list[Any] = []

    def lose(stage: str, done: int) -> None:
        if stage == 'record' and done and not lost:
            lost.append(cluster.list_all_nodes()[-1])
            cluster.remove_node(lost[0], allow_graceful=False)

    workers = RayActors(cluster.address)
    result = record_on_fleet(bags, tmp_path / 'fleet', settings, Watched(lose), workers, frames_at_once=4)
    assert lost
    assert workers.wanted == 3
    assert (result.stretches, result.lost) == (42, 1)
    assert list(result.failed) == [bags[2]]
    assert 'a white picture' in result.failed[bags[2]]
    assert_same(tmp_path / 'fleet', one_process(bags[:2], tmp_path / 'one', settings))
    assert default_storage(tmp_path / 'fleet').exists(), 'the recording that failed may be mended'


@pytest.mark.parametrize('address', ['127.0.0.1:1', 'ray://127.0.0.1:1'])
def test_a_cluster_that_does_not_answer_is_one_line(address: str, tmp_path: Path, settings: Settings,
                                                    drive: Callable[..., Path]) -> None:
    from semanom_ros.fleet.ray_actors import RayActors

    with pytest.raises(SemanomError, match=f'--address {address}: found no Ray cluster .*Connection refused'):
        record_on_fleet([drive('a', 2)], tmp_path / 'fleet', settings, Watched(lambda stage, done: None),
                        RayActors(address))
    assert not (tmp_path / 'fleet').exists()
