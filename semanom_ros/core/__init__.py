"""The method as a library. Nothing below this folder imports ROS."""
