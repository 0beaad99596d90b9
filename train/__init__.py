"""The reference trainer: transfer learning of a network on a folder of pictures.

Run it with `python -m launcher --nproc-per-node 2 -m train --data DIR`, or alone with `python -m
train --data DIR`. `trainer.py` is the page to read first. Of the launcher it uses the public names
only.
"""
