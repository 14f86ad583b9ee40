"""Classifiers of MMPretrain, timm, torchvision and transformers: a name to model, preprocessing and class names.

:func:`camkit.models.load.load` is the way in, :mod:`camkit.models.frameworks` the list of frameworks. A framework is
imported when one of its models is loaded.
"""
