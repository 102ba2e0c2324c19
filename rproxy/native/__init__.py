"""What is written twice: in Python, and in Cython for speed; that is compiled where there is a compiler.

`name.pyx` gives what `name.py` gives, for the same arguments; Python prefers the compiled module. The
Python one is the reference, and what runs where nothing is compiled: tests compare the two.
Nothing here decides anything but `hello`: what is not plain is left to the caller.
Why: docs/adr/0017-cython-twins.md
"""
