"""Rules about several networks that answer together."""
