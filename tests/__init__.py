"""A package, so that tests.zoo is ours and not the `tests` some dependency installs."""
