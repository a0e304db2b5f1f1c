"""Whether driving is still like the nominal drives."""
