"""The figures of the derivation behind the survey, made again by this program.

Every claim of its section of verification, and relu networks of a hundred layers: measured by the
engine, told by theory, and beside both what was printed.
"""
