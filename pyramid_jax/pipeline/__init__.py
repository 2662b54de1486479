"""The only way to images, which the floors above share.

`Request` holds the values that a person gives, `conditions` and `rows` make
rows of conditions of them, `settings` how images are sampled; `Sampler` runs
the programs, `Pipeline` is called with values, `load` opens it.
"""

from pyramid_jax.pipeline.opening import load as load
from pyramid_jax.pipeline.pipeline import Made as Made
from pyramid_jax.pipeline.pipeline import Pipeline as Pipeline
from pyramid_jax.pipeline.pipeline import Plan as Plan
from pyramid_jax.pipeline.request import Request as Request
from pyramid_jax.pipeline.sampler import NotFinite as NotFinite
from pyramid_jax.pipeline.sampler import Samples as Samples
from pyramid_jax.pipeline.settings import Settings as Settings
