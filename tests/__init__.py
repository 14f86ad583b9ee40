"""A package, so that tests.helpers is ours and not the `tests` some dependency installs."""
