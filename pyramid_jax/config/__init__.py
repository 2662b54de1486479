"""The configuration of a run: fields, variants, overrides, checks."""

from pyramid_jax.config.checks import resume_differences
from pyramid_jax.config.checks import validate
from pyramid_jax.config.files import load
from pyramid_jax.config.files import sibling
from pyramid_jax.config.overrides import override
from pyramid_jax.config.tree import add_first_stage
from pyramid_jax.config.tree import base
from pyramid_jax.config.tree import first_stage
from pyramid_jax.config.tree import flatten
from pyramid_jax.config.tree import from_json
from pyramid_jax.config.tree import to_json
from pyramid_jax.config.variants import parse_variants


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
