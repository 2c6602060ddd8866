"""The model: yours to edit."""
