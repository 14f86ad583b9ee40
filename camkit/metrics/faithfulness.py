"""Whether scores follow what the map shows: changed images go through the network."""
