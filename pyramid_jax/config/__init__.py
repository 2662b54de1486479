"""The configuration of a run: fields, variants, overrides, checks."""

from pyramid_jax.config.loading import add_first_stage
from pyramid_jax.config.loading import base
from pyramid_jax.config.loading import first_stage
from pyramid_jax.config.loading import flatten
from pyramid_jax.config.loading import from_json
from pyramid_jax.config.loading import load
from pyramid_jax.config.loading import override
from pyramid_jax.config.loading import parse_variants
from pyramid_jax.config.loading import resume_differences
from pyramid_jax.config.loading import sibling
from pyramid_jax.config.loading import to_json
from pyramid_jax.config.loading import validate


__all__ = [
  'add_first_stage',
  'base',
  'first_stage',
  'flatten',
  'from_json',
  'load',
  'override',
  'parse_variants',
  'resume_differences',
  'sibling',
  'to_json',
  'validate',
]
