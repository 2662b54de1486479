"""`python -m pyramid_jax`, and the console script `pyramid-jax`."""

from typing import NoReturn

from pyramid_jax.runs import entry


def main() -> NoReturn:
  """Runs the command line of the process; see `pyramid_jax.main`."""
  entry.run('pyramid_jax.main', 'run')


if __name__ == '__main__':
  main()
