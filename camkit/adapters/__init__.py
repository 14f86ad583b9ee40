"""Where models come from. Each adapter loads its framework only when it is called."""
