"""Verbs of the console script that have a file of their own: ``add`` describes the options, ``run`` does the work.

``run(arguments)`` returns the exit code; None is 0. Nothing heavy is imported before ``run``.
"""
