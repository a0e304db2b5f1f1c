"""Making and changing nominal databases: recording, publishing, merging, compacting."""
