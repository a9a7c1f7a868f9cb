"""Frozen encoders behind one protocol."""
