"""camkit in the environments that people have: the sets of versions, and what is run in each."""
