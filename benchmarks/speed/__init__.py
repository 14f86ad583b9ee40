"""How long a map takes and how much memory, beside a plain forward and beside the peers."""
