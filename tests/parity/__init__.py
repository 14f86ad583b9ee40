"""camkit beside other packages."""
