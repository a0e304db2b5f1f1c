"""Benchmarks: what the parts around the encoder cost, as multiples of its bare forward pass.

Ratios are taken within one run, the two things in turn, so that they hold on a machine
that is busy or slow.
"""
