"""The data: yours to edit."""
