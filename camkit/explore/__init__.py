"""The explorer's server: one model behind a queue, pictures, and the page that shows what was found.

``app.py`` has the addresses that the page asks, ``guard.py`` decides who may, ``queue.py`` runs one job at a time.
``album.py`` holds the pictures; ``live.py`` explains them with a model, ``kept.py`` shows what a run has kept of them.
"""
