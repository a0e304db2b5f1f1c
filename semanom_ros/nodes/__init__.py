"""The ROS nodes; thin: no mathematics."""
