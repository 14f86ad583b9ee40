"""Runs a network for camkit and leaves no trace: hooks, model state, recorded forwards, gradients, reruns, cache."""
