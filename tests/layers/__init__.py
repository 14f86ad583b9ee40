"""Tests of camkit.layers."""
