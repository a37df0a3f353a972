"""Modelyard: an inference platform operated by Kubernetes. All of this package runs without PyTorch."""

__version__ = "0.1.0"
