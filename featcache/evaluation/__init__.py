"""Probes and metrics on stored features."""
