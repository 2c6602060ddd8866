"""Rules about getting the same result again."""
