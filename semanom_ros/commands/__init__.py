"""One module for each `semanom` command: `configure(parser)` and `run(arguments)`."""
