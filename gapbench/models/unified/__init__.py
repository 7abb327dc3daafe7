"""What the families share that answer or draw with a language model of their own.

A family is what it says of itself: its rows, its sizes, its checkpoint's names. How rows become answers, likelihoods
and pictures is said here, once; no family imports another.
"""
