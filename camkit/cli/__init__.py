"""The ``camkit`` command: flags and printing. One file per subcommand; :mod:`camkit.cli.main` runs it."""
