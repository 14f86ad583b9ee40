"""Tests of camkit.visualize."""
