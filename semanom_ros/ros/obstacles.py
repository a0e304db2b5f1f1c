"""Anomalies as a point cloud, as costmaps and planners take obstacles."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
from sensor_msgs.msg import PointCloud2, PointField

from semanom_ros.geometry.anomaly_place import Place
from semanom_ros.ros.messages import header

HEIGHTS_M = (0.1, 0.5, 1.0)
"""Of the points above the lower edge: layers of a costmap leave out what lies below their least height."""

_FIELDS = ('x', 'y', 'z')


def obstacle_cloud(places: Sequence[Place | None], stamp_ns: int, frame_id: str) -> PointCloud2:
    """The lower edges of anomalies, as upright rows of points; none of those whose position is not known.

    Args:
        places: of the anomalies, in `frame_id`.
        stamp_ns: of the image.
        frame_id: of the ground.
    """
    edges = [one.edge + np.array([0.0, 0.0, height]) for one in places if one is not None and one.edge is not None
             for height in HEIGHTS_M]
    points = np.concatenate([np.zeros((0, 3)), *edges]).astype('<f4')
    fields = [PointField(name=name, offset=4 * number, datatype=PointField.FLOAT32, count=1)
              for number, name in enumerate(_FIELDS)]
    return PointCloud2(header=header(stamp_ns, frame_id), height=1, width=len(points), fields=fields,
                       is_bigendian=False, point_step=12, row_step=12 * len(points), is_dense=True,
                       data=array('B', points.tobytes()))
