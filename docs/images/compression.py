"""Draws docs/images/compression.png from docs/images/compression.json.

  python docs/images/compression.py

The numbers are those of "How much compression suits diffusion" in
docs/results.md; the extra `examples` brings matplotlib along.
"""

import argparse
import json
import pathlib

import matplotlib


HERE = pathlib.Path(__file__).parent
LABELS = {
  'class_acc': 'class_acc (higher is better)',
  'shape_fd': 'shape_fd (lower is better)',
}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--numbers', default=HERE / 'compression.json')
  parser.add_argument('--output', default=HERE / 'compression.png')
  flags = parser.parse_args()
  numbers = json.loads(pathlib.Path(flags.numbers).read_text())
  matplotlib.use('agg')
  from matplotlib import pyplot  # after the choice of where it draws

  figure, axes = pyplot.subplots(1, 2, figsize=(8, 3.2), layout='constrained')
  for axis, (score, label) in zip(axes, LABELS.items(), strict=True):
    for model, rows in numbers['models'].items():
      values, lows, highs = zip(*(row[score] for row in rows), strict=True)
      seconds = [row['processor_secs'] for row in rows]
      (line,) = axis.plot(seconds, values, marker='o', label=model)
      axis.fill_between(
        seconds, lows, highs, alpha=0.15, color=line.get_color()
      )
    axis.set_xlabel('seconds of processor time, U-Net alone')
    axis.set_ylabel(label)
    axis.set_yscale('log' if score == 'shape_fd' else 'linear')
  axes[0].legend()
  figure.savefig(flags.output, dpi=100)


if __name__ == '__main__':
  main()
