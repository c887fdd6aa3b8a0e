"""What the processor can do, and whether it does it right."""
