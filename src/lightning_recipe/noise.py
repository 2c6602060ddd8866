"""Lines that Lightning prints about itself, which no setting turns off and no reader can act on.

Each is named in full, with the reason; every other warning and message passes. Nothing about a model, its data
or its training belongs here.
"""

import logging
import warnings

# Lightning 2.6 asks torch's tree specs what they are in a way that torch 2.15 is giving up: theirs to mend.
_LEAF_SPEC = r"`isinstance\(treespec, LeafSpec\)` is deprecated"
# Each run has its own folder, so a checkpoint that is tested or predicted with always comes from another one.
_OTHER_FOLDER = r"The dirpath has changed from .* Only `best_model_path` will be reloaded"
# "Tip: For seamless cloud logging, try installing ...": advertisements for packages of Lightning's maker.
_ADVERTISEMENT = "💡 Tip: For seamless cloud"


def silence() -> None:
    """Keep those lines from being printed, in this process."""
    warnings.filterwarnings("ignore", message=_LEAF_SPEC)
    warnings.filterwarnings("ignore", message=_OTHER_FOLDER)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return _ADVERTISEMENT not in record.getMessage()
