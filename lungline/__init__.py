"""Lungline: train, register and serve classifiers for chest X-rays.

Decision support for research. Not a medical device.
"""
