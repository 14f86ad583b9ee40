"""Tests of camkit.cli."""
