"""`WORKDIR/report.html`: what a run is and how it went, on one page.

The page needs no server, no other file and no script. `records` reads what a
run left, `page` makes the text of it.
"""

from pyramid_jax.report.writing import FILE as FILE
from pyramid_jax.report.writing import write as write
from pyramid_jax.report.writing import write_last as write_last
