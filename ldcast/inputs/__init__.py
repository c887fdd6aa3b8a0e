"""What networks are given besides past latents, by name; what it is stands in known.py."""
