"""CLIP opened at its last block, and where its weights come from."""
