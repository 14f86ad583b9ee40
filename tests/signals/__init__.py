"""Tests of camkit.signals."""
