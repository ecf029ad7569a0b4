"""Approximations of posteriors by networks."""

from genreg.empirical_bayes.encoders.families import (
    Encoder,
    EncoderConfig,
    FullCovariance,
    InverseAutoregressive,
    MeanField,
)

__all__ = ["Encoder", "EncoderConfig", "FullCovariance", "InverseAutoregressive", "MeanField"]
