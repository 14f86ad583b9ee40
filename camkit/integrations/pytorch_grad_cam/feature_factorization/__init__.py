"""Concepts in a layer's activations."""
