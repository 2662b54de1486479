"""Handwritten digits: real images, 5,000 of which come with a package."""

from pyramid_jax.data.digits.reader import DigitsReader
from pyramid_jax.data.digits.reader import missing_inputs
from pyramid_jax.data.digits.reader import published_labels


__all__ = ['DigitsReader', 'missing_inputs', 'published_labels']
