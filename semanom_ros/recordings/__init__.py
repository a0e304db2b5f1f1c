"""Reading and writing recordings and the pictures in them; needs no ROS."""
