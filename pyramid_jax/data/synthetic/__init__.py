"""Scenes of coloured shapes: a data set that needs no download."""

from pyramid_jax.data.synthetic.reader import ShapesReader
from pyramid_jax.data.synthetic.scenes import LABEL_NAMES
from pyramid_jax.data.synthetic.text import VOCABULARY


__all__ = ['LABEL_NAMES', 'VOCABULARY', 'ShapesReader']
