"""Conformance suites, test videos, the motion set and fault injectors."""
