"""Files of radar rain in every format, and what a `--data` names, to events."""
