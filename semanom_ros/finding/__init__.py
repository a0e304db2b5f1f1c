"""Finding things in recordings that were embedded, and choosing what of them is worth a label."""
