"""Between ROS messages, bags and parameters, and the library in `core`."""
