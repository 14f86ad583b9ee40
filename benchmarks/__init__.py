"""Side by side with peers. ``python -m benchmarks`` measures and writes to benchmarks/results."""
