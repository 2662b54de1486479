"""Draws docs/images/digits.png: samples of configs/diffit_mnist.py by class.

  python docs/images/digits.py --workdir=RUN [--output=docs/images/digits.png]

A column is a digit, a row a seed.
"""

import argparse

import pyramid_jax as pj


DIGITS = 10
SEEDS = 4


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--workdir', required=True)
  parser.add_argument('--output', default='docs/images/digits.png')
  flags = parser.parse_args()
  pipe = pj.load(flags.workdir)
  labels = [1 + n for n in range(DIGITS)]
  images = [x for seed in range(SEEDS) for x in pipe(label=labels, seed=seed)]
  pj.grid(images, columns=DIGITS).save(flags.output, optimize=True)


if __name__ == '__main__':
  main()
