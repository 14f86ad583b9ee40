"""Which layer, and where in the image its values lie: names, layouts, token grids, liveness, default layers."""
