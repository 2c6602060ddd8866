"""Rules about closing the gap between training and validation."""
