"""Further inputs of the networks besides past latents, by name; known.py defines them."""
