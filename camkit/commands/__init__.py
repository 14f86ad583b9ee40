"""What each ``camkit`` command does; :mod:`camkit.cli` picks one. Only these print."""
