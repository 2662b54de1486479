"""Measures the band powers of a data set, for `config.laplacian.band_rms`.

  python -m pyramid_jax.measure_bands --config=configs/ladm_shapes.py

prints the root mean square of each band over training images, finest first,
and noise levels twelve times as high, a rule for `switch_sigmas`.
"""
