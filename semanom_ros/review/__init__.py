"""People's verdicts on what was flagged: collecting them on a local page, keeping them, and what follows from them."""
