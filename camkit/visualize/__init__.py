"""Pictures of maps: overlays, grids, the gallery's page, files and windows. Pictures are RGB unless said otherwise."""
