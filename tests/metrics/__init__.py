"""Tests of camkit.metrics."""
