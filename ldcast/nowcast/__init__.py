"""From the past to an ensemble: what is known at the issue time, and what is made of it."""
