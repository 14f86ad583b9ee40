"""Mutated checkpoints and configs, which must end in the framework's own map or in one line."""
