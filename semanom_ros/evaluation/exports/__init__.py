"""What was judged, for other programs to open."""
