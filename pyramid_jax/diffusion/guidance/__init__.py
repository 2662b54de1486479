"""Guidance of a stage: classifier-free, and by a loss on activations."""

from pyramid_jax.diffusion.guidance.classifier_free import Guidance
from pyramid_jax.diffusion.guidance.classifier_free import guided_stage


__all__ = ['Guidance', 'guided_stage']
