"""The subcommands made of several fits; each is a module with a function `run`, imported when it is asked for."""

MODULES = {
    "crossval": "lightning_recipe.runs.crossval",
    "ensemble": "lightning_recipe.runs.ensemble",
    "learning-curve": "lightning_recipe.runs.learning_curve",
    "refit": "lightning_recipe.runs.refit",
}
EPILOG = (
    "Of several fits: `ensemble --members 5 --how seeds|folds|snapshots|bagging` trains several and makes one of them; "
    "`crossval --folds 5` tests a configuration on examples that it has not seen, each in turn; "
    "`learning-curve --sizes 6 --repeats 3` says what more data would bring; "
    "`refit --run RUN_FOLDER --strategy restart|continue` retrains on training and validation data together."
)
