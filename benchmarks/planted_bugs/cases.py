"""All planted bugs, by name."""

from planted_bugs.data_cases import DATA, LABELS, PIPELINE
from planted_bugs.loss_cases import LOSS, NUMERICS
from planted_bugs.model_cases import INITIALISATION, MODEL
from planted_bugs.optimiser_cases import DISTRIBUTED, LOOP, OPTIMISER
from planted_bugs.program import Case

THEMES = (DATA, LABELS, PIPELINE, MODEL, INITIALISATION, LOSS, OPTIMISER, LOOP, DISTRIBUTED, NUMERICS)
CASES: dict[str, Case] = {case.name: case for theme in THEMES for case in theme}
