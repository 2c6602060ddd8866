"""All planted bugs, by name."""

from planted_bugs.data_cases import DATA, LABELS, PIPELINE
from planted_bugs.loss_cases import LOSS, NUMERICS
from planted_bugs.model_cases import INITIALISATION, MODEL
from planted_bugs.optimiser_cases import DISTRIBUTED, LOOP, OPTIMISER
from planted_bugs.own_loop_cases import OWN_DISTRIBUTED, OWN_EVALUATION, OWN_LOOP
from planted_bugs.own_model_cases import OWN_DATA, OWN_LOSS, OWN_MODEL
from planted_bugs.own_optimiser_cases import OWN_NUMERICS, OWN_OPTIMISER
from planted_bugs.program import Case

# Most of PLANTED_BUGS.md: cases that a look before the first step can see.
THEMES = (DATA, LABELS, PIPELINE, MODEL, INITIALISATION, LOSS, OPTIMISER, LOOP, DISTRIBUTED, NUMERICS)
# Other mechanisms; many show only while a run goes on.
OWN_THEMES = (
    OWN_DATA,
    OWN_MODEL,
    OWN_LOSS,
    OWN_OPTIMISER,
    OWN_NUMERICS,
    OWN_LOOP,
    OWN_EVALUATION,
    OWN_DISTRIBUTED,
)
CASES: dict[str, Case] = {case.name: case for theme in (*THEMES, *OWN_THEMES) for case in theme}
