"""The runs behind the published numbers of this package, and their page."""

from pyramid_jax.results.measured_page import write as write
from pyramid_jax.results.rows import TABLES as TABLES
from pyramid_jax.results.rows import TIERS as TIERS
from pyramid_jax.results.rows import Row as Row
from pyramid_jax.results.rows import Table as Table
from pyramid_jax.results.rows import chosen as chosen
from pyramid_jax.results.running import run as run
