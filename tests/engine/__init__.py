"""Tests of camkit.engine."""
