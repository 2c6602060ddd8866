"""Rules and other callbacks of this project's own."""
