#!/bin/bash
# ROS 2, this package and its Python, then whatever was asked for.
# shellcheck disable=SC1090,SC1091  # files of the image
set -e
. "/opt/ros/$ROS_DISTRO/setup.bash"
. /ws/venv/bin/activate
. /ws/install/setup.bash
exec "$@"
