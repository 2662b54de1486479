"""The configuration of a run: fields, variants, overrides, checks."""

from pyramid_jax.config.checks import differences as differences
from pyramid_jax.config.checks import resume_differences as resume_differences
from pyramid_jax.config.checks import validate as validate
from pyramid_jax.config.command_line import complete as complete
from pyramid_jax.config.files import load as load
from pyramid_jax.config.files import parse_variants as parse_variants
from pyramid_jax.config.files import sibling as sibling
from pyramid_jax.config.formats import add_first_stage as add_first_stage
from pyramid_jax.config.formats import base as base
from pyramid_jax.config.formats import first_stage as first_stage
from pyramid_jax.config.formats import from_json as from_json
from pyramid_jax.config.formats import to_json as to_json
from pyramid_jax.config.names import flatten as flatten
from pyramid_jax.config.overrides import override as override
from pyramid_jax.config.paths import make_absolute as make_absolute
