"""The answers were checked when they were given, except those that `--replay` reads from a file."""

CHECKED = "{{ cookiecutter | check_answers }}"
