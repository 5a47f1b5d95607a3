"""Lungline: train, register and serve a pneumonia classifier for chest X-rays.

Decision support for research. Not a medical device.
"""
