"""Training programs with one planted bug each, their healthy twins, and how well detectors tell them apart.

``cases`` and ``healthy`` hold the programs, ``kill`` measures which bugs hurt, ``detect`` runs the rules over them,
``peers`` runs other detectors; ``benchmarks/bug_detection.py`` is the command line.
"""
