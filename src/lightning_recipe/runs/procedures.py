"""The subcommands made of several fits; each is a module with a function `run`, imported when it is asked for."""

MODULES = {
    "ensemble": "lightning_recipe.runs.ensemble",
    "search": "lightning_recipe.runs.search.command",
}
EPILOG = (
    "Of several fits: `ensemble --members 5 --how seeds|folds|snapshots|bagging` trains several and makes one of them; "
    "`search --trials 20 --space FILE` finds the best options."
)
