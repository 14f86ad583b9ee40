"""Tests of camkit.models."""
