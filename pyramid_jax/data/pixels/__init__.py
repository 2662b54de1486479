"""Encoded images become arrays: decoded, cut, with holes or sketches."""
