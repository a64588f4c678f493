"""Networks that methods bring along besides CLIP."""
